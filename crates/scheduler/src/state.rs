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
use embedring_optimizer::{Models, Planner, RestoreError};

/// More bytes than all that can be learned of all workers takes, with learned models.
const BYTES_MAX: u64 = 64 << 20;

/// What the analytic models know; and beside it, what others are learned from, and those.
const ANALYTIC: &str = "models";
const LEARNED: &str = "learned";

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

    /// The file of learned models.
    pub(crate) fn learned_of(instance: &Instance) -> Self {
        Self::named(instance.path(), LEARNED)
    }

    fn at(folder: &Path) -> Self {
        Self::named(folder, ANALYTIC)
    }

    fn named(folder: &Path, name: &str) -> Self {
        Self {
            path: folder.join(name),
            failing: false,
        }
    }

    /// What an earlier scheduler knew, or nothing.
    pub(crate) fn load(&self) -> Planner {
        self.restored(Planner::restore).unwrap_or_default()
    }

    /// Lets `planner` go on with what an earlier one had learned from; gives the models.
    pub(crate) fn load_learned(&self, planner: &mut Planner) -> Models {
        planner.learn();
        let restored = self.restored(|saved| planner.restore_learned(saved));
        restored.unwrap_or_default()
    }

    /// What the file holds; one that holds something else is set aside.
    fn restored<T>(&self, restore: impl FnOnce(&[u8]) -> Result<T, RestoreError>) -> Option<T> {
        let path = self.path.display();
        let saved = match self.read() {
            Ok(saved) => saved,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%path, %error, "what was learned can not be read; beginning anew");
                return None;
            }
        };
        let error = match restore(&saved) {
            Ok(restored) => {
                tracing::info!(%path, bytes = saved.len(), "going on with what was learned");
                return Some(restored);
            }
            Err(error) => error,
        };
        let aside = self.beside("damaged");
        match fs::rename(&self.path, &aside) {
            Ok(()) => {
                tracing::warn!(%path, %error, aside = %aside.display(), "what was learned is unusable and was set aside; beginning anew");
            }
            Err(rename) => {
                tracing::warn!(%path, %error, %rename, "what was learned is unusable and could not be set aside; beginning anew");
            }
        }
        None
    }

    /// Replaces the file by what is known now. `free_bytes` are left on its file system, of which others
    /// need some to be able to write at all.
    pub(crate) fn save(&mut self, planner: &Planner, free_bytes: u64) {
        self.replace(&planner.save(), free_bytes);
    }

    /// The same of learned models.
    pub(crate) fn save_learned(&mut self, planner: &Planner, models: &Models, free_bytes: u64) {
        if let Some(saved) = planner.save_learned(models) {
            self.replace(&saved, free_bytes);
        }
    }

    fn replace(&mut self, saved: &[u8], free_bytes: u64) {
        let need_bytes = ROOM_BYTES_MIN + saved.len() as u64;
        let written = if free_bytes < need_bytes {
            Err(ErrorKind::StorageFull.into())
        } else {
            self.write(saved)
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
    fn learned_models_have_a_file_of_their_own_and_a_damaged_one_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::named(folder.path(), LEARNED);
        file.save_learned(&taught(), &Models::new(), u64::MAX);
        assert!(files(folder.path()).is_empty(), "nothing is learned");
        let mut planner = taught();
        assert_eq!(file.load_learned(&mut planner), Models::new());
        file.save_learned(&planner, &Models::new(), u64::MAX);
        assert_eq!(files(folder.path()), ["learned"]);
        let mut again = taught();
        file.load_learned(&mut again);
        assert_eq!(again, planner);
        let path = folder.path().join("learned");
        let mut saved = fs::read(&path).unwrap();
        let middle = saved.len() / 2;
        saved[middle] ^= 0x10;
        fs::write(&path, saved).unwrap();
        file.load_learned(&mut again);
        assert_eq!(again, planner, "beginning anew");
        assert_eq!(files(folder.path()), ["learned.damaged"]);
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
