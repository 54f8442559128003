//! Which waiting texts form the next batch.

use embedring_protocol::Class;

/// What the choice needs to know of a waiting text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How urgent its request is.
    pub class: Class,
    /// Its tokens.
    pub tokens: u64,
    /// When its request arrived, nanoseconds.
    pub arrived_ns: u64,
}

/// After this wait a bulk text counts as interactive, so that it never starves.
const BULK_AGES_AFTER_NS: u64 = 500_000_000;

/// Marks the texts of the next batch in `chosen` (same length as `waiting`, which is in order of
/// arrival): interactive and aged texts first, then bulk, each in order of arrival, until the next
/// one would break `tokens_max` or `texts_max`. The first text is always taken, whatever its size.
/// Returns how many were chosen.
///
/// Batches are packed, not padded, so mixing lengths costs nothing and order of arrival is kept.
pub fn pick_batch(
    waiting: &[Waiting],
    now_ns: u64,
    tokens_max: u64,
    texts_max: usize,
    chosen: &mut Vec<usize>,
) -> usize {
    chosen.clear();
    let mut tokens = 0u64;
    for urgent in [true, false] {
        for (index, text) in waiting.iter().enumerate() {
            if is_urgent(text, now_ns) != urgent {
                continue;
            }
            // Checked, since the bound comes from the plan and may be any number.
            let with_it = tokens.checked_add(text.tokens);
            let fits = chosen.len() < texts_max && with_it.is_some_and(|sum| sum <= tokens_max);
            if !fits && !chosen.is_empty() {
                // Stopping at the first that does not fit keeps the order within its class.
                break;
            }
            chosen.push(index);
            tokens = with_it.unwrap_or(u64::MAX);
        }
    }
    chosen.len()
}

fn is_urgent(text: &Waiting, now_ns: u64) -> bool {
    match text.class {
        Class::Interactive => true,
        Class::Bulk => now_ns.saturating_sub(text.arrived_ns) >= BULK_AGES_AFTER_NS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(class: Class, tokens: u64, arrived_ns: u64) -> Waiting {
        Waiting {
            class,
            tokens,
            arrived_ns,
        }
    }

    fn picked(waiting: &[Waiting], now_ns: u64, tokens_max: u64, texts_max: usize) -> Vec<usize> {
        let mut chosen = Vec::new();
        pick_batch(waiting, now_ns, tokens_max, texts_max, &mut chosen);
        chosen
    }

    #[test]
    fn interactive_goes_before_bulk_until_bulk_has_waited_long() {
        use Class::{Bulk, Interactive};
        let waiting = [
            text(Bulk, 10, 0),
            text(Interactive, 10, 0),
            text(Interactive, 10, 0),
        ];
        assert_eq!(picked(&waiting, 0, 20, 9), [1, 2]);
        assert_eq!(picked(&waiting, BULK_AGES_AFTER_NS, 20, 9), [0, 1]);
        assert_eq!(picked(&waiting, 0, 30, 9), [1, 2, 0]);
        assert_eq!(picked(&waiting, 0, 30, 1), [1]);
    }

    #[test]
    fn one_text_larger_than_the_bound_runs_alone() {
        let waiting = [text(Class::Bulk, 99, 0), text(Class::Bulk, 1, 0)];
        assert_eq!(picked(&waiting, 0, 10, 9), [0]);
        assert!(picked(&[], 0, 10, 9).is_empty());
    }

    #[test]
    fn token_counts_do_not_wrap_around() {
        let waiting = [text(Class::Bulk, u64::MAX, 0), text(Class::Bulk, 2, 0)];
        assert_eq!(picked(&waiting, 0, 10, 9), [0]);
        assert_eq!(picked(&waiting, 0, u64::MAX, 9), [0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn bounds_hold_and_somebody_always_runs(
            tokens in prop::collection::vec((1u64..300, any::<bool>()), 1..60),
            tokens_max in 1u64..1000, texts_max in 1usize..40,
        ) {
            let waiting: Vec<_> = tokens.iter()
                .map(|(t, bulk)| text(if *bulk { Class::Bulk } else { Class::Interactive }, *t, 0))
                .collect();
            let chosen = picked(&waiting, 0, tokens_max, texts_max);
            prop_assert!(!chosen.is_empty() && chosen.len() <= texts_max);
            let sum: u64 = chosen.iter().map(|i| waiting[*i].tokens).sum();
            prop_assert!(sum <= tokens_max || chosen.len() == 1);
            let mut unique = chosen.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), chosen.len());
        }
    }
}
