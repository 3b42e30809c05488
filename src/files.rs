//! Writing files so that a reader never sees half of one.

use std::path::Path;

use crate::{Error, Result};

/// Has `write` fill a temporary file next to `path`, then moves it there. A failure, a full disk or
/// a kill leaves the old file, or none.
///
/// # Errors
/// If the folder cannot be made or a write fails.
pub fn write_atomically(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("create folder", folder))?;
    let run = || -> std::io::Result<()> {
        let temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
        write(temporary.path())?;
        // The writer may have replaced the file: sync what stands under the name now.
        std::fs::File::open(temporary.path())?.sync_all()?;
        make_readable(temporary.path())?;
        temporary.persist(path)?;
        Ok(())
    };
    run().map_err(Error::io("write", path))
}

/// Temporary files are private; results are not.
#[cfg(unix)]
fn make_readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &Path) -> std::io::Result<()> {
    Ok(())
}
