//! Tunes every policy on some seeds and measures it on others.

use std::ops::Range;

use anyhow::{Context as _, Result};
use embedring_traffic::Arrivals;
use serde::Serialize;

use crate::arrivals::requests;
use crate::contenders::{Contender, Form, Group};
use crate::device::Device;
use crate::request::Kind;
use crate::run::{Outcome, run};

/// How much is simulated.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Extent {
    /// Requests of a run.
    pub(crate) requests: usize,
    /// Seeds that numbers are chosen on.
    pub(crate) tuned_on: Range<u64>,
    /// Seeds that results are of.
    pub(crate) measured_on: Range<u64>,
}

/// Results on one device under one kind of arrivals.
#[derive(Debug, Serialize)]
pub(crate) struct Panel {
    pub(crate) device: Device,
    pub(crate) arrivals: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// Results of one policy.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) policy: &'static str,
    #[serde(skip)]
    pub(crate) group: Group,
    pub(crate) numbers: String,
    /// The highest load at which 99 % of the requests are answered in time.
    pub(crate) load_at_99: f64,
    /// Share in time by kind at that load.
    pub(crate) kinds_at_99: [f64; 2],
    pub(crate) curve: Vec<Point>,
}

/// At one load.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) load: f64,
    /// Requests in time, of those that a device of load 1 could do: attainment times load.
    pub(crate) goodput: f64,
    pub(crate) questions: f64,
    pub(crate) paragraphs: f64,
}

pub(crate) const LOADS: [f64; 10] = [0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0];
const WANTED: f64 = 0.99;
const LOAD_STEP: f64 = 0.005;
const LOAD_MAX: f64 = 1.3;

/// Runs all policies.
pub(crate) fn panel(
    device: &Device,
    arrivals: &Arrivals,
    contenders: &[Contender],
    extent: &Extent,
) -> Result<Panel> {
    let bench = Bench {
        device,
        arrivals,
        requests: extent.requests,
    };
    let rows = contenders
        .iter()
        .map(|contender| {
            let form = bench.tuned(contender, &extent.tuned_on)?;
            Ok(bench.row(contender, form, &extent.measured_on))
        })
        .collect::<Result<_>>()?;
    Ok(Panel {
        device: device.clone(),
        arrivals: arrivals.name(),
        rows,
    })
}

struct Bench<'a> {
    device: &'a Device,
    arrivals: &'a Arrivals,
    requests: usize,
}

impl Bench<'_> {
    fn outcome(&self, form: &Form, load: f64, seeds: &Range<u64>) -> Outcome {
        let mut sum = Outcome::default();
        for seed in seeds.clone() {
            let requests = requests(self.arrivals, self.device, load, self.requests, seed);
            sum.add(&run(
                self.device,
                &requests,
                &mut *(form.make)(self.device),
                seed,
            ));
        }
        sum
    }

    /// By halving: attainment falls with load.
    fn load_at_99(&self, form: &Form, seeds: &Range<u64>) -> f64 {
        let (mut low, mut high) = (0.0, LOAD_MAX);
        while high - low > LOAD_STEP {
            let middle = f64::midpoint(low, high);
            if self.outcome(form, middle, seeds).attainment() >= WANTED {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The form with the highest load at 99 %.
    fn tuned<'c>(&self, contender: &'c Contender, seeds: &Range<u64>) -> Result<&'c Form> {
        let mut best: Option<(f64, &Form)> = None;
        for form in &contender.forms {
            if contender.forms.len() == 1 {
                return Ok(form);
            }
            let load = self.load_at_99(form, seeds);
            if best.is_none_or(|(most, _)| load > most) {
                best = Some((load, form));
            }
        }
        let (_, form) = best.with_context(|| format!("{} has no form", contender.name))?;
        Ok(form)
    }

    fn row(&self, contender: &Contender, form: &Form, seeds: &Range<u64>) -> Row {
        let load_at_99 = self.load_at_99(form, seeds);
        let at_99 = self.outcome(form, load_at_99.max(LOAD_STEP), seeds);
        let curve = LOADS.map(|load| {
            let outcome = self.outcome(form, load, seeds);
            Point {
                load,
                goodput: load * outcome.attainment(),
                questions: outcome.attainment_of(Kind::Question),
                paragraphs: outcome.attainment_of(Kind::Paragraph),
            }
        });
        Row {
            policy: contender.name,
            group: contender.group,
            numbers: form.numbers.clone(),
            load_at_99,
            kinds_at_99: Kind::ALL.map(|kind| at_99.attainment_of(kind)),
            curve: curve.to_vec(),
        }
    }
}
