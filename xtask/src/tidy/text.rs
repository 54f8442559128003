//! Text files: length, what they may not say, and the README of each package.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::run::{command, output};

/// More lines than this need a reason.
const LINES_WITHOUT_REASON: usize = 600;
/// More lines than this are two files in one.
const LINES_MAX: usize = 1_000;
const README_LINES_MIN: usize = 15;
const README_LINES_MAX: usize = 60;

/// First part of an absolute path that exists on somebody's machine.
const FOLDERS: [&str; 4] = ["home", "root", "tmp", "work"];

/// Hosts of registries. In two halves, so that this file keeps its own rule.
const HOSTS: [(&str, &str); 10] = [
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("crates", ".io"),
    ("huggingface", ".co"),
    ("hf", ".co"),
    ("npmjs", ".org"),
    ("npmjs", ".com"),
    ("deb.debian", ".org"),
    ("ghcr", ".io"),
    ("docker", ".io"),
];

/// Unfinished code and switched-off tests, in two halves for the same reason.
const UNFINISHED: [(&str, &str); 3] = [("todo", "!("), ("unimplemented", "!("), ("#[", "ignore")];

/// One text file of the repository.
#[derive(Debug)]
pub(super) struct TextFile {
    /// From the root, with `/`.
    pub(super) name: String,
    pub(super) text: String,
}

/// All text files that are tracked, or would be by `git add`; lock files are written by tools.
pub(super) fn files(root: &Path) -> Result<Vec<TextFile>> {
    let list = output(command("git").arg("-C").arg(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files = Vec::new();
    for name in list
        .split('\0')
        .filter(|name| !name.is_empty() && !name.ends_with(".lock"))
    {
        let path = root.join(name);
        // Deleted but not yet staged, or a link that leads elsewhere.
        if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        if let Some(text) = as_text(bytes) {
            files.push(TextFile {
                name: name.to_owned(),
                text,
            });
        }
    }
    Ok(files)
}

fn as_text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// What is wrong with `file`, in words.
pub(super) fn check_file(file: &TextFile) -> Vec<String> {
    let mut broken: Vec<String> = length(file).into_iter().collect();
    for (index, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.name, index + 1);
        if let Some(folder) = FOLDERS.iter().find(|folder| has_path(line, folder)) {
            broken.push(format!("{place}: an absolute path under `/{folder}`"));
        }
        if let Some((name, end)) = HOSTS.iter().find(|host| has_host(line, host)) {
            broken.push(format!("{place}: names the registry host {name}{end}"));
        }
        if file.name.ends_with(".rs")
            && let Some((start, end)) = UNFINISHED
                .iter()
                .find(|(start, end)| line.contains(&format!("{start}{end}")))
        {
            broken.push(format!(
                "{place}: `{start}{end}`: unfinished, or a test switched off"
            ));
        }
    }
    broken
}

fn length(file: &TextFile) -> Option<String> {
    const CODE: [&str; 3] = ["rs", "py", "sh"];
    let extension = Path::new(&file.name)
        .extension()
        .and_then(|extension| extension.to_str());
    if !extension.is_some_and(|extension| CODE.contains(&extension)) {
        return None;
    }
    let lines = file.text.lines().count();
    let first = file.text.lines().next().unwrap_or_default();
    let reason = first
        .trim_start_matches(['/', '#', ' '])
        .strip_prefix("long file: ");
    if lines > LINES_MAX {
        Some(format!(
            "{}: {lines} lines; over {LINES_MAX} it is two files",
            file.name
        ))
    } else if lines > LINES_WITHOUT_REASON && reason.is_none_or(str::is_empty) {
        Some(format!(
            "{}: {lines} lines; over {LINES_WITHOUT_REASON} the first line says why: \
             `// long file: REASON`",
            file.name
        ))
    } else {
        None
    }
}

/// Whether `line` holds an absolute path that begins with `/folder/`.
fn has_path(line: &str, folder: &str) -> bool {
    let needle = format!("/{folder}/");
    // After a letter, a dot or the like it is the middle of another path, such as `../shared`.
    let inside = |before: char| before.is_alphanumeric() || "._-~})/$*".contains(before);
    line.match_indices(&needle)
        .any(|(at, _)| !line[..at].chars().next_back().is_some_and(inside))
}

fn has_host(line: &str, (name, end): &(&str, &str)) -> bool {
    let needle = format!("{name}{end}");
    line.match_indices(&needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + needle.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// What is wrong with the READMEs of the workspace's packages, in words.
pub(super) fn check_readmes(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for package in metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?
    {
        let manifest = package["manifest_path"]
            .as_str()
            .context("a package without a manifest")?;
        let path = PathBuf::from(manifest).with_file_name("README.md");
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .display()
            .to_string();
        broken.extend(readme(
            &name,
            std::fs::read_to_string(&path).ok().as_deref(),
        ));
    }
    Ok(broken)
}

fn readme(name: &str, text: Option<&str>) -> Option<String> {
    let Some(text) = text else {
        return Some(format!("{name}: missing"));
    };
    let lines = text.lines().count();
    if (README_LINES_MIN..=README_LINES_MAX).contains(&lines) {
        return None;
    }
    Some(format!(
        "{name}: {lines} lines, not {README_LINES_MIN} to {README_LINES_MAX}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, expected: Option<&str>) {
        let broken = check_file(&TextFile {
            name: name.to_owned(),
            text: text.to_owned(),
        });
        match expected {
            None => assert_eq!(broken, Vec::<String>::new()),
            Some(part) => {
                assert_eq!(broken.len(), 1, "{broken:?}");
                assert!(broken[0].contains(part), "{broken:?}");
            }
        }
    }

    #[test]
    fn long_files_say_why_and_very_long_ones_are_refused() {
        let lines = |count: usize| "x\n".repeat(count);
        check("a.rs", &lines(LINES_WITHOUT_REASON), None);
        check(
            "a.rs",
            &lines(LINES_WITHOUT_REASON + 1),
            Some("the first line says why"),
        );
        let with_reason = format!("// long file: one table\n{}", lines(LINES_WITHOUT_REASON));
        check("a.rs", &with_reason, None);
        let empty_reason = format!("// long file: \n{}", lines(LINES_WITHOUT_REASON));
        check("a.rs", &empty_reason, Some("the first line says why"));
        let too_long = format!("# long file: one table\n{}", lines(LINES_MAX));
        check("a.py", &too_long, Some("two files"));
        check("data.csv", &lines(LINES_MAX + 1), None);
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        for folder in FOLDERS {
            check(
                "a.md",
                &format!("see /{folder}/x"),
                Some("a.md:1: an absolute path"),
            );
            check(
                "a.md",
                &format!("\nX=\"/{folder}/x\""),
                Some("a.md:2: an absolute path"),
            );
            check(
                "a.md",
                &format!("$HOME/{folder}/x, ../{folder}/x, a/{folder}/x"),
                None,
            );
            check("a.md", &format!("/{folder}, /{folder}stead/x"), None);
        }
    }

    #[test]
    fn hosts_of_registries_are_refused() {
        for (name, end) in HOSTS {
            check(
                "a.md",
                &format!("https://x.{name}{end}/y"),
                Some("registry host"),
            );
            check(
                "a.md",
                &format!("{name}{end}nfig.toml and a{name}{end}"),
                None,
            );
        }
    }

    #[test]
    fn unfinished_code_and_switched_off_tests_are_refused() {
        for (start, end) in UNFINISHED {
            check("a.rs", &format!("    {start}{end}"), Some("unfinished"));
            check("a.md", &format!("never {start}{end}"), None);
        }
    }

    #[test]
    fn each_package_has_a_readme_of_a_screen() {
        let lines = |count: usize| "x\n".repeat(count);
        assert_eq!(readme("r", Some(&lines(README_LINES_MIN))), None);
        assert_eq!(readme("r", Some(&lines(README_LINES_MAX))), None);
        for text in [
            None,
            Some(lines(README_LINES_MIN - 1)),
            Some(lines(README_LINES_MAX + 1)),
        ] {
            assert!(readme("r", text.as_deref()).is_some(), "{text:?}");
        }
    }

    #[test]
    fn binary_files_are_not_text() {
        assert_eq!(as_text(vec![b'a', 0, b'b']), None);
        assert_eq!(as_text(vec![0xff, 0xfe]), None);
        assert_eq!(as_text(b"a\n".to_vec()), Some("a\n".to_owned()));
    }

    #[test]
    fn this_repository_is_listed_and_its_lock_file_is_not() {
        let files = files(crate::run::root()).unwrap();
        assert!(
            files
                .iter()
                .any(|file| file.name == "xtask/src/tidy/text.rs")
        );
        assert!(files.iter().all(|file| file.name != "Cargo.lock"));
    }
}
