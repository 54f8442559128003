//! What waits: requests, whose texts go into batches one by one.

use embedring_policy::{
    BatchPolicy, Batcher, Cost, Late, Limits, Next, Picked, Schedule, Share, Waiting, at_best,
    due_ns,
};
use embedring_protocol::Class;
use embedring_protocol::limits::CLIENTS_MAX;

use crate::request::Request;

/// One text of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) request: usize,
    pub(crate) row: usize,
}

/// A batch ready to run: tokens flat, offsets, and whose texts they are.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) ids: Vec<u32>,
    pub(crate) offsets: Vec<usize>,
    pub(crate) items: Vec<Item>,
    pub(crate) tokens_squared: u64,
    pub(crate) longest: u64,
    /// Tokens that were left waiting.
    pub(crate) left_waiting: u64,
}

impl Batch {
    fn clear(&mut self) {
        self.ids.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.items.clear();
        self.tokens_squared = 0;
        self.longest = 0;
        self.left_waiting = 0;
    }

    fn push(&mut self, ids: &[u32], item: Item) {
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len());
        self.items.push(item);
        let tokens = ids.len() as u64;
        self.tokens_squared += tokens.pow(2);
        self.longest = self.longest.max(tokens);
    }
}

/// What a batch may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    /// What batches cost, where the plan has an opinion.
    pub(crate) cost: Option<Cost>,
    pub(crate) tokens_max: u64,
    pub(crate) texts_max: usize,
    batch_ns_max: u64,
}

impl BatchLimits {
    pub(crate) fn new(cost: Option<Cost>, tokens_max: u64, texts_max: usize) -> Self {
        Self {
            cost,
            tokens_max,
            texts_max,
            batch_ns_max: cost.map_or(tokens_max, |cost| cost.shortest_ns(tokens_max)),
        }
    }

    /// The costs that hold for the next batch of what waits.
    fn for_next_batch(self, tokens: u64, squares: u64) -> Self {
        let next = |cost: Cost| cost.for_next_batch(tokens, squares, self.tokens_max);
        Self {
            cost: self.cost.map(next),
            ..self
        }
    }

    /// What texts of so many tokens and squared tokens add to a batch; without an opinion a token is a
    /// nanosecond, and only order and bounds count.
    fn work_ns(&self, tokens: u64, squares: u64) -> u64 {
        self.cost
            .map_or(tokens, |cost| cost.work_ns(tokens, squares))
    }

    fn for_schedule(&self) -> Limits {
        Limits {
            fixed_ns: self.cost.map_or(0, |cost| cost.ns_per_batch),
            batch_ns_max: self.batch_ns_max,
            worst_1024: self.cost.unwrap_or(Cost::DEFAULT).worst_1024,
        }
    }
}

/// Requests in their places, and those with texts that wait. Places are reused, so that a queue in steady
/// state allocates nothing.
#[derive(Default)]
pub(crate) struct Queue {
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    /// Places of the requests with texts that wait.
    waiting: Vec<usize>,
    /// The same as the schedule sees them.
    seen: Vec<Waiting>,
    batcher: Batcher,
    /// Where newcomers are tried.
    admission: Schedule,
    /// Places of the requests that the last choice gave up.
    dropped: Vec<usize>,
    /// What waits, by client.
    clients: Clients,
    /// Texts and tokens waiting or running.
    pub(crate) texts: u64,
    pub(crate) tokens: u64,
}

/// Tokens that wait, by client.
#[derive(Debug, Default)]
struct Clients {
    tokens: Vec<u64>,
    all: u64,
    /// How many have some.
    busy: u64,
}

impl Clients {
    /// What calls itself by a number that no client has is one client.
    fn place(client: usize) -> usize {
        client.min(CLIENTS_MAX)
    }

    fn add(&mut self, client: usize, tokens: u64) {
        let client = Self::place(client);
        if client >= self.tokens.len() {
            self.tokens.resize(client + 1, 0);
        }
        self.busy += u64::from(self.tokens[client] == 0 && tokens > 0);
        self.tokens[client] += tokens;
        self.all += tokens;
    }

    fn take(&mut self, client: usize, tokens: u64) {
        let client = Self::place(client);
        self.tokens[client] -= tokens;
        self.all -= tokens;
        self.busy -= u64::from(self.tokens[client] == 0 && tokens > 0);
    }

    fn share(&self, client: usize) -> Share {
        let own_tokens = self.tokens.get(Self::place(client)).copied().unwrap_or(0);
        Share {
            own_tokens,
            all_tokens: self.all,
            clients: self.busy + u64::from(own_tokens == 0),
        }
    }
}

/// Of longer queues the schedule is not asked for each newcomer: its time grows with their length.
const FORECAST_REQUESTS_MAX: usize = 512;

/// A request that asks for a place, as far as is known before its texts are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) client: usize,
    pub(crate) class: Class,
    pub(crate) arrived_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) texts: u64,
    pub(crate) tokens: u64,
    /// When the running batch should be done; not before `arrived_ns`.
    pub(crate) free_ns: u64,
}

/// What came of asking for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is there.
    Batch,
    /// None before this time, unless somebody arrives.
    NotBefore(u64),
    /// None until somebody arrives.
    Nothing,
}

impl Queue {
    /// Whose batches are chosen by this policy.
    pub(crate) fn new(policy: BatchPolicy) -> Self {
        Self {
            batcher: Batcher::new(policy),
            ..Self::default()
        }
    }

    pub(crate) fn policy(&self) -> BatchPolicy {
        self.batcher.policy()
    }

    /// A batch of so many texts took so long.
    pub(crate) fn ran(&mut self, texts: usize, run_ns: u64) {
        self.batcher.ran(texts, run_ns);
    }

    /// Requests that the last choice gave up, to be answered. Ours gives up none.
    pub(crate) fn take_dropped(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.dropped)
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tokens waiting, those that run not counted.
    pub(crate) fn waiting_tokens(&self) -> u64 {
        self.clients.all
    }

    /// What a client has waiting.
    pub(crate) fn share(&self, client: usize) -> Share {
        self.clients.share(client)
    }

    fn waiting_requests(&self) -> impl Iterator<Item = &Request> {
        let requests = self.waiting.iter();
        requests.filter_map(|&place| self.requests[place].as_ref())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.requests.len()
    }

    /// Takes in a request; its texts without a fault wait from now on.
    pub(crate) fn push(&mut self, mut request: Request) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        request.begin_to_wait();
        let share = self.share(request.client);
        request.backlog_tokens = share.own_tokens.saturating_mul(share.clients);
        self.clients.add(request.client, request.waiting_tokens);
        self.texts += request.waiting_texts;
        self.tokens += request.waiting_tokens;
        if request.waiting_texts > 0 {
            self.waiting.push(place);
        }
        self.requests[place] = Some(request);
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Request> {
        self.requests.get_mut(place)?.as_mut()
    }

    /// Takes a request out; what of it still waits is forgotten.
    pub(crate) fn remove(&mut self, place: usize) -> Option<Request> {
        let request = self.requests.get_mut(place)?.take()?;
        self.free.push(place);
        self.clients.take(request.client, request.waiting_tokens);
        self.texts -= request.waiting_texts;
        self.tokens -= request.waiting_tokens;
        self.waiting.retain(|&waiting| waiting != place);
        Some(request)
    }

    /// Whether a newcomer would be late beside those that wait, even if everything took as little as it may.
    pub(crate) fn forecast(&mut self, newcomer: Arrival, limits: BatchLimits) -> Late {
        if self.waiting.len() > FORECAST_REQUESTS_MAX {
            return Late::ByTurns;
        }
        let Arrival {
            client,
            class,
            arrived_ns,
            deadline_ns,
            texts,
            tokens,
            free_ns,
        } = newcomer;
        self.see(limits);
        let share = self.share(client);
        let with = Share {
            own_tokens: share.own_tokens.saturating_add(tokens),
            all_tokens: share.all_tokens.saturating_add(tokens),
            ..share
        };
        let backlog_tokens = share.own_tokens.saturating_mul(share.clients);
        let squares = tokens.saturating_mul(tokens) / texts.max(1);
        self.seen.push(Waiting {
            arrived_ns,
            due_ns: due_ns(
                class,
                arrived_ns,
                deadline_ns,
                limits.work_ns(backlog_tokens, 0),
            ),
            deadline_ns,
            work_ns: limits.work_ns(tokens, squares),
            texts: usize::try_from(texts).unwrap_or(usize::MAX),
            tokens,
            share_times: with.times(),
        });
        for waiting in &mut self.seen {
            waiting.work_ns = at_best(waiting.work_ns);
        }
        let bounds = limits.for_schedule();
        let bounds = Limits {
            fixed_ns: at_best(bounds.fixed_ns),
            batch_ns_max: at_best(bounds.batch_ns_max),
            ..bounds
        };
        let free_ns = arrived_ns + at_best(free_ns.saturating_sub(arrived_ns));
        let place = self.seen.len() - 1;
        let forecast = self.admission.forecast(&self.seen, place, free_ns, bounds);
        if forecast.is_left_out {
            let best_ns = forecast.end_ns.saturating_sub(arrived_ns);
            Late::After(best_ns.saturating_mul(3) / 2)
        } else {
            Late::No
        }
    }

    /// A text of a batch is done, whether its request is still there or not.
    pub(crate) fn done(&mut self, tokens: u64) {
        self.texts -= 1;
        self.tokens -= tokens;
    }

    /// Requests nobody waits for any more, or whose deadline has passed, unless the policy runs those.
    pub(crate) fn lost(&self, now_ns: u64) -> Vec<usize> {
        let drops_late = self.policy().drops_late();
        self.requests
            .iter()
            .enumerate()
            .filter_map(|(place, request)| {
                let request = request.as_ref()?;
                ((drops_late && now_ns >= request.deadline_ns) || request.is_abandoned())
                    .then_some(place)
            })
            .collect()
    }

    /// All requests, to be answered before the end.
    pub(crate) fn places(&self) -> Vec<usize> {
        (0..self.requests.len())
            .filter(|place| self.requests[*place].is_some())
            .collect()
    }

    /// Moves the next batch's texts from the queue into `batch`, which is empty where there is none.
    pub(crate) fn take_batch(
        &mut self,
        now_ns: u64,
        limits: BatchLimits,
        batch: &mut Batch,
    ) -> Taken {
        batch.clear();
        let squares = self
            .waiting_requests()
            .map(|request| request.waiting_squares);
        let squares = squares.fold(0, u64::saturating_add);
        let limits = limits.for_next_batch(self.waiting_tokens(), squares);
        self.see(limits);
        let bounds = limits.for_schedule();
        let (texts_max, tokens_max) = self.batcher.bounds();
        let limits = BatchLimits {
            texts_max: limits.texts_max.min(texts_max),
            tokens_max: limits.tokens_max.min(tokens_max),
            ..limits
        };
        let taken = match self.batcher.next(&self.seen, now_ns, bounds) {
            Next::Run(picked) => {
                fill(
                    &mut self.requests,
                    &mut self.clients,
                    &self.waiting,
                    picked,
                    now_ns,
                    limits,
                    batch,
                );
                Taken::Batch
            }
            Next::Wait { until_ns } => Taken::NotBefore(until_ns),
            Next::Idle => Taken::Nothing,
        };
        let dropped = self.batcher.dropped();
        self.dropped
            .extend(dropped.iter().map(|&at| self.waiting[at]));
        let requests = &self.requests;
        self.waiting.retain(|&place| {
            requests[place]
                .as_ref()
                .is_some_and(|request| request.waiting_texts > 0)
        });
        batch.left_waiting = self.waiting_tokens();
        taken
    }

    /// Shows what waits to the schedule.
    fn see(&mut self, limits: BatchLimits) {
        self.seen.clear();
        for &place in &self.waiting {
            let seen = self.requests[place].as_ref().map(|request| Waiting {
                arrived_ns: request.arrived_ns,
                due_ns: due_ns(
                    request.class,
                    request.arrived_ns,
                    request.deadline_ns,
                    limits.work_ns(request.backlog_tokens, 0),
                ),
                deadline_ns: request.deadline_ns,
                work_ns: limits.work_ns(request.waiting_tokens, request.waiting_squares),
                texts: usize::try_from(request.waiting_texts).unwrap_or(usize::MAX),
                tokens: request.waiting_tokens,
                share_times: self.clients.share(request.client).times(),
            });
            self.seen.extend(seen);
        }
    }
}

/// Moves texts of the picked requests into `batch`, up to the bounds.
fn fill(
    requests: &mut [Option<Request>],
    clients: &mut Clients,
    waiting: &[usize],
    picked: Picked<'_>,
    now_ns: u64,
    limits: BatchLimits,
    batch: &mut Batch,
) {
    let mut time_ns = limits.for_schedule().fixed_ns;
    for &at in picked.places {
        let place = waiting[at];
        let Some(request) = requests[place].as_mut() else {
            continue;
        };
        while let Some((row, tokens)) = request.next_waiting() {
            let with = time_ns.saturating_add(limits.work_ns(tokens, tokens * tokens));
            let is_full = batch.items.len() >= limits.texts_max
                || (batch.ids.len() as u64).saturating_add(tokens) > limits.tokens_max
                || with > picked.limit_ns;
            // One text larger than any bound runs alone.
            if is_full && !batch.items.is_empty() {
                return;
            }
            request.take_next(tokens);
            clients.take(request.client, tokens);
            batch.push(
                request.row_ids(row),
                Item {
                    request: place,
                    row,
                },
            );
            time_ns = with;
            if request.timing.started_ns == 0 {
                request.timing.started_ns = now_ns;
            }
        }
    }
}
