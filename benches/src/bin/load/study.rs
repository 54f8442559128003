//! Tunes every policy on some seeds and measures it on others.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::instance::Instance;
use crate::policies::{Form, Group, Policy};

/// How much is measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Extent {
    /// Seconds of a run that tunes, and of one that counts.
    pub(crate) tune_seconds: u32,
    pub(crate) seconds: u32,
    /// Runs at each rate.
    pub(crate) repeats: u32,
    /// How often every policy has its turn.
    pub(crate) rounds: u32,
    /// How exactly limits are found, of them.
    pub(crate) precision: f64,
    /// Seconds of a point of the curve.
    pub(crate) curve_seconds: u32,
    /// Rates of the curve, in parts of our limit.
    #[serde(skip)]
    pub(crate) loads: &'static [f64],
}

/// A search for a limit.
#[derive(Clone, Copy, Debug)]
struct Search {
    seconds: u32,
    repeats: u32,
    precision: f64,
    seed: u64,
    /// Where to begin, in requests a second; 0 when nothing is known.
    start: f64,
    /// A limit below this does not matter.
    floor: f64,
}

impl Extent {
    pub(crate) const FULL: Self = Self {
        tune_seconds: 8,
        seconds: 20,
        repeats: 1,
        rounds: 3,
        precision: 0.03,
        curve_seconds: 12,
        loads: &[0.75, 1.0, 1.5, 2.0],
    };
    pub(crate) const QUICK: Self = Self {
        tune_seconds: 3,
        seconds: 4,
        repeats: 1,
        rounds: 1,
        precision: 0.1,
        curve_seconds: 4,
        loads: &[0.5, 1.5],
    };
}

/// Results under one kind of arrivals.
#[derive(Debug, Serialize)]
pub(crate) struct Panel {
    pub(crate) arrivals: String,
    pub(crate) rows: Vec<Row>,
}

/// Results of one policy.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) policy: &'static str,
    pub(crate) group: Group,
    pub(crate) numbers: String,
    /// Requests a second at which 99 % are in time, round by round; 0 where no rate was held.
    pub(crate) limits: Vec<f64>,
    /// Whether one of them is the generator's own.
    pub(crate) is_of_the_generator: bool,
    pub(crate) curve: Vec<Point>,
}

/// One run at one rate.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) rate: f64,
    pub(crate) goodput: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) questions: f64,
    pub(crate) paragraphs: f64,
    pub(crate) valid: bool,
}

impl Row {
    /// The median over the rounds.
    pub(crate) fn limit(&self) -> f64 {
        let mut limits = self.limits.clone();
        limits.sort_by(f64::total_cmp);
        limits.get(limits.len() / 2).copied().unwrap_or(0.0)
    }
}

/// What is measured with what.
#[derive(Debug, Serialize)]
pub(crate) struct Study {
    #[serde(skip)]
    pub(crate) bin: PathBuf,
    pub(crate) precision: String,
    pub(crate) deadline_ms: u32,
    pub(crate) extent: Extent,
}

/// Seeds that policies are tuned on; those of round N begin at N times 1,000,000.
const TUNING_SEED: u64 = 500_000_000;
const ROUND_SEEDS: u64 = 1_000_000;
/// How exactly limits are found in tuning, of them.
const TUNING_PRECISION: f64 = 0.05;
/// A policy whose limit in the first round is below this part of the best shipped one's is not measured again:
/// what it is out of reach of does not change by a few percent.
const HOPELESS: f64 = 0.8;
/// A policy that runs what is late has clients that wait for it so many times their deadline.
const PATIENCE: u32 = 20;

/// A policy in the form that did best on the seeds for tuning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuned<'p> {
    policy: &'p Policy,
    form: &'p Form,
    /// Its limit there; 0 when it is not known.
    limit: f64,
}

/// The same, and what was measured of it.
struct Entry<'p> {
    policy: &'p Policy,
    form: &'p Form,
    /// Its limit as last known; 0 when it is not.
    start: f64,
    row: Row,
}

impl<'p> Entry<'p> {
    fn new(tuned: &Tuned<'p>) -> Self {
        Self {
            policy: tuned.policy,
            form: tuned.form,
            start: tuned.limit,
            row: Row {
                policy: tuned.policy.name,
                group: tuned.policy.group,
                numbers: tuned.form.numbers.clone(),
                limits: Vec::new(),
                is_of_the_generator: false,
                curve: Vec::new(),
            },
        }
    }

    fn first_limit(&self) -> f64 {
        self.row.limits.first().copied().unwrap_or(0.0)
    }
}

impl Study {
    /// Measures under one kind of arrivals.
    pub(crate) fn panel(&self, arrivals: &str, tuned: &[Tuned<'_>]) -> Result<Panel> {
        let mut entries: Vec<Entry<'_>> = tuned.iter().map(Entry::new).collect();
        for round in 0..self.extent.rounds {
            self.round(round, arrivals, &mut entries)?;
        }
        let ours = entries
            .iter()
            .find(|entry| entry.policy.group == Group::Ours)
            .map_or(0.0, |entry| entry.row.limit());
        for entry in &mut entries {
            let instance = Instance::start(&self.bin, &self.settings(entry.form))?;
            for load in self.extent.loads {
                let point = self.point(&instance, entry.policy, arrivals, load * ours)?;
                entry.row.curve.extend(point);
            }
        }
        Ok(Panel {
            arrivals: arrivals.to_owned(),
            rows: entries.into_iter().map(|entry| entry.row).collect(),
        })
    }

    fn round(&self, round: u32, arrivals: &str, entries: &mut [Entry<'_>]) -> Result<()> {
        let best = entries
            .iter()
            .filter(|entry| entry.policy.group == Group::Shipped)
            .map(Entry::first_limit)
            .fold(0.0, f64::max);
        for entry in entries {
            let is_hopeless = entry.first_limit() < HOPELESS * best;
            if round > 0 && is_hopeless && entry.policy.group != Group::Ours {
                continue;
            }
            let search = Search {
                seconds: self.extent.seconds,
                repeats: self.extent.repeats,
                precision: self.extent.precision,
                seed: ROUND_SEEDS * u64::from(round),
                start: entry.start,
                floor: 0.0,
            };
            let (found, is_of_the_generator) =
                self.limit(entry.policy, entry.form, arrivals, search)?;
            let name = entry.policy.name;
            say(&format!(
                "{arrivals}, {name}: {found:.1} requests/s in round {}",
                round + 1
            ));
            entry.row.limits.push(found);
            entry.row.is_of_the_generator |= is_of_the_generator;
            entry.start = found;
        }
        Ok(())
    }

    /// The form with the highest limit on the seeds for tuning. A form whose limit is not well above the best one
    /// so far is only tried at that rate.
    pub(crate) fn tuned<'p>(&self, policy: &'p Policy, arrivals: &str) -> Result<Tuned<'p>> {
        let mut best: Option<(f64, &Form)> = None;
        for form in &policy.forms {
            if policy.forms.len() == 1 {
                best = Some((0.0, form));
                break;
            }
            let floor = best.map_or(0.0, |(most, _)| most * (1.0 + TUNING_PRECISION));
            let search = Search {
                seconds: self.extent.tune_seconds,
                repeats: 1,
                precision: TUNING_PRECISION,
                seed: TUNING_SEED,
                start: floor,
                floor,
            };
            let (limit, _) = self.limit(policy, form, arrivals, search)?;
            let found = if limit > 0.0 {
                format!("{limit:.1} requests/s")
            } else {
                format!("not {floor:.1} requests/s")
            };
            let (name, numbers) = (policy.name, &form.numbers);
            say(&format!(
                "{arrivals}, {name} with {numbers}: {found} on the seeds for tuning"
            ));
            if best.is_none_or(|(most, _)| limit > most) {
                best = Some((limit, form));
            }
        }
        let (limit, form) = best.with_context(|| format!("{} has no form", policy.name))?;
        Ok(Tuned {
            policy,
            form,
            limit,
        })
    }

    /// The limit in requests a second, and whether it is the generator's own; 0 when there is none.
    fn limit(
        &self,
        policy: &Policy,
        form: &Form,
        arrivals: &str,
        search: Search,
    ) -> Result<(f64, bool)> {
        let instance = Instance::start(&self.bin, &self.settings(form))?;
        let mut args = self.args(policy, arrivals, search.seconds);
        args.push("--find-limit".into());
        let mut push = |name: &str, value: String| args.extend([name.to_owned(), value]);
        push("--seed", search.seed.to_string());
        push("--repeats", search.repeats.to_string());
        push("--precision", search.precision.to_string());
        push("--floor", search.floor.to_string());
        if search.start > 0.0 {
            push("--rate", search.start.to_string());
        }
        let found = instance.load(&args)?;
        let limit = found.as_ref().map(|found| &found["limit"]);
        let rate = limit.and_then(|limit| limit["rate"].as_f64());
        let generator = limit.and_then(|limit| limit["is_of_the_generator"].as_bool());
        Ok((rate.unwrap_or(0.0), generator.unwrap_or(false)))
    }

    fn point(
        &self,
        instance: &Instance<'_>,
        policy: &Policy,
        arrivals: &str,
        rate: f64,
    ) -> Result<Option<Point>> {
        let mut args = self.args(policy, arrivals, self.extent.curve_seconds);
        args.extend(["--rate".into(), rate.to_string(), "--quiet".into()]);
        let Some(found) = instance.load(&args)? else {
            return Ok(None);
        };
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let summary = &found["summary"];
        let goodput = &summary["goodput_per_s"];
        let attainment = |kind: &str| {
            let kinds = summary["kinds"].as_array().into_iter().flatten();
            let mut of = kinds.filter(|one| one["kind"] == kind);
            of.next().map_or(0.0, |one| number(&one["attainment"]))
        };
        Ok(Some(Point {
            rate,
            goodput: number(&goodput["mean"]),
            low: number(&goodput["low"]),
            high: number(&goodput["high"]),
            questions: attainment("question"),
            paragraphs: attainment("paragraph"),
            valid: summary["valid"].as_bool().unwrap_or(false),
        }))
    }

    fn args(&self, policy: &Policy, arrivals: &str, seconds: u32) -> Vec<String> {
        let give_up_ms = if policy.runs_late {
            self.deadline_ms * PATIENCE
        } else {
            0
        };
        [
            ("--arrivals", arrivals.to_owned()),
            ("--seconds", seconds.to_string()),
            ("--warm-up", "2".to_owned()),
            ("--deadline-ms", self.deadline_ms.to_string()),
            ("--give-up-ms", give_up_ms.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }

    fn settings(&self, form: &Form) -> Vec<(String, String)> {
        let mut settings = form.settings.clone();
        settings.push(("MODEL__PRECISION".into(), self.precision.clone()));
        settings.push(("MODEL__SURVEY".into(), "false".into()));
        settings
    }
}

#[expect(clippy::print_stdout, reason = "what a bench says while it works")]
fn say(line: &str) {
    println!("{line}");
}
