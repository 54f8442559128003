//! Two devices of several ratios of speed: what the pool carries at 99 % in time, beside what each carries
//! alone.

use std::fmt::Write as _;
use std::ops::Range;

use serde::Serialize;

use crate::arrivals::requests;
use crate::device::{CPU, Device, GPU};
use crate::pool::{Router, run_pool};
use crate::run::Outcome;
use crate::study::Extent;
use embedring_traffic::Arrivals;

/// How often the fast device is as fast as the slow one.
const RATIOS: [f64; 5] = [1.0, 2.0, 4.0, 10.0, 20.0];
/// Texts that may wait at the fast device before the next goes to the slow one.
const SPILLS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const WANTED: f64 = 0.99;
const LOAD_STEP: f64 = 0.005;
/// From nothing to the largest load.
const STEPS: f64 = 12.0;
/// Of the work that all devices can do.
const LOAD_MAX: f64 = 1.3;

/// One pair of devices under one kind of arrivals. Loads are of what the fast device can do.
#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    name: String,
    arrivals: &'static str,
    /// As much work as both can do.
    capacity: f64,
    fast_at_99: f64,
    slow_at_99: f64,
    rows: Vec<Row>,
}

/// One way to send requests to the two.
#[derive(Debug, Serialize)]
struct Row {
    router: &'static str,
    numbers: String,
    load_at_99: f64,
}

impl Row {
    /// Of the sum of what both carry alone.
    fn of_sum(&self, pair: &Pair) -> f64 {
        self.load_at_99 / (pair.fast_at_99 + pair.slow_at_99)
    }
}

/// The pairs that are simulated, by name.
fn pairs() -> Vec<(String, [Device; 2])> {
    let scaled = [("cpu", CPU), ("gpu", GPU)]
        .into_iter()
        .flat_map(|(name, device)| {
            RATIOS.map(|ratio| {
                (
                    format!("{name} 1:{ratio}"),
                    [device.clone(), device.slower(ratio)],
                )
            })
        });
    // Different in kind: one that starts slowly and runs fast beside one that starts at once.
    let mixed = [("gpu and cpu".to_owned(), [GPU, CPU.with_deadline_of(&GPU)])];
    scaled.chain(mixed).collect()
}

/// Simulates those whose name and arrivals contain `only`.
pub(crate) fn study(
    arrivals: &[Arrivals],
    extent: &Extent,
    only: &str,
    mut say: impl FnMut(&str),
) -> Vec<Pair> {
    let mut results = Vec::new();
    for (name, devices) in pairs() {
        for arrivals in arrivals {
            let heading = format!("pool {name} {}", arrivals.name());
            if heading.contains(only) {
                say(&heading);
                results.push(pair(&name, &devices, arrivals, extent));
            }
        }
    }
    results
}

fn pair(name: &str, devices: &[Device; 2], arrivals: &Arrivals, extent: &Extent) -> Pair {
    let capacity = crate::arrivals::mean_work_ns(&devices[0].costs)
        / crate::arrivals::mean_work_ns(&devices[1].costs)
        + 1.0;
    let bench = Bench {
        base: &devices[0],
        arrivals,
        requests: extent.requests,
        load_max: capacity * LOAD_MAX,
    };
    let measured = &extent.measured_on;
    let spill = SPILLS.map(Router::Spill).into_iter().max_by(|a, b| {
        let load = |router| bench.load_at_99(devices, router, &extent.tuned_on);
        load(*a).total_cmp(&load(*b))
    });
    let row = |router: &'static str, numbers: String, policy| Row {
        router,
        numbers,
        load_at_99: bench.load_at_99(devices, policy, measured),
    };
    let mut rows = vec![
        row("ours", String::new(), Router::Ours),
        row(
            "ours with the true costs",
            String::new(),
            Router::OursKnowing,
        ),
        row("at random by speed", String::new(), Router::Weighted),
        row("fewest tokens", String::new(), Router::FewestTokens),
    ];
    if let Some(spill @ Router::Spill(texts)) = spill {
        rows.push(row("spill when so many wait", texts.to_string(), spill));
    }
    Pair {
        name: name.to_owned(),
        arrivals: arrivals.name(),
        capacity,
        fast_at_99: bench.load_at_99(&devices[..1], Router::Ours, measured),
        slow_at_99: bench.load_at_99(&devices[1..], Router::Ours, measured),
        rows,
    }
}

struct Bench<'a> {
    /// The device whose load 1 is meant.
    base: &'a Device,
    arrivals: &'a Arrivals,
    requests: usize,
    load_max: f64,
}

impl Bench<'_> {
    /// The first load at which too many are late, by steps and then by halving: a run of so many requests may be
    /// over before the first burst where load is high.
    fn load_at_99(&self, devices: &[Device], router: Router, seeds: &Range<u64>) -> f64 {
        let step = self.load_max / STEPS;
        let mut low = 0.0;
        while low < self.load_max && self.is_kept(devices, router, seeds, low + step) {
            low += step;
        }
        let mut high = low + step;
        while high - low > LOAD_STEP {
            let middle = f64::midpoint(low, high);
            if self.is_kept(devices, router, seeds, middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    fn is_kept(&self, devices: &[Device], router: Router, seeds: &Range<u64>, load: f64) -> bool {
        let mut sum = Outcome::default();
        for seed in seeds.clone() {
            let requests = requests(self.arrivals, self.base, load, self.requests, seed);
            sum.add(&run_pool(devices, &requests, router, seed));
        }
        sum.attainment() >= WANTED
    }
}

/// Markdown of all pairs.
pub(crate) fn markdown(pairs: &[Pair], heading: &str) -> String {
    let mut text = format!(
        "# Simulator: two devices\n\n{heading}\n\nLoad at which 99 % of the requests are in time; load 1 is as much \
         work as the fast device can do. \"Of the sum\" is of what both carry alone, each with our schedule.\n\n"
    );
    text.push_str(
        "| devices, arrivals | fast alone | slow alone | ours | of the sum | beside the fast alone | with the true \
         costs | at random by speed | fewest tokens | spill (waiting texts) |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for pair in pairs {
        let loads: Vec<f64> = pair.rows.iter().map(|row| row.load_at_99).collect();
        let [ours, knowing, weighted, fewest, spill] = loads[..] else {
            continue;
        };
        // Writing to a string does not fail.
        writeln!(
            text,
            "| {}, {} | {:.2} | {:.2} | {ours:.2} | {:.0} % | {:.2} × | {knowing:.2} | {weighted:.2} | {fewest:.2} | {spill:.2} ({}) |",
            pair.name,
            pair.arrivals,
            pair.fast_at_99,
            pair.slow_at_99,
            100.0 * pair.rows[0].of_sum(pair),
            ours / pair.fast_at_99,
            pair.rows[4].numbers,
        )
        .unwrap_or_default();
    }
    text
}
