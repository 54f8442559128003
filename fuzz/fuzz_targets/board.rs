//! The board as its readers see it: memory that another process wrote.
//!
//! A whole board is filled from the input, sequence words of the locks included, read through every
//! accessor, and what was read goes into every decision.
//!
//! Input: how to fill (1 byte), a worker's place (1), then [`HEAD_BYTES`] for the front of the board
//! (header, scheduler, plan), then what is laid over the worker's place.

#![no_main]

use std::cell::RefCell;

use embedring_fuzz::Bytes;
use embedring_optimizer::{Planner, PlanningInput};
use embedring_policy::{
    Admission, Bounds, Candidate, Cost, Errand, Late, Limits, Newcomer, Refusal, Running, Schedule,
    Share, Waiting, admit, due_ns, route,
};
use embedring_protocol::{
    BOARD_MAGIC, BUCKETS, BoardLayout, Class, Counter, Load, Plan, Precision, ProcessId, Report,
    Stage, WorkerIndex, WorkerSlot, WorkerState, bucket_of, bucket_upper_ns, quantile_ns,
};
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

/// The board up to its first worker.
const HEAD_BYTES: usize = std::mem::offset_of!(BoardLayout, workers);
const BOARD_BYTES: usize = size_of::<BoardLayout>();
const SLOT_BYTES: usize = size_of::<WorkerSlot>();

const COUNTERS: [Counter; 15] = [
    Counter::Requests,
    Counter::Texts,
    Counter::Tokens,
    Counter::Batches,
    Counter::Truncated,
    Counter::FailedTexts,
    Counter::RefusedOverload,
    Counter::RefusedDeadline,
    Counter::RefusedMemory,
    Counter::RefusedOther,
    Counter::BadRequests,
    Counter::Cancelled,
    Counter::Undelivered,
    Counter::FailedBatches,
    Counter::Loads,
];

thread_local! {
    static MEMORY: RefCell<Vec<u64>> = RefCell::new(vec![0; BOARD_BYTES / 8]);
}

fuzz_target!(|data: &[u8]| {
    MEMORY.with_borrow_mut(|memory| {
        memory.fill(0);
        let index = fill(memory.as_mut_bytes(), data);
        // SAFETY: the vector is aligned to 8 and has the size of a board; a board is atomics only,
        // so any bytes are one; nothing else refers to the vector while the reference lives.
        let board = unsafe { &*memory.as_ptr().cast::<BoardLayout>() };
        look_at(board, index, &mut Bytes::new(data));
    });
});

fn fill(board: &mut [u8], data: &[u8]) -> usize {
    let mut input = Bytes::new(data);
    let (mode, index) = (input.u8(), usize::from(input.u8() % 16));
    let rest = input.rest();
    let (head, slot) = rest.split_at(rest.len().min(HEAD_BYTES));
    board[..head.len()].copy_from_slice(head);
    let place = &mut board[HEAD_BYTES + index * SLOT_BYTES..][..SLOT_BYTES];
    if mode & 1 == 0 || slot.is_empty() {
        let bytes = slot.len().min(SLOT_BYTES);
        place[..bytes].copy_from_slice(&slot[..bytes]);
    } else {
        // Over and over, so that histograms and reports at the far end get something too.
        for chunk in place.chunks_mut(slot.len()) {
            chunk.copy_from_slice(&slot[..chunk.len()]);
        }
    }
    index
}

fn look_at(board: &BoardLayout, index: usize, numbers: &mut Bytes<'_>) {
    let _ = board
        .magic
        .load(embedring_protocol::sync::Ordering::Acquire)
        == BOARD_MAGIC;
    let _ = board.header.read();
    let scheduler = board.scheduler.process.read().unwrap_or_default();
    assert_eq!(
        ProcessId::from_packed(scheduler.packed()).packed(),
        scheduler.packed()
    );
    let mut planner = Planner::default();
    let mut loads = Vec::new();
    for (place, slot) in board.workers.iter().enumerate() {
        // Only one is filled; the others are read now and then, which is enough for zeroes.
        if place == index || place == 0 {
            if let Some(identity) = slot.identity.read() {
                planner.begin(place, &identity);
            }
            look_at_worker(slot, numbers, &mut |report| planner.observe(place, report));
        }
        loads.push(slot.load());
    }
    let now_ns = numbers.u64();
    let planned = planner.plan(PlanningInput {
        batch_time_target_ns: numbers.u64(),
        now_ns,
    });
    for (plan, entry) in planned.workers.iter().enumerate() {
        let none = entry.ns_per_token == 0;
        assert!(
            none || entry.batch_tokens_max > 0 && entry.queue_tokens_max > 0,
            "worker {plan}"
        );
    }
    let restored = Planner::restore(&planner.save()).expect("what was saved comes back");
    assert_eq!(restored.accuracies(), planner.accuracies());
    let plan = Cost::usable(board.scheduler.plan.read(), now_ns);
    for plan in [None, plan, Some(planned)] {
        decide(plan.as_ref(), &loads, numbers);
    }
}

fn look_at_worker(slot: &WorkerSlot, numbers: &mut Bytes<'_>, observe: &mut dyn FnMut(&Report)) {
    let state = slot.state();
    assert_eq!(WorkerState::from_wire(state as u32), state);
    let _ = (state.name(), state.takes_requests());
    if let Some(identity) = slot.identity.read() {
        for name in [identity.name, identity.device, identity.model] {
            let text = name.to_text();
            assert!(text.len() <= size_of_val(&name) && !text.contains('\0'));
        }
        assert_eq!(identity.model_id.to_string().len(), 32);
        let _ = u8::try_from(identity.precision).map(Precision::from_wire);
        let _ = format!("{identity:?}");
    }
    for counter in COUNTERS {
        let _ = slot.counter(counter);
    }
    for stage in [Stage::Queue, Stage::Tokenize, Stage::Run, Stage::Total] {
        let histogram = slot.histogram(stage);
        let counts = histogram.counts();
        for q in [0.0, 0.5, 0.99, 1.0, f64::NAN] {
            let quantile = quantile_ns(&counts, q);
            assert_eq!(quantile.is_none(), counts.iter().all(|count| *count == 0));
        }
        let _ = histogram.sum_ns();
        let duration = numbers.u64();
        let bucket = bucket_of(duration);
        assert!(bucket < BUCKETS && duration <= bucket_upper_ns(bucket));
    }
    let (reports, _) = slot.reports_since(numbers.u64());
    assert!(reports.len() <= embedring_protocol::REPORTS_PER_WORKER);
    reports.iter().for_each(observe);
}

fn decide(plan: Option<&Plan>, loads: &[Load], numbers: &mut Bytes<'_>) {
    let candidates: Vec<Candidate> = WorkerIndex::all()
        .zip(loads)
        .map(|(index, load)| Candidate {
            load: *load,
            running: numbers.u8().is_multiple_of(2).then(|| Running {
                tokens: numbers.u64(),
                for_ns: numbers.u64(),
            }),
            batch_tokens_max: plan.map_or(0, |plan| plan.workers[index.get()].batch_tokens_max),
            silent_ns: numbers.u64(),
            pace_1024: numbers.u64(),
            ..Candidate::idle(index, Cost::from_plan(plan, index))
        })
        .collect();
    let (tokens, left, dice) = (numbers.u64(), numbers.u64(), numbers.u64());
    let errand = Errand {
        left,
        ..Errand::text(tokens)
    };
    let routed = route(&candidates, errand, dice).expect("there are candidates");
    let least = candidates.iter().map(|c| c.completion_ns(tokens)).min();
    let least = least.expect("there are candidates");
    assert!(routed.completion_ns <= least.saturating_add(least / 8));
    assert!(routed.tokens >= tokens && routed.tokens <= left.max(tokens));

    let bounds = Bounds {
        texts_max: numbers.u64(),
        tokens_max: numbers.u64(),
    };
    let (texts, left_ns) = (numbers.u64(), numbers.u64());
    let share = Share {
        own_tokens: numbers.u64(),
        all_tokens: numbers.u64(),
        clients: numbers.u64(),
    };
    let newcomer = Newcomer {
        texts,
        tokens,
        left_ns,
        share,
        late: match numbers.u8() % 3 {
            0 => Late::No,
            1 => Late::After(numbers.u64()),
            _ => Late::ByTurns,
        },
    };
    for candidate in &candidates {
        let (load, cost) = (&candidate.load, candidate.cost);
        assert!(cost.tokens_within(left_ns) > 0);
        let admission = admit(load, bounds, cost, newcomer);
        if left_ns > 0 && load.texts == 0 {
            assert_eq!(admission, Admission::Take, "an empty queue takes anything");
        }
        if let Admission::Refuse(Refusal::Late { predicted_ns }) = admission {
            let is_by_turns = matches!(newcomer.late, Late::ByTurns);
            assert!(left_ns == 0 || !is_by_turns || predicted_ns > left_ns);
        }
    }
    pick(plan, numbers);
}

fn pick(plan: Option<&Plan>, numbers: &mut Bytes<'_>) {
    let entry = plan.map(|plan| plan.workers[0]).unwrap_or_default();
    let now_ns = numbers.u64();
    let waiting: Vec<Waiting> = (0..numbers.u8() % 32)
        .map(|_| {
            let class = Class::from_wire(numbers.u8() % 2).unwrap_or_default();
            let (arrived_ns, deadline_ns) = (numbers.u64(), numbers.u64());
            let backlog_ns = numbers.u64() >> (numbers.u8() % 64);
            Waiting {
                due_ns: due_ns(class, arrived_ns, deadline_ns, backlog_ns),
                deadline_ns,
                work_ns: numbers.u64() >> (numbers.u8() % 64),
                arrived_ns,
                texts: usize::from(numbers.u8()),
                tokens: numbers.u64(),
                share_times: numbers.u64(),
            }
        })
        .collect();
    let limits = Limits {
        fixed_ns: entry.ns_per_batch,
        batch_ns_max: entry.batch_tokens_max,
        worst_1024: numbers.u64() >> (numbers.u8() % 64),
    };
    let mut schedule = Schedule::default();
    if let Some(last) = waiting.len().checked_sub(1) {
        let forecast = schedule.forecast(&waiting, last, numbers.u64(), limits);
        assert!(forecast.end_ns >= limits.fixed_ns.min(1));
    }
    let mut places = schedule.pick(&waiting, now_ns, limits).places.to_vec();
    assert_eq!(
        places.is_empty(),
        waiting.is_empty(),
        "somebody always runs"
    );
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(places.iter().all(|&place| place < waiting.len()));
}
