//! Where the binary and the models are.

use std::path::PathBuf;

/// The model that the facts are about.
pub const MINILM: &str = "all-MiniLM-L6-v2";
/// A small one, for tests that need a model and not its quality.
pub const TINY: &str = "tiny-bert";

/// The `embedring` binary: `EMBEDRING_BIN`, or the one in the target folder of this test.
#[must_use]
pub fn binary() -> PathBuf {
    let how = "run `cargo xtask test`, or `cargo build --bin embedring`, or set EMBEDRING_BIN";
    let path = std::env::var_os("EMBEDRING_BIN").map_or_else(beside_this_test, PathBuf::from);
    assert!(path.is_file(), "no binary at {}: {how}", path.display());
    path
}

/// Test executables lie in `PROFILE/deps`, binaries in `PROFILE`.
fn beside_this_test() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().unwrap().parent().unwrap();
    profile.join("embedring")
}

/// The folder of the models.
#[must_use]
pub fn models() -> PathBuf {
    let how = "run `cargo xtask setup`, or set EMBEDRING_TEST_MODELS to a folder of models";
    let folder = std::env::var_os("EMBEDRING_TEST_MODELS")
        .unwrap_or_else(|| panic!("no models to test with: {how}"));
    let folder = PathBuf::from(folder);
    for name in [MINILM, TINY] {
        assert!(
            folder.join(name).is_dir(),
            "no model {name} in {}: {how}",
            folder.display()
        );
    }
    folder
}
