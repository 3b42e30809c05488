//! One process, and one of its threads, for what only one may do at a time, such as a trial: by two advisory locks that the
//! system releases when their holder dies.
//!
//! The one at the path keeps a second process out and is touched by nobody but those who want to
//! hold it. Whoever only looks ([`Lock::is_held`]) tries the other, on a file beside it, so that
//! looking never turns a starting process away.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A held lock. Its files are removed on drop; those of a process that died are taken over.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _exclusion: File,
    _sign: File,
}

/// The file whose lock says to those who look that the lock at `path` is held.
fn sign(path: &Path) -> PathBuf {
    path.with_extension("held")
}

/// Opens the regular file at `path`, made if it is not there; what it holds stays.
fn open(path: &Path) -> Result<File> {
    match path.symlink_metadata() {
        Ok(there) if !there.is_file() => {
            let other = std::io::Error::new(ErrorKind::AlreadyExists, "it is not a regular file");
            return Err(Error::io("lock", path)(other));
        }
        _ => {}
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    file.map_err(Error::io("create", path))
}

/// Whether the name `path` still leads to `file`: its last holder may have removed it between our
/// opening and locking it, and a lock on a file without a name keeps nobody out.
#[cfg(unix)]
fn still_at(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |data: std::fs::Metadata| (data.dev(), data.ino());
    match (path.symlink_metadata(), file.metadata()) {
        (Ok(named), Ok(opened)) => identity(named) == identity(opened),
        _ => false,
    }
}

/// Elsewhere a file that is open keeps its name.
#[cfg(not(unix))]
fn still_at(path: &Path, _: &File) -> bool {
    path.exists()
}

impl Lock {
    /// Takes the lock, or `None` if another process holds it.
    ///
    /// # Errors
    /// If its files cannot be made, or something else has their names.
    pub fn acquire(path: &Path) -> Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create folder", folder))?;
        }
        let exclusion = loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) if still_at(path, &file) => break file,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
            }
        };
        let beside = sign(path);
        let sign = open(&beside)?;
        // Waits for no longer than somebody looks.
        sign.lock().map_err(Error::io("lock", &beside))?;
        Ok(Some(Self { path: path.to_owned(), _exclusion: exclusion, _sign: sign }))
    }

    /// Takes the lock as soon as nobody else holds it; `check` is called while waiting.
    ///
    /// # Errors
    /// As [`Self::acquire`], or that of `check`, which ends the waiting.
    pub fn wait(path: &Path, check: impl Fn() -> Result<()>) -> Result<Self> {
        loop {
            if let Some(held) = Self::acquire(path)? {
                return Ok(held);
            }
            check()?;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Whether some process holds the lock at `path`. Does not take it, not even for an instant.
    #[must_use]
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(sign(path)) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Leftover files are harmless: the locks on them are gone.
        let _ = std::fs::remove_file(sign(&self.path));
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

    /// By hand: whoever waits has it once its holder has left, and no longer than the check allows.
    #[test]
    fn whoever_waits_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let held = Lock::acquire(&path).unwrap().expect("free");
        assert!(matches!(Lock::wait(&path, || Err(Error::Interrupted)), Err(Error::Interrupted)));
        let held = std::cell::Cell::new(Some(held));
        let next = Lock::wait(&path, || {
            drop(held.take());
            Ok(())
        });
        assert!(next.is_ok() && Lock::is_held(&path));
    }

    /// Threads that look all the time never turn away one that takes and leaves the lock, and
    /// those that take it in turns never hold it together.
    #[test]
    fn looking_does_not_take_and_holders_take_turns() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
        let folder = tempfile::tempdir().unwrap();
        let path = &folder.path().join("x.lock");
        let stop = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    while !stop.load(SeqCst) {
                        let _ = Lock::is_held(path);
                    }
                });
            }
            let turned_away = (0..300).filter(|_| Lock::acquire(path).unwrap().is_none()).count();
            stop.store(true, SeqCst);
            assert_eq!(turned_away, 0);
        });
        let holders = &AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(move || {
                    for _ in 0..300 {
                        if let Some(held) = Lock::acquire(path).unwrap() {
                            assert_eq!(holders.fetch_add(1, SeqCst), 0, "two holders");
                            std::thread::yield_now();
                            holders.fetch_sub(1, SeqCst);
                            drop(held);
                        }
                    }
                });
            }
        });
    }

    #[cfg(unix)]
    #[test]
    fn nothing_of_others_is_emptied_or_followed() {
        let folder = tempfile::tempdir().unwrap();
        let of_user = folder.path().join("notes");
        std::fs::write(&of_user, "kept").unwrap();
        let path = folder.path().join("x.lock");
        std::os::unix::fs::symlink(&of_user, &path).unwrap();
        let error = Lock::acquire(&path).unwrap_err().to_string();
        assert!(error.contains("x.lock") && error.contains("not a regular file"), "{error}");
        assert_eq!(std::fs::read_to_string(&of_user).unwrap(), "kept");
    }
}
