//! An instance with simulated devices, of this bench alone.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// What a device's batches cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) batch_ns: u64,
    pub(crate) token_ns: u64,
}

impl Device {
    /// One that takes so many times as long.
    pub(crate) fn slower(self, times: u32) -> Self {
        Self {
            batch_ns: self.batch_ns * u64::from(times),
            token_ns: self.token_ns * u64::from(times),
        }
    }
}

/// A running `embedring up`, stopped when dropped.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) name: String,
    up: Child,
    _home: TempDir,
}

impl Instance {
    /// Starts one with these devices and waits until all serve.
    pub(crate) fn start(bin: &Path, devices: &[(&str, Device)]) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let config = home.path().join("config.toml");
        let mut text = "[scheduler]\nbatch_time_target_ms = 50\n".to_owned();
        for (name, device) in devices {
            text += &format!(
                "[workers.{name}]\ndevice = \"simulated:{name}\"\nsimulated_batch_ns = {}\n\
                 simulated_token_ns = {}\nsimulated_square_ps = 0\nspin_us = 0\n",
                device.batch_ns, device.token_ns
            );
        }
        std::fs::write(&config, text)?;
        let name = format!("pool{}", std::process::id());
        let mut up = Command::new(bin)
            .args(["up", "--instance", &name, "--config"])
            .arg(&config)
            .env("EMBEDRING_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}; build it with `cargo build --release --bin embedring`",
                    bin.display()
                )
            })?;
        let stdout = up.stdout.take().context("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let instance = Self {
            name,
            up,
            _home: home,
        };
        if !line.starts_with("ready") {
            bail!("`embedring up` is not ready; it says {line:?}");
        }
        Ok(instance)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // As a user would: it removes its files.
        let pid = self.up.id().to_string();
        let stopped = Command::new("kill").arg(&pid).status();
        if !stopped.is_ok_and(|status| status.success()) {
            drop(self.up.kill());
        }
        drop(self.up.wait());
    }
}
