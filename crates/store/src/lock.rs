//! One pull of a model at a time on this machine.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{error::PullError, name::ModelName, pull::Progress};

const FOLDER: &str = ".locks";
const POLL: Duration = Duration::from_millis(100);

/// Held for the length of a pull. The kernel gives it back when the process dies, however it dies.
///
/// The file stays behind on purpose: whoever removed it could remove the one on which a third
/// process has just begun to wait.
#[derive(Debug)]
pub(crate) struct PullLock {
    _file: File,
}

impl PullLock {
    /// Waits at most `limit`, saying so once.
    pub(crate) fn take(
        root: &Path,
        name: &ModelName,
        limit: Duration,
        progress: &dyn Progress,
    ) -> Result<Self, PullError> {
        let path = root.join(FOLDER).join(name.folder());
        let file = open(&path).map_err(|source| PullError::Write {
            path: path.clone(),
            source,
        })?;
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(source)) => return Err(PullError::Write { path, source }),
                Err(TryLockError::WouldBlock) if waited >= limit => {
                    return Err(locked(name, path, waited));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if waited.is_zero() {
                progress.step(&format!("waiting for another pull of {}", name.as_str()));
            }
            thread::sleep(POLL);
            waited += POLL;
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn locked(name: &ModelName, path: PathBuf, waited: Duration) -> PullError {
    PullError::Locked {
        name: name.as_str().to_owned(),
        path,
        waited,
    }
}
