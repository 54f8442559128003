//! What others do: the policies of the policy crate, as real workers run them. Those with a model of costs get the
//! true one. Each is tuned for itself (see `contenders`).

use embedring_policy::{BatchPolicy, Batcher, Limits, Next as Chosen, Waiting};

use crate::device::{Costs, Device, float, whole};
use crate::request::Request;
use crate::run::{Next, Policy};

/// What model-based policies allow for noise where it is not tuned, in 1/1024 of what is predicted.
const WORST_1024: u64 = 1178;

/// One of them.
#[derive(Debug)]
pub(crate) struct Other {
    batcher: Batcher,
    costs: Costs,
    queue: Vec<Request>,
    /// The same as the policy sees them.
    waiting: Vec<Waiting>,
}

impl Other {
    pub(crate) fn new(policy: BatchPolicy, device: &Device) -> Self {
        Self {
            batcher: Batcher::new(policy),
            costs: device.costs,
            queue: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Takes those at `places` out of the queue, whose order stays.
    fn remove(&mut self, mut places: Vec<usize>) {
        places.sort_unstable();
        let count = places.len();
        if places.last().is_none_or(|&last| last + 1 == count) {
            self.queue.drain(..count);
            self.waiting.drain(..count);
            return;
        }
        let is_left = |at: usize| places.binary_search(&at).is_err();
        let mut at = 0..self.queue.len();
        self.queue.retain(|_| at.next().is_some_and(is_left));
        let mut at = 0..self.waiting.len();
        self.waiting.retain(|_| at.next().is_some_and(is_left));
    }
}

impl Policy for Other {
    fn arrive(&mut self, request: Request) {
        self.queue.push(request);
        self.waiting.push(Waiting {
            arrived_ns: request.arrived_ns,
            due_ns: request.deadline_ns,
            deadline_ns: request.deadline_ns,
            work_ns: whole(self.costs.work_ns(request.tokens)),
            texts: 1,
            tokens: request.tokens,
            share_times: 1,
        });
    }

    fn next(&mut self, now_ns: u64) -> Next {
        let limits = Limits {
            fixed_ns: whole(self.costs.fixed_ns),
            batch_ns_max: u64::MAX,
            worst_1024: WORST_1024,
        };
        let mut gone = Vec::new();
        let next = match self.batcher.next(&self.waiting, now_ns, limits) {
            Chosen::Run(picked) => {
                gone.extend_from_slice(picked.places);
                Next::Run(picked.places.iter().map(|&at| self.queue[at]).collect())
            }
            Chosen::Wait { until_ns } => Next::Wait(until_ns),
            Chosen::Idle => Next::Idle,
        };
        gone.extend_from_slice(self.batcher.dropped());
        self.remove(gone);
        next
    }

    fn ran(&mut self, batch: &[Request], run_ns: u64) {
        self.batcher.ran(batch.len(), run_ns);
    }
}

/// A part of a question's deadline.
pub(crate) fn part(deadline_ns: u64, part: f64) -> u64 {
    whole(float(deadline_ns) * part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::CPU;
    use crate::request::Kind;

    #[test]
    fn those_that_run_or_are_dropped_leave_the_queue_in_order() {
        let policy = BatchPolicy::TokenBudget {
            tokens_max: 25,
            expires: true,
        };
        let mut other = Other::new(policy, &CPU);
        for (at, tokens) in [(0, 10), (1, 10), (2, 10), (3, 30), (4, 10)] {
            other.arrive(Request {
                kind: Kind::Question,
                arrived_ns: at,
                deadline_ns: if at == 1 { 5 } else { 1_000 },
                tokens,
            });
        }
        let arrivals = |next: Next| match next {
            Next::Run(batch) => batch.iter().map(|request| request.arrived_ns).collect(),
            Next::Wait(_) | Next::Idle => Vec::new(),
        };
        assert_eq!(arrivals(other.next(5)), [0, 2]);
        assert_eq!(arrivals(other.next(6)), [3]);
        assert_eq!(arrivals(other.next(7)), [4]);
        assert!(matches!(other.next(8), Next::Idle));
        assert!(other.queue.is_empty() && other.waiting.is_empty());
    }
}
