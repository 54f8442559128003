//! How long one choice takes.

use std::time::Instant;

use embedring_policy::{Limits, Schedule, Waiting};
use embedring_traffic::Arrivals;
use serde::Serialize;

use crate::arrivals::requests;
use crate::device::{CPU, Device, GPU, float, whole};

/// Times of choices among so many requests under overload, the slowest way through the schedule.
#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    pub(crate) device: String,
    pub(crate) queued: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

const ROUNDS: usize = 2_000;

/// On both devices, with queues of several lengths.
pub(crate) fn decisions() -> Vec<Decision> {
    [CPU, GPU]
        .iter()
        .flat_map(|device| [96, 1_000].map(|queued| decision(device, queued)))
        .collect()
}

fn decision(device: &Device, queued: usize) -> Decision {
    let mut schedule = Schedule::default();
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let (waiting, now_ns) = queue(device, queued, round as u64);
            let limits = Limits {
                fixed_ns: whole(device.costs.fixed_ns),
                batch_ns_max: device.deadline_ns / 2,
                worst_1024: 1178,
            };
            #[expect(clippy::disallowed_methods, reason = "a duration within this function")]
            let begun = Instant::now();
            std::hint::black_box(schedule.pick(&waiting, now_ns, limits).places.len());
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    Decision {
        device: device.name.to_string(),
        queued,
        p50_us: times[ROUNDS / 2],
        p99_us: times[ROUNDS * 99 / 100],
    }
}

/// A queue that grew at three times what the device can do, as it stands when the first are nearly late.
fn queue(device: &Device, queued: usize, seed: u64) -> (Vec<Waiting>, u64) {
    let requests = requests(&Arrivals::Poisson, device, 3.0, queued, seed);
    let waiting = requests
        .iter()
        .map(|request| Waiting {
            due_ns: request.deadline_ns,
            deadline_ns: request.deadline_ns,
            work_ns: whole(device.costs.work_ns(request.tokens)),
            texts: 1,
            ..Waiting::default()
        })
        .collect();
    (waiting, whole(float(device.deadline_ns) * 0.9))
}
