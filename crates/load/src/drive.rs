//! Sending requests when they are due, all from one thread.

use std::ops::ControlFlow;
use std::time::Duration;

use embedring_client::{Client, EmbedError, Embeddings, OnOverload, Options, Pending};
use embedring_ipc::clock::{now_ns, to_ns};
use embedring_traffic::Kind;
use thiserror::Error;

use crate::workload::Planned;

/// Time from the start of a run to its beginning, so that the first request is not late for the set-up.
const LEAD_NS: u64 = 20_000_000;
/// Time between two looks of the caller's at how it goes.
const WATCH_EVERY_NS: u64 = 200_000_000;

/// Kinds of errors that every later request would end in too.
const FATAL: [&str; 9] = [
    "empty_list",
    "connect",
    "no_worker",
    "wrong_model",
    "unknown_prompt",
    "bad_dimensions",
    "prompt_too_long",
    "protocol",
    "ring",
];

/// What a run needs.
#[derive(Debug)]
pub struct Driver<'c> {
    /// Connections to the instance. A request goes out on the one with the fewest in flight.
    pub clients: &'c [Client],
    /// Requests that a connection may have in flight; one more waits in the client until a slot is free.
    pub slots: usize,
    /// Time between two looks for answers: how exact latencies are.
    pub step: Duration,
    /// How long an answer is waited for where that is longer than the request's time, so that it is seen how late it
    /// is. The worker is told this time as the deadline.
    pub give_up: Duration,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has its row.
    Answered {
        /// Between the time it was due and the time its answer was seen.
        latency_ns: u64,
        /// Its tokens, as the worker counted them.
        tokens: u32,
    },
    /// It has none.
    Failed {
        /// [`EmbedError::kind`], or `generator_late` for one that was never sent, since its time was over.
        kind: &'static str,
        /// More, where there is more to say.
        detail: &'static str,
        /// Between the time it was due and the time it was known.
        after_ns: u64,
    },
}

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When it was due, in nanoseconds since the beginning.
    pub due_ns: u64,
    /// What it was.
    pub kind: Kind,
    /// In which time it was to be answered.
    pub time_ns: u64,
    /// How much later than due it was sent: the generator's own delay.
    pub lag_ns: u64,
    /// Whether its connection had all its slots in flight when it was sent.
    pub crowded: bool,
    /// How it ended.
    pub end: End,
}

impl Outcome {
    /// Whether it was answered in time.
    #[must_use]
    pub fn is_on_time(&self) -> bool {
        matches!(self.end, End::Answered { latency_ns, .. } if latency_ns <= self.time_ns)
    }
}

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'o> {
    /// Requests that were sent.
    pub sent: usize,
    /// What became of those that have ended.
    pub outcomes: &'o [Outcome],
}

/// Why a run can not go on: errors that are the same for every request.
#[derive(Debug, Error)]
pub enum DriveError {
    /// The driver has no connection.
    #[error("the driver has no connection to send on")]
    NoConnection,
    /// The instance can not be used.
    #[error(transparent)]
    Instance(EmbedError),
}

struct Flight<'c, 'p> {
    place: usize,
    connection: usize,
    lag_ns: u64,
    crowded: bool,
    pending: Pending<'c, &'p str>,
}

struct Run<'d, 'c, 'p> {
    driver: &'d Driver<'c>,
    planned: &'p [Planned],
    begun_ns: u64,
    flights: Vec<Flight<'c, 'p>>,
    in_flight: Vec<usize>,
    outcomes: Vec<Outcome>,
}

impl<'c> Driver<'c> {
    /// Sends all of `planned`, which is in order, and waits until each has ended, or until `watch`, which is asked
    /// several times a second, breaks the run off: what is in flight then is cancelled and has no outcome. The
    /// outcomes are in the order in which requests ended.
    ///
    /// # Errors
    /// When the instance is gone or does not understand us; a single request that fails is an outcome.
    pub fn run(
        &self,
        planned: &[Planned],
        watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Outcome>, DriveError> {
        if self.clients.is_empty() {
            return Err(DriveError::NoConnection);
        }
        let mut run = Run {
            driver: self,
            planned,
            begun_ns: now_ns() + LEAD_NS,
            flights: Vec::with_capacity(1024),
            in_flight: vec![0; self.clients.len()],
            outcomes: Vec::with_capacity(planned.len()),
        };
        let (mut sent, mut watched_ns) = (0, 0);
        while run.outcomes.len() < planned.len() {
            while sent < planned.len() && run.is_due(sent) {
                run.send(sent)?;
                sent += 1;
            }
            run.look()?;
            if now_ns() - watched_ns > WATCH_EVERY_NS {
                watched_ns = now_ns();
                let outcomes = &run.outcomes;
                if watch(Progress { sent, outcomes }).is_break() {
                    break;
                }
            }
            run.pause(sent);
        }
        Ok(run.outcomes)
    }
}

impl<'c, 'p> Run<'_, 'c, 'p> {
    fn due_ns(&self, place: usize) -> u64 {
        self.begun_ns + self.planned[place].due_ns
    }

    fn is_due(&self, place: usize) -> bool {
        now_ns() >= self.due_ns(place)
    }

    /// Sleeps until the next request is due, for a step at most while answers are waited for.
    fn pause(&self, sent: usize) {
        let now = now_ns();
        let mut until_ns = if self.flights.is_empty() {
            u64::MAX
        } else {
            now + to_ns(self.driver.step)
        };
        if sent < self.planned.len() {
            until_ns = until_ns.min(self.due_ns(sent));
        }
        if until_ns != u64::MAX && until_ns > now {
            std::thread::sleep(Duration::from_nanos(until_ns - now));
        }
    }

    fn send(&mut self, place: usize) -> Result<(), DriveError> {
        let planned = &self.planned[place];
        let due_ns = self.due_ns(place);
        let now = now_ns();
        let lag_ns = now - due_ns;
        let connection = (0..self.in_flight.len())
            .min_by_key(|&connection| self.in_flight[connection])
            .unwrap_or(0);
        let crowded = self.in_flight[connection] >= self.driver.slots;
        let wait_ns = planned.time_ns.max(to_ns(self.driver.give_up));
        let left_ns = wait_ns.saturating_sub(lag_ns);
        if left_ns == 0 {
            let end = failed("generator_late", "", lag_ns);
            self.ended(place, lag_ns, crowded, end);
            return Ok(());
        }
        let options = Options {
            timeout: Duration::from_nanos(left_ns),
            on_overload: OnOverload::Fail,
            ..Options::default()
        };
        let client: &'c Client = &self.driver.clients[connection];
        match client.start(vec![planned.text.as_str()], &options) {
            Ok(pending) => {
                self.in_flight[connection] += 1;
                self.flights.push(Flight {
                    place,
                    connection,
                    lag_ns,
                    crowded,
                    pending,
                });
            }
            Err(error) => {
                let end = self.failure(place, error)?;
                self.ended(place, lag_ns, crowded, end);
            }
        }
        Ok(())
    }

    /// Looks for the answers of all that is in flight.
    fn look(&mut self) -> Result<(), DriveError> {
        let mut at = 0;
        while at < self.flights.len() {
            let polled = self.flights[at].pending.poll();
            if matches!(polled, Ok(false)) {
                at += 1;
                continue;
            }
            let flight = self.flights.swap_remove(at);
            self.in_flight[flight.connection] -= 1;
            let end = match polled.and_then(|_| flight.pending.wait()) {
                Ok(answer) => self.answered(flight.place, &answer),
                Err(error) => self.failure(flight.place, error)?,
            };
            self.ended(flight.place, flight.lag_ns, flight.crowded, end);
        }
        Ok(())
    }

    fn answered(&self, place: usize, answer: &Embeddings<'_>) -> End {
        End::Answered {
            latency_ns: now_ns() - self.due_ns(place),
            tokens: answer.tokens(0),
        }
    }

    fn failure(&self, place: usize, error: EmbedError) -> Result<End, DriveError> {
        let after_ns = now_ns() - self.due_ns(place);
        if FATAL.contains(&error.kind()) {
            return Err(DriveError::Instance(error));
        }
        let detail = if let EmbedError::Deadline { reason, .. } = error {
            reason
        } else {
            ""
        };
        Ok(failed(error.kind(), detail, after_ns))
    }

    fn ended(&mut self, place: usize, lag_ns: u64, crowded: bool, end: End) {
        let planned = &self.planned[place];
        self.outcomes.push(Outcome {
            due_ns: planned.due_ns,
            kind: planned.kind,
            time_ns: planned.time_ns,
            lag_ns,
            crowded,
            end,
        });
    }
}

fn failed(kind: &'static str, detail: &'static str, after_ns: u64) -> End {
    End::Failed {
        kind,
        detail,
        after_ns,
    }
}
