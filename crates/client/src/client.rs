//! Connecting, and the three ways to wait for a call.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use embedring_ipc::clock::{now_ns, until};
use embedring_ipc::{InstanceOptions, WaitStrategy, Waiter, is_alive};
use embedring_policy::{BreakerLimits, BreakerState};
use embedring_protocol::sync::Ordering;
use embedring_protocol::{Precision, WorkerIndex, WorkerState};

use crate::call::{Call, Tick};
use crate::embeddings::Embeddings;
use crate::error::{ConnectError, EmbedError};
use crate::options::Options;
use crate::reactor::Reactor;
use crate::session::Session;

/// Longest sleep at a time: how soon a dead worker is noticed.
const SLICE: Duration = Duration::from_millis(5);
/// Time between two tries to find an instance that was stopped.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);

/// A connection to an instance. Cheap to share between threads by reference or by clone; a process
/// needs one.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("instance", &self.inner.options.instance)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    options: InstanceOptions,
    wait: WaitStrategy,
    breaker: BreakerLimits,
    session: RwLock<Arc<Session>>,
    pub(crate) reactor: Reactor,
    weak: Weak<Self>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reactor.close();
    }
}

impl Inner {
    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn has(&self, session: &Arc<Session>) -> bool {
        let current = self.session.read().unwrap_or_else(PoisonError::into_inner);
        Arc::ptr_eq(&current, session)
    }

    /// Advances a call; connects anew when the instance it knew is gone.
    fn advance<L, S>(
        &self,
        session: &Arc<Session>,
        call: &mut Call<L>,
        tick: Option<Tick>,
    ) -> Result<Option<Embeddings<'static>>, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        if let Some(done) = call.advance::<S>(session, tick)? {
            return Ok(Some(done.into_embeddings()));
        }
        if tick.is_some_and(|tick| tick.look_at_peers) && call.is_hopeless(session) {
            self.reconnect(session)?;
        }
        Ok(None)
    }

    /// Replaces a session whose instance has nobody left. While the instance was not started again
    /// the call fails: waiting for a person is not what a deadline is for.
    fn reconnect(&self, old: &Arc<Session>) -> Result<(), EmbedError> {
        let no_worker = || EmbedError::NoWorker {
            instance: self.options.instance.clone(),
        };
        let mut session = self.session.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&session, old) {
            return Ok(());
        }
        if old.is_current() {
            return Err(no_worker());
        }
        match Session::open(&self.options, self.breaker) {
            Ok(fresh) => *session = Arc::new(fresh),
            // Started again a moment ago: its board comes.
            Err(ConnectError::Map(_)) if old.instance.role_is_held("up") => {}
            Err(ConnectError::Instance(_) | ConnectError::Map(_)) => return Err(no_worker()),
            Err(error @ ConnectError::Claim(_)) => return Err(EmbedError::Connect(error)),
        }
        Ok(())
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    options: InstanceOptions,
    wait: WaitStrategy,
    wait_for_instance: Duration,
    breaker: BreakerLimits,
}

impl ClientBuilder {
    /// User who runs the instance, by name or number. Default: the current user.
    #[must_use]
    pub fn owner(mut self, owner: &str) -> Self {
        self.options.owner = Some(owner.to_owned());
        self
    }

    /// Parent directory of the instance's. Default `/dev/shm`.
    #[must_use]
    pub fn dir(mut self, dir: &std::path::Path) -> Self {
        self.options.dir = dir.to_path_buf();
        self
    }

    /// First part of the name of the instance's directory. Default `embedring`.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.options.prefix);
        self
    }

    /// How to wait for answers. Default adaptive.
    #[must_use]
    pub fn wait(mut self, wait: WaitStrategy) -> Self {
        self.wait = wait;
        self
    }

    /// When a device that fails is left alone, and for how long. Default after five failures in a row, for
    /// half a second at first and a minute at most.
    #[must_use]
    pub fn breaker(mut self, limits: BreakerLimits) -> Self {
        self.breaker = limits;
        self
    }

    /// How long to wait for an instance that is not there yet. Default not at all.
    #[must_use]
    pub fn wait_for_instance(mut self, time: Duration) -> Self {
        self.wait_for_instance = time;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// When there is no such instance, this user may not use it, or it has all the clients it admits.
    pub fn connect(self) -> Result<Client, ConnectError> {
        let deadline_ns =
            now_ns().saturating_add(embedring_ipc::clock::to_ns(self.wait_for_instance));
        let session = loop {
            match Session::open(&self.options, self.breaker) {
                Ok(session) => break session,
                Err(error) => {
                    let left = until(deadline_ns);
                    if left.is_zero() {
                        return Err(error);
                    }
                    std::thread::sleep(RECONNECT_EVERY.min(left));
                }
            }
        };
        let inner = Arc::new_cyclic(|weak| Inner {
            options: self.options,
            wait: self.wait,
            breaker: self.breaker,
            session: RwLock::new(Arc::new(session)),
            reactor: Reactor::default(),
            weak: Weak::clone(weak),
        });
        Ok(Client { inner })
    }
}

/// A worker as it stands.
#[derive(Clone, Debug)]
pub struct WorkerInfo {
    /// Its name.
    pub name: String,
    /// Its device.
    pub device: String,
    /// The model it serves.
    pub model: String,
    /// Components of a full row.
    pub dimensions: usize,
    /// Tokens of a text at most.
    pub max_tokens: usize,
    /// Arithmetic of its rows.
    pub precision: Precision,
    /// What it is doing.
    pub state: WorkerState,
    /// Its process.
    pub pid: u64,
    /// Texts waiting or running.
    pub load_texts: u64,
    /// Tokens waiting or running.
    pub load_tokens: u64,
    /// Time since its last sign of life.
    pub silent: Duration,
    /// What this client lets through to it, by how it has done of late.
    pub breaker: BreakerState,
}

impl Client {
    /// Connects to the instance of this name with default settings.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub fn connect(instance: &str) -> Result<Self, ConnectError> {
        Self::builder(instance).connect()
    }

    /// Connects to the instance that the environment names: `EMBEDRING_INSTANCE` (default
    /// `default`), `EMBEDRING_RUNTIME__OWNER`, `EMBEDRING_RUNTIME__DIR`, `EMBEDRING_RUNTIME__PREFIX`.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub fn from_env() -> Result<Self, ConnectError> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let instance = var("EMBEDRING_INSTANCE").unwrap_or_else(|| "default".to_owned());
        let mut builder = Self::builder(&instance);
        builder.options.owner = var("EMBEDRING_RUNTIME__OWNER");
        if let Some(dir) = var("EMBEDRING_RUNTIME__DIR") {
            builder.options.dir = dir.into();
        }
        if let Some(prefix) = var("EMBEDRING_RUNTIME__PREFIX") {
            builder.options.prefix = prefix;
        }
        builder.connect()
    }

    /// How to connect to the instance of this name.
    #[must_use]
    pub fn builder(instance: &str) -> ClientBuilder {
        ClientBuilder {
            options: InstanceOptions::new(instance),
            wait: WaitStrategy::default(),
            wait_for_instance: Duration::ZERO,
            breaker: BreakerLimits::default(),
        }
    }

    /// Embeds texts with default options and waits for the rows.
    ///
    /// # Errors
    /// See [`EmbedError`]; an empty list is one.
    pub fn embed<S: AsRef<str>>(&self, texts: &[S]) -> Result<Embeddings<'_>, EmbedError> {
        self.embed_with(texts, &Options::default())
    }

    /// Embeds texts and waits for the rows.
    ///
    /// # Errors
    /// See [`EmbedError`].
    pub fn embed_with<S: AsRef<str>>(
        &self,
        texts: &[S],
        options: &Options,
    ) -> Result<Embeddings<'_>, EmbedError> {
        let mut call = Call::new::<S>(texts, options)?;
        self.wait::<&[S], S>(&mut call, || Ok(()))
    }

    /// Embeds texts in the background of the caller: sends what fits into the rings and returns. Keep
    /// several to pipeline. Dropping it cancels.
    ///
    /// # Errors
    /// See [`EmbedError`].
    pub fn start<S: AsRef<str>>(
        &self,
        texts: Vec<S>,
        options: &Options,
    ) -> Result<Pending<'_, S>, EmbedError> {
        let call = Call::new::<S>(texts, options)?;
        let mut pending = Pending {
            client: self,
            call,
            done: None,
            looked_ns: now_ns(),
        };
        pending.poll()?;
        Ok(pending)
    }

    /// Embeds texts with default options as a future. Needs no particular runtime.
    pub fn embed_async<'a, S: AsRef<str>>(&'a self, texts: &'a [S]) -> EmbedFuture<'a, S> {
        self.embed_async_with(texts, Options::default())
    }

    /// Embeds texts as a future. Dropping it cancels.
    pub fn embed_async_with<'a, S: AsRef<str>>(
        &'a self,
        texts: &'a [S],
        options: Options,
    ) -> EmbedFuture<'a, S> {
        EmbedFuture {
            client: self,
            call: Some(Call::new::<S>(texts, &options)),
            looked_ns: now_ns(),
            texts: PhantomData,
        }
    }

    fn wait<L, S>(
        &self,
        call: &mut Call<L>,
        mut meanwhile: impl FnMut() -> Result<(), EmbedError>,
    ) -> Result<Embeddings<'static>, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let mut looked_ns = now_ns();
        loop {
            let session = self.inner.session();
            let mut waiter = Waiter::new(self.inner.wait, SLICE, session.bell());
            // The session is replaced when the instance was stopped and started again.
            while self.inner.has(&session) {
                let tick = waiter.before_look().then(|| tick(&mut looked_ns));
                if let Some(done) = self.inner.advance(&session, call, tick)? {
                    return Ok(done);
                }
                if tick.is_some() {
                    meanwhile()?;
                }
                waiter.pause(call.deadline_ns);
            }
        }
    }

    /// The workers of the instance.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let session = self.inner.session();
        let now = now_ns();
        WorkerIndex::all()
            .filter_map(|index| {
                let slot = &session.board().workers[index.get()];
                let identity = slot.identity.read()?;
                let state = slot.state();
                if state == WorkerState::Free || !is_alive(identity.process) {
                    return None;
                }
                let load = slot.load();
                let heartbeat = slot.heartbeat_ns.load(Ordering::Relaxed);
                Some(WorkerInfo {
                    name: identity.name.to_text(),
                    device: identity.device.to_text(),
                    model: identity.model.to_text(),
                    dimensions: usize::try_from(identity.dimensions).unwrap_or(0),
                    max_tokens: usize::try_from(identity.max_tokens).unwrap_or(0),
                    precision: u8::try_from(identity.precision)
                        .ok()
                        .and_then(Precision::from_wire)
                        .unwrap_or(Precision::F32),
                    state,
                    pid: identity.process.pid,
                    load_texts: load.texts,
                    load_tokens: load.tokens,
                    silent: Duration::from_nanos(now.saturating_sub(heartbeat)),
                    breaker: session.health.breaker(index, &identity, now),
                })
            })
            .collect()
    }
}

/// Looking at other processes' lives costs a system call each: once per slice is enough.
fn tick(looked_ns: &mut u64) -> Tick {
    let now_ns = now_ns();
    let since_ns = now_ns.saturating_sub(*looked_ns);
    let look_at_peers = since_ns >= embedring_ipc::clock::to_ns(SLICE) * 4 / 5;
    if look_at_peers {
        *looked_ns = now_ns;
    }
    Tick {
        now_ns,
        look_at_peers,
    }
}

/// A call under way. Dropping it cancels.
pub struct Pending<'c, S> {
    client: &'c Client,
    call: Call<Vec<S>>,
    done: Option<Embeddings<'static>>,
    looked_ns: u64,
}

impl<S> fmt::Debug for Pending<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("done", &self.done.is_some())
            .finish_non_exhaustive()
    }
}

impl<'c, S: AsRef<str>> Pending<'c, S> {
    /// Receives and sends what is possible without waiting; true when all rows are there.
    ///
    /// # Errors
    /// See [`EmbedError`].
    pub fn poll(&mut self) -> Result<bool, EmbedError> {
        if self.done.is_none() {
            let inner = &self.client.inner;
            let tick = Some(tick(&mut self.looked_ns));
            self.done = inner.advance::<Vec<S>, S>(&inner.session(), &mut self.call, tick)?;
        }
        Ok(self.done.is_some())
    }

    /// Waits for the rows.
    ///
    /// # Errors
    /// See [`EmbedError`].
    pub fn wait(self) -> Result<Embeddings<'c>, EmbedError> {
        self.wait_with(|| Ok(()))
    }

    /// Waits for the rows, and calls `meanwhile` now and then: to poll the other calls of a
    /// pipeline, which otherwise keep the request slots that this one may be short of.
    ///
    /// # Errors
    /// See [`EmbedError`]; and what `meanwhile` returns.
    pub fn wait_with(
        mut self,
        meanwhile: impl FnMut() -> Result<(), EmbedError>,
    ) -> Result<Embeddings<'c>, EmbedError> {
        match self.done.take() {
            Some(done) => Ok(done),
            None => self.client.wait::<Vec<S>, S>(&mut self.call, meanwhile),
        }
    }
}

/// A call as a future.
pub struct EmbedFuture<'a, S> {
    client: &'a Client,
    call: Option<Result<Call<&'a [S]>, EmbedError>>,
    looked_ns: u64,
    texts: PhantomData<&'a [S]>,
}

impl<S> fmt::Debug for EmbedFuture<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedFuture").finish_non_exhaustive()
    }
}

impl<S> Unpin for EmbedFuture<'_, S> {}

impl<'a, S: AsRef<str>> Future for EmbedFuture<'a, S> {
    type Output = Result<Embeddings<'a>, EmbedError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(call) = this.call.take() else {
            // Polled again after it was ready, which the contract of futures leaves open.
            return Poll::Pending;
        };
        let mut call = match call {
            Ok(call) => call,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let inner = &this.client.inner;
        // Registered before the look: an answer that comes after the look finds the waker.
        if let Err(error) = inner.reactor.register(context.waker(), &inner.weak) {
            tracing::error!(%error, "the thread that wakes futures could not be started");
            return Poll::Ready(Err(EmbedError::Worker));
        }
        let tick = Some(tick(&mut this.looked_ns));
        match inner.advance::<&[S], S>(&inner.session(), &mut call, tick) {
            Ok(Some(done)) => Poll::Ready(Ok(done)),
            Ok(None) => {
                this.call = Some(Ok(call));
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
