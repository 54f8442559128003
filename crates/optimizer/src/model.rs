//! What is known of one worker: analytic model, bound, test for change, memory and accuracy.

use embedring_policy::Cost;
use embedring_protocol::{Accuracy, Report, WorkerIdentity};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::accuracy::Errors;
use crate::bound::Bound;
use crate::contest::{Contender, Prediction};
use crate::drift::Drift;
use crate::fit::{Coefficients, Fit};
use crate::learners::{Observed, batch_of};
use crate::memory::Memory;
use crate::number::{Batch, whole};
use crate::saved::{Reader, Writer};

/// How many times its predicted time a batch counts for at most.
const OUTLIER: f64 = 4.0;
/// Batches before a worker's measured cost replaces the default.
const REPORTS_MIN: u64 = 3;
/// A batch longer than an hour or of more tokens than any device holds was not one.
const RUN_NS_MAX: u64 = 3_600_000_000_000;
const TOKENS_MAX: u64 = 1 << 32;
/// A bound of more times the prediction than this says nothing.
const FACTOR_MAX: f64 = 64.0;

/// What is known of a worker that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// This very start of it, from before the scheduler began.
    Known,
    /// An earlier start.
    Again,
    /// Nothing.
    Anew,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    /// Whose model it is; unknown until the worker is named.
    identity: Option<WorkerIdentity>,
    reports: u64,
    changes: u64,
    fit: Fit,
    bound: Bound,
    drift: Drift,
    memory: Memory,
    errors: Errors,
    coefficients: Option<Coefficients>,
}

impl Model {
    /// Of a worker that begins. What an earlier start of the same worker with the same model taught is
    /// kept, to be forgotten soon: threads or neighbours may be others.
    pub(crate) fn begin(&mut self, identity: &WorkerIdentity) -> Begun {
        let begun = match &self.identity {
            Some(known) if known.incarnation == identity.incarnation => Begun::Known,
            Some(known) if is_alike(known, identity) => {
                self.fit.soften();
                self.drift.begin_anew();
                Begun::Again
            }
            Some(_) | None => {
                *self = Self::default();
                Begun::Anew
            }
        };
        self.identity = Some(*identity);
        begun
    }

    /// Takes in how a batch went; gives what was predicted of it. `champion` is who is published instead
    /// of this model.
    pub(crate) fn observe(
        &mut self,
        report: &Report,
        champion: Option<&Contender>,
    ) -> Option<Observed> {
        let impossible = report.tokens == 0
            || report.tokens > TOKENS_MAX
            || report.tokens_squared > report.tokens.saturating_mul(report.tokens)
            || !(1..=RUN_NS_MAX).contains(&report.run_ns);
        if impossible {
            return None;
        }
        self.memory.add(report.tokens, report.rss_bytes);
        self.reports = self.reports.saturating_add(1);
        let mut batch = batch_of(report);
        let Some(known) = self.known() else {
            self.fit.add(&batch, batch.run_ns);
            self.solve();
            return None;
        };
        let predicted_ns = known.predict(&batch);
        let prediction = Prediction {
            ns: predicted_ns,
            bound_ns: predicted_ns * self.bound.log_factor().exp(),
        };
        let score = (batch.run_ns / predicted_ns).ln();
        let published = champion.map_or(prediction, |champion| champion.predict(&batch));
        self.errors
            .add(published.ns, published.bound_ns, batch.run_ns);
        self.bound.add(score);
        let since = self.drift.add(score, batch);
        let observed = Observed {
            batch,
            prediction,
            changed: since.is_some(),
        };
        if let Some(since) = since {
            self.change(&since);
            return Some(observed);
        }
        // One batch during which the process was stopped says nothing about the next.
        batch.run_ns = batch.run_ns.min(predicted_ns * OUTLIER);
        self.fit.add(&batch, predicted_ns);
        self.solve();
        Some(observed)
    }

    /// The device has changed, and `since` are the batches since then: all that was known before them is
    /// taken to have become slower or faster by the same factor, and to be worth little.
    fn change(&mut self, since: &[Batch]) {
        self.changes = self.changes.saturating_add(1);
        self.bound.withdraw(since.len());
        self.fit.soften();
        self.solve();
        let Some(before) = self.coefficients else {
            return;
        };
        let mut factors: Vec<f64> = since
            .iter()
            .map(|batch| batch.run_ns / before.predict(batch))
            .collect();
        factors.sort_unstable_by(f64::total_cmp);
        let factor = factors.get(factors.len() / 2).map_or(1.0, |median| *median);
        self.fit.stretch(factor);
        for batch in since {
            let predicted_ns = before.predict(batch) * factor;
            let run_ns = batch.run_ns.min(predicted_ns * OUTLIER);
            self.fit.add(&Batch { run_ns, ..*batch }, predicted_ns);
        }
        self.solve();
    }

    fn solve(&mut self) {
        self.coefficients = self.fit.solve(self.drift.variance());
    }

    /// The coefficients, once there are enough reports to believe them.
    pub(crate) fn known(&self) -> Option<Coefficients> {
        self.coefficients.filter(|_| self.reports > REPORTS_MIN)
    }

    /// Who it is, once it was named.
    pub(crate) fn identity(&self) -> Option<&WorkerIdentity> {
        self.identity.as_ref()
    }

    /// What batches cost, in the plan's units, by the champion where there is one; nothing before a few
    /// were seen.
    pub(crate) fn cost(&self, champion: Option<&Contender>) -> Option<Cost> {
        let known = self.coefficients.filter(|_| self.reports >= REPORTS_MIN)?;
        let (known, bound, corrections) = match champion {
            Some(champion) => (champion.base, &champion.bound, champion.corrections),
            None => (known, &self.bound, Cost::DEFAULT.corrections),
        };
        let factor = bound.log_factor().exp().min(FACTOR_MAX);
        Some(Cost {
            ns_per_batch: whole(known.batch_ns),
            ns_per_token: whole(known.token_ns).max(1),
            ps_per_square: whole(known.square_ns * 1e3),
            squares_per_token: whole(self.fit.squares_per_token()),
            worst_1024: whole((factor * 1024.0).ceil()),
            corrections,
        })
    }

    /// The most tokens a batch may have to stay within the worker's memory; nothing when it has no bound
    /// or nothing is known.
    pub(crate) fn tokens_in_memory(&self) -> Option<u64> {
        let max_bytes = self.identity?.memory_max_bytes;
        // A twentieth is left to what else grows.
        let usable = max_bytes - max_bytes / 20;
        (max_bytes > 0)
            .then(|| self.memory.tokens_within(usable))
            .flatten()
    }

    /// How good predictions were.
    pub(crate) fn accuracy(&self) -> Accuracy {
        self.errors.published(self.changes)
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.number(u64::from(self.identity.is_some()));
        if let Some(identity) = &self.identity {
            to.bytes(identity.as_bytes());
        }
        to.number(self.reports);
        to.number(self.changes);
        self.fit.write(to);
        self.bound.write(to);
        self.drift.write(to);
        self.memory.write(to);
        self.errors.write(to);
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let identity = match from.number()? {
            0 => None,
            _ => Some(
                WorkerIdentity::read_from_bytes(from.bytes(size_of::<WorkerIdentity>())?).ok()?,
            ),
        };
        let mut model = Self {
            identity,
            reports: from.number()?,
            changes: from.number()?,
            fit: Fit::read(from)?,
            bound: Bound::read(from)?,
            drift: Drift::read(from)?,
            memory: Memory::read(from)?,
            errors: Errors::read(from)?,
            coefficients: None,
        };
        model.solve();
        Some(model)
    }
}

/// Whether two starts are of one worker that does the same work.
fn is_alike(one: &WorkerIdentity, other: &WorkerIdentity) -> bool {
    let what = |identity: &WorkerIdentity| {
        (
            identity.name,
            identity.device,
            identity.model_id,
            identity.precision,
            identity.max_tokens,
        )
    };
    what(one) == what(other)
}
