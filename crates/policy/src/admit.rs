//! A worker's choice: take a request into the queue, or refuse it at once and say when to come back.

use crate::cost::Cost;
use crate::fair::Share;
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

/// A request that asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Its texts.
    pub texts: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Nanoseconds until its deadline.
    pub left_ns: u64,
    /// What its client has waiting already.
    pub share: Share,
    /// What the schedule says of it (see [`crate::Schedule::forecast`]).
    pub late: Late,
}

/// Whether a newcomer would be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It would be in time beside the others.
    No,
    /// It would be done after so many nanoseconds, too late.
    After(u64),
    /// The queue is too long to ask the schedule for each newcomer: predicted as if all clients took turns and each
    /// request its place behind those that wait.
    ByTurns,
}

/// A queue takes so many times its bounds from clients that have less than their share in it.
const BOUNDS_TIMES: u64 = 2;

/// Decides on a request.
///
/// Nobody is kept out by what another client has waiting: who has less than its share of a full queue is
/// taken, up to twice the bounds. Late is who would be left out by the schedule, not who came last: a question goes
/// before the paragraphs that have more time.
///
/// An empty queue takes any request, so that one larger than the bounds is served rather than refused
/// for ever (its size is bounded by a ring slot). The predicted completion is an estimate: a request
/// is called late only when the estimate is beyond the deadline by half.
#[must_use]
pub fn admit(load: &Load, bounds: Bounds, cost: Cost, newcomer: Newcomer) -> Admission {
    let Newcomer {
        texts,
        tokens,
        left_ns,
        share,
        late,
    } = newcomer;
    if left_ns == 0 {
        return Admission::Refuse(Refusal::Late { predicted_ns: 0 });
    }
    let is_beyond = |times: u64| {
        load.texts.saturating_add(texts) > bounds.texts_max.saturating_mul(times)
            || load.tokens.saturating_add(tokens) > bounds.tokens_max.saturating_mul(times)
    };
    let is_full = is_beyond(1) && share.is_used_up(tokens);
    if (is_full || is_beyond(BOUNDS_TIMES)) && load.texts > 0 {
        let excess = load
            .tokens
            .saturating_add(tokens)
            .saturating_sub(bounds.tokens_max);
        let wait_for = excess.max(tokens).min(load.tokens.max(1));
        return Admission::Refuse(Refusal::Full {
            retry_after_ns: cost.batch_ns(wait_for),
        });
    }
    let late = match late {
        Late::No => None,
        Late::After(predicted_ns) => Some(predicted_ns),
        Late::ByTurns => Some(by_turns(load, cost, newcomer)).filter(|&ns| at_best(ns) > left_ns),
    };
    match late {
        Some(predicted_ns) if load.texts > 0 => Admission::Refuse(Refusal::Late { predicted_ns }),
        Some(_) | None => Admission::Take,
    }
}

/// What a predicted time may be if predictions err on the safe side: a request is called late only when it would be
/// late even then.
#[must_use]
pub fn at_best(predicted_ns: u64) -> u64 {
    predicted_ns / 3 * 2
}

fn by_turns(load: &Load, cost: Cost, newcomer: Newcomer) -> u64 {
    let Newcomer { tokens, share, .. } = newcomer;
    // What runs is nobody's share any more.
    let running = load.tokens.saturating_sub(share.all_tokens);
    let ahead = Load {
        tokens: running.saturating_add(share.ahead(tokens)),
        ..*load
    };
    cost.completion_ns(&ahead, tokens)
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

    /// Of the only client there is, which has all that waits.
    fn one(waiting: u64, texts: u64, tokens: u64, left_ns: u64) -> Newcomer {
        Newcomer {
            texts,
            tokens,
            left_ns,
            share: Share {
                own_tokens: waiting,
                all_tokens: waiting,
                clients: 1,
            },
            late: Late::ByTurns,
        }
    }

    /// Of a client that has nothing, while another one fills the queue.
    fn other(waiting: u64, tokens: u64, left_ns: u64) -> Newcomer {
        Newcomer {
            share: Share {
                own_tokens: 0,
                all_tokens: waiting,
                clients: 2,
            },
            ..one(0, 1, tokens, left_ns)
        }
    }

    #[test]
    fn nobody_is_kept_out_by_another_client() {
        // Full, and 9,800 ns of work wait, but none of this client.
        let full = load(90, 980);
        let refused = admit(&full, BOUNDS, COST, one(980, 1, 100, 3_000));
        assert!(matches!(refused, Admission::Refuse(Refusal::Full { .. })));
        let taken = admit(&full, BOUNDS, COST, other(980, 100, 3_000));
        assert_eq!(taken, Admission::Take);
        // Both are served in turns, and then it would be late all the same.
        let late = admit(&full, BOUNDS, COST, other(980, 100, 1_000));
        let predicted_ns = 2_000;
        assert_eq!(late, Admission::Refuse(Refusal::Late { predicted_ns }));
        // Memory has an end.
        let refused = admit(&load(90, 1_980), BOUNDS, COST, other(980, 100, 3_000));
        assert!(matches!(refused, Admission::Refuse(Refusal::Full { .. })));
    }

    #[test]
    fn room_is_given_and_a_full_queue_says_when() {
        assert_eq!(
            admit(&load(5, 500), BOUNDS, COST, one(500, 1, 100, AGES)),
            Admission::Take
        );
        let refused = admit(&load(50, 950), BOUNDS, COST, one(950, 1, 100, AGES));
        assert_eq!(
            refused,
            Admission::Refuse(Refusal::Full {
                retry_after_ns: 1_000
            })
        );
        let refused = admit(&load(100, 200), BOUNDS, COST, one(200, 1, 1, AGES));
        assert!(matches!(refused, Admission::Refuse(Refusal::Full { .. })));
    }

    #[test]
    fn an_empty_queue_takes_what_is_larger_than_the_bounds() {
        assert_eq!(
            admit(&load(0, 0), BOUNDS, COST, one(0, 500, 5_000, AGES)),
            Admission::Take
        );
    }

    #[test]
    fn the_schedule_has_the_word() {
        let much = load(5, 800);
        let asked = |late| Newcomer {
            late,
            ..one(800, 1, 100, 1_000)
        };
        assert_eq!(admit(&much, BOUNDS, COST, asked(Late::No)), Admission::Take);
        let refused = admit(&much, BOUNDS, COST, asked(Late::After(2_000)));
        let predicted_ns = 2_000;
        assert_eq!(refused, Admission::Refuse(Refusal::Late { predicted_ns }));
    }

    #[test]
    fn late_is_said_before_the_wait() {
        let refused = admit(&load(5, 800), BOUNDS, COST, one(800, 1, 100, 1_000));
        assert_eq!(
            refused,
            Admission::Refuse(Refusal::Late {
                predicted_ns: 9_000
            })
        );
        assert_eq!(
            admit(&load(5, 800), BOUNDS, COST, one(800, 1, 100, 8_000)),
            Admission::Take
        );
        let refused = admit(&load(0, 0), BOUNDS, COST, one(0, 1, 1, 0));
        assert!(matches!(refused, Admission::Refuse(Refusal::Late { .. })));
    }
}
