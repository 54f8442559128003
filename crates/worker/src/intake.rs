//! From the bytes of a request to waiting texts, and every reason to refuse one.

use std::sync::Arc;

use embedring_ipc::clock::now_ns;
use embedring_ipc::{
    BellsMap, BoardMap, Incoming, Instance, ROOM_BYTES_MIN, RingError, WorkerPlace, WorkerRing,
    ring_bell,
};
use embedring_model::{TokenizeError, TruncationSide};
use embedring_policy::{Admission, Bounds, Cost, Late, Newcomer, Refusal, admit};
use embedring_protocol::limits::{CLIENTS_MAX, DEADLINE_MAX_NS};
use embedring_protocol::sync::Ordering;
use embedring_protocol::{
    Counter, Load, ModelId, Plan, RequestView, ResponseHeader, RowFlags, RowMeta, Stage, Status,
    TextFault, Truncation, WorkerIndex, response_bytes,
};

use crate::WorkerOptions;
use crate::model::Served;
use crate::queue::{Arrival, BatchLimits, Queue};
use crate::request::Request;

/// Bytes that must be left on the instance's tmpfs before an answer is written into it.
const FREE_BYTES_MIN: u64 = 8 << 20;
/// Time between two looks at the free bytes. In so short a time nobody fills what is kept free.
const FREE_LOOK_EVERY_NS: u64 = 1_000_000;

/// Whether requests are taken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Ending,
    MemoryFull,
}

/// What a worker shares with the other processes of its instance.
pub(crate) struct Host {
    pub(crate) instance: Instance,
    pub(crate) board: Arc<BoardMap>,
    pub(crate) bells: Arc<BellsMap>,
    pub(crate) place: Arc<WorkerPlace>,
}

/// The ring's end and everything that waits. One thread at a time has it.
pub(crate) struct Intake {
    pub(crate) ring: WorkerRing,
    pub(crate) queue: Queue,
    pub(crate) gate: Gate,
    /// When the last request was taken.
    pub(crate) taken_ns: u64,
    served: Arc<Served>,
    instance: Instance,
    board: Arc<BoardMap>,
    bells: Arc<BellsMap>,
    place: Arc<WorkerPlace>,
    bounds: Bounds,
    batch_tokens_max: u64,
    batch_texts_max: usize,
    text_tokens_max: u64,
    request_slot_bytes: usize,
    response_slot_bytes: usize,
    copy: Vec<u8>,
    is_held_up: bool,
    free_looked_ns: u64,
    free_bytes: u64,
}

/// Why a request is not taken: how the answer's head differs from a plain one, and what is counted.
struct Refused {
    status: Status,
    retry_after_ns: u64,
    detail: u32,
}

impl Refused {
    fn with(status: Status) -> Self {
        Self {
            status,
            retry_after_ns: 0,
            detail: 0,
        }
    }

    fn counter(&self) -> Counter {
        match self.status {
            Status::Overloaded => Counter::RefusedOverload,
            Status::DeadlineExceeded => Counter::RefusedDeadline,
            Status::MemoryFull => Counter::RefusedMemory,
            Status::BadRequest => Counter::BadRequests,
            Status::Ok
            | Status::WrongModel
            | Status::ModelUnavailable
            | Status::ShuttingDown
            | Status::UnknownPrompt
            | Status::BadDimensions
            | Status::TooLarge
            | Status::Internal => Counter::RefusedOther,
        }
    }
}

impl Intake {
    pub(crate) fn new(
        options: &WorkerOptions,
        ring: WorkerRing,
        host: Host,
        served: Arc<Served>,
    ) -> Self {
        let Host {
            instance,
            board,
            bells,
            place,
        } = host;
        let limits = options.limits;
        Self {
            ring,
            queue: Queue::new(options.batch_policy),
            gate: Gate::Open,
            taken_ns: now_ns(),
            served,
            instance,
            board,
            bells,
            place,
            bounds: options.queue,
            batch_tokens_max: options.batch_tokens_max,
            batch_texts_max: options.batch_texts_max,
            text_tokens_max: options.text_tokens_max,
            request_slot_bytes: limits.request_slot_bytes,
            response_slot_bytes: limits.response_slot_bytes,
            copy: Vec::with_capacity(limits.request_slot_bytes),
            is_held_up: false,
            free_looked_ns: 0,
            free_bytes: u64::MAX,
        }
    }

    /// The scheduler's advice, if there is any that is not stale.
    pub(crate) fn plan(&self, now_ns: u64) -> Option<Plan> {
        Cost::usable(self.board.scheduler.plan.read(), now_ns)
    }

    /// Bounds of the next batch: as configured, or fewer tokens where the plan says that more would take
    /// longer than a newcomer should wait. The policies of others know no such advice.
    pub(crate) fn batch_limits(&self, plan: Option<&Plan>, cost: Option<Cost>) -> BatchLimits {
        let advised = plan.map_or(0, |plan| plan.workers[self.index().get()].batch_tokens_max);
        let tokens_max = if advised == 0 || !self.queue.policy().is_ours() {
            self.batch_tokens_max
        } else {
            advised.min(self.batch_tokens_max)
        };
        BatchLimits::new(cost, tokens_max, self.batch_texts_max)
    }

    pub(crate) fn index(&self) -> WorkerIndex {
        self.place.index()
    }

    /// Other workers of the instance that compute.
    pub(crate) fn neighbours(&self) -> u64 {
        let own = self.index().get();
        let others = self.board.workers.iter().enumerate();
        let busy = others
            .filter(|&(at, slot)| at != own && slot.busy_since_ns.load(Ordering::Relaxed) > 0);
        busy.count() as u64
    }

    /// Takes at most `requests_max` requests off the ring, until it is empty or more than
    /// `enough_tokens` wait. Returns how many were taken off.
    pub(crate) fn poll(&mut self, enough_tokens: u64, requests_max: usize, now_ns: u64) -> usize {
        let mut taken = 0;
        while self.has_room(now_ns)
            && taken < requests_max
            && (self.queue.waiting_tokens() < enough_tokens || self.queue.is_empty())
        {
            match self.ring.receive() {
                Ok(Some(incoming)) => {
                    self.take(incoming);
                    taken += 1;
                }
                Ok(None) => break,
                Err(RingError::AllHeld) => {
                    self.is_held_up = true;
                    break;
                }
                Err(error) => {
                    // One client's connection: the others go on, and the scheduler cleans it up.
                    tracing::warn!(%error, "a connection could not be served");
                    break;
                }
            }
        }
        // Only when there is something new: a store per look would take the line from every reader.
        if taken > 0 {
            self.publish_load();
        }
        taken
    }

    /// Whether the ring could not be emptied since a client gave up requests that are held here still. Once they
    /// are dropped ([`Intake::drop_lost`]) it goes on.
    pub(crate) fn was_held_up(&mut self) -> bool {
        std::mem::take(&mut self.is_held_up)
    }

    /// Refuses everything in the ring without looking at it twice: nothing is taken any more.
    pub(crate) fn refuse_all(&mut self) {
        let _refused = self.poll(u64::MAX, usize::MAX, now_ns());
    }

    fn take(&mut self, incoming: Incoming) {
        let arrived_ns = now_ns();
        incoming.copy_to(&mut self.copy, self.request_slot_bytes);
        let copy = std::mem::take(&mut self.copy);
        let mut request = Request::new(incoming, 0);
        let refused = match RequestView::parse(&copy) {
            Ok(view) => self.enter(&mut request, &view, arrived_ns).err(),
            Err(error) => {
                tracing::debug!(%error, "a message is no request");
                let (id, client) = RequestView::peek_sender(&copy).unwrap_or_default();
                request.id = id;
                request.client = usize::try_from(client).unwrap_or(usize::MAX);
                Some(Refused::with(Status::BadRequest))
            }
        };
        self.copy = copy;
        match refused {
            Some(refused) => {
                self.place.slot().count(refused.counter(), 1);
                let client = request.client;
                let mut head = self.head(refused.status);
                head.retry_after_ns = refused.retry_after_ns;
                head.detail = refused.detail;
                let sent = request.refuse(head);
                self.delivered(sent, client);
            }
            None if request.open_rows == 0 => self.answer(request),
            None => {
                self.taken_ns = arrived_ns;
                self.queue.push(request);
            }
        }
    }

    /// Checks a request against everything it could break and tokenises its texts.
    fn enter(
        &mut self,
        request: &mut Request,
        view: &RequestView<'_>,
        arrived_ns: u64,
    ) -> Result<(), Refused> {
        let header = view.header();
        request.id = header.id;
        request.client = usize::try_from(header.client).unwrap_or(usize::MAX);
        request.class = view.class();
        request.sent_ns = header.sent_ns.min(arrived_ns);
        request.arrived_ns = arrived_ns;
        request.deadline_ns = header.deadline_ns.min(arrived_ns + DEADLINE_MAX_NS);
        match self.gate {
            Gate::Open => {}
            Gate::Ending => return Err(Refused::with(Status::ShuttingDown)),
            Gate::MemoryFull => return Err(Refused::with(Status::MemoryFull)),
        }
        if header.model != ModelId::ANY && header.model != self.served.id {
            return Err(Refused::with(Status::WrongModel));
        }
        let full = self.served.dimensions();
        request.dimensions = match header.dimensions as usize {
            0 => full,
            asked if asked <= full => asked,
            _ => {
                let detail = u32::try_from(full).unwrap_or(u32::MAX);
                return Err(Refused {
                    detail,
                    ..Refused::with(Status::BadDimensions)
                });
            }
        };
        if response_bytes(view.text_count(), request.dimensions) > self.response_slot_bytes {
            return Err(Refused::with(Status::TooLarge));
        }
        request.normalize = self.served.normalize(view.normalize());
        self.check_free_bytes(arrived_ns)?;
        // Before the work of tokenising: bytes over four is close to the tokens of English text.
        let bytes: usize = (0..view.text_count())
            .map(|text| view.text_bytes(text).len())
            .sum();
        self.admit(
            request,
            view.text_count() as u64,
            bytes as u64 / 4,
            arrived_ns,
        )?;
        self.tokenize(request, view)
    }

    fn look_at_free_bytes(&mut self, now_ns: u64) -> u64 {
        if now_ns.saturating_sub(self.free_looked_ns) >= FREE_LOOK_EVERY_NS {
            self.free_looked_ns = now_ns;
            self.free_bytes = self.instance.free_bytes();
        }
        self.free_bytes
    }

    /// True while slots can be written. Otherwise nothing at all is: clients then see by themselves
    /// why they get no answer.
    pub(crate) fn has_room(&mut self, now_ns: u64) -> bool {
        self.look_at_free_bytes(now_ns) >= ROOM_BYTES_MIN
    }

    fn check_free_bytes(&mut self, now_ns: u64) -> Result<(), Refused> {
        if self.look_at_free_bytes(now_ns) < FREE_BYTES_MIN {
            return Err(Refused::with(Status::MemoryFull));
        }
        Ok(())
    }

    fn admit(
        &mut self,
        request: &Request,
        texts: u64,
        tokens: u64,
        now: u64,
    ) -> Result<(), Refused> {
        let plan = self.plan(now);
        let cost = Cost::from_plan(plan.as_ref(), self.index());
        let advised = plan.map_or(0, |plan| plan.workers[self.index().get()].queue_tokens_max);
        let tokens_max = match advised {
            0 => self.bounds.tokens_max,
            advised => advised.min(self.bounds.tokens_max),
        };
        let bounds = Bounds {
            tokens_max,
            ..self.bounds
        };
        let load = Load {
            texts: self.queue.texts,
            tokens: self.queue.tokens,
        };
        // The policies of others refuse only when there is no room.
        let (left_ns, late) = if self.queue.policy().is_ours() {
            let arrival = Arrival {
                client: request.client,
                class: request.class,
                arrived_ns: now,
                deadline_ns: request.deadline_ns,
                texts,
                tokens,
                free_ns: self.free_ns(cost).max(now),
            };
            let limits = self.batch_limits(plan.as_ref(), Some(cost));
            let left_ns = request.deadline_ns.saturating_sub(now);
            (left_ns, self.queue.forecast(arrival, limits))
        } else {
            (u64::MAX, Late::No)
        };
        let newcomer = Newcomer {
            texts,
            tokens,
            left_ns,
            share: self.queue.share(request.client),
            late,
        };
        match admit(&load, bounds, cost, newcomer) {
            Admission::Take => Ok(()),
            Admission::Refuse(Refusal::Full { retry_after_ns }) => Err(Refused {
                retry_after_ns,
                ..Refused::with(Status::Overloaded)
            }),
            Admission::Refuse(Refusal::Late { predicted_ns }) => Err(Refused {
                retry_after_ns: predicted_ns,
                ..Refused::with(Status::DeadlineExceeded)
            }),
        }
    }

    /// When the running batch should be done; 0 when none runs.
    fn free_ns(&self, cost: Cost) -> u64 {
        let slot = self.place.slot();
        match slot.busy_since_ns.load(Ordering::Relaxed) {
            0 => 0,
            since_ns => {
                let tokens = slot.running_tokens.load(Ordering::Relaxed);
                since_ns.saturating_add(cost.batch_ns(tokens))
            }
        }
    }

    fn tokenize(&self, request: &mut Request, view: &RequestView<'_>) -> Result<(), Refused> {
        let begun_ns = now_ns();
        let prompt = self
            .served
            .prompt(view.prompt_kind(), view.prompt())
            .ok_or_else(|| Refused::with(Status::UnknownPrompt))?;
        for text in 0..view.text_count() {
            let meta = self.tokenize_text(request, view, prompt, text);
            if let Some(fault) = meta.flags().fault_of() {
                tracing::debug!(?fault, "a text has no row");
            } else {
                request.open_rows += 1;
            }
            request.offsets.push(request.ids.len());
            request.metas.push(meta);
        }
        request.timing.tokenize_ns = now_ns().saturating_sub(begun_ns);
        self.place
            .slot()
            .histogram(Stage::Tokenize)
            .record(request.timing.tokenize_ns);
        Ok(())
    }

    fn tokenize_text(
        &self,
        request: &mut Request,
        view: &RequestView<'_>,
        prompt: &str,
        text: usize,
    ) -> RowMeta {
        let Ok(bytes) = std::str::from_utf8(view.text_bytes(text)) else {
            return RowMeta::new(0, RowFlags::fault(TextFault::InvalidUtf8));
        };
        let side = match view.truncation() {
            Truncation::Right | Truncation::Refuse => TruncationSide::Right,
            Truncation::Left => TruncationSide::Left,
        };
        let refuse_long = view.truncation() == Truncation::Refuse;
        let cut = view.text_flags(text).is_cut();
        let start = request.ids.len();
        let encoded = self.served.tokenizer().encode(
            prompt,
            bytes,
            self.served.max_tokens,
            side,
            cut,
            &mut request.ids,
        );
        match encoded {
            Ok(encoded) if encoded.truncated && refuse_long => {
                request.ids.truncate(start);
                RowMeta::new(0, RowFlags::fault(TextFault::TooLong))
            }
            Ok(encoded) if self.is_too_long(encoded.tokens) => {
                request.ids.truncate(start);
                RowMeta::new(0, RowFlags::fault(TextFault::TooLongForDevice))
            }
            Ok(encoded) => {
                let tokens = u32::try_from(encoded.tokens).unwrap_or(u32::MAX);
                RowMeta::new(tokens, RowFlags::good(encoded.truncated, bytes.is_empty()))
            }
            Err(error) => {
                request.ids.truncate(start);
                let fault = match error {
                    TokenizeError::CutTooShort { .. } => TextFault::CutTooShort,
                    TokenizeError::WindowTooSmall { .. } | TokenizeError::Library(_) => {
                        TextFault::Tokenizer
                    }
                };
                RowMeta::new(0, RowFlags::fault(fault))
            }
        }
    }

    /// Whether a text is for other devices.
    fn is_too_long(&self, tokens: usize) -> bool {
        self.text_tokens_max > 0 && tokens as u64 > self.text_tokens_max
    }

    /// A response head with what is the same in all of this worker's.
    pub(crate) fn head(&self, status: Status) -> ResponseHeader {
        let mut head = ResponseHeader::new(0, status);
        head.model = self.served.id;
        head.worker = u16::try_from(self.index().get()).unwrap_or(u16::MAX);
        head.precision = self.served.precision as u8;
        head
    }

    /// Sends a finished request's rows and counts it.
    pub(crate) fn answer(&mut self, request: Request) {
        let slot = self.place.slot();
        let failed = request
            .metas
            .iter()
            .filter(|m| m.flags().fault_of().is_some())
            .count();
        let truncated = request
            .metas
            .iter()
            .filter(|m| m.flags().is_truncated())
            .count();
        slot.count(Counter::Requests, 1);
        slot.count(Counter::Texts, (request.metas.len() - failed) as u64);
        slot.count(Counter::FailedTexts, failed as u64);
        slot.count(Counter::Truncated, truncated as u64);
        let started = request.timing.started_ns.saturating_sub(request.arrived_ns);
        slot.histogram(Stage::Queue).record(started);
        slot.histogram(Stage::Total)
            .record(now_ns().saturating_sub(request.sent_ns));
        let client = request.client;
        let sent = request.answer(self.head(Status::Ok));
        self.delivered(sent, client);
    }

    /// Ends a request without rows.
    pub(crate) fn end(&mut self, request: Request, status: Status) {
        if request.is_abandoned() {
            self.place.slot().count(Counter::Cancelled, 1);
            return;
        }
        if !self.has_room(now_ns()) {
            // Dropped without a word; the client sees that, and why.
            self.place.slot().count(Counter::RefusedMemory, 1);
            return;
        }
        self.place.slot().count(Refused::with(status).counter(), 1);
        let client = request.client;
        let sent = request.refuse(self.head(status));
        self.delivered(sent, client);
    }

    fn delivered(&self, sent: Result<(), RingError>, client: usize) {
        if let Err(error) = sent {
            // The client is gone or its slots are; there is nobody to tell.
            tracing::debug!(%error, "an answer was not delivered");
            self.place.slot().count(Counter::Undelivered, 1);
        }
        // The number is the client's word: a wrong one wakes somebody for nothing.
        if client < CLIENTS_MAX {
            ring_bell(&self.bells.clients[client].bell);
        }
    }

    /// Drops requests nobody waits for any more and answers those whose deadline has passed.
    pub(crate) fn drop_lost(&mut self, now_ns: u64) {
        let lost = self.queue.lost(now_ns);
        self.end_all(&lost);
    }

    /// Answers those that the last choice of a batch gave up.
    pub(crate) fn end_dropped(&mut self) {
        let dropped = self.queue.take_dropped();
        self.end_all(&dropped);
    }

    fn end_all(&mut self, places: &[usize]) {
        for &place in places {
            if let Some(request) = self.queue.remove(place) {
                self.end(request, Status::DeadlineExceeded);
            }
        }
        // Where no batch follows, nobody else would say that they are gone.
        if !places.is_empty() {
            self.publish_load();
        }
    }

    pub(crate) fn publish_load(&self) {
        let slot = self.place.slot();
        slot.load_texts.store(self.queue.texts, Ordering::Relaxed);
        slot.load_tokens.store(self.queue.tokens, Ordering::Relaxed);
    }
}
