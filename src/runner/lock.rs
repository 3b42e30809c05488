//! One process per trial: an advisory lock on a file that disappears with its holder.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A held lock; released and its file removed on drop. The system releases it if the process dies.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock, or `None` if another process holds it.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn acquire(path: &Path) -> Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create folder", folder))?;
        }
        let file = File::create(path).map_err(Error::io("create", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    /// Whether some process holds the lock at `path`.
    #[must_use]
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A leftover file is harmless: the lock on it is gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let held = Lock::acquire(&path).unwrap().expect("free");
        assert!(Lock::acquire(&path).unwrap().is_none());
        assert!(Lock::is_held(&path));
        drop(held);
        assert!(!Lock::is_held(&path));
        assert!(Lock::acquire(&path).unwrap().is_some());
    }
}
