//! Python packages that bring tools and libraries, in a folder of the checkout.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::run::{command, run};

/// Installs `packages` anew into `folder`, then has `finish` make them usable, unless these very packages are there.
pub(crate) fn install(
    folder: &Path,
    packages: &[&str],
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let stamp = folder.join("installed");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        println!("{} is up to date", folder.display());
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    println!(
        "installing {} into {}",
        packages.join(", "),
        folder.display()
    );
    run(command("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(folder)
        .args(packages))?;
    finish(folder)?;
    // Last: a folder without it was cut short.
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
