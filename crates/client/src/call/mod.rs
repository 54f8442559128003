//! The life of a call: a list of texts is cut into messages, each is sent to the worker predicted to
//! answer first, and what comes back is put together in the order asked. A message whose worker dies
//! is sent again. Nothing here blocks.

mod send;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use embedring_ipc::clock::{now_ns, to_ns};
use embedring_ipc::{Pending, Reply};
use embedring_protocol::limits::PROMPT_BYTES_MAX;
use embedring_protocol::sync::Ordering;
use embedring_protocol::{ModelId, Precision, ResponseHeader, ResponseView, RowMeta, Status};

use crate::embeddings::{Embeddings, PartInfo, Rows, rows_in};
use crate::error::EmbedError;
use crate::options::{OnOverload, Options, Prompt};
use crate::session::{Choice, Connection, Session};

/// Workers that may die with the same message in their hands before it is no longer sent again.
const DEATHS_MAX: u32 = 3;
/// Pause before a message is tried again when the worker gave no hint.
const PAUSE_NS: u64 = 10_000_000;
/// A worker silent for this long while it has our message is given up for another one, if there is one.
const HUNG_NS: u64 = 3_000_000_000;

/// What a call waits for whose worker refused it for want of memory.
const NO_MEMORY: &str = "its worker is at its memory bound";

/// A message to be sent.
#[derive(Clone, Debug)]
struct Part {
    texts: Range<usize>,
    deaths: u32,
    sent: u32,
    not_before_ns: u64,
}

/// A message in the hands of a worker.
struct Flight {
    part: Part,
    id: u64,
    pending: Pending,
    connection: Arc<Connection>,
    session: Arc<Session>,
    sent_ns: u64,
    tokens: u64,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.connection
            .in_flight_tokens
            .fetch_sub(self.tokens, Ordering::Relaxed);
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
    next_text: usize,
    again: VecDeque<Part>,
    flights: Vec<Flight>,
    answered: usize,
    rows: Vec<f32>,
    metas: Vec<RowMeta>,
    parts: Vec<PartInfo>,
    choices: Vec<Choice>,
    waiting_for: &'static str,
    retry_after_ns: u64,
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
            next_text: 0,
            again: VecDeque::new(),
            flights: Vec::new(),
            answered: 0,
            rows: Vec::new(),
            metas: Vec::new(),
            parts: Vec::new(),
            choices: Vec::new(),
            waiting_for: "it was not sent yet",
            retry_after_ns: 0,
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
        if self.next_text < self.texts.as_ref().len() || !self.again.is_empty() {
            self.send::<S>(session)?;
        }
        Ok(None)
    }

    fn too_late(&self) -> EmbedError {
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
        let silent_ns = |worker: usize| {
            let heartbeat = board.workers[worker].heartbeat_ns.load(Ordering::Relaxed);
            now_ns().saturating_sub(heartbeat)
        };
        let ours = flight.connection.index.get();
        silent_ns(ours) > HUNG_NS
            && board.workers.iter().enumerate().any(|(other, slot)| {
                other != ours && slot.state().takes_requests() && silent_ns(other) < HUNG_NS
            })
    }

    fn send_again_after_death(&mut self, flight: Flight, died: bool) -> Result<(), EmbedError> {
        flight.session.forget(&flight.connection);
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

    /// Takes in an answer: rows, or a reason to try again or to fail.
    fn answer<S>(&mut self, flight: Flight, reply: Reply) -> Result<Option<Done>, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let view = ResponseView::parse(reply.bytes()).map_err(|error| {
            tracing::warn!(%error, "an answer could not be read");
            EmbedError::Protocol
        })?;
        let head = *view.header();
        if head.status() != Status::Ok {
            self.refused(&flight, &head)?;
            return Ok(None);
        }
        let fits = view.metas().len() == flight.part.texts.len()
            && head.dimensions as usize == self.dimensions
            && (self.model == ModelId::ANY || head.model == self.model);
        if !fits {
            return Err(misunderstood(&flight, &head));
        }
        if !self.options.partial {
            let fault = view.metas().iter().enumerate().find_map(|(row, meta)| {
                Some(EmbedError::Text {
                    index: flight.part.texts.start + row,
                    fault: meta.flags().fault_of()?,
                })
            });
            if let Some(error) = fault {
                return Err(error);
            }
        }
        Ok(self.keep::<S>(&flight, reply, &view))
    }

    /// Keeps a message's rows: in the ring when it is the whole answer, else copied to their place.
    fn keep<S>(&mut self, flight: &Flight, reply: Reply, view: &ResponseView) -> Option<Done>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let count = self.texts.as_ref().len();
        self.parts.push(part_info(flight, view.header()));
        let offset = view.rows_offset();
        if flight.part.texts == (0..count) {
            return Some(Done {
                rows: Rows::Ring { reply, offset },
                dimensions: self.dimensions,
                metas: view.metas().to_vec(),
                parts: std::mem::take(&mut self.parts),
            });
        }
        self.rows.resize(count * self.dimensions, 0.0);
        self.metas.resize(count, RowMeta::default());
        let texts = flight.part.texts.clone();
        let place = &mut self.rows[texts.start * self.dimensions..texts.end * self.dimensions];
        place.copy_from_slice(rows_in(reply.bytes(), offset));
        self.metas[texts.clone()].copy_from_slice(view.metas());
        self.answered += texts.len();
        if self.answered < count {
            return None;
        }
        self.parts.sort_by_key(|part| part.texts.start);
        Some(Done {
            rows: Rows::Owned(std::mem::take(&mut self.rows)),
            dimensions: self.dimensions,
            metas: std::mem::take(&mut self.metas),
            parts: std::mem::take(&mut self.parts),
        })
    }

    fn refused(&mut self, flight: &Flight, head: &ResponseHeader) -> Result<(), EmbedError> {
        match head.status() {
            Status::Overloaded => {
                self.retry_after_ns = head.retry_after_ns.max(1_000_000);
                if self.options.on_overload == OnOverload::Fail {
                    return Err(self.too_late());
                }
                // Half the predicted wait: being early costs a message, being late costs the device.
                let pause_ns = (self.retry_after_ns / 2).clamp(1_000_000, 1_000_000_000);
                self.send_later(flight, pause_ns, "the workers had no room");
                Ok(())
            }
            Status::DeadlineExceeded => {
                self.waiting_for = "the worker predicts to be late";
                Err(self.too_late())
            }
            Status::ShuttingDown | Status::ModelUnavailable => {
                self.send_later(flight, PAUSE_NS, "its worker is ending");
                Ok(())
            }
            Status::MemoryFull if flight.part.sent < 200 => {
                self.send_later(flight, PAUSE_NS * 5, NO_MEMORY);
                Ok(())
            }
            Status::Internal if flight.part.sent < 2 => {
                self.send_later(flight, PAUSE_NS, "the worker failed");
                Ok(())
            }
            Status::MemoryFull => Err(EmbedError::NoMemory),
            Status::WrongModel => Err(EmbedError::WrongModel {
                wanted: self
                    .options
                    .model
                    .clone()
                    .unwrap_or_else(|| self.model.to_string()),
                served: flight.connection.identity.model.to_text(),
            }),
            Status::UnknownPrompt => Err(EmbedError::UnknownPrompt {
                name: match &self.options.prompt {
                    Prompt::Named(name) => name.clone(),
                    Prompt::Default | Prompt::Text(_) => String::new(),
                },
            }),
            Status::BadDimensions => Err(EmbedError::BadDimensions {
                asked: self.options.dimensions,
                has: head.detail as usize,
            }),
            Status::Internal => Err(EmbedError::Worker),
            Status::Ok | Status::BadRequest | Status::TooLarge => Err(misunderstood(flight, head)),
        }
    }

    /// True when nothing is in flight and nobody may ever take it.
    pub(crate) fn is_hopeless(&self, session: &Session) -> bool {
        self.flights.is_empty() && self.choices.is_empty() && !session.worker_may_come()
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

/// An answer that does not belong to its question. What was wrong with it goes to the log.
fn misunderstood(flight: &Flight, head: &ResponseHeader) -> EmbedError {
    tracing::warn!(
        status = ?head.status(),
        id = head.id,
        wanted_id = flight.id,
        rows = head.row_count,
        dimensions = head.dimensions,
        texts = flight.part.texts.len(),
        sent = flight.part.sent,
        worker = flight.connection.identity.name.to_text(),
        "an answer does not fit its question"
    );
    EmbedError::Protocol
}

fn part_info(flight: &Flight, head: &ResponseHeader) -> PartInfo {
    let [worker, device, model] = flight.connection.names.clone();
    PartInfo {
        texts: flight.part.texts.clone(),
        worker,
        device,
        model,
        precision: Precision::from_wire(head.precision).unwrap_or(Precision::F32),
        queue: Duration::from_nanos(head.queue_ns),
        tokenize: Duration::from_nanos(head.tokenize_ns),
        run: Duration::from_nanos(head.run_ns),
        round_trip: Duration::from_nanos(now_ns().saturating_sub(flight.sent_ns)),
        batch: head.batch,
        batch_texts: head.batch_texts,
        batch_tokens: head.batch_tokens,
        sent: flight.part.sent,
    }
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
