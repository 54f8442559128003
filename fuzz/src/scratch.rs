//! A folder of this process, in memory where there is such a disk.

use std::path::Path;
use std::sync::OnceLock;

use tempfile::{Builder, TempDir};

/// The folder; the same one with each call. libFuzzer ends a process without running destructors,
/// so what an ended fuzzer left there is removed by the next one.
///
/// # Panics
/// When it cannot be made.
pub fn scratch() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    const PREFIX: &str = "embedring-fuzz-";
    /// Where to make it instead, for a caller that removes it afterwards.
    const ROOT: &str = "EMBEDRING_FUZZ_SCRATCH";
    FOLDER
        .get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let root = match std::env::var_os(ROOT) {
                Some(root) => root.into(),
                None if memory.is_dir() => memory.to_owned(),
                None => std::env::temp_dir(),
            };
            for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // The rest of the name begins with the number of its process.
                let pid = name
                    .strip_prefix(PREFIX)
                    .and_then(|rest| rest.split('-').next());
                if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
            Builder::new()
                .prefix(&format!("{PREFIX}{}-", std::process::id()))
                .tempdir_in(root)
                .expect("a folder for the files under test")
        })
        .path()
}
