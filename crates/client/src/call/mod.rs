//! The life of a call: a list of texts is cut into messages, each is sent to the worker predicted to
//! answer first, and what comes back is put together in the order asked. A message whose worker dies
//! is sent again. Nothing here blocks.

mod answer;
mod part;
mod send;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use embedring_ipc::clock::{now_ns, to_ns};
use embedring_ipc::{Pending, Reply};
use embedring_policy::{Cost, is_overdue};
use embedring_protocol::limits::PROMPT_BYTES_MAX;
use embedring_protocol::sync::Ordering;
use embedring_protocol::{ModelId, ResponseView, RowMeta, WorkerIndex};

use crate::embeddings::{Embeddings, PartInfo, Rows};
use crate::error::EmbedError;
use crate::options::{Options, Prompt};
use crate::session::{Choices, Connection, Session, Wanted};
use part::{Part, Unsent};

/// Workers that may die with the same message in their hands before it is no longer sent again.
const DEATHS_MAX: u32 = 3;
/// Pause before a message is tried again when the worker gave no hint.
const PAUSE_NS: u64 = 10_000_000;
/// Times that workers may fail on a message before it is no longer sent again.
const FAILURES_MAX: u32 = 4;
/// A worker silent for this long while it has our message is given up for another one, if there is one;
/// sooner, after a part of the call's time, where that is short.
const HUNG_NS_MAX: u64 = 3_000_000_000;
const HUNG_NS_MIN: u64 = 500_000_000;
const HUNG_PART: u64 = 4;

/// What a call waits for whose worker refused it for want of memory.
const NO_MEMORY: &str = "its worker is at its memory bound";

/// A message in the hands of a worker.
struct Flight {
    part: Part,
    id: u64,
    pending: Pending,
    connection: Arc<Connection>,
    session: Arc<Session>,
    sent_ns: u64,
    tokens: u64,
    /// What its worker's batches were planned to cost when it was sent.
    cost: Cost,
    /// When it was predicted to be answered, from then.
    predicted_ns: u64,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.connection.in_flight.done(self.tokens);
    }
}

impl Flight {
    /// Its worker failed, or did not answer in time.
    fn count_failure(&self, now_ns: u64) {
        self.session.health.failed(
            self.connection.index,
            &self.connection.identity,
            self.sent_ns,
            now_ns,
        );
    }
}

/// A look at which the time counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    /// The time.
    pub(crate) now_ns: u64,
    /// Some time has passed without an answer: the workers' lives are worth a system call each.
    pub(crate) look_at_peers: bool,
}

/// What a call came to.
pub(crate) struct Done {
    rows: Rows,
    dimensions: usize,
    metas: Vec<RowMeta>,
    parts: Vec<PartInfo>,
}

impl Done {
    pub(crate) fn into_embeddings<'c>(self) -> Embeddings<'c> {
        Embeddings::new(self.rows, self.dimensions, self.metas, self.parts)
    }
}

/// A call under way over a list `L` of texts.
pub(crate) struct Call<L> {
    texts: L,
    options: Options,
    pub(crate) deadline_ns: u64,
    model: ModelId,
    dimensions: usize,
    /// Nothing before the first look at the workers.
    unsent: Unsent,
    has_begun: bool,
    again: VecDeque<Part>,
    flights: Vec<Flight>,
    answered: usize,
    rows: Vec<f32>,
    metas: Vec<RowMeta>,
    parts: Vec<PartInfo>,
    choices: Choices,
    waiting_for: &'static str,
    retry_after_ns: u64,
    /// Set while all devices that it may use fail: when the first of them is tried again.
    failing_until_ns: Option<u64>,
}

impl<L> Call<L> {
    pub(crate) fn new<S>(texts: L, options: &Options) -> Result<Self, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        if texts.as_ref().is_empty() {
            return Err(EmbedError::EmptyList);
        }
        let prompt_bytes = match &options.prompt {
            Prompt::Default => 0,
            Prompt::Text(prompt) | Prompt::Named(prompt) => prompt.len(),
        };
        if prompt_bytes > PROMPT_BYTES_MAX {
            return Err(EmbedError::PromptTooLong {
                bytes: prompt_bytes,
                max: PROMPT_BYTES_MAX,
            });
        }
        Ok(Self {
            texts,
            options: options.clone(),
            deadline_ns: now_ns().saturating_add(to_ns(options.timeout)),
            model: ModelId::ANY,
            dimensions: 0,
            unsent: Unsent::default(),
            has_begun: false,
            again: VecDeque::new(),
            flights: Vec::new(),
            answered: 0,
            rows: Vec::new(),
            metas: Vec::new(),
            parts: Vec::new(),
            choices: Choices::default(),
            waiting_for: "it was not sent yet",
            retry_after_ns: 0,
            failing_until_ns: None,
        })
    }

    /// Receives what has come; at a tick also sends what can be sent and looks at the time. A tick is
    /// the first look, and each later one for which the caller finds the clock worth reading.
    pub(crate) fn advance<S>(
        &mut self,
        session: &Arc<Session>,
        tick: Option<Tick>,
    ) -> Result<Option<Done>, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let look_at_peers = tick.is_some_and(|tick| tick.look_at_peers);
        let in_flight = self.flights.len();
        if let Some(done) = self.receive::<S>(look_at_peers)? {
            return Ok(Some(done));
        }
        if look_at_peers {
            self.give_up_overdue(session);
        }
        // An answer frees a slot, which is reason enough to send what waits for one.
        if tick.is_none() && self.flights.len() == in_flight {
            return Ok(None);
        }
        // Workers do not touch a ring whose pages they could not get.
        if look_at_peers && !self.flights.is_empty() && !session.instance.has_room() {
            return Err(EmbedError::NoMemory);
        }
        if tick.is_some_and(|tick| tick.now_ns >= self.deadline_ns) {
            return Err(self.too_late());
        }
        let all_sent = self.has_begun && self.unsent.is_empty(self.texts.as_ref().len());
        if !all_sent || !self.again.is_empty() {
            self.send::<S>(session)?;
        }
        Ok(None)
    }

    /// Which workers it may use.
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            model: self.model,
            device: self.options.use_device.as_deref(),
        }
    }

    /// The error of a call whose time is over. Workers that were to have answered long ago have failed.
    fn too_late(&self) -> EmbedError {
        let now = now_ns();
        for flight in &self.flights {
            if is_overdue(flight.predicted_ns, now.saturating_sub(flight.sent_ns), 0) {
                flight.count_failure(now);
            }
        }
        if let Some(until_ns) = self.failing_until_ns {
            return self.all_fail(until_ns);
        }
        if self.retry_after_ns > 0 {
            return EmbedError::Overloaded {
                retry_after: Duration::from_nanos(self.retry_after_ns),
            };
        }
        if self.waiting_for == NO_MEMORY {
            return EmbedError::NoMemory;
        }
        EmbedError::Deadline {
            timeout: self.options.timeout,
            reason: self.waiting_for,
        }
    }

    fn all_fail(&self, until_ns: u64) -> EmbedError {
        let names = self.choices.failing.iter();
        let names: Vec<_> = names
            .map(|worker| format!("{} on {}", worker.name.to_text(), worker.device.to_text()))
            .collect();
        EmbedError::DevicesFailing {
            workers: names.join(", "),
            retry_after: Duration::from_nanos(until_ns.saturating_sub(now_ns())),
        }
    }

    fn receive<S>(&mut self, look_at_peers: bool) -> Result<Option<Done>, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let mut index = 0;
        while index < self.flights.len() {
            let flight = &self.flights[index];
            // Asked before the look into the ring: an answer sent just before the end is not missed.
            let ended = look_at_peers && flight.connection.has_ended();
            let connected = flight.pending.is_connected();
            match flight.pending.receive() {
                // The right one comes behind it, or the worker drops the request.
                Ok(Some(reply)) if is_for_another(&reply, flight.id) => {}
                Ok(Some(reply)) => {
                    let flight = self.flights.swap_remove(index);
                    if let Some(done) = self.answer::<S>(flight, reply)? {
                        return Ok(Some(done));
                    }
                }
                Ok(None) if ended || (look_at_peers && self.is_hung(index)) => {
                    let flight = self.flights.swap_remove(index);
                    self.send_again_after_death(flight, ended)?;
                }
                Ok(None) if !connected => {
                    let flight = self.flights.swap_remove(index);
                    self.send_later(&flight, PAUSE_NS, "the worker dropped the request");
                }
                Ok(None) => index += 1,
                Err(error) => {
                    tracing::debug!(%error, "a connection broke");
                    let flight = self.flights.swap_remove(index);
                    flight.session.forget(&flight.connection);
                    self.send_later(&flight, PAUSE_NS, "the connection to the worker broke");
                }
            }
        }
        Ok(None)
    }

    /// True for a worker that shows no life while another one does.
    fn is_hung(&self, index: usize) -> bool {
        let flight = &self.flights[index];
        let board = flight.session.board();
        let now = now_ns();
        let silent_ns = |worker: usize| {
            let heartbeat = board.workers[worker].heartbeat_ns.load(Ordering::Relaxed);
            now.saturating_sub(heartbeat)
        };
        let limit_ns = to_ns(self.options.timeout) / HUNG_PART;
        let limit_ns = limit_ns.clamp(HUNG_NS_MIN, HUNG_NS_MAX);
        let ours = flight.connection.index;
        let is_other = |other: WorkerIndex| other != ours && silent_ns(other.get()) < limit_ns;
        silent_ns(ours.get()) > limit_ns && flight.session.has_worker(self.wanted(), is_other)
    }

    /// Takes back messages that should have been answered long ago, where another worker is predicted to
    /// answer them sooner than they have waited.
    fn give_up_overdue(&mut self, session: &Session) {
        let now = now_ns();
        let mut index = 0;
        while index < self.flights.len() {
            let flight = &self.flights[index];
            let waited_ns = now.saturating_sub(flight.sent_ns);
            if is_overdue(flight.predicted_ns, waited_ns, 0)
                && self.is_sooner_elsewhere(index, waited_ns, session)
            {
                let flight = self.flights.swap_remove(index);
                flight.count_failure(now);
                let mut part = flight.part.clone();
                part.avoid(flight.connection.index);
                part.not_before_ns = 0;
                self.waiting_for = "its worker was late and no other one answered";
                self.again.push_back(part);
            } else {
                index += 1;
            }
        }
    }

    fn is_sooner_elsewhere(&mut self, index: usize, waited_ns: u64, session: &Session) -> bool {
        let mut choices = std::mem::take(&mut self.choices);
        session.choices(self.wanted(), &mut choices);
        let flight = &self.flights[index];
        let longest = session.density.tokens(flight.part.heaviest);
        let others = choices.able.iter().map(|choice| &choice.candidate);
        let sooner = others
            .filter(|other| other.index != flight.connection.index && other.takes(longest))
            .filter(|other| !flight.part.avoids(other.index))
            .any(|other| {
                let elsewhere_ns = other.completion_ns(flight.tokens);
                is_overdue(flight.predicted_ns, waited_ns, elsewhere_ns)
            });
        self.choices = choices;
        sooner
    }

    fn send_again_after_death(&mut self, flight: Flight, died: bool) -> Result<(), EmbedError> {
        flight.session.forget(&flight.connection);
        flight.count_failure(now_ns());
        let deaths = flight.part.deaths + u32::from(died);
        if deaths >= DEATHS_MAX {
            return Err(EmbedError::WorkerDied { deaths });
        }
        self.waiting_for = "its worker died and no other one answered";
        self.again.push_back(Part {
            deaths,
            not_before_ns: 0,
            ..flight.part.clone()
        });
        Ok(())
    }

    fn send_later(&mut self, flight: &Flight, pause_ns: u64, waiting_for: &'static str) {
        self.waiting_for = waiting_for;
        let not_before_ns = now_ns().saturating_add(pause_ns);
        self.again.push_back(Part {
            not_before_ns,
            ..flight.part.clone()
        });
    }

    /// True when nothing is in flight and nobody may ever take it.
    pub(crate) fn is_hopeless(&self, session: &Session) -> bool {
        self.flights.is_empty()
            && self.choices.able.is_empty()
            && self.choices.failing.is_empty()
            && !session.worker_may_come()
    }
}

/// True for an answer to a request of somebody else. The ring takes an answer to a killed client to
/// whoever got that client's connection, if both have sent as many requests: seen in the kill test.
/// Our own ids never come twice on a host, so it is always noticed.
fn is_for_another(reply: &Reply, id: u64) -> bool {
    let Ok(view) = ResponseView::parse(reply.bytes()) else {
        return false;
    };
    let head = view.header();
    if head.id == id {
        return false;
    }
    tracing::debug!(id = head.id, wanted_id = id, "an answer for somebody else");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_and_a_long_prompt_are_refused_before_anything_is_sent() {
        let none: [&str; 0] = [];
        assert!(matches!(
            Call::new(none, &Options::default()),
            Err(EmbedError::EmptyList)
        ));
        let options = Options {
            prompt: Prompt::Text("x".repeat(4000)),
            ..Options::default()
        };
        assert!(matches!(
            Call::new(["a"], &options),
            Err(EmbedError::PromptTooLong { .. })
        ));
    }
}
