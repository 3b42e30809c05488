//! The source of the CUDA kernels, compiled for the host: runs them thread by thread where there is no GPU.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use super::{Arg, Operation};

/// The kernels as a shared library, for one number type.
struct Library {
    emulate: Emulate,
}

/// Name, grid, threads, arguments, their number; see emulate.cpp.
type Emulate = unsafe extern "C" fn(*const c_char, *const c_uint, c_uint, *mut *mut c_void, c_int) -> c_int;

/// Compiles the kernels for a number type, once per process; none without a C++ compiler.
fn library(real: DType) -> Option<&'static Library> {
    static F32: OnceLock<Option<Library>> = OnceLock::new();
    static F64: OnceLock<Option<Library>> = OnceLock::new();
    let (cell, flags) = match real {
        DType::F64 => (&F64, &["-DREAL=double"][..]),
        _ => (&F32, &["-DREAL=float", "-DTENSOR_CORES"][..]),
    };
    cell.get_or_init(|| compile(flags)).as_ref()
}

fn compile(flags: &[&str]) -> Option<Library> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: no C++ compiler to emulate CUDA kernels with; set CXX");
        return None;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels/batched/cu");
    let built = tempfile::tempdir().expect("a temporary folder");
    let path: PathBuf = built.path().join("kernels.so");
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-w"])
        .args(flags)
        .arg(folder.join("emulate.cpp"))
        .arg("-o")
        .arg(&path)
        .output()
        .expect("the compiler that just told its version");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = CString::new(path.to_str().expect("a path in UTF-8")).expect("no zero in a path");
    // SAFETY: the library was just built; loading it runs no code of its own.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null(), "cannot load {}", path.display());
    // SAFETY: the handle is valid and stays open.
    let symbol = unsafe { libc::dlsym(handle, c"emulate".as_ptr()) };
    assert!(!symbol.is_null(), "the library has no entry point");
    // SAFETY: emulate.cpp defines the function with this signature.
    Some(Library { emulate: unsafe { std::mem::transmute::<*mut c_void, Emulate>(symbol) } })
}

thread_local! {
    static IS_ON: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether operations on this thread go through the kernels' source.
pub(super) fn is_on() -> bool {
    IS_ON.get()
}

/// Has operations of `body` go through the kernels' source; none without a C++ compiler.
pub(crate) fn with_kernels<R>(body: impl FnOnce() -> R) -> Option<R> {
    if library(DType::F32).is_none() || library(DType::F64).is_none() {
        return None;
    }
    IS_ON.set(true);
    let result = body();
    IS_ON.set(false);
    Some(result)
}

/// The emulator has one set of threads.
static BUSY: Mutex<()> = Mutex::new(());

/// What the kernel of `operation` makes of its inputs on the CPU; none without a C++ compiler.
pub(super) fn run(operation: &impl Operation) -> Option<Tensor> {
    let call = operation.call();
    let library = library(call.real)?;
    assert!(call.shared <= 48 << 10, "{} bytes of shared memory", call.shared);
    let n: usize = operation.dims().iter().product();
    // Whatever is not written stays NaN.
    let mut singles = vec![f32::NAN; n];
    let mut doubles = vec![f64::NAN; n];
    let out: *mut c_void = match operation.dtype() {
        DType::F64 => doubles.as_mut_ptr().cast(),
        _ => singles.as_mut_ptr().cast(),
    };
    let guards: Vec<_> = call
        .args
        .iter()
        .map(|arg| match arg {
            Arg::In(tensor) => Some(tensor.storage_and_layout()),
            _ => None,
        })
        .collect();
    // Every argument in a place of its own, wide enough for any.
    let mut places: Vec<[u8; 8]> = call
        .args
        .iter()
        .zip(&guards)
        .map(|(arg, guard)| match (arg, guard) {
            (Arg::In(_), Some((storage, layout))) => {
                let (start, _) = layout.contiguous_offsets().expect("a contiguous input");
                let Storage::Cpu(storage) = &**storage else { panic!("the emulator reads host memory") };
                let first: *const u8 = match storage {
                    CpuStorage::F32(data) => data[start..].as_ptr().cast(),
                    CpuStorage::F64(data) => data[start..].as_ptr().cast(),
                    CpuStorage::U32(data) => data[start..].as_ptr().cast(),
                    CpuStorage::I32(data) => data[start..].as_ptr().cast(),
                    _ => panic!("no kernel reads this type"),
                };
                (first as usize).to_ne_bytes()
            }
            (Arg::Out, _) => (out as usize).to_ne_bytes(),
            (Arg::Int(value), _) => {
                let value = i32::try_from(*value).expect("a size that fits an int").to_ne_bytes();
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&value);
                bytes
            }
            (Arg::Wide(value), _) => (*value as i64).to_ne_bytes(),
            (Arg::Double(value), _) => value.to_ne_bytes(),
            _ => [0; 8],
        })
        .collect();
    let mut pointers: Vec<*mut c_void> = places.iter_mut().map(|place| place.as_mut_ptr().cast()).collect();
    let name = CString::new(call.kernel).expect("no zero in a kernel's name");
    let grid = call.grid.map(|size| c_uint::try_from(size).expect("a grid that a GPU takes"));
    assert!(grid[1] < 65_536 && grid[2] < 65_536, "{grid:?}");
    let _alone = BUSY.lock().expect("no test panics in the emulator");
    // SAFETY: every argument points to a number of the type that the kernel's declaration in `cu/` has, and inputs
    // and output are as long as the sizes among the arguments say; the lock keeps others out of the library's
    // global state.
    let status = unsafe {
        (library.emulate)(
            name.as_ptr(),
            grid.as_ptr(),
            call.threads as c_uint,
            pointers.as_mut_ptr(),
            pointers.len() as c_int,
        )
    };
    assert_eq!(status, 0, "{}: see emulate.cpp for what went wrong", call.kernel);
    let dims = operation.dims();
    let tensor = match operation.dtype() {
        DType::F64 => Tensor::from_vec(doubles, dims, &Device::Cpu),
        _ => Tensor::from_vec(singles, dims, &Device::Cpu),
    };
    Some(tensor.expect("as many numbers as sizes say"))
}
