//! The doctor on the CPU, and everything on a GPU where there is one. The oracle is PyTorch float64 throughout: the
//! golden values that are built into the program.

use crate::cli::Place;

#[test]
fn the_cpu_passes_every_check() {
    let ran = Place::new().run("doctor --quick");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for part in ["CPU", "kernels", "memory", "GPU", "MPI", "all 20 checks passed"] {
        assert!(ran.stdout.contains(part), "no {part} in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("MISSED") && !ran.stdout.contains("speed"));
}

#[test]
fn the_doctor_speaks_json() {
    let answer = Place::new().run("doctor --quick --json").json();
    assert_eq!(answer["device"], "cpu");
    let checks = answer["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 20);
    let error = |evaluator: &str, precision: &str| {
        let is_it = |check: &&serde_json::Value| {
            check["model"] == "resnet20"
                && check["subject"]["evaluator"] == evaluator
                && check["precision"] == precision
        };
        checks.iter().find(is_it).unwrap()["relative_error"].as_f64().unwrap()
    };
    // What propagation is for: digits that the subtraction of two losses loses.
    assert!(error("difference", "f32") < 0.1 * error("full", "f32"));
    assert!(error("difference", "f32") < 0.1 * error("difference", "tf32").max(1e-3));
    // Each rounding costs what it says, about 2^-11 and 2^-8 beside 2^-24.
    let rounded = ["f32", "tf32", "bf16"].map(|precision| error("difference", precision));
    assert!(rounded.is_sorted_by(|a, b| 2.0 * a < *b), "{rounded:?}");
}

/// Oracle: the documentation of `precision`.
#[test]
fn rounded_losses_are_not_subtracted() {
    let place = Place::new();
    for args in [
        "train --set data=synthetic --set precision=bf16 --set evaluator=full",
        "train --set data=synthetic --set precision=tf32 --set evaluator=reuse",
        "train --set data=synthetic --set precision=tf32 --set method=rge --set queries=2",
        "train --set data=synthetic --set precision=bf16 --set method=fo",
        "bench cge --precision bf16 --evaluator full",
    ] {
        let ran = place.run(args);
        assert_eq!(ran.code, 1, "{args}");
        let expected = "Propagated differences of single coordinates stand that";
        assert!(ran.stderr.contains(expected), "{args}: {}", ran.stderr);
    }
    assert!(place.names("").is_empty());
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use deepzero::{device, doctor};

    use super::*;

    /// Every evaluator, and back-propagation, in every precision.
    #[test]
    fn the_gpu_passes_every_check() {
        let Ok((gpu, name)) = device::open("cuda") else {
            eprintln!("skipped: no GPU");
            return;
        };
        let system = doctor::System::of(&gpu).unwrap();
        let memory = device::default_memory(&gpu).unwrap();
        let checks = doctor::check(&gpu, memory, |precision| system.can(precision), &mut |_| ()).unwrap();
        for check in &checks {
            assert!(check.is_passed(), "{name}: {check:?}");
        }
        // Little memory means smaller stacks, and the same bits.
        let little = doctor::check(&gpu, 1 << 20, |precision| system.can(precision), &mut |_| ()).unwrap();
        assert_eq!(little, checks);
    }

    /// Training, to the end, by every method.
    #[test]
    fn trials_run_on_the_gpu() {
        if device::open("cuda").is_err() {
            eprintln!("skipped: no GPU");
            return;
        }
        let place = Place::new();
        for method in [
            "cge",
            "cge --set precision=bf16",
            "cge --set evaluator=reuse",
            "cge --set evaluator=full",
            "rge --set queries=4",
            "cocd --set queries=40",
            "fo",
        ] {
            let args = format!(
                "train --device cuda --set data=synthetic --set model=resnet --set depth=8 --set width=4 --set \
                 n-train=64 --set n-test=64 --set batch-size=64 --set epochs=2 --set warmup-epochs=0 --set \
                 grasp-images-per-class=2 --set sparsity=0.9 --set method={method}"
            );
            let ran = place.run(&args);
            assert_eq!(ran.code, 0, "{method}: {}", ran.stderr);
        }
    }

    /// What first-order training uses of candle, in f64. Oracle: the same on the CPU.
    #[test]
    fn operations_and_their_gradients_are_those_of_the_cpu() {
        use candle_core::{DType, Device, Result, Tensor, Var};

        let Ok((gpu, _)) = device::open("cuda") else {
            eprintln!("skipped: no GPU");
            return;
        };
        type Of = fn(&Tensor, &Tensor) -> Result<Tensor>;
        let operations: [(&str, Of); 8] = [
            ("convolution", |x, w| x.conv2d(w, 1, 1, 1, 1)),
            ("strided convolution", |x, w| x.conv2d(w, 1, 2, 1, 1)),
            ("relu", |x, _| x.relu()),
            ("windows", |x, _| {
                let (b, c, h, w) = x.dims4()?;
                x.narrow(2, 0, h / 2 * 2)?.narrow(3, 0, w / 2 * 2)?.contiguous()?.reshape((
                    b,
                    c,
                    h / 2,
                    2,
                    w / 2,
                    2,
                ))
            }),
            ("larger of two rows", |x, _| {
                let (b, c, h, w) = x.dims4()?;
                let pairs = x.reshape((b, c, h / 2, 2, w))?;
                let row = |idx| pairs.narrow(3, idx, 1)?.squeeze(3)?.contiguous();
                let (first, second) = (row(0)?, row(1)?);
                second.gt(&first)?.where_cond(&second, &first)
            }),
            ("mean of planes", |x, _| x.flatten_from(2)?.mean(2)),
            ("sum over a batch", |x, _| x.sum_keepdim((0, 2, 3))),
            ("product with channels", |x, w| x.broadcast_mul(&w.sum_keepdim((0, 2, 3))?)),
        ];
        for (channels, size) in [(16, 32), (18, 32), (18, 8), (3, 32)] {
            let draw = |n: usize, a: usize| -> Vec<f64> {
                (0..n).map(|i| ((i * a) % 1009) as f64 / 504.0 - 1.0).collect()
            };
            let x = Tensor::from_vec(
                draw(20 * channels * size * size, 7919),
                (20, channels, size, size),
                &Device::Cpu,
            )
            .unwrap();
            let w = Tensor::from_vec(
                draw(channels * channels * 9, 104_729),
                (channels, channels, 3, 3),
                &Device::Cpu,
            )
            .unwrap();
            for (name, of) in operations {
                let run = |device: &Device| -> Result<Vec<Tensor>> {
                    let (x, w) =
                        (Var::from_tensor(&x.to_device(device)?)?, Var::from_tensor(&w.to_device(device)?)?);
                    let out = of(x.as_tensor(), w.as_tensor())?;
                    let n = out.elem_count();
                    let weights = Tensor::from_vec(draw(n, 6007), out.shape(), device)?;
                    let grads = (&out * weights)?.sum_all()?.backward()?;
                    let grads = [grads.get(&x), grads.get(&w)].into_iter().flatten().cloned();
                    [out]
                        .into_iter()
                        .chain(grads)
                        .map(|tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64))
                        .collect()
                };
                let (cpu, gpu) = (run(&Device::Cpu).unwrap(), run(&gpu).unwrap());
                for (part, (expected, found)) in cpu.iter().zip(&gpu).enumerate() {
                    let norm =
                        |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
                    let error = norm(&(expected - found).unwrap()) / norm(expected);
                    eprintln!("{name} of {channels} x {size}x{size}, part {part}: {error:.1e}");
                    assert!(error < 1e-10, "{name} of {channels} x {size}x{size}, part {part}: {error}");
                }
            }
        }
    }
}
