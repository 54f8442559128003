//! Discrete events: one device, one policy.

use std::iter::Peekable;
use std::slice::Iter;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::device::Device;
use crate::request::{Kind, Request};

/// What a policy does with a free device.
#[derive(Debug)]
pub(crate) enum Next {
    /// Runs these.
    Run(Vec<Request>),
    /// Nothing before this time, unless somebody arrives.
    Wait(u64),
    /// Nothing until somebody arrives.
    Idle,
}

/// Who runs when.
pub(crate) trait Policy {
    /// A request arrives.
    fn arrive(&mut self, request: Request);
    /// The device is free.
    fn next(&mut self, now_ns: u64) -> Next;
    /// A batch took so long.
    fn ran(&mut self, _batch: &[Request], _run_ns: u64) {}
}

/// What became of the requests of one run or of several, by kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) arrived: [u64; 2],
    pub(crate) on_time: [u64; 2],
}

impl Outcome {
    /// Share of all requests that were answered in time.
    pub(crate) fn attainment(&self) -> f64 {
        share(self.on_time.iter().sum(), self.arrived.iter().sum())
    }

    /// The same of one kind.
    pub(crate) fn attainment_of(&self, kind: Kind) -> f64 {
        share(self.on_time[kind as usize], self.arrived[kind as usize])
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for kind in Kind::ALL.map(|kind| kind as usize) {
            self.arrived[kind] += other.arrived[kind];
            self.on_time[kind] += other.on_time[kind];
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn share(part: u64, all: u64) -> f64 {
    if all == 0 {
        1.0
    } else {
        part as f64 / all as f64
    }
}

/// Runs `requests`, in order of arrival, through `policy`.
pub(crate) fn run(
    device: &Device,
    requests: &[Request],
    policy: &mut dyn Policy,
    seed: u64,
) -> Outcome {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xdead);
    let mut outcome = Outcome::default();
    let mut coming = requests.iter().peekable();
    let mut now_ns = 0;
    loop {
        arrive(&mut coming, now_ns, policy, &mut outcome);
        match policy.next(now_ns) {
            Next::Run(batch) => {
                assert!(!batch.is_empty(), "an empty batch");
                let run_ns = device.run_ns(&batch, &mut random);
                now_ns += run_ns;
                // They come while it runs.
                arrive(&mut coming, now_ns, policy, &mut outcome);
                for request in batch.iter().filter(|r| now_ns <= r.deadline_ns) {
                    outcome.on_time[request.kind as usize] += 1;
                }
                policy.ran(&batch, run_ns);
            }
            Next::Wait(until_ns) => {
                let next = coming.peek().map_or(u64::MAX, |request| request.arrived_ns);
                now_ns = until_ns.min(next).max(now_ns + 1);
            }
            Next::Idle => match coming.peek() {
                Some(request) => now_ns = request.arrived_ns,
                None => return outcome,
            },
        }
    }
}

fn arrive(
    coming: &mut Peekable<Iter<'_, Request>>,
    now_ns: u64,
    policy: &mut dyn Policy,
    outcome: &mut Outcome,
) {
    while let Some(request) = coming.next_if(|request| request.arrived_ns <= now_ns) {
        outcome.arrived[request.kind as usize] += 1;
        policy.arrive(*request);
    }
}
