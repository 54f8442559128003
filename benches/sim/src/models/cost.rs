//! What it costs to ask a model, and to choose with what it said.

use std::time::Instant;

use embedring_learned::{Library, Rows};
use embedring_optimizer::TrainingSet;
use embedring_policy::{Cost, Limits, Schedule, Waiting};
use embedring_protocol::Corrections;
use embedring_traffic::Arrivals;
use serde::Serialize;

use crate::arrivals::requests;
use crate::device::{CPU, Device, GPU, float, whole};

const ROUNDS: usize = 2_000;
/// Requests that wait.
const QUEUED: usize = 96;

/// Microseconds to choose among 96 requests under overload, costs of all of them included.
#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    pub(crate) device: String,
    pub(crate) corrected: bool,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Microseconds to learn nothing and ask something: the table of one worker, and one row.
#[derive(Debug, Serialize)]
pub(crate) struct Asked {
    pub(crate) model: &'static str,
    pub(crate) table_us: f64,
    pub(crate) row_us: f64,
}

pub(crate) fn decisions() -> Vec<Decision> {
    [CPU, GPU]
        .iter()
        .flat_map(|device| [false, true].map(|corrected| decision(device, corrected)))
        .collect()
}

fn decision(device: &Device, corrected: bool) -> Decision {
    let factor = u16::from(corrected) * 1_030;
    let cost = Cost {
        ns_per_batch: whole(device.costs.fixed_ns),
        ns_per_token: whole(device.costs.token_ns),
        ps_per_square: whole(device.costs.square_ns * 1e3),
        corrections: Corrections::from([[factor; 4]; 12]),
        ..Cost::DEFAULT
    };
    let mut schedule = Schedule::default();
    let mut waiting = Vec::new();
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let queue = requests(&Arrivals::Poisson, device, 3.0, QUEUED, round as u64);
            let now_ns = whole(float(device.deadline_ns) * 0.9);
            timed(|| {
                let tokens = || queue.iter().map(|request| request.tokens);
                let squares = tokens().map(|tokens| tokens * tokens).sum();
                let cost = cost.for_next_batch(tokens().sum(), squares, 8_192);
                waiting.clear();
                waiting.extend(queue.iter().map(|request| Waiting {
                    due_ns: request.deadline_ns,
                    deadline_ns: request.deadline_ns,
                    work_ns: cost.work_ns(request.tokens, request.tokens * request.tokens),
                    texts: 1,
                    ..Waiting::default()
                }));
                let limits = Limits {
                    fixed_ns: cost.ns_per_batch,
                    batch_ns_max: device.deadline_ns / 2,
                    worst_1024: cost.worst_1024,
                };
                std::hint::black_box(schedule.pick(&waiting, now_ns, limits).places.len());
            })
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    Decision {
        device: device.name.to_string(),
        corrected,
        p50_us: times[ROUNDS / 2],
        p99_us: times[ROUNDS * 99 / 100],
    }
}

/// Of a model that learned from 2,000 rows; `None` when the library fails.
pub(crate) fn asked(model: &'static str, library: &dyn Library) -> Option<Asked> {
    let rows: Vec<f32> = (0_u16..2_000)
        .flat_map(|row| {
            (1_u16..)
                .take(TrainingSet::WIDTH)
                .map(move |column| f32::from(row * column % 97))
        })
        .collect();
    let targets: Vec<f32> = rows
        .chunks(TrainingSet::WIDTH)
        .map(|row| (row[0] - row[3]) / 100.0)
        .collect();
    let trained = library
        .train(Rows::new(&rows, TrainingSet::WIDTH)?, &targets)
        .ok()?;
    let median = |count: usize| {
        let asked = Rows::new(&rows[..count * TrainingSet::WIDTH], TrainingSet::WIDTH)?;
        let mut times: Vec<f64> = (0..200)
            .map(|_| timed(|| drop(std::hint::black_box(trained.predict(asked)))))
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        Some(times[100])
    };
    Some(Asked {
        model,
        table_us: median(48)?,
        row_us: median(1)?,
    })
}

/// Microseconds.
fn timed(body: impl FnOnce()) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "a duration within this function")]
    let begun = Instant::now();
    body();
    begun.elapsed().as_secs_f64() * 1e6
}
