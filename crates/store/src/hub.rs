//! Second source: the Hugging Face hub, through the crate `hf-hub`.
//!
//! The crate (0.5.0) sets no time-out of any kind on its transfers, and a download cannot be
//! stopped from outside: a hub whose packets vanish would hold a pull for ever. So it runs on a
//! thread of its own, whose every sign of life is a message; when the messages stop, the pull goes
//! on without the thread. The thread ends at its next message, because nobody takes it any more.
//!
//! It also uses two headers, the entity tag and the commit, as file names. They are looked at first.

use std::{
    fs, panic,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        RepoInfo,
        sync::{Api, ApiBuilder, ApiError, ApiRepo},
    },
};

use crate::{
    error::SourceError,
    files::{self, WANTED, Wanted},
    pull::Progress,
    sources::Sources,
};

/// Messages between the thread and the pull: enough that neither waits for the other.
const MESSAGES: usize = 64;

/// A sign of life.
enum Event {
    /// The file list has come.
    Listed,
    Started {
        file: &'static str,
        bytes: u64,
    },
    /// So many bytes more.
    Bytes(u64),
    Ended(Result<String, SourceError>),
}

/// The pull has given up; there is nobody to report to.
struct GivenUp;

/// Downloads the wanted files of `repo` into `out`, and returns the commit they are from.
///
/// `scratch` is an empty folder that the thread may go on using after this function has returned.
pub(crate) fn fetch(
    repo: &str,
    sources: &Sources,
    scratch: &Path,
    out: &Path,
    progress: &dyn Progress,
) -> Result<String, SourceError> {
    let (sender, receiver) = sync_channel(MESSAGES);
    let download = Download {
        repo: repo.to_owned(),
        out: out.to_owned(),
        answer_limit: sources.limits.hub_answer,
        sender,
    };
    let mut builder = ApiBuilder::from_cache(Cache::new(scratch.join("hub")))
        .with_progress(false)
        .with_token(
            sources
                .hub_token
                .as_ref()
                .map(|token| token.secret().to_owned()),
        );
    if let Some(endpoint) = &sources.hub_endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let thread = thread::Builder::new()
        .name("hub-download".to_owned())
        .spawn(move || download.run(builder))
        .map_err(SourceError::io(scratch))?;
    let ended = watch(&receiver, sources, progress);
    // Dropped before the join: a thread that still runs finds the channel closed.
    drop(receiver);
    match ended {
        Watch::Ended(result) => result,
        Watch::Stalled(waited) => Err(SourceError::Stalled { waited }),
        Watch::Died => Err(SourceError::Hub {
            doing: format!("downloading {repo}"),
            reason: format!(
                "the hub client panicked: {}",
                panic_text(thread.join().err())
            ),
        }),
    }
}

enum Watch {
    Ended(Result<String, SourceError>),
    Stalled(Duration),
    Died,
}

fn watch(receiver: &Receiver<Event>, sources: &Sources, progress: &dyn Progress) -> Watch {
    let mut limit = sources.limits.hub_answer;
    let (mut done, mut total) = (0, 0);
    loop {
        match receiver.recv_timeout(limit) {
            Ok(Event::Listed) => {}
            Ok(Event::Started { file, bytes }) => {
                progress.step(file);
                (done, total) = (0, bytes);
            }
            Ok(Event::Bytes(more)) => {
                done += more;
                progress.bytes(done, Some(total));
            }
            Ok(Event::Ended(result)) => return Watch::Ended(result),
            Err(RecvTimeoutError::Timeout) => return Watch::Stalled(limit),
            Err(RecvTimeoutError::Disconnected) => return Watch::Died,
        }
        limit = sources.limits.hub_stall;
    }
}

/// What the thread owns.
struct Download {
    repo: String,
    out: PathBuf,
    answer_limit: Duration,
    sender: SyncSender<Event>,
}

impl Download {
    fn run(self, builder: ApiBuilder) {
        if let Ok(result) = self.all(builder) {
            // An error means that the pull has given up; then nobody wants the result.
            self.sender.send(Event::Ended(result)).ok();
        }
    }

    /// The outer error stops the thread, the inner one is the result.
    fn all(&self, builder: ApiBuilder) -> Result<Result<String, SourceError>, GivenUp> {
        let listed = builder
            .build()
            .map_err(|error| hub_error("setting up the client", error))
            .and_then(|api| self.list(&api).map(|info| (api, info)));
        let (api, info) = match listed {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        self.say(Event::Listed)?;
        // All files from one commit, even if the repository changes meanwhile.
        let pinned = Repo::with_revision(self.repo.clone(), RepoType::Model, info.sha.clone());
        let repo = api.repo(pinned);
        for wanted in &WANTED {
            if info
                .siblings
                .iter()
                .any(|file| file.rfilename == wanted.path)
            {
                if let Err(error) = self.one(&api, &repo, wanted)? {
                    return Ok(Err(error));
                }
            } else if wanted.required {
                return Ok(Err(SourceError::Missing {
                    file: wanted.path.to_owned(),
                }));
            }
        }
        Ok(Ok(info.sha))
    }

    fn list(&self, api: &Api) -> Result<RepoInfo, SourceError> {
        let doing = "reading the file list";
        let limit = Some(self.answer_limit);
        let info: RepoInfo = api
            .model(self.repo.clone())
            .info_request()
            .config()
            .timeout_resolve(limit)
            .timeout_connect(limit)
            .timeout_recv_response(limit)
            .build()
            .call()
            .and_then(|mut answer| answer.body_mut().read_json())
            .map_err(|error| hub_error(doing, error))?;
        check_plain(doing, &info.sha)?;
        Ok(info)
    }

    fn one(
        &self,
        api: &Api,
        repo: &ApiRepo,
        wanted: &'static Wanted,
    ) -> Result<Result<(), SourceError>, GivenUp> {
        let announced = match announced(api, repo, wanted) {
            Ok(announced) => announced,
            Err(error) => return Ok(Err(error)),
        };
        self.say(Event::Started {
            file: wanted.path,
            bytes: announced.bytes,
        })?;
        let reporter = Reporter {
            sender: self.sender.clone(),
        };
        let got = repo.download_with_progress(wanted.path, reporter);
        self.say(Event::Bytes(0))?;
        Ok(got
            .map_err(|error| client_error(wanted.path, error))
            .and_then(|path| self.take(&path, wanted, &announced)))
    }

    /// Checks a downloaded file against what was announced, and moves it to `out`.
    fn take(&self, path: &Path, wanted: &Wanted, announced: &Announced) -> Result<(), SourceError> {
        // The client gives a link to the file.
        let path = fs::canonicalize(path).map_err(SourceError::io(path))?;
        let got = fs::metadata(&path).map_err(SourceError::io(&path))?.len();
        if got != announced.bytes {
            let file = wanted.path.to_owned();
            return Err(SourceError::Short {
                file,
                got,
                expected: announced.bytes,
            });
        }
        if files::is_sha256(&announced.tag) {
            files::check_sha256(&path, wanted.path, &announced.tag)?;
        }
        let target = self.out.join(wanted.path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(SourceError::io(parent))?;
        }
        fs::rename(&path, &target).map_err(SourceError::io(target))
    }

    fn say(&self, event: Event) -> Result<(), GivenUp> {
        self.sender.send(event).map_err(|_| GivenUp)
    }
}

/// What the hub says of a file before sending it.
struct Announced {
    bytes: u64,
    /// For large files this is their SHA-256.
    tag: String,
}

fn announced(api: &Api, repo: &ApiRepo, wanted: &Wanted) -> Result<Announced, SourceError> {
    let doing = format!("asking for {}", wanted.path);
    let data = api
        .metadata(&repo.url(wanted.path))
        .map_err(|error| client_error(&doing, error))?;
    check_plain(&doing, data.etag())?;
    check_plain(&doing, data.commit_hash())?;
    let bytes = data.size() as u64;
    if bytes > wanted.bytes_max {
        let file = wanted.path.to_owned();
        return Err(SourceError::TooLarge {
            file,
            limit: wanted.bytes_max,
        });
    }
    Ok(Announced {
        bytes,
        tag: data.etag().to_owned(),
    })
}

/// Refuses a header that would lead out of the scratch folder when used as a file name.
fn check_plain(doing: &str, header: &str) -> Result<(), SourceError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !header.is_empty() && header.len() <= 128 && header.bytes().all(plain) {
        return Ok(());
    }
    Err(hub_error(
        doing,
        format!("the tag {header:?} cannot be a file name"),
    ))
}

/// Passes the client's progress on.
struct Reporter {
    sender: SyncSender<Event>,
}

impl hf_hub::api::Progress for Reporter {
    fn init(&mut self, _size: usize, _filename: &str) {}

    fn update(&mut self, size: usize) {
        if self.sender.send(Event::Bytes(size as u64)).is_err() {
            // The only way out of the client's copy loop. It runs no panic hook, and this thread
            // has nothing that anybody waits for.
            panic::resume_unwind(Box::new("given up"));
        }
    }

    fn finish(&mut self) {}
}

fn client_error(doing: &str, error: ApiError) -> SourceError {
    // Kept as it is, so that a full disk is seen as one.
    if let ApiError::IoError(source) = error {
        return SourceError::Io {
            path: PathBuf::from(doing),
            source,
        };
    }
    hub_error(doing, error)
}

fn hub_error(doing: &str, reason: impl ToString) -> SourceError {
    SourceError::Hub {
        doing: doing.to_owned(),
        reason: reason.to_string(),
    }
}

fn panic_text(payload: Option<Box<dyn std::any::Any + Send>>) -> String {
    let Some(payload) = payload else {
        return "without a word".to_owned();
    };
    match (
        payload.downcast_ref::<String>(),
        payload.downcast_ref::<&str>(),
    ) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "without a text".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::check_plain;

    #[test]
    fn headers_that_are_paths_are_refused() {
        for good in ["53aa51172d142c89", "main", "a_b-c"] {
            check_plain("test", good).unwrap();
        }
        for bad in [
            "",
            "..",
            "../../x",
            "/etc/x",
            "W/abc",
            "a.b",
            "a\0",
            &"a".repeat(129),
        ] {
            assert!(check_plain("test", bad).is_err(), "{bad:?}");
        }
    }
}
