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
/// may all be too late only the fast ones are asked (see [`Fit`]): a slow one that got what is late there
/// would have no time for what it could do. With few devices on one host all of them are asked, there is no
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(ns_per_batch: u64, ns_per_token: u64) -> Cost {
        Cost {
            ns_per_batch,
            ns_per_token,
            ..Cost::DEFAULT
        }
    }

    fn candidate(index: usize, cost: Cost, tokens: u64) -> Candidate {
        Candidate {
            load: Load {
                tokens,
                ..Load::default()
            },
            ..Candidate::idle(WorkerIndex::new(index).unwrap(), cost)
        }
    }

    fn chosen(candidates: &[Candidate], tokens: u64) -> usize {
        let routed = route(candidates, Errand::text(tokens), 0);
        routed.unwrap().index.get()
    }

    /// Sends a list text by text as the client does; tokens by device.
    fn split(candidates: &mut [Candidate], texts: &[u64]) -> Vec<u64> {
        let mut sent = vec![0; candidates.len()];
        let mut texts = texts.iter().copied().peekable();
        let mut left: u64 = texts.clone().sum();
        let mut dice = 7;
        while let Some(&first) = texts.peek() {
            let errand = Errand {
                left,
                ..Errand::text(first)
            };
            let routed = route(candidates, errand, dice).unwrap();
            dice = dice * 5 % 10_007 + 3;
            let mut message = 0;
            // A message holds some texts only.
            for _ in 0..40 {
                let fits = |text: &u64| message == 0 || message + text / 2 <= routed.tokens;
                let Some(text) = texts.next_if(fits) else {
                    break;
                };
                message += text;
            }
            left -= message;
            let at = routed.index.get();
            candidates[at].load.tokens += message;
            sent[at] += message;
        }
        sent
    }

    #[test]
    fn nobody_to_choose_from() {
        assert_eq!(route(&[], Errand::text(1), 0), None);
        let mut small = candidate(0, cost(0, 1), 0);
        small.text_tokens_max = 10;
        assert_eq!(route(&[small], Errand::text(11), 0), None);
        assert!(route(&[small], Errand::text(10), 0).is_some());
        let several = Errand {
            tokens: 50,
            longest: 10,
            left: 90,
            time_ns: u64::MAX,
        };
        assert_eq!(route(&[small], several, 0).unwrap().tokens, 90);
    }

    #[test]
    fn the_one_that_finishes_first_gets_it() {
        let cases = [
            // The fast one, idle.
            (
                [candidate(0, cost(0, 100), 0), candidate(1, cost(0, 10), 0)],
                1,
            ),
            // The fast one is so far behind that the slow one is first.
            (
                [
                    candidate(0, cost(0, 100), 0),
                    candidate(1, cost(0, 10), 2_000),
                ],
                0,
            ),
            // Not so far that the slow one's service would be over before: none for the slow one.
            (
                [
                    candidate(0, cost(0, 100), 0),
                    candidate(1, cost(0, 10), 700),
                ],
                1,
            ),
        ];
        for (candidates, want) in cases {
            assert_eq!(chosen(&candidates, 100), want);
        }
    }

    #[test]
    fn joining_a_forming_batch_costs_no_fixed_time() {
        // Both have a batch of 1,000 running; at one of them some wait already, for whom the next
        // batch's fixed time is paid.
        let running = Some(Running {
            tokens: 1_000,
            for_ns: 0,
        });
        let mut forming = candidate(0, cost(10_000, 10), 1_100);
        forming.running = running;
        let alone = forming.completion_ns(0);
        assert_eq!(forming.completion_ns(50) - alone, 500);
        // A batch is full: the next one's fixed time comes on top.
        forming.batch_tokens_max = 100;
        assert_eq!(forming.completion_ns(50) - alone, 10_500);
    }

    #[test]
    fn what_runs_is_nearly_done_or_late_for_as_long_again() {
        let at = |for_ns| {
            let mut candidate = candidate(0, cost(100, 1), 900);
            candidate.running = Some(Running {
                tokens: 900,
                for_ns,
            });
            candidate.completion_ns(0)
        };
        assert_eq!(at(0), 1_100);
        assert_eq!(at(900), 200);
        assert_eq!(at(1_000), 100);
        assert_eq!(at(3_000), 2_100);
    }

    #[test]
    fn a_measured_slowness_and_silence_count() {
        let mut candidate = candidate(0, cost(100, 10), 0);
        assert_eq!(candidate.completion_ns(10), 200);
        candidate.pace_1024 = 3 * PACE_ONE;
        assert_eq!(candidate.completion_ns(10), 600);
        candidate.silent_ns = 1_000;
        assert_eq!(candidate.completion_ns(10), 1_600);
    }

    #[test]
    fn a_list_splits_by_tokens_in_proportion_to_speed() {
        for ratio in [1, 4, 20] {
            let mut candidates = [
                candidate(0, cost(1_000, 10 * ratio), 0),
                candidate(1, cost(1_000, 10), 0),
            ];
            // Long texts among short ones: counting texts would go wrong.
            let texts: Vec<u64> = (0..2_000)
                .map(|at| if at % 7 == 0 { 200 } else { 20 })
                .collect();
            let all: u64 = texts.iter().sum();
            let sent = split(&mut candidates, &texts);
            assert_eq!(sent.iter().sum::<u64>(), all);
            let wanted = all / (ratio + 1);
            let off = sent[0].abs_diff(wanted);
            assert!(
                off < wanted / 20 + 200,
                "1:{ratio}: {sent:?}, wanted {wanted}"
            );
            let ends = candidates.map(|candidate| candidate.completion_ns(0));
            let apart = ends[0].abs_diff(ends[1]);
            assert!(apart <= 200 * 10 * ratio, "1:{ratio}: {ends:?}");
        }
    }

    #[test]
    fn a_short_list_is_split_only_where_that_ends_sooner() {
        // Two texts, and a second device that takes longer to begin than the first for both.
        let mut candidates = [
            candidate(0, cost(1_000, 10), 0),
            candidate(1, cost(90_000, 10), 0),
        ];
        assert_eq!(split(&mut candidates, &[100, 100]), [200, 0]);
        let mut candidates = [
            candidate(0, cost(1_000, 10), 0),
            candidate(1, cost(1_000, 10), 0),
        ];
        assert_eq!(split(&mut candidates, &[100, 100]), [100, 100]);
    }

    #[test]
    fn a_slow_device_gets_what_it_can_do_in_time_and_no_more() {
        // The fast one is behind by 2,000 ns, the slow one takes 1,000 for the text; both are idle soon enough
        // without a deadline.
        let fast = candidate(0, cost(0, 10), 190);
        let slow = candidate(1, cost(0, 100), 0);
        let chosen = |time_ns| {
            let errand = Errand {
                time_ns,
                ..Errand::text(10)
            };
            route(&[fast, slow], errand, 0).unwrap().index.get()
        };
        assert_eq!(chosen(u64::MAX), 1);
        // In time in the worst case: a sixth more than predicted.
        assert_eq!(chosen(1_200), 1);
        // In time by the prediction only. The fast one, which serves by deadline, may put it first.
        assert_eq!(chosen(1_100), 0);
        assert_eq!(chosen(0), 0);
    }

    #[test]
    fn of_two_that_are_as_fast_the_one_with_less_to_do_gets_what_is_late_anyway() {
        let busy = candidate(0, cost(0, 10), 900);
        let less = candidate(1, cost(0, 15), 200);
        let errand = Errand {
            time_ns: 100,
            ..Errand::text(10)
        };
        assert_eq!(route(&[busy, less], errand, 0).unwrap().index.get(), 1);
    }

    #[test]
    fn a_text_too_long_for_one_device_goes_to_the_other() {
        let mut fast = candidate(0, cost(0, 1), 0);
        fast.text_tokens_max = 128;
        let slow = candidate(1, cost(0, 50), 0);
        assert_eq!(chosen(&[fast, slow], 128), 0);
        assert_eq!(chosen(&[fast, slow], 129), 1);
    }

    #[test]
    fn many_clients_at_one_moment_do_not_all_choose_the_same() {
        let candidates = [0, 1, 2].map(|index| candidate(index, cost(1_000, 10), 500));
        let mut chosen = [0; 3];
        for dice in 0..300_u64 {
            let dice = dice.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
            let routed = route(&candidates, Errand::text(20), dice);
            chosen[routed.unwrap().index.get()] += 1;
        }
        assert!(chosen.iter().all(|&count| count > 60), "{chosen:?}");
    }

    #[test]
    fn the_own_requests_in_flight_count_before_the_board_knows_of_them() {
        let mut candidates = [0, 1].map(|index| candidate(index, cost(0, 10), 0));
        let mut sent = [0; 2];
        for dice in 0..100 {
            let index = route(&candidates, Errand::text(20), dice);
            let index = index.unwrap().index.get();
            candidates[index].load.tokens += 20;
            sent[index] += 1;
        }
        assert!(
            sent.iter().all(|&count| (45..=55).contains(&count)),
            "{sent:?}"
        );
    }

    #[test]
    fn an_idle_device_has_no_load_whatever_it_had() {
        let idle = candidate(0, cost(1_000, 10), 0);
        assert_eq!(idle.completion_ns(1), 1_010);
    }

    #[test]
    fn what_is_late_by_much_is_taken_elsewhere() {
        const MS: u64 = 1_000_000;
        assert!(!is_overdue(10 * MS, 60 * MS, MS));
        assert!(is_overdue(10 * MS, 100 * MS, MS));
        assert!(
            !is_overdue(10 * MS, 100 * MS, 200 * MS),
            "no sooner elsewhere"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_numbers_give_a_choice(
            numbers in prop::collection::vec(any::<[u64; 8]>(), 1..16),
            text: u64, left: u64, dice: u64,
        ) {
            let candidates: Vec<_> = numbers
                .iter()
                .enumerate()
                .map(|(index, n)| Candidate {
                    running: (n[3] % 2 == 0).then_some(Running { tokens: n[3], for_ns: n[4] }),
                    batch_tokens_max: n[5],
                    silent_ns: n[6],
                    pace_1024: n[7],
                    ..candidate(index, cost(n[0], n[1]), n[2])
                })
                .collect();
            let errand = Errand { left, ..Errand::text(text) };
            let routed = route(&candidates, errand, dice).unwrap();
            prop_assert!(routed.index.get() < candidates.len());
            prop_assert!(routed.tokens >= text && routed.tokens <= left.max(text));
        }

        #[test]
        fn shares_add_up_and_end_together(
            numbers in prop::collection::vec((1_u64..10_000, 1_u64..1_000, 0_u64..5_000), 2..8),
            left in 1_000_u64..1_000_000,
        ) {
            let candidates: Vec<_> = numbers
                .iter()
                .enumerate()
                .map(|(index, &(fixed, token, load))| candidate(index, cost(fixed, token), load))
                .collect();
            let shares: Vec<_> = candidates.iter().map(|c| share(&candidates, c, left)).collect();
            let sum: u64 = shares.iter().sum();
            prop_assert!(sum <= left && left - sum <= candidates.len() as u64, "{shares:?} of {left}");
            let ends: Vec<_> = candidates
                .iter()
                .zip(&shares)
                .map(|(c, &tokens)| c.completion_ns(tokens))
                .collect();
            let taking = ends.iter().zip(&shares).filter(|(_, tokens)| **tokens > 0);
            let last = taking.map(|(end, _)| *end).max().unwrap();
            for (candidate, &end) in candidates.iter().zip(&ends) {
                // Who takes some ends with the last; who takes none could not begin before.
                let slack = candidate.cost.usual_work_ns(2) + last / 1_000;
                prop_assert!(end + slack >= last, "{ends:?} {shares:?}");
            }
        }
    }
}
