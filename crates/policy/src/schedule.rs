//! Which waiting requests a device runs next.
//!
//! A device runs one batch after the other; each takes a fixed time and the work in it. Of requests that
//! can not all be in time, the rule of Moore and Hodgson keeps as many as can be (J. M. Moore 1968, "An n
//! job, one machine sequencing algorithm for minimizing the number of late jobs"): go through them in the
//! order in which they are due, and whenever one would be late, leave out the one with the most work so
//! far. The rule knows no batches; here work is stretched by the part of the fixed time that falls on it
//! in a batch of the longest time. What is left out stays in the queue: batches that take less than
//! predicted may still bring it in. The work of a client that has several times its fair share of the queue
//! counts as many times, so that it is left out first (see `fair`).
//!
//! Of what is kept, those due first make the batch, up to the time at which the tightest of them is late.
//! Under overload that time is short, and batches of a few requests would be lost on the fixed time. So
//! when a batch would use its time badly and not all can be served, requests that are nearly late are
//! given up for the batch with the most requests a second.

use std::collections::BinaryHeap;

use embedring_protocol::Class;

/// What the choice needs to know of a waiting request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// When it arrived, in nanoseconds; only the policies of others look at it.
    pub arrived_ns: u64,
    /// When it is due, in nanoseconds: the order of service.
    pub due_ns: u64,
    /// When it must be answered, in nanoseconds.
    pub deadline_ns: u64,
    /// What running it adds to a batch, in nanoseconds.
    pub work_ns: u64,
    /// Its texts that wait. Of more than one, a batch may hold a part.
    pub texts: usize,
    /// Their tokens; only the policies of others look at them.
    pub tokens: u64,
    /// How many times its fair share its client has waiting (see [`crate::Share::times`]); 0 counts as 1.
    pub share_times: u64,
}

impl Waiting {
    /// Whether a batch may hold a part of it.
    pub(crate) fn is_divisible(&self) -> bool {
        self.texts > 1
    }
}

/// What a device's batches cost and may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What a batch takes whatever is in it, in nanoseconds.
    pub fixed_ns: u64,
    /// How long a newcomer may have to wait for a batch that has begun, in nanoseconds; up to twice that
    /// under overload, when a longer batch answers more a second.
    pub batch_ns_max: u64,
    /// What a batch may take in the worst case, in 1/1024 of what is predicted.
    pub worst_1024: u64,
}

impl Limits {
    /// Whatever was predicted or asked for: a batch has time for more than its fixed part.
    fn sane(self) -> Self {
        let fixed_ns = self.fixed_ns.min(BATCH_NS_MAX / 2);
        Self {
            fixed_ns,
            batch_ns_max: self
                .batch_ns_max
                .min(BATCH_NS_MAX)
                .max(fixed_ns + fixed_ns / 2 + 1),
            worst_1024: self.worst_1024.max(1),
        }
    }
}

/// An hour: more is no prediction.
const BATCH_NS_MAX: u64 = 3_600_000_000_000;

/// A batch: who is in it, and the time that all of it may be predicted to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked<'a> {
    /// Places in `waiting`, in the order in which they are due. Only the last may be there in part.
    pub places: &'a [usize],
    /// Nanoseconds.
    pub limit_ns: u64,
    /// Requests that can not be in time beside the others, as things stand.
    pub left_out: usize,
}

/// What becomes of a request beside the others that wait, as things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Whether it is one of those that can not be in time.
    pub is_left_out: bool,
    /// When it would be done if it were served in its turn, in nanoseconds.
    pub end_ns: u64,
}

/// Longest times of a batch that are tried under overload, each an eighth longer than the one before.
const STEPS: usize = 40;
/// A batch uses its time badly when its share of work is below this, in hundredths of what a batch of the
/// longest time would have.
const WORK_SHARE_MIN_HUNDREDTHS: u64 = 90;

/// How long a request of a class is content to wait when its deadline is further away. So interactive
/// requests go before bulk ones of the same time, and bulk ones go before whoever comes much later.
const INTERACTIVE_PATIENCE_NS: u64 = 1_000_000_000;
const BULK_PATIENCE_NS: u64 = 10_000_000_000;

/// When a request is due: by its deadline, or sooner by its class. `backlog_ns` is what its client had waiting
/// when it arrived, in nanoseconds of work, times the clients that had: so clients take turns.
#[must_use]
pub fn due_ns(class: Class, arrived_ns: u64, deadline_ns: u64, backlog_ns: u64) -> u64 {
    let patience_ns = match class {
        Class::Interactive => INTERACTIVE_PATIENCE_NS,
        Class::Bulk => BULK_PATIENCE_NS,
    };
    let content_ns = patience_ns.saturating_add(backlog_ns);
    deadline_ns.min(arrived_ns.saturating_add(content_ns))
}

/// A request that is kept so far; the largest is the first to be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    /// Its work, as many times as its client has its share.
    weight: u64,
    stretched_ns: u64,
    place: usize,
}

/// The choice, and the memory it works in.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    order: Vec<usize>,
    kept: BinaryHeap<Kept>,
    left_out: Vec<bool>,
    places: Vec<usize>,
}

impl Schedule {
    /// The next batch; empty only when nobody waits. The first request is always taken, whatever its size.
    pub fn pick(&mut self, waiting: &[Waiting], now_ns: u64, limits: Limits) -> Picked<'_> {
        self.sort(waiting);
        let limits = limits.sane();
        let left_out = self.leave_out(waiting, now_ns, limits);
        let (mut limit_ns, time_ns) = self.due_first(waiting, now_ns, limits);
        if left_out > 0
            && uses_badly(time_ns, limits)
            && let Some(limit) = self.most_a_second(waiting, now_ns, limits)
        {
            limit_ns = limit;
        }
        Picked {
            places: &self.places,
            limit_ns,
            left_out,
        }
    }

    /// What becomes of the request at `place`, on a device that is free from `free_ns` on: for admission.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn forecast(
        &mut self,
        waiting: &[Waiting],
        place: usize,
        free_ns: u64,
        limits: Limits,
    ) -> Forecast {
        let limits = limits.sane();
        self.sort(waiting);
        self.leave_out(waiting, free_ns, limits);
        let served = self.order.iter().take_while(|&&at| at != place);
        let before = served
            .filter(|&&at| !self.left_out[at])
            .map(|&at| stretched_ns(waiting[at].work_ns, limits))
            .fold(0, u64::saturating_add);
        Forecast {
            is_left_out: self.left_out[place],
            end_ns: free_ns
                .saturating_add(limits.fixed_ns)
                .saturating_add(before)
                .saturating_add(stretched_ns(waiting[place].work_ns, limits)),
        }
    }

    fn sort(&mut self, waiting: &[Waiting]) {
        self.order.clear();
        self.order.extend(0..waiting.len());
        self.order
            .sort_unstable_by_key(|&place| (waiting[place].due_ns, place));
    }

    /// Moore and Hodgson's rule; gives the number that it leaves out.
    fn leave_out(&mut self, waiting: &[Waiting], now_ns: u64, limits: Limits) -> usize {
        self.kept.clear();
        self.left_out.clear();
        self.left_out.resize(waiting.len(), false);
        let mut end_ns = now_ns.saturating_add(limits.fixed_ns);
        let mut count = 0;
        for &place in &self.order {
            let request = &waiting[place];
            let stretched = stretched_ns(request.work_ns, limits);
            end_ns = end_ns.saturating_add(stretched);
            self.kept.push(Kept {
                weight: stretched.saturating_mul(request.share_times.max(1)),
                stretched_ns: stretched,
                place,
            });
            while end_ns > request.deadline_ns {
                let Some(most) = self.kept.pop() else {
                    break;
                };
                self.left_out[most.place] = true;
                count += 1;
                end_ns -= most.stretched_ns.min(end_ns);
            }
        }
        count
    }

    /// Takes those due first, up to the time at which the tightest is late; gives the limit and the time.
    fn due_first(&mut self, waiting: &[Waiting], now_ns: u64, limits: Limits) -> (u64, u64) {
        self.places.clear();
        let (mut limit_ns, mut time_ns) = (limits.batch_ns_max, limits.fixed_ns);
        for &place in self.order.iter().filter(|&&place| !self.left_out[place]) {
            let request = &waiting[place];
            let left_ns = request.deadline_ns.saturating_sub(now_ns);
            let limit = limit_ns.min(best_case(left_ns, limits));
            let with = time_ns.saturating_add(request.work_ns);
            if !self.places.is_empty() && with > limit {
                if request.is_divisible() && limit == limit_ns {
                    self.places.push(place);
                }
                break;
            }
            self.places.push(place);
            (limit_ns, time_ns) = (limit, with);
        }
        if self.places.is_empty() {
            // Nobody can be in time: the least work, since predictions err.
            let least = (0..waiting.len()).min_by_key(|&place| waiting[place].work_ns);
            self.places.extend(least);
        }
        (limit_ns, time_ns)
    }

    /// Takes those of a batch with the most requests a second, the nearly late ones given up; gives its
    /// limit, or nothing when there is no such batch.
    fn most_a_second(&mut self, waiting: &[Waiting], now_ns: u64, limits: Limits) -> Option<u64> {
        let mut best: Option<(u64, u64, u64)> = None;
        let mut limit_ns = limits.fixed_ns + limits.fixed_ns / 8 + 1;
        for _ in 0..STEPS {
            if limit_ns > limits.batch_ns_max * 2 {
                break;
            }
            let (mut count, mut time_ns) = (0_u64, limits.fixed_ns);
            for &place in &self.order {
                if let Some(with) =
                    self.fits(&waiting[place], place, now_ns, limit_ns, time_ns, limits)
                {
                    time_ns = with;
                    count += 1;
                }
            }
            // More a second than the best: count / time, without a division.
            if best.is_none_or(|(most, time, _)| {
                u128::from(count) * u128::from(time) > u128::from(most) * u128::from(time_ns)
            }) && count > 0
            {
                best = Some((count, time_ns, limit_ns));
            }
            limit_ns += limit_ns / 8;
        }
        let (_, _, limit_ns) = best?;
        self.places.clear();
        let mut time_ns = limits.fixed_ns;
        for at in 0..self.order.len() {
            let place = self.order[at];
            if let Some(with) = self.fits(&waiting[place], place, now_ns, limit_ns, time_ns, limits)
            {
                time_ns = with;
                self.places.push(place);
            }
        }
        Some(limit_ns)
    }

    /// The time of a batch of `time_ns` with this request in it, when it is kept and in time at the end of
    /// `limit_ns`.
    fn fits(
        &self,
        request: &Waiting,
        place: usize,
        now_ns: u64,
        limit_ns: u64,
        time_ns: u64,
        limits: Limits,
    ) -> Option<u64> {
        let with = time_ns.saturating_add(request.work_ns);
        let left_ns = request.deadline_ns.saturating_sub(now_ns);
        (!self.left_out[place] && with <= limit_ns && limit_ns <= best_case(left_ns, limits))
            .then_some(with)
    }
}

/// Work with the part of the fixed time that falls on it in a batch of the longest time.
fn stretched_ns(work_ns: u64, limits: Limits) -> u64 {
    let Limits {
        fixed_ns,
        batch_ns_max,
        ..
    } = limits;
    let stretched =
        u128::from(work_ns) * u128::from(batch_ns_max) / u128::from(batch_ns_max - fixed_ns);
    u64::try_from(stretched).unwrap_or(u64::MAX)
}

/// The predicted time that is at most `worst_ns` in the worst case.
fn best_case(worst_ns: u64, limits: Limits) -> u64 {
    let time = u128::from(worst_ns) * 1024 / u128::from(limits.worst_1024.max(1));
    u64::try_from(time).unwrap_or(u64::MAX)
}

/// Whether too much of a batch of `time_ns` is its fixed time.
fn uses_badly(time_ns: u64, limits: Limits) -> bool {
    let share =
        |time_ns: u64| 10_000 * u128::from(time_ns - limits.fixed_ns) / u128::from(time_ns.max(1));
    share(time_ns) * 100 < share(limits.batch_ns_max) * u128::from(WORK_SHARE_MIN_HUNDREDTHS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        fixed_ns: 100,
        batch_ns_max: 1_000,
        worst_1024: 1024,
    };

    fn waiting(deadline_ns: u64, work_ns: u64) -> Waiting {
        Waiting {
            due_ns: deadline_ns,
            deadline_ns,
            work_ns,
            texts: 1,
            ..Waiting::default()
        }
    }

    fn places(waiting: &[Waiting], now_ns: u64, limits: Limits) -> Vec<usize> {
        Schedule::default()
            .pick(waiting, now_ns, limits)
            .places
            .to_vec()
    }

    #[test]
    fn a_newcomer_waits_for_those_due_before_it_only() {
        let limits = Limits {
            fixed_ns: 0,
            ..LIMITS
        };
        let mut schedule = Schedule::default();
        // Much waits, but has time.
        let queue = [
            waiting(90_000, 5_000),
            waiting(90_000, 5_000),
            waiting(900, 300),
            waiting(1_000, 100),
        ];
        let forecast = schedule.forecast(&queue, 3, 200, limits);
        assert_eq!(
            forecast,
            Forecast {
                is_left_out: false,
                end_ns: 600
            }
        );
        // The device is free too late.
        let late = schedule.forecast(&queue, 3, 950, limits);
        assert!(late.is_left_out && late.end_ns > 1_000, "{late:?}");
        // Somebody with more work gives way.
        let queue = [waiting(900, 800), waiting(1_000, 250)];
        assert!(schedule.forecast(&queue, 0, 0, limits).is_left_out);
        let kept = schedule.forecast(&queue, 1, 0, limits);
        assert_eq!((kept.is_left_out, kept.end_ns), (false, 250));
    }

    #[test]
    fn those_due_first_up_to_the_longest_time() {
        let queue = [
            waiting(9_000, 300),
            waiting(8_000, 300),
            waiting(7_000, 300),
        ];
        assert_eq!(places(&queue, 0, LIMITS), [2, 1, 0]);
        let limits = Limits {
            batch_ns_max: 800,
            ..LIMITS
        };
        assert_eq!(places(&queue, 0, limits), [2, 1]);
        assert!(places(&[], 0, LIMITS).is_empty());
    }

    #[test]
    fn a_batch_ends_before_its_tightest_deadline() {
        let queue = [waiting(500, 300), waiting(9_000, 300)];
        assert_eq!(places(&queue, 0, LIMITS), [0]);
        let queue = [waiting(700, 300), waiting(9_000, 300)];
        assert_eq!(places(&queue, 0, LIMITS), [0, 1]);
        // Half as much again in the worst case is too late.
        let limits = Limits {
            worst_1024: 1536,
            ..LIMITS
        };
        assert_eq!(places(&queue, 0, limits), [0]);
    }

    #[test]
    fn the_one_with_the_most_work_is_left_out_when_not_all_can_be_in_time() {
        // The long one is due first, and all others would be late for it.
        let mut queue = vec![waiting(1_500, 1_300)];
        queue.extend((0..5).map(|_| waiting(1_600, 200)));
        let mut schedule = Schedule::default();
        let picked = schedule.pick(&queue, 0, LIMITS);
        assert_eq!(picked.left_out, 1);
        assert!(!picked.places.contains(&0), "{picked:?}");
        // Alone it has its turn.
        assert_eq!(places(&queue[..1], 0, LIMITS), [0]);
    }

    #[test]
    fn under_overload_a_batch_is_not_lost_on_its_fixed_time() {
        // Ten are nearly late; a hundred more wait with time enough for a full batch, not for two.
        let limits = Limits {
            fixed_ns: 500,
            ..LIMITS
        };
        let mut queue: Vec<_> = (0..10).map(|_| waiting(540, 5)).collect();
        queue.extend((0..300).map(|_| waiting(1_100, 5)));
        let picked = places(&queue, 0, limits);
        assert!(picked.len() > 50, "{}", picked.len());
        assert!(picked.iter().all(|&place| place >= 10), "{picked:?}");
    }

    #[test]
    fn a_list_larger_than_a_batch_is_run_in_parts() {
        let list = Waiting {
            texts: 2,
            ..waiting(50_000, 20_000)
        };
        assert_eq!(places(&[list], 0, LIMITS), [0]);
        let picked = places(&[waiting(9_000, 300), list], 0, LIMITS);
        assert_eq!(picked, [0, 1], "the rest of the batch is the list's");
    }

    #[test]
    fn somebody_runs_even_when_all_are_late() {
        let queue = [waiting(10, 500), waiting(20, 300)];
        assert_eq!(places(&queue, 5, LIMITS), [1]);
        assert_eq!(places(&queue, 50, LIMITS), [1]);
    }

    #[test]
    fn classes_of_one_time_go_in_their_order_and_bulk_does_not_starve() {
        let far = u64::MAX;
        let bulk = due_ns(Class::Bulk, 0, far, 0);
        assert!(due_ns(Class::Interactive, 0, far, 0) < bulk);
        assert!(due_ns(Class::Interactive, BULK_PATIENCE_NS, far, 0) > bulk);
        assert_eq!(due_ns(Class::Bulk, 0, 5, 7), 5);
    }

    #[test]
    fn clients_take_turns() {
        // One sent a hundred at once, the other one text a little later.
        let of_many = |nth: u64| due_ns(Class::Bulk, 0, u64::MAX, nth * 2 * 100);
        let of_one = due_ns(Class::Bulk, 500, u64::MAX, 0);
        let before = (0..100).filter(|&nth| of_many(nth) < of_one).count();
        assert_eq!(before, 3);
    }

    #[test]
    fn under_overload_the_client_with_the_most_is_left_out() {
        let of_many = Waiting {
            share_times: 2,
            ..waiting(1_500, 150)
        };
        let mut queue = vec![of_many; 20];
        // Larger, due later, and in time all the same.
        queue.push(waiting(1_501, 250));
        let mut schedule = Schedule::default();
        let left_out = schedule.pick(&queue, 0, LIMITS).left_out;
        assert!(left_out > 0 && !schedule.left_out[20], "{left_out}");
        queue.iter_mut().for_each(|waiting| waiting.share_times = 1);
        schedule.pick(&queue, 0, LIMITS);
        assert!(schedule.left_out[20]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_numbers_give_a_batch(
            queue in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), 1_usize..9), 1..40),
            now_ns: u64, fixed_ns: u64, batch_ns_max: u64, worst_1024: u64,
        ) {
            let queue: Vec<_> = queue
                .into_iter()
                .map(|(due_ns, deadline_ns, work_ns, texts)| Waiting {
                    due_ns, deadline_ns, work_ns, texts, ..Waiting::default()
                })
                .collect();
            let limits = Limits { fixed_ns, batch_ns_max, worst_1024 };
            let mut picked = places(&queue, now_ns, limits);
            prop_assert!(!picked.is_empty());
            let count = picked.len();
            picked.sort_unstable();
            picked.dedup();
            prop_assert_eq!(picked.len(), count);
            prop_assert!(picked.iter().all(|&place| place < queue.len()));
        }

        #[test]
        fn bounds_hold(
            queue in prop::collection::vec((1_u64..5_000, 1_u64..400), 1..60),
            fixed_ns in 1_u64..500,
        ) {
            let queue: Vec<_> = queue.into_iter().map(|(deadline, work)| waiting(deadline, work)).collect();
            let limits = Limits { fixed_ns, ..LIMITS };
            let mut schedule = Schedule::default();
            let picked = schedule.pick(&queue, 0, limits);
            let time_ns = fixed_ns + picked.places.iter().map(|&place| queue[place].work_ns).sum::<u64>();
            prop_assert!(time_ns <= picked.limit_ns || picked.places.len() == 1);
            let tightest = picked.places.iter().map(|&place| queue[place].deadline_ns).min().unwrap();
            prop_assert!(time_ns <= tightest || picked.places.len() == 1);
        }
    }
}
