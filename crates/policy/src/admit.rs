//! A worker's choice: take a request into the queue, or refuse it at once and say when to come back.

use crate::cost::Cost;
use embedring_protocol::Load;

/// What may wait in a worker's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Texts, running ones included.
    pub texts_max: u64,
    /// Tokens, running ones included.
    pub tokens_max: u64,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full; it should have room after so many nanoseconds.
    Full {
        /// When to try again.
        retry_after_ns: u64,
    },
    /// The deadline passes before the queue is worked off.
    Late {
        /// When the request would be done, in nanoseconds from now.
        predicted_ns: u64,
    },
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It waits its turn.
    Take,
    /// It is answered at once.
    Refuse(Refusal),
}

/// Decides on a request of `texts` texts and `tokens` tokens that has `left_ns` until its deadline.
///
/// An empty queue takes any request, so that one larger than the bounds is served rather than refused
/// for ever (its size is bounded by a ring slot). The predicted completion is an estimate: a request
/// is called late only when the estimate is beyond the deadline by half.
#[must_use]
pub fn admit(
    load: &Load,
    bounds: Bounds,
    cost: Cost,
    texts: u64,
    tokens: u64,
    left_ns: u64,
) -> Admission {
    if left_ns == 0 {
        return Admission::Refuse(Refusal::Late { predicted_ns: 0 });
    }
    let full = load.texts.saturating_add(texts) > bounds.texts_max
        || load.tokens.saturating_add(tokens) > bounds.tokens_max;
    if full && load.texts > 0 {
        let excess = load
            .tokens
            .saturating_add(tokens)
            .saturating_sub(bounds.tokens_max);
        let wait_for = excess.max(tokens).min(load.tokens.max(1));
        return Admission::Refuse(Refusal::Full {
            retry_after_ns: cost.batch_ns(wait_for),
        });
    }
    let predicted_ns = cost.completion_ns(load, tokens);
    if load.texts > 0 && predicted_ns / 3 * 2 > left_ns {
        return Admission::Refuse(Refusal::Late { predicted_ns });
    }
    Admission::Take
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        texts_max: 100,
        tokens_max: 1_000,
    };
    const COST: Cost = Cost {
        ns_per_batch: 0,
        ns_per_token: 10,
        ..Cost::DEFAULT
    };
    const AGES: u64 = u64::MAX;

    fn load(texts: u64, tokens: u64) -> Load {
        Load { texts, tokens }
    }

    #[test]
    fn room_is_given_and_a_full_queue_says_when() {
        assert_eq!(
            admit(&load(5, 500), BOUNDS, COST, 1, 100, AGES),
            Admission::Take
        );
        let refused = admit(&load(50, 950), BOUNDS, COST, 1, 100, AGES);
        assert_eq!(
            refused,
            Admission::Refuse(Refusal::Full {
                retry_after_ns: 1_000
            })
        );
        let refused = admit(&load(100, 200), BOUNDS, COST, 1, 1, AGES);
        assert!(matches!(refused, Admission::Refuse(Refusal::Full { .. })));
    }

    #[test]
    fn an_empty_queue_takes_what_is_larger_than_the_bounds() {
        assert_eq!(
            admit(&load(0, 0), BOUNDS, COST, 500, 5_000, AGES),
            Admission::Take
        );
    }

    #[test]
    fn late_is_said_before_the_wait() {
        let refused = admit(&load(5, 800), BOUNDS, COST, 1, 100, 1_000);
        assert_eq!(
            refused,
            Admission::Refuse(Refusal::Late {
                predicted_ns: 9_000
            })
        );
        assert_eq!(
            admit(&load(5, 800), BOUNDS, COST, 1, 100, 8_000),
            Admission::Take
        );
        let refused = admit(&load(0, 0), BOUNDS, COST, 1, 1, 0);
        assert!(matches!(refused, Admission::Refuse(Refusal::Late { .. })));
    }
}
