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
    /// Rates of the curve, in parts of our limit.
    #[serde(skip)]
    pub(crate) loads: &'static [f64],
}

impl Extent {
    pub(crate) const FULL: Self = Self {
        tune_seconds: 8,
        seconds: 20,
        repeats: 2,
        rounds: 3,
        precision: 0.03,
        loads: &[0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0],
    };
    pub(crate) const QUICK: Self = Self {
        tune_seconds: 3,
        seconds: 4,
        repeats: 1,
        rounds: 1,
        precision: 0.1,
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
/// A policy that runs what is late has clients that wait for it so many times their deadline.
const PATIENCE: u32 = 20;

impl Study {
    pub(crate) fn panel(&self, arrivals: &str, policies: &[Policy]) -> Result<Panel> {
        let mut rows = Vec::new();
        for policy in policies {
            let form = self.tuned(policy, arrivals)?;
            rows.push((
                policy,
                form,
                Row {
                    policy: policy.name,
                    group: policy.group,
                    numbers: form.numbers.clone(),
                    limits: Vec::new(),
                    is_of_the_generator: false,
                    curve: Vec::new(),
                },
            ));
        }
        for round in 0..self.extent.rounds {
            for (policy, form, row) in &mut rows {
                let seed = ROUND_SEEDS * u64::from(round);
                let found = self.limit(policy, form, arrivals, self.extent.seconds, seed)?;
                say(&format!(
                    "{arrivals}, {}: {:.1} requests/s",
                    policy.name, found.0
                ));
                row.limits.push(found.0);
                row.is_of_the_generator |= found.1;
            }
        }
        let ours = rows.iter().find(|(policy, ..)| policy.group == Group::Ours);
        let ours = ours.map_or(0.0, |(_, _, row)| row.limit());
        for (policy, form, row) in &mut rows {
            let instance = Instance::start(&self.bin, &self.settings(form))?;
            for load in self.extent.loads {
                row.curve
                    .extend(self.point(&instance, policy, arrivals, load * ours)?);
            }
        }
        Ok(Panel {
            arrivals: arrivals.to_owned(),
            rows: rows.into_iter().map(|(_, _, row)| row).collect(),
        })
    }

    /// The form with the highest limit on the seeds for tuning.
    fn tuned<'p>(&self, policy: &'p Policy, arrivals: &str) -> Result<&'p Form> {
        let mut best: Option<(f64, &Form)> = None;
        for form in &policy.forms {
            if policy.forms.len() == 1 {
                return Ok(form);
            }
            let seconds = self.extent.tune_seconds;
            let (limit, _) = self.limit(policy, form, arrivals, seconds, TUNING_SEED)?;
            say(&format!(
                "{arrivals}, {} with {}: {limit:.1} requests/s on the seeds for tuning",
                policy.name, form.numbers
            ));
            if best.is_none_or(|(most, _)| limit > most) {
                best = Some((limit, form));
            }
        }
        let (_, form) = best.with_context(|| format!("{} has no form", policy.name))?;
        Ok(form)
    }

    /// The limit in requests a second, and whether it is the generator's own.
    fn limit(
        &self,
        policy: &Policy,
        form: &Form,
        arrivals: &str,
        seconds: u32,
        seed: u64,
    ) -> Result<(f64, bool)> {
        let instance = Instance::start(&self.bin, &self.settings(form))?;
        let is_tuning = seed == TUNING_SEED;
        let mut args = self.args(policy, arrivals, seconds);
        args.extend(["--find-limit".into(), "--seed".into(), seed.to_string()]);
        let repeats = if is_tuning { 1 } else { self.extent.repeats };
        args.extend(["--repeats".into(), repeats.to_string()]);
        let precision = if is_tuning {
            0.1
        } else {
            self.extent.precision
        };
        args.extend(["--precision".into(), precision.to_string()]);
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
        let mut args = self.args(policy, arrivals, self.extent.seconds);
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
