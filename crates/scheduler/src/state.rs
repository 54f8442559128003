//! What was learned, kept in a file of the instance's directory so that it outlives the scheduler.
//!
//! The file is replaced whole: written beside its place and then renamed, so that a kill at any moment
//! leaves the old one or the new one. One that can not be understood is renamed, with a warning, and
//! learning begins anew; one that can not be written is said once, and planning goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use embedring_ipc::{Instance, ROOM_BYTES_MIN};
use embedring_optimizer::Planner;

/// More bytes than all that can be learned of all workers takes.
const BYTES_MAX: u64 = 4 << 20;

/// The file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// A failure was said and nothing was written since.
    failing: bool,
}

impl StateFile {
    /// The file of an instance.
    pub(crate) fn of(instance: &Instance) -> Self {
        Self::at(instance.path())
    }

    fn at(folder: &Path) -> Self {
        Self {
            path: folder.join("models"),
            failing: false,
        }
    }

    /// What an earlier scheduler knew, or nothing.
    pub(crate) fn load(&self) -> Planner {
        let saved = match self.read() {
            Ok(saved) => saved,
            Err(error) if error.kind() == ErrorKind::NotFound => return Planner::default(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "what was learned can not be read; beginning anew");
                return Planner::default();
            }
        };
        match Planner::restore(&saved) {
            Ok(planner) => {
                tracing::info!(bytes = saved.len(), "going on with what was learned");
                planner
            }
            Err(error) => {
                let aside = self.beside("damaged");
                let path = self.path.display();
                match fs::rename(&self.path, &aside) {
                    Ok(()) => {
                        tracing::warn!(%path, %error, aside = %aside.display(), "what was learned is unusable and was set aside; beginning anew");
                    }
                    Err(rename) => {
                        tracing::warn!(%path, %error, %rename, "what was learned is unusable and could not be set aside; beginning anew");
                    }
                }
                Planner::default()
            }
        }
    }

    /// Replaces the file by what is known now. `free_bytes` are left on its file system, of which others
    /// need some to be able to write at all.
    pub(crate) fn save(&mut self, planner: &Planner, free_bytes: u64) {
        let saved = planner.save();
        let need_bytes = ROOM_BYTES_MIN + saved.len() as u64;
        let written = if free_bytes < need_bytes {
            Err(ErrorKind::StorageFull.into())
        } else {
            self.write(&saved)
        };
        match written {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(path = %self.path.display(), %error, "what is learned can not be saved; planning goes on");
            }
            Err(_) => {}
        }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut saved = Vec::new();
        File::open(&self.path)?
            .take(BYTES_MAX)
            .read_to_end(&mut saved)?;
        Ok(saved)
    }

    fn write(&self, saved: &[u8]) -> io::Result<()> {
        let new = self.beside("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            // There after a kill in the middle of the last time.
            Ok(()) | Err(_) => {}
        }
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(saved)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // Whatever half of it is there is of no use; the error to tell is the first.
            drop(fs::remove_file(&new));
        }
        written
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.path.with_extension(extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedring_optimizer::PlanningInput;
    use embedring_protocol::Report;

    fn taught() -> Planner {
        let mut planner = Planner::default();
        for tokens in [10, 40, 90, 20, 70] {
            let run_ns = 1_000 + tokens * 500;
            planner.observe(
                0,
                &Report {
                    tokens,
                    run_ns,
                    ..Report::default()
                },
            );
        }
        planner.plan(PlanningInput {
            batch_time_target_ns: 1_000_000,
            now_ns: 1,
        });
        planner
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_there_after_a_restart_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::at(folder.path());
        assert_eq!(file.load(), Planner::default());
        let planner = taught();
        fs::write(folder.path().join("models.new"), "left by a kill").unwrap();
        for _ in 0..2 {
            file.save(&planner, u64::MAX);
            assert_eq!(StateFile::at(folder.path()).load(), planner);
        }
        assert_eq!(files(folder.path()), ["models"]);
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_learning_begins_anew() {
        let whole = taught().save();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let mut other = whole.clone();
        other[8] += 1;
        let cases = [
            ("cut", whole[..whole.len() / 2].to_vec()),
            ("flipped", flipped),
            ("another version", other),
            ("empty", Vec::new()),
            ("something else", b"[scheduler]\n".to_vec()),
        ];
        for (name, bytes) in cases {
            let folder = tempfile::tempdir().unwrap();
            let mut file = StateFile::at(folder.path());
            fs::write(folder.path().join("models"), &bytes).unwrap();
            assert_eq!(file.load(), Planner::default(), "{name}");
            assert_eq!(files(folder.path()), ["models.damaged"], "{name}");
            let aside = fs::read(folder.path().join("models.damaged")).unwrap();
            assert_eq!(aside, bytes, "{name}");
            file.save(&taught(), u64::MAX);
            assert_eq!(file.load(), taught(), "{name}");
        }
    }

    #[test]
    fn where_nothing_can_be_written_planning_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::at(&folder.path().join("gone"));
        file.save(&taught(), u64::MAX);
        assert!(file.failing);
        assert_eq!(file.load(), Planner::default());
        // The others' room is not taken.
        let mut file = StateFile::at(folder.path());
        file.save(&taught(), ROOM_BYTES_MIN);
        assert!(file.failing && files(folder.path()).is_empty());
        file.save(&taught(), u64::MAX);
        assert!(!file.failing, "room again");
        // A folder in its place can be neither read nor replaced; nothing half-written stays.
        let mut file = StateFile::at(folder.path());
        fs::remove_file(folder.path().join("models")).unwrap();
        fs::create_dir_all(folder.path().join("models/in the way")).unwrap();
        assert_eq!(file.load(), Planner::default());
        file.save(&taught(), u64::MAX);
        assert!(file.failing);
        assert_eq!(files(folder.path()), ["models"]);
    }
}
