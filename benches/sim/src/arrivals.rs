//! Requests at a load.

use embedring_traffic::{Arrivals, Mix, PARAGRAPH_TIMES};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::device::{Costs, Device};
use crate::request::{Kind, Request};

/// `count` requests at `load`, where load 1 is as much work as the device can do, the fixed time of
/// batches not counted.
pub(crate) fn requests(
    arrivals: &Arrivals,
    device: &Device,
    load: f64,
    count: usize,
    seed: u64,
) -> Vec<Request> {
    let gap_ns = mean_work_ns(&device.costs) / load;
    embedring_traffic::requests(arrivals, &Mix::default(), gap_ns, count, seed)
        .into_iter()
        .map(|request| {
            let time_ns = match request.kind {
                Kind::Question => device.deadline_ns,
                Kind::Paragraph => device.deadline_ns * PARAGRAPH_TIMES,
            };
            Request {
                kind: request.kind,
                arrived_ns: request.due_ns,
                deadline_ns: request.due_ns + time_ns,
                tokens: request.tokens,
            }
        })
        .collect()
}

/// Mean work of a text.
pub(crate) fn mean_work_ns(costs: &Costs) -> f64 {
    const TEXTS: u32 = 100_000;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mix = Mix::default();
    let sum: f64 = (0..TEXTS)
        .map(|_| costs.work_ns(mix.draw(&mut random).tokens))
        .sum();
    sum / f64::from(TEXTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{CPU, float};

    #[test]
    fn loads_are_what_they_say() {
        for (arrivals, within) in [(Arrivals::Poisson, 0.03), (Arrivals::Bursty, 0.15)] {
            let requests = requests(&arrivals, &CPU, 0.5, 60_000, 1);
            let work: f64 = requests.iter().map(|r| CPU.costs.work_ns(r.tokens)).sum();
            let load = work / float(requests.last().unwrap().arrived_ns);
            assert!(
                (load / 0.5 - 1.0).abs() < within,
                "{}: {load}",
                arrivals.name()
            );
        }
    }
}
