//! An instance of the real binary, and the load on it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

/// Connections of the generator, and what each may have in flight: enough for all requests whose time is not over at
/// several times what two cores can do.
const CONNECTIONS: u32 = 12;
const IN_FLIGHT: u32 = 64;

/// It is stopped when it is dropped.
pub(crate) struct Instance<'a> {
    bin: &'a Path,
    name: String,
    /// Holds an empty configuration file, so that nothing of the user's own counts.
    home: TempDir,
    settings: Vec<(String, String)>,
    up: Option<Child>,
}

impl<'a> Instance<'a> {
    /// Starts one with these settings, `KEY` and value as after `EMBEDRING_`, and waits until it serves.
    pub(crate) fn start(bin: &'a Path, settings: &[(String, String)]) -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        std::fs::write(home.path().join("config.toml"), "").context("write a configuration")?;
        let mut all: Vec<(String, String)> = vec![
            ("LIMITS__CLIENTS_MAX".into(), (CONNECTIONS + 4).to_string()),
            (
                "LIMITS__REQUESTS_IN_FLIGHT_MAX".into(),
                IN_FLIGHT.to_string(),
            ),
            ("LIMITS__REQUEST_SLOT_BYTES".into(), "8KiB".into()),
            ("LIMITS__RESPONSE_SLOT_BYTES".into(), "18KiB".into()),
            ("LOG".into(), "warn".into()),
        ];
        all.extend_from_slice(settings);
        let mut instance = Self {
            bin,
            name: format!("bench-{}", std::process::id()),
            home,
            settings: all,
            up: None,
        };
        let mut up = instance
            .command(&["up"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", bin.display()))?;
        let stdout = up.stdout.take().context("read the output of up")?;
        instance.up = Some(up);
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("read the output of up")?;
        if !line.starts_with("ready") {
            bail!("the instance ended before it was ready; see its messages above");
        }
        Ok(instance)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            // Where the models are is a matter of the machine.
            if name.starts_with("EMBEDRING_") && name != "EMBEDRING_MODELS" {
                command.env_remove(name.as_ref());
            }
        }
        command
            .env("EMBEDRING_INSTANCE", &self.name)
            .env("EMBEDRING_CONFIG", self.home.path().join("config.toml"));
        for (key, value) in &self.settings {
            command.env(format!("EMBEDRING_{key}"), value);
        }
        command.args(args);
        command
    }

    /// `embedring bench load` with these flags; its result, or nothing when it ended without one, as when no rate
    /// is held.
    pub(crate) fn load(&self, args: &[String]) -> Result<Option<Value>> {
        let output = self
            .command(&["bench", "load", "--json"])
            .arg("--connections")
            .arg(CONNECTIONS.to_string())
            .args(args)
            .stderr(Stdio::inherit())
            .output()
            .context("start embedring bench load")?;
        if output.stdout.is_empty() {
            return Ok(None);
        }
        let result = serde_json::from_slice(&output.stdout)
            .context("read the output of embedring bench load")?;
        Ok(Some(result))
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        let Some(mut up) = self.up.take() else { return };
        let stopped = self.command(&["down"]).stdout(Stdio::null()).status();
        let is_down = stopped.is_ok_and(|status| status.success());
        if !is_down && let Err(error) = up.kill() {
            drop(writeln!(std::io::stderr(), "an instance goes on: {error}"));
        }
        drop(up.wait());
    }
}
