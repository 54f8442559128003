//! Devices: what a batch really takes.

use std::borrow::Cow;
use std::sync::Arc;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::Distribution as _;
use serde::Serialize;

use crate::request::Request;
use crate::table::Corrections;

/// `fixed + token · Σ tokens + square · Σ tokens²`, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Costs {
    pub(crate) fixed_ns: f64,
    pub(crate) token_ns: f64,
    pub(crate) square_ns: f64,
}

/// A device and how soon its users want their answers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Device {
    pub(crate) name: Cow<'static, str>,
    pub(crate) costs: Costs,
    /// Time for a question, from its arrival.
    pub(crate) deadline_ns: u64,
    /// Standard deviation of the logarithm of a batch's time.
    pub(crate) noise: f64,
    /// What of a recorded device its costs do not say.
    #[serde(skip)]
    pub(crate) corrections: Option<Arc<Corrections>>,
    /// What of a made-up device its costs do not say.
    pub(crate) structure: Structure,
}

/// What devices do that three coefficients can not say. Made up, each after something that devices have.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Structure {
    /// Tokens are rounded up to whole tiles of so many; 0: they are not.
    pub(crate) tile: u64,
    /// From so many tokens on a batch takes half as long again, because it no longer fits a cache; 0: never.
    pub(crate) cliff: u64,
    /// What each text adds by itself, in tokens.
    pub(crate) text_tokens: u64,
}

impl Structure {
    pub(crate) const NONE: Self = Self {
        tile: 0,
        cliff: 0,
        text_tokens: 0,
    };

    /// The tokens that a batch counts as, and how many times as long it takes.
    fn of(self, batch: &[Request]) -> (u64, f64) {
        let tokens: u64 = batch.iter().map(|request| request.tokens).sum();
        let texts = batch.len() as u64 * self.text_tokens;
        let counted = tokens.next_multiple_of(self.tile.max(1)) + texts;
        let beyond = self.cliff > 0 && tokens >= self.cliff;
        (counted - tokens, if beyond { 1.5 } else { 1.0 })
    }
}

/// What two cores take for a small model; attention is a few hundredths of a text's cost.
pub(crate) const CPU: Device = Device {
    name: Cow::Borrowed("cpu"),
    costs: Costs {
        fixed_ns: 1e6,
        token_ns: 1e5,
        square_ns: 43.0,
    },
    deadline_ns: 100_000_000,
    noise: NOISE,
    corrections: None,
    structure: Structure::NONE,
};

/// Where starting costs as much as a thousand tokens.
pub(crate) const GPU: Device = Device {
    name: Cow::Borrowed("gpu"),
    costs: Costs {
        fixed_ns: 3e6,
        token_ns: 3e3,
        square_ns: 1.3,
    },
    deadline_ns: 30_000_000,
    noise: NOISE,
    corrections: None,
    structure: Structure::NONE,
};

/// Of batches, how many stall, and how many times as long they take then.
const STALLS: f64 = 0.003;
const STALLED: f64 = 3.0;
/// Standard deviation of the logarithm of a batch's time, for the built-in devices.
pub(crate) const NOISE: f64 = 0.05;

impl Costs {
    /// What a text adds to a batch.
    #[expect(clippy::cast_precision_loss, reason = "tokens of one text")]
    pub(crate) fn work_ns(&self, tokens: u64) -> f64 {
        let tokens = tokens as f64;
        self.token_ns * tokens + self.square_ns * tokens * tokens
    }

    /// What a batch takes by these costs.
    fn batch_ns(&self, batch: &[Request]) -> f64 {
        let work: f64 = batch.iter().map(|r| self.work_ns(r.tokens)).sum();
        self.fixed_ns + work
    }
}

impl Device {
    /// One that takes so many times as long for everything.
    pub(crate) fn slower(&self, times: f64) -> Self {
        let Costs {
            fixed_ns,
            token_ns,
            square_ns,
        } = self.costs;
        Self {
            costs: Costs {
                fixed_ns: fixed_ns * times,
                token_ns: token_ns * times,
                square_ns: square_ns * times,
            },
            ..self.clone()
        }
    }

    /// The same for users who have as much time as those of `other`.
    pub(crate) fn with_deadline_of(&self, other: &Self) -> Self {
        Self {
            deadline_ns: other.deadline_ns,
            ..self.clone()
        }
    }

    /// What a batch takes, but for noise.
    pub(crate) fn batch_ns(&self, batch: &[Request]) -> f64 {
        let ratio = self
            .corrections
            .as_ref()
            .map_or(1.0, |corrections| corrections.ratio(batch));
        let (more, times) = self.structure.of(batch);
        (ratio * self.costs.batch_ns(batch) + self.costs.token_ns * float(more)) * times
    }

    /// What a batch takes this time.
    pub(crate) fn run_ns(&self, batch: &[Request], random: &mut ChaCha8Rng) -> u64 {
        let normal: f64 = rand_distr::StandardNormal.sample(random);
        let stall = if random.random_bool(STALLS) {
            STALLED
        } else {
            1.0
        };
        whole(self.batch_ns(batch) * (self.noise * normal).exp() * stall)
    }
}

/// Nanoseconds without a fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time that is not negative; a cast saturates"
)]
pub(crate) fn whole(ns: f64) -> u64 {
    ns as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "far below 2^52 ns, which is 52 days"
)]
pub(crate) fn float(ns: u64) -> f64 {
    ns as f64
}
