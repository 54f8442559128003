//! `docs/cli.md`, written from the flags themselves.

use std::fmt::Write as _;
use std::path::Path;

use clap::Command;

const INTRODUCTION: &str = "\
# Command line

<!-- Written from the doc comments of crates/cli/src by `cargo test -p embedring`; edit there. -->

What `embedring help`, `embedring COMMAND --help` and so on print. Every command takes `--instance` and `--config`;
[config.md](config.md) has the keys of the configuration.
";

/// The long help of every command.
fn markdown(root: Command) -> String {
    let mut out = INTRODUCTION.to_owned();
    let mut root = root.term_width(100);
    root.build();
    section(&mut out, "embedring", &mut root);
    out
}

fn section(out: &mut String, name: &str, command: &mut Command) {
    // The value that a variable happens to have here is not part of the reference.
    let mut shown = command.clone().mut_args(|arg| arg.hide_env_values(true));
    let help = shown.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a string does not fail.
    write!(out, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n")).unwrap_or_default();
    for child in command.get_subcommands_mut() {
        if child.get_name() != "help" && !child.is_hide_set() {
            let name = format!("{name} {}", child.get_name());
            section(out, &name, child);
        }
    }
}

#[test]
fn the_reference_in_docs_is_up_to_date() {
    use clap::CommandFactory as _;

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let expected = markdown(crate::Cli::command());
    for command in [
        "bench load",
        "bench cost-table",
        "model pull",
        "check-config",
    ] {
        assert!(
            expected.contains(&format!("\n## embedring {command}\n")),
            "{command}"
        );
    }
    if std::fs::read_to_string(&path).ok().as_deref() == Some(expected.as_str()) {
        return;
    }
    std::fs::write(&path, expected).unwrap();
    panic!("docs/cli.md was not up to date and has been written again: commit it");
}
