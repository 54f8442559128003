//! First source: a directory on this machine.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    error::SourceError,
    files::{self, WANTED},
    name::ModelName,
    pull::Progress,
};

/// The model directory that `given` means: itself, or the folder in it with the model's name.
pub(crate) fn find(given: &Path, name: &ModelName) -> Result<PathBuf, SourceError> {
    let last = name.as_str().rsplit('/').next().unwrap_or_default();
    [
        given.to_owned(),
        given.join(name.as_str()),
        given.join(name.folder()),
        given.join(last),
    ]
    .into_iter()
    .find(|folder| folder.join("config.json").is_file())
    .ok_or_else(|| SourceError::NoDirectory {
        path: given.to_owned(),
    })
}

/// Copies the wanted files of `folder` to `out`. Links are followed: other caches consist of them.
pub(crate) fn fetch(folder: &Path, out: &Path, progress: &dyn Progress) -> Result<(), SourceError> {
    for wanted in &WANTED {
        let path = folder.join(wanted.path);
        let total = match fs::metadata(&path) {
            Ok(data) if data.is_file() => data.len(),
            // A pipe or a device by that name would block, or never end.
            Ok(_) => {
                return Err(SourceError::Missing {
                    file: wanted.path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !wanted.required => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SourceError::Missing {
                    file: wanted.path.to_owned(),
                });
            }
            Err(error) => return Err(SourceError::io(path)(error)),
        };
        let mut file = File::open(&path).map_err(SourceError::io(&path))?;
        progress.step(wanted.path);
        files::write(wanted, &mut file, out, &mut |done| {
            progress.bytes(done, Some(total))
        })?;
    }
    Ok(())
}
