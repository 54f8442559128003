//! What others do.

use crate::batcher::{BatchPolicy, Next};
use crate::schedule::{Limits, Picked, Waiting};

/// What the policies of others remember, and the memory they work in.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    order: Vec<usize>,
    places: Vec<usize>,
    dropped: Vec<usize>,
    /// Texts of a batch at most, by AIMD.
    cap: f64,
    /// Who arrived by then is of the round that runs.
    round_ns: Option<u64>,
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            order: Vec::new(),
            places: Vec::new(),
            dropped: Vec::new(),
            cap: 1.0,
            round_ns: None,
        }
    }
}

impl Baseline {
    pub(crate) fn dropped(&self) -> &[usize] {
        &self.dropped
    }

    pub(crate) fn next(
        &mut self,
        policy: BatchPolicy,
        waiting: &[Waiting],
        now_ns: u64,
        limits: Limits,
    ) -> Next<'_> {
        self.places.clear();
        self.dropped.clear();
        self.order.clear();
        self.order.extend(0..waiting.len());
        if policy.drops_late() {
            self.drop_where(|place| waiting[place].deadline_ns <= now_ns);
        }
        let (texts_max, tokens_max) = self.bounds(policy);
        match policy {
            // Not asked here.
            BatchPolicy::Deadlines => {}
            BatchPolicy::OneAtATime
            | BatchPolicy::TokenBudget { .. }
            | BatchPolicy::Aimd { .. } => {
                self.fill(waiting, texts_max, tokens_max);
            }
            BatchPolicy::FixedSize { wait_ns, .. } => {
                if let Some(until_ns) = waits_for_more(waiting, texts_max, wait_ns, now_ns) {
                    return Next::Wait { until_ns };
                }
                self.fill(waiting, texts_max, tokens_max);
            }
            BatchPolicy::LengthRounds { .. } => {
                self.round(waiting, now_ns);
                self.fill(waiting, texts_max, tokens_max);
            }
            BatchPolicy::ShortestFirst { guard_ns, .. } => {
                self.shortest_first(waiting, now_ns, guard_ns);
                self.fill(waiting, texts_max, tokens_max);
            }
            BatchPolicy::EarlyDrop { .. } => self.early_drop(waiting, texts_max, now_ns, limits),
            BatchPolicy::EarliestDeadline {
                worst_1024, defers, ..
            } => {
                let limits = Limits {
                    worst_1024,
                    ..limits
                };
                let latest_ns = self.earliest_deadline(waiting, texts_max, now_ns, limits);
                if let Some(until_ns) = latest_ns.filter(|latest| defers && now_ns < *latest) {
                    return Next::Wait { until_ns };
                }
            }
        }
        if self.places.is_empty() {
            return Next::Idle;
        }
        Next::Run(Picked {
            places: &self.places,
            limit_ns: u64::MAX,
            left_out: 0,
        })
    }

    pub(crate) fn bounds(&self, policy: BatchPolicy) -> (usize, u64) {
        match policy {
            BatchPolicy::Deadlines => (usize::MAX, u64::MAX),
            BatchPolicy::OneAtATime => (1, u64::MAX),
            BatchPolicy::Aimd { .. } => (self.cap_texts(), u64::MAX),
            BatchPolicy::FixedSize { texts_max, .. }
            | BatchPolicy::EarlyDrop { texts_max }
            | BatchPolicy::EarliestDeadline { texts_max, .. } => (texts_max.max(1), u64::MAX),
            BatchPolicy::TokenBudget { tokens_max, .. }
            | BatchPolicy::LengthRounds { tokens_max }
            | BatchPolicy::ShortestFirst { tokens_max, .. } => (usize::MAX, tokens_max),
        }
    }

    pub(crate) fn ran(&mut self, policy: BatchPolicy, texts: usize, run_ns: u64) {
        let BatchPolicy::Aimd { batch_ns_max } = policy else {
            return;
        };
        if run_ns > batch_ns_max {
            self.cap = (self.cap * 0.9).max(1.0);
        } else if texts >= self.cap_texts() {
            self.cap += 1.0;
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of texts, at least 1"
    )]
    fn cap_texts(&self) -> usize {
        self.cap as usize
    }

    fn drop_where(&mut self, is_dropped: impl Fn(usize) -> bool) {
        let dropped = &mut self.dropped;
        self.order.retain(|&place| {
            let is_dropped = is_dropped(place);
            if is_dropped {
                dropped.push(place);
            }
            !is_dropped
        });
    }

    /// Takes those that fit, in order; the first whatever its size, and of a list that does not fit the rest of the
    /// batch.
    fn fill(&mut self, waiting: &[Waiting], texts_max: usize, tokens_max: u64) {
        let (mut texts, mut tokens) = (0_usize, 0_u64);
        for &place in &self.order {
            let request = &waiting[place];
            let with_texts = texts.saturating_add(request.texts);
            let with_tokens = tokens.saturating_add(request.tokens);
            if !self.places.is_empty() && (with_texts > texts_max || with_tokens > tokens_max) {
                if request.is_divisible() && texts < texts_max && tokens < tokens_max {
                    self.places.push(place);
                }
                break;
            }
            self.places.push(place);
            (texts, tokens) = (with_texts, with_tokens);
        }
    }

    /// Orders the requests of this round by length; begins a new one when all of the last have run.
    fn round(&mut self, waiting: &[Waiting], now_ns: u64) {
        let is_of = |round_ns: u64| move |place: &usize| waiting[*place].arrived_ns <= round_ns;
        let goes_on = |round_ns: &u64| self.order.iter().any(|place| is_of(*round_ns)(place));
        let round_ns = self.round_ns.filter(goes_on).unwrap_or(now_ns);
        self.round_ns = Some(round_ns);
        self.order.retain(is_of(round_ns));
        self.order.sort_by_key(|&place| waiting[place].tokens);
    }

    fn shortest_first(&mut self, waiting: &[Waiting], now_ns: u64, guard_ns: u64) {
        self.order.sort_by_key(|&place| {
            let request = &waiting[place];
            let waits_long = now_ns.saturating_sub(request.arrived_ns) >= guard_ns;
            let order = if waits_long {
                request.arrived_ns
            } else {
                request.tokens
            };
            (!waits_long, order)
        });
    }

    fn early_drop(&mut self, waiting: &[Waiting], texts_max: usize, now_ns: u64, limits: Limits) {
        let mut first = 0;
        while let Some(&place) = self.order.get(first) {
            self.places.clear();
            let mut texts = 0_usize;
            let mut batch_ns = limits.fixed_ns;
            for &place in &self.order[first..] {
                if texts >= texts_max {
                    break;
                }
                texts = texts.saturating_add(waiting[place].texts);
                batch_ns = batch_ns.saturating_add(waiting[place].work_ns);
                self.places.push(place);
            }
            if now_ns.saturating_add(worst(batch_ns, limits)) <= waiting[place].deadline_ns {
                return;
            }
            self.places.clear();
            self.dropped.push(place);
            first += 1;
        }
    }

    /// Takes a prefix by deadlines; gives the latest time at which a batch of one more would be in time, where there
    /// is room for one more and nobody who could be it.
    fn earliest_deadline(
        &mut self,
        waiting: &[Waiting],
        texts_max: usize,
        now_ns: u64,
        limits: Limits,
    ) -> Option<u64> {
        let alone = |request: &Waiting| limits.fixed_ns.saturating_add(request.work_ns);
        self.drop_where(|place| {
            let end_ns = now_ns.saturating_add(worst(alone(&waiting[place]), limits));
            end_ns > waiting[place].deadline_ns
        });
        self.order.sort_by_key(|&place| waiting[place].deadline_ns);
        let deadline_ns = waiting[*self.order.first()?].deadline_ns;
        let (mut texts, mut batch_ns) = (0_usize, limits.fixed_ns);
        for &place in &self.order {
            let with = batch_ns.saturating_add(waiting[place].work_ns);
            let is_late = now_ns.saturating_add(worst(with, limits)) > deadline_ns;
            if texts >= texts_max || is_late {
                break;
            }
            batch_ns = with;
            texts = texts.saturating_add(waiting[place].texts);
            self.places.push(place);
        }
        let is_open = texts < texts_max && self.places.len() == self.order.len();
        let one_more = batch_ns.saturating_add(batch_ns / texts.max(1) as u64);
        is_open.then(|| deadline_ns.saturating_sub(worst(one_more, limits)))
    }
}

/// Until when a batch that is not full waits.
fn waits_for_more(waiting: &[Waiting], texts_max: usize, wait_ns: u64, now_ns: u64) -> Option<u64> {
    let first = waiting.first()?;
    let texts: usize = waiting.iter().map(|request| request.texts).sum();
    let until_ns = first.arrived_ns.saturating_add(wait_ns);
    (texts < texts_max && now_ns < until_ns).then_some(until_ns)
}

/// The worst case of a predicted time.
fn worst(predicted_ns: u64, limits: Limits) -> u64 {
    let worst = u128::from(predicted_ns) * u128::from(limits.worst_1024) / 1024;
    u64::try_from(worst).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batcher::Batcher;

    const LIMITS: Limits = Limits {
        fixed_ns: 100,
        batch_ns_max: 1_000,
        worst_1024: 1024,
    };

    /// Arrives at, has until, tokens; a token is ten nanoseconds.
    fn waiting(requests: &[(u64, u64, u64)]) -> Vec<Waiting> {
        let one = |&(arrived_ns, deadline_ns, tokens): &(u64, u64, u64)| Waiting {
            arrived_ns,
            due_ns: deadline_ns,
            deadline_ns,
            work_ns: tokens * 10,
            texts: 1,
            tokens,
            share_times: 1,
        };
        requests.iter().map(one).collect()
    }

    /// Places that run and places that are dropped, or the time that is waited until.
    #[track_caller]
    fn check(
        batcher: &mut Batcher,
        requests: &[(u64, u64, u64)],
        now_ns: u64,
        want: Result<&[usize], u64>,
        want_dropped: &[usize],
    ) {
        let waiting = waiting(requests);
        let got = match batcher.next(&waiting, now_ns, LIMITS) {
            Next::Run(picked) => Ok(picked.places.to_vec()),
            Next::Wait { until_ns } => Err(until_ns),
            Next::Idle => Ok(Vec::new()),
        };
        assert_eq!(got.as_deref().map_err(|until| *until), want);
        assert_eq!(batcher.dropped(), want_dropped);
    }

    const LATER: u64 = 1_000_000;
    const THREE: [(u64, u64, u64); 3] = [(0, LATER, 30), (1, LATER, 10), (2, LATER, 20)];

    #[test]
    fn one_at_a_time_and_budgets_go_by_arrival() {
        let mut one = Batcher::new(BatchPolicy::OneAtATime);
        check(&mut one, &THREE, 5, Ok(&[0]), &[]);
        check(&mut one, &[], 5, Ok(&[]), &[]);
        let budget = |tokens_max, expires| {
            Batcher::new(BatchPolicy::TokenBudget {
                tokens_max,
                expires,
            })
        };
        check(&mut budget(40, false), &THREE, 5, Ok(&[0, 1]), &[]);
        check(&mut budget(10, false), &THREE, 5, Ok(&[0]), &[]);
        let late = [(0, 4, 30), (1, LATER, 10), (2, LATER, 20)];
        check(&mut budget(40, false), &late, 5, Ok(&[0, 1]), &[]);
        check(&mut budget(40, true), &late, 5, Ok(&[1, 2]), &[0]);
    }

    #[test]
    fn a_fixed_size_waits_for_more_for_a_while() {
        let policy = BatchPolicy::FixedSize {
            texts_max: 2,
            wait_ns: 50,
        };
        let mut fixed = Batcher::new(policy);
        check(&mut fixed, &THREE[..1], 20, Err(50), &[]);
        check(&mut fixed, &THREE[..1], 50, Ok(&[0]), &[]);
        check(&mut fixed, &THREE, 20, Ok(&[0, 1]), &[]);
    }

    #[test]
    fn rounds_are_sorted_and_newcomers_wait_for_the_next() {
        let mut rounds = Batcher::new(BatchPolicy::LengthRounds { tokens_max: 30 });
        check(&mut rounds, &THREE, 5, Ok(&[1, 2]), &[]);
        // The first one is left of its round; a shorter one has come.
        let left = [THREE[0], (7, LATER, 5)];
        check(&mut rounds, &left, 10, Ok(&[0]), &[]);
        check(&mut rounds, &left[1..], 20, Ok(&[0]), &[]);
    }

    #[test]
    fn aimd_grows_after_full_batches_and_shrinks_after_late_ones() {
        let mut aimd = Batcher::new(BatchPolicy::Aimd { batch_ns_max: 500 });
        check(&mut aimd, &THREE, 5, Ok(&[0]), &[]);
        aimd.ran(1, 100);
        check(&mut aimd, &THREE, 5, Ok(&[0, 1]), &[]);
        // Not full: it may not grow for that.
        aimd.ran(1, 100);
        check(&mut aimd, &THREE, 5, Ok(&[0, 1]), &[]);
        aimd.ran(2, 501);
        check(&mut aimd, &THREE, 5, Ok(&[0]), &[]);
    }

    #[test]
    fn early_drop_gives_up_those_that_a_batch_would_be_late_for() {
        let mut early = Batcher::new(BatchPolicy::EarlyDrop { texts_max: 2 });
        // Two of them take 100 + 300 + 100 = 500.
        let requests = [(0, 400, 30), (1, 410, 10), (2, LATER, 20)];
        check(&mut early, &requests, 10, Ok(&[1, 2]), &[0]);
        check(&mut early, &requests, 200, Ok(&[2]), &[0, 1]);
        check(&mut early, &requests[..1], 200, Ok(&[]), &[0]);
    }

    #[test]
    fn the_shortest_go_first_but_for_those_that_wait_long() {
        let policy = BatchPolicy::ShortestFirst {
            tokens_max: 30,
            guard_ns: 100,
        };
        let mut shortest = Batcher::new(policy);
        check(&mut shortest, &THREE, 5, Ok(&[1, 2]), &[]);
        check(&mut shortest, &THREE, 100, Ok(&[0]), &[]);
    }

    #[test]
    fn the_earliest_deadline_goes_first_with_those_that_are_in_time_together() {
        let policy = |defers| BatchPolicy::EarliestDeadline {
            texts_max: 3,
            worst_1024: 1024,
            defers,
        };
        let requests = [(0, 900, 30), (1, 450, 10), (2, 800, 20), (3, 150, 10)];
        // The last can not be in time; the second has time for the third and not for the first too.
        let mut edf = Batcher::new(policy(false));
        check(&mut edf, &requests, 0, Ok(&[1, 2]), &[3]);
        // One text more of the same kind would take 200 + 200.
        let mut deferred = Batcher::new(policy(true));
        check(&mut deferred, &[(0, 900, 10)], 0, Err(500), &[]);
        check(&mut deferred, &[(0, 900, 10)], 500, Ok(&[0]), &[]);
    }

    #[test]
    fn a_list_is_cut_at_the_bound() {
        let list = Waiting {
            texts: 10,
            ..waiting(&THREE)[0]
        };
        let mut fixed = Batcher::new(BatchPolicy::FixedSize {
            texts_max: 4,
            wait_ns: 0,
        });
        let queue = [waiting(&THREE)[1], list, list];
        let Next::Run(picked) = fixed.next(&queue, 5, LIMITS) else {
            panic!("nothing runs");
        };
        assert_eq!(picked.places, [0, 1]);
        assert_eq!(fixed.bounds(), (4, u64::MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_numbers_give_a_choice_of_those_that_wait(
            queue in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..40),
            now_ns: u64, policy in 0_usize..9, bound in 0_u64..1_000,
        ) {
            let texts_max = usize::try_from(bound).unwrap();
            let policy = [
                BatchPolicy::Deadlines,
                BatchPolicy::OneAtATime,
                BatchPolicy::FixedSize { texts_max, wait_ns: bound },
                BatchPolicy::TokenBudget { tokens_max: bound, expires: bound % 2 == 0 },
                BatchPolicy::LengthRounds { tokens_max: bound },
                BatchPolicy::Aimd { batch_ns_max: bound },
                BatchPolicy::EarlyDrop { texts_max },
                BatchPolicy::ShortestFirst { tokens_max: bound, guard_ns: bound },
                BatchPolicy::EarliestDeadline { texts_max, worst_1024: bound, defers: bound % 2 == 0 },
            ][policy];
            let waiting: Vec<_> = queue
                .iter()
                .map(|&(arrived_ns, deadline_ns, tokens)| Waiting {
                    arrived_ns: arrived_ns.min(now_ns),
                    due_ns: deadline_ns,
                    deadline_ns,
                    work_ns: tokens,
                    texts: 1,
                    tokens,
                    share_times: 1,
                })
                .collect();
            let mut batcher = Batcher::new(policy);
            let mut places = match batcher.next(&waiting, now_ns, LIMITS) {
                Next::Run(picked) => {
                    prop_assert!(!picked.places.is_empty());
                    picked.places.to_vec()
                }
                Next::Wait { until_ns } => {
                    prop_assert!(until_ns > now_ns);
                    Vec::new()
                }
                Next::Idle => {
                    prop_assert_eq!(batcher.dropped().len(), waiting.len());
                    Vec::new()
                }
            };
            places.extend(batcher.dropped());
            let count = places.len();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), count, "nobody is there twice");
            prop_assert!(places.iter().all(|&place| place < waiting.len()));
        }
    }
}
