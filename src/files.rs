//! Writing files so that a reader never sees half of one, and reading nothing but files.

use std::fs::{File, FileType, TryLockError};
use std::io::{Error as IoError, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// What the names of files that are being written begin with.
const WRITING: &str = ".writing-";

/// A file being written that is older than this and that nobody holds was left by a process that was killed.
const STALE: Duration = Duration::from_secs(60);

/// Makes `bytes` the content of the file at `path`, which is replaced if it is there. A failure, a full disk or a kill
/// leaves the old file, or none; a symbolic link stays, and what it leads to is replaced. A character device such as
/// `/dev/null` is written into.
///
/// # Errors
/// If the folder cannot be made, a write fails, or something other than a file has the name.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, true)
}

/// The same for a file that must not be there yet.
///
/// # Errors
/// As [`write_atomically`], and if there is one.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, false)
}

/// Checks that a file can be written at `path`, and makes its folder: to be called before work whose result goes there.
///
/// # Errors
/// As [`write_atomically`] would fail, except for a disk that is full by then.
pub fn check_writable(path: &Path) -> Result<()> {
    let run = || match target(path)? {
        Target::Device => Ok(()),
        Target::File(path) => temporary(folder_of(&path)).map(|_| ()),
    };
    run().map_err(Error::io("write", path))
}

fn write(path: &Path, bytes: &[u8], replace: bool) -> Result<()> {
    let run = || -> std::io::Result<()> {
        let path = match target(path)? {
            Target::Device => return std::fs::write(path, bytes),
            Target::File(path) => path,
        };
        let mut file = held_temporary(folder_of(&path))?;
        file.write_all(bytes)?;
        persist(file, &path, replace)
    };
    run().map_err(Error::io("write", path))
}

/// Gives a temporary file of the same file system its place, in a folder that is there.
pub(crate) fn persist(file: tempfile::NamedTempFile, path: &Path, replace: bool) -> std::io::Result<()> {
    file.as_file().sync_all()?;
    let persisted = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    persisted.map_err(|error| error.error)?;
    // The rename itself survives a power cut only once the folder is on disk; where folders cannot be opened for
    // that, the file is complete all the same.
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// What there is at a path that is to be written.
enum Target {
    /// A file, or nothing yet, at this path, which is no link.
    File(PathBuf),
    Device,
}

fn target(path: &Path) -> std::io::Result<Target> {
    let linked = path.symlink_metadata().is_ok_and(|data| data.is_symlink());
    let path = if linked { path.canonicalize()? } else { path.to_owned() };
    match path.metadata() {
        Ok(data) if data.is_file() => Ok(Target::File(path)),
        Ok(data) if is_device(&data) => Ok(Target::Device),
        Ok(_) => Err(IoError::new(ErrorKind::AlreadyExists, "it is not a regular file; choose another name")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Target::File(path)),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn is_device(data: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    data.file_type().is_char_device()
}

#[cfg(not(unix))]
fn is_device(_: &std::fs::Metadata) -> bool {
    false
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A [`temporary`] that other processes leave alone until it is persisted or dropped. What processes that were killed
/// left in `folder` is removed.
pub(crate) fn held_temporary(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    remove_stale(folder);
    let file = temporary(folder)?;
    // See `remove_stale`. Where files cannot be locked, their age alone tells.
    let _ = file.as_file().try_lock();
    Ok(file)
}

/// A file in `folder`, made if it is not there, that vanishes unless it is persisted, with the permissions of any new
/// file.
fn temporary(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(WRITING).suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Lowered by the umask; the default of temporary files is private to their owner.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Removes what processes that were killed while writing left in `folder`.
fn remove_stale(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(WRITING);
        let is_old = || {
            let data = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some(data.modified().ok()?.elapsed().ok()? > STALE)
        };
        if is_ours && is_old() == Some(true) {
            let held = match File::open(entry.path()).map(|file| file.try_lock()) {
                Ok(locked) => matches!(locked, Err(TryLockError::WouldBlock)),
                Err(_) => true,
            };
            if !held {
                // What cannot be removed is no worse than before.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Opens a regular file, or a link to one. A pipe or a device, which could hang or never end, is not opened.
///
/// # Errors
/// [`Error::File`] if it is something else; [`Error::Io`].
pub fn open_regular(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).map_err(Error::io("open", path))?;
    if !metadata.is_file() {
        let reason = format!("{}, where a regular file is needed", kind(metadata.file_type()));
        return Err(Error::file(path, reason));
    }
    File::open(path).map_err(Error::io("open", path))
}

/// The content of a regular file, of any size.
///
/// # Errors
/// As [`open_regular`].
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    read_bounded(path, u64::MAX)
}

/// The content of a regular file of at most `max_bytes`; a larger one is not read.
///
/// # Errors
/// As [`open_regular`]; [`Error::File`] if the file is larger.
pub fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    let size_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let mut content = Vec::new();
    if size_bytes <= max_bytes {
        // The file may grow while it is read.
        file.take(max_bytes.saturating_add(1)).read_to_end(&mut content).map_err(Error::io("read", path))?;
    }
    let size_bytes = size_bytes.max(content.len() as u64);
    if size_bytes > max_bytes {
        let reason = format!("{size_bytes} bytes, more than the {max_bytes} that such a file may have");
        return Err(Error::file(path, reason));
    }
    Ok(content)
}

/// What a file that is not regular is called.
fn kind(file_type: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "a pipe";
        }
        if file_type.is_socket() {
            return "a socket";
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return "a device";
        }
    }
    if file_type.is_dir() { "a folder" } else { "no regular file" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_is_being_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - 2 * STALE;
        let leave = |name: &str| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        leave(".writing-left");
        let held = leave(".writing-held");
        held.lock().unwrap();
        leave("of-a-user");
        File::create(folder.path().join(".writing-fresh")).unwrap();
        write_atomically(&folder.path().join("new"), b"x").unwrap();
        assert_eq!(names(folder.path()), [".writing-fresh", ".writing-held", "new", "of-a-user"]);
    }

    #[test]
    fn a_new_file_does_not_replace_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/x");
        write_new(&path, b"first").unwrap();
        let error = write_new(&path, b"second").unwrap_err().to_string();
        assert!(error.contains("sub/x"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write_atomically(&path, b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(names(path.parent().unwrap()), ["x"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_never_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        for name in ["socket", "folder"] {
            for error in
                [write_atomically(&at(name), b"x").unwrap_err(), check_writable(&at(name)).unwrap_err()]
            {
                assert!(error.to_string().contains("not a regular file"), "{error}");
            }
        }
        assert!(at("socket").metadata().unwrap().file_type().is_socket());
        // A device takes what is written, and is still there.
        check_writable(Path::new("/dev/null")).unwrap();
        write_atomically(Path::new("/dev/null"), b"x").unwrap();
        assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
        // A link leads to the file as before; one that leads nowhere is an error.
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        assert!(write_atomically(&at("link"), b"x").is_err());
        std::fs::write(at("real"), b"old").unwrap();
        write_atomically(&at("link"), b"new").unwrap();
        assert!(at("link").symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read(at("real")).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn the_umask_decides_on_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| folder.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
        // As any other new file of this process.
        std::fs::write(folder.path().join("plain"), b"x").unwrap();
        write_atomically(&folder.path().join("ours"), b"x").unwrap();
        assert_eq!(mode("ours"), mode("plain"));
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"12345").unwrap();
        assert_eq!(read_regular(&file).unwrap(), b"12345");
        assert_eq!(read_bounded(&file, 5).unwrap(), b"12345");
        let message = |result: Result<Vec<u8>>| result.unwrap_err().to_string();
        let too_long = message(read_bounded(&file, 4));
        assert!(too_long.ends_with("file: 5 bytes, more than the 4 that such a file may have"), "{too_long}");
        let not_a_file = message(read_regular(folder.path()));
        assert!(not_a_file.ends_with("a folder, where a regular file is needed"), "{not_a_file}");
        assert!(message(read_regular(&folder.path().join("none"))).starts_with("open "));
    }

    /// A pipe without a writer would block its reader forever.
    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, expected) in [(&pipe, "a pipe"), (&link, "a device")] {
            let message = read_bounded(path, 10).unwrap_err().to_string();
            let expected = format!("{}: {expected}, where a regular file is needed", path.display());
            assert_eq!(message, expected);
        }
    }
}
