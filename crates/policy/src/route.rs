//! A client's choice among workers.

use embedring_protocol::{Load, WorkerIndex};

use crate::cost::Cost;

/// A worker that could take a request.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which one.
    pub index: WorkerIndex,
    /// What its batches cost.
    pub cost: Cost,
    /// What it has to do already, the caller's own unanswered requests included.
    pub load: Load,
}

/// The worker predicted to finish `tokens` more tokens first; `None` without candidates.
///
/// With few devices on one host all of them are asked: there is no reason to sample. A list that is
/// sent message by message with the own messages counted into `load` splits itself in proportion to
/// the workers' speeds.
#[must_use]
pub fn route(candidates: &[Candidate], tokens: u64) -> Option<WorkerIndex> {
    candidates
        .iter()
        .min_by_key(|candidate| candidate.cost.completion_ns(&candidate.load, tokens))
        .map(|candidate| candidate.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(index: usize, ns_per_token: u64, tokens: u64) -> Candidate {
        Candidate {
            index: WorkerIndex::new(index).unwrap(),
            cost: Cost {
                ns_per_batch: 0,
                ns_per_token,
                ..Cost::DEFAULT
            },
            load: Load {
                tokens,
                ..Load::default()
            },
        }
    }

    #[test]
    fn nobody_to_choose_from() {
        assert_eq!(route(&[], 1), None);
    }

    #[test]
    fn the_one_that_finishes_first_gets_it() {
        let cases = [
            // The fast one, idle.
            ([candidate(0, 100, 0), candidate(1, 10, 0)], 1),
            // The fast one is so far behind that the slow one is first.
            ([candidate(0, 100, 0), candidate(1, 10, 2_000)], 0),
            // Equal: the first, so that a choice can be repeated.
            ([candidate(0, 10, 5), candidate(1, 10, 5)], 0),
        ];
        for (candidates, want) in cases {
            assert_eq!(route(&candidates, 100).unwrap().get(), want);
        }
    }

    #[test]
    fn a_list_splits_in_proportion_to_speed() {
        let mut candidates = [candidate(0, 30, 0), candidate(1, 10, 0)];
        let mut sent = [0u64; 2];
        for _ in 0..400 {
            let chosen = route(&candidates, 50).unwrap().get();
            candidates[chosen].load.tokens += 50;
            sent[chosen] += 1;
        }
        assert_eq!(sent, [100, 300]);
    }
}
