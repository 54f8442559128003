//! Several devices, one stream of requests: who runs what.
//!
//! Each device has our schedule (see `ours`); what differs is who is sent what. Load 1 is as much work as
//! the first, fastest device can do.

use std::iter::Peekable;
use std::slice::Iter;

use embedring_policy::{Candidate, Cost, Errand, Running, route};
use embedring_protocol::{Load, WorkerIndex};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::device::Device;
use crate::ours::Ours;
use crate::request::Request;
use crate::run::{Next, Outcome, Policy as _};

/// Who sends requests to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Router {
    /// The policy crate's, with the costs that the planner learns.
    Ours,
    /// The same, told the true costs.
    OursKnowing,
    /// At random, in proportion to true speed.
    Weighted,
    /// To whoever has the fewest tokens.
    FewestTokens,
    /// To the fast one, until so many texts wait there; the number is tuned.
    Spill(usize),
}

impl Router {
    /// Whether the devices' schedules are told the true costs.
    fn is_told(self) -> bool {
        self != Self::Ours
    }
}

/// A device with what it runs and what waits for it.
struct Station {
    device: Device,
    schedule: Ours,
    random: ChaCha8Rng,
    batch: Option<Batch>,
}

struct Batch {
    requests: Vec<Request>,
    begun_ns: u64,
    end_ns: u64,
}

impl Station {
    fn new(device: &Device, router: Router, seed: u64) -> Self {
        Self {
            device: device.clone(),
            schedule: if router.is_told() {
                Ours::knowing(device)
            } else {
                Ours::learning(device)
            },
            random: ChaCha8Rng::seed_from_u64(seed),
            batch: None,
        }
    }

    fn running_tokens(&self) -> u64 {
        let batch = self.batch.as_ref();
        batch.map_or(0, |batch| batch.requests.iter().map(|r| r.tokens).sum())
    }

    fn tokens(&self) -> u64 {
        self.running_tokens() + self.schedule.queue().iter().map(|r| r.tokens).sum::<u64>()
    }

    /// As a client sees it on the board and in the plan.
    fn candidate(&self, index: usize, now_ns: u64) -> Option<Candidate> {
        let plan = self.schedule.plan();
        let cost = plan.map_or(Cost::DEFAULT, |(cost, _)| cost);
        Some(Candidate {
            load: Load {
                tokens: self.tokens(),
                ..Load::default()
            },
            running: self.batch.as_ref().map(|batch| Running {
                tokens: self.running_tokens(),
                for_ns: now_ns - batch.begun_ns,
            }),
            batch_tokens_max: plan.map_or(0, |(_, tokens)| tokens),
            ..Candidate::idle(WorkerIndex::new(index)?, cost)
        })
    }

    /// Begins a batch if there is one.
    fn begin(&mut self, now_ns: u64) {
        if self.batch.is_some() {
            return;
        }
        if let Next::Run(requests) = self.schedule.next(now_ns) {
            let run_ns = self.device.run_ns(&requests, &mut self.random);
            self.batch = Some(Batch {
                requests,
                begun_ns: now_ns,
                end_ns: now_ns + run_ns.max(1),
            });
        }
    }

    /// Ends the batch that is over.
    fn end(&mut self, now_ns: u64, outcome: &mut Outcome) {
        let Some(batch) = self.batch.take_if(|batch| batch.end_ns <= now_ns) else {
            return;
        };
        for request in batch
            .requests
            .iter()
            .filter(|r| batch.end_ns <= r.deadline_ns)
        {
            outcome.on_time[request.kind as usize] += 1;
        }
        self.schedule
            .ran(&batch.requests, batch.end_ns - batch.begun_ns);
    }
}

/// Runs `requests`, in order of arrival, over `devices`, the fastest first.
pub(crate) fn run_pool(
    devices: &[Device],
    requests: &[Request],
    router: Router,
    seed: u64,
) -> Outcome {
    let mut stations: Vec<_> = devices
        .iter()
        .zip(0_u64..)
        .map(|(device, number)| Station::new(device, router, seed ^ (0xdead + number)))
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xd1ce);
    let mut outcome = Outcome::default();
    let mut coming = requests.iter().peekable();
    while let Some(now_ns) = next_event(&stations, &mut coming) {
        for station in &mut stations {
            station.end(now_ns, &mut outcome);
        }
        while let Some(request) = coming.next_if(|request| request.arrived_ns <= now_ns) {
            outcome.arrived[request.kind as usize] += 1;
            let chosen = choose(&stations, request, router, now_ns, &mut random);
            stations[chosen].schedule.arrive(*request);
            stations[chosen].begin(now_ns);
        }
        for station in &mut stations {
            station.begin(now_ns);
        }
    }
    outcome
}

/// The next arrival or end of a batch.
fn next_event(stations: &[Station], coming: &mut Peekable<Iter<'_, Request>>) -> Option<u64> {
    let ends = stations
        .iter()
        .filter_map(|station| Some(station.batch.as_ref()?.end_ns));
    ends.chain(coming.peek().map(|request| request.arrived_ns))
        .min()
}

fn choose(
    stations: &[Station],
    request: &Request,
    router: Router,
    now_ns: u64,
    random: &mut ChaCha8Rng,
) -> usize {
    match router {
        Router::Ours | Router::OursKnowing => {
            let candidates: Vec<_> = stations
                .iter()
                .enumerate()
                .filter_map(|(index, station)| station.candidate(index, now_ns))
                .collect();
            let errand = Errand {
                time_ns: request.deadline_ns - now_ns,
                ..Errand::text(request.tokens)
            };
            route(&candidates, errand, random.random()).map_or(0, |routed| routed.index.get())
        }
        Router::Weighted => {
            let speed = |station: &Station| station.device.costs.token_ns.recip();
            let mut point = random.random::<f64>() * stations.iter().map(speed).sum::<f64>();
            let reached = |station: &Station| {
                point -= speed(station);
                point <= 0.0
            };
            stations.iter().position(reached).unwrap_or(0)
        }
        Router::FewestTokens => {
            let fewest = (0..stations.len()).min_by_key(|&index| stations[index].tokens());
            fewest.unwrap_or(0)
        }
        Router::Spill(texts) => {
            usize::from(stations[0].schedule.queue().len() >= texts).min(stations.len() - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::requests;
    use crate::device::CPU;
    use embedring_traffic::Arrivals;

    #[test]
    fn a_pool_of_one_is_a_device() {
        let requests = requests(&Arrivals::Poisson, &CPU, 0.7, 2_000, 1);
        let outcome = run_pool(&[CPU], &requests, Router::OursKnowing, 1);
        assert_eq!(outcome.arrived.iter().sum::<u64>(), 2_000);
        assert!(outcome.attainment() > 0.98, "{outcome:?}");
    }

    #[test]
    fn two_do_more_than_one_and_a_very_slow_one_does_no_harm() {
        for (ratio, load) in [(1.0, 1.6), (4.0, 1.05), (20.0, 0.9)] {
            let slow = CPU.slower(ratio);
            let requests = requests(&Arrivals::Poisson, &CPU, load, 4_000, 2);
            let both = run_pool(&[CPU, slow], &requests, Router::Ours, 2).attainment();
            let alone = run_pool(&[CPU], &requests, Router::Ours, 2).attainment();
            assert!(
                both > 0.97 && both + 0.005 > alone,
                "1:{ratio}: {both} beside {alone}"
            );
        }
    }
}
