//! What others do. Each is tuned for itself (see `contenders`); those with a model of costs get the true
//! one.

use std::collections::VecDeque;

use crate::device::{Costs, float, whole};
use crate::request::Request;
use crate::run::{Next, Policy};

/// First come, first served, up to a number of texts or tokens.
#[derive(Debug)]
pub(crate) struct Fifo {
    pub(crate) texts_max: usize,
    pub(crate) tokens_max: u64,
    /// How long a batch that has not `texts_max` waits for more.
    pub(crate) timeout_ns: u64,
    /// Whether what is late already is dropped.
    pub(crate) expires: bool,
    queue: VecDeque<Request>,
}

impl Fifo {
    pub(crate) fn new(texts_max: usize, tokens_max: u64, timeout_ns: u64, expires: bool) -> Self {
        Self {
            texts_max,
            tokens_max,
            timeout_ns,
            expires,
            queue: VecDeque::new(),
        }
    }
}

impl Policy for Fifo {
    fn arrive(&mut self, request: Request) {
        self.queue.push_back(request);
    }

    fn next(&mut self, now_ns: u64) -> Next {
        if self.expires {
            self.queue.retain(|request| request.deadline_ns > now_ns);
        }
        let Some(first) = self.queue.front() else {
            return Next::Idle;
        };
        let until_ns = first.arrived_ns + self.timeout_ns;
        if self.queue.len() < self.texts_max && now_ns < until_ns {
            return Next::Wait(until_ns);
        }
        let count = fitting(self.queue.iter(), self.texts_max, self.tokens_max);
        Next::Run(self.queue.drain(..count).collect())
    }
}

/// How many of `queue`, from the front, fit into a batch; at least one.
fn fitting<'a>(
    queue: impl Iterator<Item = &'a Request>,
    texts_max: usize,
    tokens_max: u64,
) -> usize {
    let mut tokens = 0;
    let fits = |request: &&Request| {
        let first = tokens == 0;
        tokens += request.tokens;
        first || tokens <= tokens_max
    };
    queue.take(texts_max).take_while(fits).count()
}

/// Clipper: the batch may grow by one after each full one in time, and shrinks by a tenth after a late one.
#[derive(Debug)]
pub(crate) struct Aimd {
    fifo: Fifo,
    cap: f64,
    target_ns: u64,
}

impl Aimd {
    pub(crate) fn new(target_ns: u64) -> Self {
        Self {
            fifo: Fifo::new(1, u64::MAX, 0, false),
            cap: 1.0,
            target_ns,
        }
    }
}

impl Policy for Aimd {
    fn arrive(&mut self, request: Request) {
        self.fifo.arrive(request);
    }

    fn next(&mut self, now_ns: u64) -> Next {
        self.fifo.next(now_ns)
    }

    fn ran(&mut self, batch: &[Request], run_ns: u64) {
        if run_ns > self.target_ns {
            self.cap = (self.cap * 0.9).max(1.0);
        } else if batch.len() == self.fifo.texts_max {
            self.cap += 1.0;
        }
        self.fifo.texts_max = usize::try_from(whole(self.cap)).unwrap_or(1);
    }
}

/// Nexus: batches of a fixed size, first come first served, after dropping from the front whoever such a
/// batch would be late for.
#[derive(Debug)]
pub(crate) struct EarlyDrop {
    texts_max: usize,
    costs: Costs,
    queue: VecDeque<Request>,
}

impl EarlyDrop {
    pub(crate) fn new(texts_max: usize, costs: Costs) -> Self {
        Self {
            texts_max,
            costs,
            queue: VecDeque::new(),
        }
    }
}

impl Policy for EarlyDrop {
    fn arrive(&mut self, request: Request) {
        self.queue.push_back(request);
    }

    fn next(&mut self, now_ns: u64) -> Next {
        loop {
            let batch: Vec<_> = self.queue.iter().take(self.texts_max).copied().collect();
            let Some(first) = batch.first() else {
                return Next::Idle;
            };
            if now_ns + whole(MARGIN * self.costs.batch_ns(&batch)) <= first.deadline_ns {
                self.queue.drain(..batch.len());
                return Next::Run(batch);
            }
            self.queue.pop_front();
        }
    }
}

/// What model-based policies allow for noise where it is not tuned.
const MARGIN: f64 = 1.15;

/// TurboTransformers: all that waits, sorted by length, in as few batches as allowed, one after the other;
/// whoever arrives meanwhile waits for the next round. (Without padding, the batches of least time are the
/// fullest.)
#[derive(Debug)]
pub(crate) struct SortedRounds {
    tokens_max: u64,
    queue: Vec<Request>,
    round: VecDeque<Request>,
}

impl SortedRounds {
    pub(crate) fn new(tokens_max: u64) -> Self {
        Self {
            tokens_max,
            queue: Vec::new(),
            round: VecDeque::new(),
        }
    }
}

impl Policy for SortedRounds {
    fn arrive(&mut self, request: Request) {
        self.queue.push(request);
    }

    fn next(&mut self, _: u64) -> Next {
        if self.round.is_empty() {
            self.queue.sort_by_key(|request| request.tokens);
            self.round.extend(self.queue.drain(..));
        }
        match fitting(self.round.iter(), usize::MAX, self.tokens_max) {
            0 => Next::Idle,
            count => Next::Run(self.round.drain(..count).collect()),
        }
    }
}

/// The shortest first, anew for each batch, but before them whoever has waited for too long; what is late
/// is dropped. Nobody ships it; it is the strongest form of sorting by length.
#[derive(Debug)]
pub(crate) struct ShortestFirst {
    tokens_max: u64,
    guard_ns: u64,
    queue: Vec<Request>,
}

impl ShortestFirst {
    pub(crate) fn new(tokens_max: u64, guard_ns: u64) -> Self {
        Self {
            tokens_max,
            guard_ns,
            queue: Vec::new(),
        }
    }
}

impl Policy for ShortestFirst {
    fn arrive(&mut self, request: Request) {
        self.queue.push(request);
    }

    fn next(&mut self, now_ns: u64) -> Next {
        self.queue.retain(|request| request.deadline_ns > now_ns);
        self.queue.sort_by_key(|request| {
            let waits_long = now_ns - request.arrived_ns >= self.guard_ns;
            let order = if waits_long {
                request.arrived_ns
            } else {
                request.tokens
            };
            (!waits_long, order)
        });
        match fitting(self.queue.iter(), usize::MAX, self.tokens_max) {
            0 => Next::Idle,
            count => Next::Run(self.queue.drain(..count).collect()),
        }
    }
}

/// Earliest deadline first with a model of costs: as many as are in time together (Clockwork). `defers`:
/// not before one more would make the batch late (Symphony).
#[derive(Debug)]
pub(crate) struct Edf {
    pub(crate) costs: Costs,
    pub(crate) margin: f64,
    pub(crate) texts_max: usize,
    pub(crate) defers: bool,
    pub(crate) queue: Vec<Request>,
}

impl Edf {
    fn worst_ns(&self, predicted_ns: f64) -> u64 {
        whole(self.margin * predicted_ns)
    }
}

impl Policy for Edf {
    fn arrive(&mut self, request: Request) {
        self.queue.push(request);
    }

    fn next(&mut self, now_ns: u64) -> Next {
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain(|r| now_ns + self.worst_ns(self.costs.batch_ns(&[*r])) <= r.deadline_ns);
        queue.sort_by_key(|request| request.deadline_ns);
        let Some(first) = queue.first().copied() else {
            return Next::Idle;
        };
        let (mut count, mut batch_ns) = (0, self.costs.fixed_ns);
        for request in queue.iter().take(self.texts_max) {
            let with = batch_ns + self.costs.work_ns(request.tokens);
            if now_ns + self.worst_ns(with) > first.deadline_ns {
                break;
            }
            batch_ns = with;
            count += 1;
        }
        let is_open = count < self.texts_max && count == queue.len();
        let rest = queue.split_off(count);
        if self.defers && is_open {
            #[expect(clippy::cast_precision_loss, reason = "texts of one batch")]
            let one_more = batch_ns * (1.0 + 1.0 / count as f64);
            let latest_ns = first.deadline_ns.saturating_sub(self.worst_ns(one_more));
            if now_ns < latest_ns {
                self.queue = queue;
                return Next::Wait(latest_ns);
            }
        }
        self.queue = rest;
        Next::Run(queue)
    }
}

/// A part of a question's deadline.
pub(crate) fn part(deadline_ns: u64, part: f64) -> u64 {
    whole(float(deadline_ns) * part)
}
