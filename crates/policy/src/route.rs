//! A client's choice among workers: where the next texts are predicted to be done first, and how many of
//! a list one device should take so that all end together.

use embedring_protocol::{Load, WorkerIndex};

use crate::cost::Cost;

/// One, in the unit of [`Candidate::pace_1024`].
pub const PACE_ONE: u64 = 1024;

/// A batch that has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Tokens in it. They are part of the worker's load.
    pub tokens: u64,
    /// How long it has been running, in nanoseconds.
    pub for_ns: u64,
}

/// A worker that could take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which one.
    pub index: WorkerIndex,
    /// What its batches cost.
    pub cost: Cost,
    /// What it has to do already, the caller's own unanswered requests included.
    pub load: Load,
    /// The batch that it runs, if it runs one.
    pub running: Option<Running>,
    /// Tokens of a batch at most, 0 where nothing is known: each further batch costs its fixed time again.
    pub batch_tokens_max: u64,
    /// Tokens of a text at most that this device takes at all; 0 for any.
    pub text_tokens_max: u64,
    /// How long the worker has shown no life beyond what is usual, in nanoseconds.
    pub silent_ns: u64,
    /// How much longer its batches take than `cost` says, in 1/1024, as the caller measured of late.
    pub pace_1024: u64,
}

impl Candidate {
    /// A worker with nothing to do.
    #[must_use]
    pub fn idle(index: WorkerIndex, cost: Cost) -> Self {
        Self {
            index,
            cost,
            load: Load::default(),
            running: None,
            batch_tokens_max: 0,
            text_tokens_max: 0,
            silent_ns: 0,
            pace_1024: PACE_ONE,
        }
    }

    /// Whether the device takes a text of so many tokens at all.
    #[must_use]
    pub fn takes(&self, text_tokens: u64) -> bool {
        self.text_tokens_max == 0 || text_tokens <= self.text_tokens_max
    }

    /// Time until `tokens` more tokens are done, in nanoseconds: what is left of the running batch, then
    /// all that waits. Who joins a batch that is forming pays no fixed time; who begins one does.
    #[must_use]
    pub fn completion_ns(&self, tokens: u64) -> u64 {
        let waiting = self.waiting().saturating_add(tokens);
        let batches = match self.batch_tokens_max {
            0 => 1,
            most => waiting.div_ceil(most).max(1),
        };
        let fixed_ns = self.cost.batch_ns(0).saturating_mul(batches);
        let queued_ns = fixed_ns.saturating_add(self.cost.usual_work_ns(waiting));
        self.left_ns()
            .saturating_add(self.silent_ns)
            .saturating_add(self.paced(queued_ns))
    }

    /// The same in the worst of a hundred cases.
    fn worst_completion_ns(&self, tokens: u64) -> u64 {
        let ns = u128::from(self.completion_ns(tokens)) * u128::from(self.cost.worst_1024) / 1024;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Tokens of the load that do not run yet.
    fn waiting(&self) -> u64 {
        let running = self.running.map_or(0, |running| running.tokens);
        self.load.tokens.saturating_sub(running)
    }

    /// What is left of the running batch. One that is late is taken to be late by as much again: nobody
    /// knows why, and the longer it has been the longer it will be.
    fn left_ns(&self) -> u64 {
        self.running.map_or(0, |running| {
            self.paced(self.cost.batch_ns(running.tokens))
                .abs_diff(running.for_ns)
        })
    }

    fn paced(&self, ns: u64) -> u64 {
        let paced = u128::from(ns) * u128::from(self.pace_1024) / u128::from(PACE_ONE);
        u64::try_from(paced).unwrap_or(u64::MAX)
    }

    /// Nanoseconds that a token more takes.
    #[expect(clippy::cast_precision_loss, reason = "a time of a thousand tokens")]
    fn token_ns(&self) -> f64 {
        const TOKENS: u32 = 1000;
        let ns = self.paced(self.cost.usual_work_ns(u64::from(TOKENS)));
        (ns as f64 / f64::from(TOKENS)).max(1e-3)
    }
}

/// What is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    /// Tokens that go together: a message that is cut already, or the first text of a list.
    pub tokens: u64,
    /// Tokens of the longest text among them.
    pub longest: u64,
    /// Tokens of the list that are still to be sent, these included.
    pub left: u64,
    /// Nanoseconds until all of the list is too late; `u64::MAX` when it never is.
    pub time_ns: u64,
}

impl Errand {
    /// One text, and nothing behind it.
    #[must_use]
    pub fn text(tokens: u64) -> Self {
        Self {
            tokens,
            longest: tokens,
            left: tokens,
            time_ns: u64::MAX,
        }
    }
}

/// Where the next texts of a list go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The worker.
    pub index: WorkerIndex,
    /// When it is predicted to be done with the errand's tokens, in nanoseconds from now.
    pub completion_ns: u64,
    /// Tokens that it should take of what is left of the list; at least those of the errand.
    pub tokens: u64,
}

/// Devices whose completion is longer than the best one's by no more than a part of it, one in so many, are
/// as good: predictions are no better than that.
const AS_GOOD_PART: u64 = 8;

/// The worker predicted to be done first; `None` when no candidate takes a text of this length.
///
/// A slow device gets a text only when waiting for the fast one would take longer than its own service (the
/// prediction of either includes both), and when it will be in time even in the worst case. Of devices that
/// may all be too late only the fast ones are asked (those that take at most twice as long for a token as the
/// fastest): a slow one that got what is late there would have no time for what it could do. With few devices on one host all of them are asked, there is no
/// reason to sample. Among those that are as good as the best, `dice` (any number, another one each time)
/// decides: many clients that look at one board at the same moment must not all choose the same worker.
///
/// Of the list it takes as much as lets all devices end at the same time (see [`share`]). Count what is
/// sent into the candidate's load and ask again for the rest: so a list is split in proportion to speed by
/// tokens, whatever the devices have to do already.
#[must_use]
pub fn route(candidates: &[Candidate], errand: Errand, dice: u64) -> Option<Routed> {
    let fit = Fit::of(candidates, errand);
    let able = || {
        candidates
            .iter()
            .filter(|candidate| fit.allows(candidate, errand))
            .map(|candidate| (candidate, candidate.completion_ns(errand.tokens)))
    };
    let best_ns = able().map(|(_, ns)| ns).min()?;
    // A list with more behind is spread by its shares; chance would only make its end later.
    let slack_ns = if errand.left > errand.tokens {
        0
    } else {
        best_ns / AS_GOOD_PART
    };
    let good_ns = best_ns.saturating_add(slack_ns);
    let good = || able().filter(|(_, ns)| *ns <= good_ns);
    let count = u64::try_from(good().count()).unwrap_or(1).max(1);
    let nth = usize::try_from(dice % count).unwrap_or(0);
    let (chosen, completion_ns) = good().nth(nth)?;
    Some(Routed {
        index: chosen.index,
        completion_ns,
        tokens: share(candidates, chosen, errand.left).max(errand.tokens),
    })
}

/// Which devices are asked at all.
#[derive(Clone, Copy, Debug)]
enum Fit {
    /// Those that are in time even in the worst case, since there is one.
    InTime,
    /// None is sure to be in time: those that need at most so many nanoseconds for a token. A device serves by
    /// deadline and may still be in time, the sooner the more it gets done.
    Fast(f64),
}

impl Fit {
    /// Devices that take no more than so many times the time of the fastest count as fast as it.
    const AS_FAST_TIMES: f64 = 2.0;

    fn of(candidates: &[Candidate], errand: Errand) -> Self {
        let in_time = candidates
            .iter()
            .any(|candidate| Self::InTime.allows(candidate, errand));
        if in_time {
            return Self::InTime;
        }
        let fastest_ns = candidates
            .iter()
            .filter(|candidate| candidate.takes(errand.longest))
            .map(Candidate::token_ns)
            .fold(f64::INFINITY, f64::min);
        Self::Fast(fastest_ns * Self::AS_FAST_TIMES)
    }

    fn allows(self, candidate: &Candidate, errand: Errand) -> bool {
        let fits = match self {
            Self::InTime => candidate.worst_completion_ns(errand.tokens) <= errand.time_ns,
            Self::Fast(ns) => candidate.token_ns() <= ns,
        };
        fits && candidate.takes(errand.longest)
    }
}

/// Tokens of `left_tokens` that `chosen` should take so that all devices end at the same time: filling
/// vessels with water, where a vessel's bottom is when the device could begin and its width its speed.
/// A device that could only begin when the others are done takes none.
#[must_use]
pub fn share(candidates: &[Candidate], chosen: &Candidate, left_tokens: u64) -> u64 {
    if candidates.len() <= 1 {
        return left_tokens;
    }
    let bottom = |candidate: &Candidate| float(candidate.completion_ns(0));
    let end_ns = level(candidates, left_tokens, bottom);
    let tokens = (end_ns - bottom(chosen)) / chosen.token_ns();
    whole(tokens).min(left_tokens)
}

/// The time at which all of `left_tokens` are done when each device works from its bottom on.
fn level(candidates: &[Candidate], left_tokens: u64, bottom: impl Fn(&Candidate) -> f64) -> f64 {
    // The devices that take part are those whose bottom is below the level. Leaving out one that is not
    // lowers the level, so whoever is above it once is above it for good.
    let mut level_ns = f64::INFINITY;
    for _ in 0..candidates.len() {
        let (mut speed, mut filled) = (0.0, 0.0);
        for candidate in candidates {
            let bottom_ns = bottom(candidate);
            if bottom_ns < level_ns {
                speed += candidate.token_ns().recip();
                filled += bottom_ns / candidate.token_ns();
            }
        }
        let next_ns = (float(left_tokens) + filled) / speed;
        // Not a number where rounding left nobody below the level.
        if next_ns.is_nan() || next_ns >= level_ns {
            break;
        }
        level_ns = next_ns;
    }
    level_ns
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times and tokens far below 2^52; beyond that order is all that counts"
)]
fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates, and below zero is none"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

/// Whether a message should be taken from its worker and sent to another one: it was to be answered in
/// `predicted_ns`, has not been for `waited_ns`, and elsewhere would be answered in `elsewhere_ns`.
///
/// Four times the prediction and a twentieth of a second: what a busy host does to a process is no reason.
#[must_use]
pub fn is_overdue(predicted_ns: u64, waited_ns: u64, elsewhere_ns: u64) -> bool {
    const TIMES: u64 = 4;
    const GRACE_NS: u64 = 50_000_000;
    let patience_ns = predicted_ns.saturating_mul(TIMES).saturating_add(GRACE_NS);
    waited_ns > patience_ns && elsewhere_ns < waited_ns
}

#[cfg(test)]
mod tests;
