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
