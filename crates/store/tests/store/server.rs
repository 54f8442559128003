//! A hub of one repository on loopback: the file list, and files by range with the headers that
//! the client wants.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::support::{model_files, sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    /// Takes connections and never answers.
    Silent,
    /// Sends half of the weights and then nothing, until [`Hub::release`].
    HalfThenStall,
    /// Sends half of the weights and hangs up.
    HalfThenClose,
    /// Announces one digest for the weights and sends other bytes of the same length.
    OtherBytes,
    /// An entity tag that leads out of the folder when used as a file name.
    TagIsPath,
}

struct Shared {
    repo: String,
    files: HashMap<String, Vec<u8>>,
    manner: Manner,
    requests: Mutex<Vec<String>>,
    released: Mutex<bool>,
    changed: Condvar,
    stop: AtomicBool,
}

pub(crate) struct Hub {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    pub(crate) fn start(repo: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let files = model_files()
            .into_iter()
            .map(|(path, bytes)| (path.to_owned(), bytes));
        let shared = Arc::new(Shared {
            repo: repo.to_owned(),
            files: files.collect(),
            manner,
            requests: Mutex::default(),
            released: Mutex::default(),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let ours = Arc::clone(&shared);
        let thread = thread::spawn(move || accept(&listener, &ours));
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whole requests, heads as sent.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// Requests for the weights themselves, not for their size.
    pub(crate) fn weight_downloads(&self) -> usize {
        let is_download = |head: &&String| {
            head.contains("model.safetensors") && range_start(head).is_some_and(|r| !r.1)
        };
        self.requests().iter().filter(is_download).count()
    }

    /// Waits until the weights are being downloaded.
    pub(crate) fn wait_for_weights(&self) {
        let mut released = self.shared.released.lock().expect("no panic");
        while self.weight_downloads() == 0 {
            released = self.shared.changed.wait(released).expect("no panic");
        }
    }

    /// Lets a stalled answer go on.
    pub(crate) fn release(&self) {
        *self.shared.released.lock().expect("no panic") = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.release();
        // Wakes the accept loop.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server did not panic");
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if shared.manner == Manner::Silent {
            held.push(stream);
            continue;
        }
        let shared = Arc::clone(shared);
        // A client that goes away in the middle is one of the things under test.
        thread::spawn(move || answer(&stream, &shared).ok());
    }
}

fn answer(mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    {
        // Under the lock of the condition, so that a waiter cannot miss it.
        let _released = shared.released.lock().expect("no panic");
        shared.requests.lock().expect("no panic").push(head.clone());
        shared.changed.notify_all();
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path == format!("/api/models/{}/revision/main", shared.repo) {
        let list: Vec<_> = shared
            .files
            .keys()
            .map(|name| format!("{{\"rfilename\":\"{name}\"}}"))
            .collect();
        let body = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", list.join(","));
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    let prefix = format!("/{}/resolve/{COMMIT}/", shared.repo);
    let file = path
        .strip_prefix(&prefix)
        .and_then(|name| Some((name, shared.files.get(name)?)));
    match (file, range_start(&head)) {
        (Some((name, bytes)), Some(range)) => send_file(stream, shared, name, bytes, range),
        (Some(_) | None, _) => stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    }
}

/// The first byte asked for, and whether only that one is.
fn range_start(head: &str) -> Option<(usize, bool)> {
    let line = head
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("range:"))?;
    let (start, end) = line.split_once('=')?.1.trim().split_once('-')?;
    Some((start.parse().ok()?, end == "0"))
}

fn send_file(
    mut stream: &TcpStream,
    shared: &Shared,
    name: &str,
    bytes: &[u8],
    (start, first_only): (usize, bool),
) -> std::io::Result<()> {
    let weights = name == "model.safetensors";
    // As the hub does it: the tag of a large file is its SHA-256, that of a small one is shorter.
    let mut tag = sha256(bytes);
    if shared.manner == Manner::TagIsPath {
        tag = "../../../../../../escaped".to_owned();
    } else if !weights {
        tag.truncate(40);
    }
    let end = if first_only { start } else { bytes.len() - 1 };
    let mut part = bytes[start..=end].to_vec();
    if shared.manner == Manner::OtherBytes && weights {
        part.reverse();
    }
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nETag: \"{tag}\"\r\n\
         x-repo-commit: {COMMIT}\r\nContent-Range: bytes {start}-{end}/{}\r\n\
         Content-Length: {}\r\n\r\n",
        bytes.len(),
        part.len()
    )?;
    let half = part.len() / 2;
    if !weights || first_only {
        return stream.write_all(&part);
    }
    match shared.manner {
        Manner::HalfThenClose => stream.write_all(&part[..half]),
        Manner::HalfThenStall => {
            stream.write_all(&part[..half])?;
            let mut released = shared.released.lock().expect("no panic");
            while !*released {
                released = shared.changed.wait(released).expect("no panic");
            }
            stream.write_all(&part[half..])
        }
        Manner::Good | Manner::Silent | Manner::OtherBytes | Manner::TagIsPath => {
            stream.write_all(&part)
        }
    }
}
