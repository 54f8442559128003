//! Plans out of reports, and knowledge out of bytes.

use embedring_protocol::Name;
use proptest::prelude::*;

use super::*;

const INPUT: PlanningInput = PlanningInput {
    batch_time_target_ns: 1_000_000,
    now_ns: 5,
};

fn report(tokens: u64, run_ns: u64) -> Report {
    Report {
        tokens,
        run_ns,
        ..Report::default()
    }
}

fn identity(name: &str, incarnation: u64) -> WorkerIdentity {
    WorkerIdentity {
        name: Name::lossy(name),
        incarnation,
        ..WorkerIdentity::default()
    }
}

fn line(planner: &mut Planner, worker: usize) {
    for tokens in [10, 100, 300, 50, 200, 10, 400] {
        planner.observe(worker, &report(tokens, 20_000 + tokens * 1_000));
    }
}

#[test]
fn no_reports_no_opinion() {
    let plan = Planner::default().plan(INPUT);
    assert_eq!((plan.epoch, plan.published_ns), (1, 5));
    assert_eq!(plan.workers, [WorkerPlan::default(); WORKERS_MAX]);
}

#[test]
fn a_line_is_found_and_bounds_the_batch() {
    let mut planner = Planner::default();
    line(&mut planner, 1);
    let entry = planner.plan(INPUT).workers[1];
    assert!((990..=1_010).contains(&entry.ns_per_token), "{entry:?}");
    assert!((19_000..=21_000).contains(&entry.ns_per_batch), "{entry:?}");
    assert!((960..=1_000).contains(&entry.batch_tokens_max), "{entry:?}");
    assert!(entry.queue_tokens_max > entry.batch_tokens_max);
    assert!(entry.worst_1024 > 1_024, "{entry:?}");
}

#[test]
fn equal_batches_and_noise_give_a_positive_cost() {
    let mut planner = Planner::default();
    for _ in 0..10 {
        planner.observe(0, &report(16, 160_000));
    }
    assert_eq!(planner.plan(INPUT).workers[0].ns_per_token, 10_000);
    for (tokens, ns) in [(100, 10), (1, 5_000_000), (50, 100)] {
        planner.observe(2, &report(tokens, ns));
    }
    assert!(planner.plan(INPUT).workers[2].ns_per_token > 0);
}

#[test]
fn one_batch_during_a_stop_does_not_count_for_a_minute() {
    let mut planner = Planner::default();
    for _ in 0..50 {
        planner.observe(0, &report(100, 100_000));
    }
    planner.observe(0, &report(100, 60_000_000_000));
    let entry = planner.plan(INPUT).workers[0];
    assert!((1_000..=1_200).contains(&entry.ns_per_token), "{entry:?}");
    for _ in 0..200 {
        planner.observe(0, &report(100, 60_000_000));
    }
    let entry = planner.plan(INPUT).workers[0];
    assert!(entry.ns_per_token > 500_000, "{entry:?}");
}

#[test]
fn a_device_that_slows_down_is_believed_within_a_hundred_batches() {
    let mut planner = Planner::default();
    for round in 0..300u64 {
        let tokens = 100 + round % 7 * 30;
        planner.observe(0, &report(tokens, tokens * 1_000));
    }
    for round in 0..100u64 {
        let tokens = 100 + round % 7 * 30;
        planner.observe(0, &report(tokens, tokens * 2_000));
    }
    let entry = planner.plan(INPUT).workers[0];
    assert!((1_700..=2_100).contains(&entry.ns_per_token), "{entry:?}");
    assert_eq!(planner.accuracies().workers[0].changes, 1);
}

#[test]
fn a_slower_device_is_slower_for_batches_it_has_not_run_since() {
    let mut planner = Planner::default();
    for round in 0..300u64 {
        let tokens = 20 + round * 37 % 400;
        planner.observe(0, &report(tokens, 50_000 + tokens * 1_000));
    }
    for _ in 0..12 {
        planner.observe(0, &report(30, 2 * 80_000));
    }
    let entry = planner.plan(INPUT).workers[0];
    let predicted = entry.ns_per_batch + 400 * entry.ns_per_token;
    assert!((750_000..=1_000_000).contains(&predicted), "{entry:?}");
}

#[test]
fn what_can_not_be_is_passed_over() {
    let mut planner = Planner::default();
    line(&mut planner, 0);
    let before = planner.clone();
    let lies = [
        report(0, 5),
        report(5, 0),
        report(u64::MAX, 5),
        report(5, u64::MAX),
        Report {
            tokens_squared: 26,
            ..report(5, 5)
        },
    ];
    for lie in &lies {
        planner.observe(0, lie);
    }
    assert_eq!(planner, before);
    planner.observe(WORKERS_MAX, &report(5, 5));
}

#[test]
fn another_start_of_the_same_worker_begins_with_what_is_known() {
    let mut planner = Planner::default();
    planner.begin(0, &identity("cpu", 1));
    line(&mut planner, 0);
    let known = planner.plan(INPUT).workers[0];
    planner.begin(0, &identity("cpu", 1));
    assert_eq!(planner.plan(INPUT).workers[0], known, "the same start");
    planner.begin(0, &identity("cpu", 2));
    let again = planner.plan(INPUT).workers[0];
    assert!(
        again.ns_per_token.abs_diff(known.ns_per_token) < 20,
        "{again:?}"
    );
    // It is twice as slow, and that is soon believed.
    for _ in 0..5 {
        for tokens in [10, 100, 300, 50] {
            planner.observe(0, &report(tokens, 40_000 + tokens * 2_000));
        }
    }
    let entry = planner.plan(INPUT).workers[0];
    assert!((1_700..=2_300).contains(&entry.ns_per_token), "{entry:?}");
    planner.begin(0, &identity("gpu", 3));
    assert_eq!(planner.plan(INPUT).workers[0], WorkerPlan::default());
}

#[test]
fn batches_are_kept_within_the_workers_memory() {
    let mut planner = Planner::default();
    let worker = WorkerIdentity {
        memory_max_bytes: 1_000_000,
        ..identity("cpu", 1)
    };
    planner.begin(0, &worker);
    for (tokens, rss_bytes) in [(10, 500_000), (100, 600_000), (200, 800_000)] {
        planner.observe(
            0,
            &Report {
                rss_bytes,
                ..report(tokens, tokens * 100)
            },
        );
    }
    let entry = planner.plan(INPUT).workers[0];
    // 150,000 bytes are left, and 240 tokens took 300,000.
    assert!((255..=400).contains(&entry.batch_tokens_max), "{entry:?}");
}

/// Defect 10 of the service that this one replaces: once its history of a thousand was full, it trained its
/// model on all of it again at every request. Here what is known is a sum that forgets and not a history: it
/// grows no more, and a report is taken in at the same cost however many came before.
#[test]
fn defect_10_what_is_known_does_not_grow_with_the_reports() {
    let mut planner = Planner::default();
    let mut sizes = Vec::new();
    for count in 1_u64..=20_000 {
        let tokens = 10 + count * 37 % 400;
        planner.observe(0, &report(tokens, 20_000 + tokens * 1_000));
        if count.is_multiple_of(5_000) {
            sizes.push(planner.save().len());
        }
    }
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    let entry = planner.plan(INPUT).workers[0];
    assert!((990..=1_010).contains(&entry.ns_per_token), "{entry:?}");
}

fn taught() -> Planner {
    let mut planner = Planner::default();
    planner.begin(3, &identity("cpu", 9));
    for round in 0..500 {
        let tokens = 10 + round * 37 % 400;
        let report = Report {
            tokens_squared: tokens * 20,
            rss_bytes: 1 << 20,
            ..report(tokens, 20_000 + tokens * 1_000 + round % 11 * 100)
        };
        planner.observe(3, &report);
    }
    planner.plan(INPUT);
    planner
}

#[test]
fn saved_knowledge_comes_back_whole() {
    let mut planner = taught();
    let mut restored = Planner::restore(&planner.save()).unwrap();
    assert_eq!(restored, planner);
    // And goes on the same way.
    line(&mut planner, 3);
    line(&mut restored, 3);
    assert_eq!(restored.plan(INPUT), planner.plan(INPUT));
    assert_eq!(restored.plan(INPUT).epoch, 3);
}

#[test]
fn what_is_cut_or_of_another_version_is_refused() {
    let saved = taught().save();
    for length in (0..saved.len()).step_by(97) {
        Planner::restore(&saved[..length]).unwrap_err();
    }
    let longer = [saved.as_slice(), &[0]].concat();
    assert!(matches!(
        Planner::restore(&longer),
        Err(RestoreError::Length { .. })
    ));
}

/// Bytes with a right head and checksum around any payload.
fn sealed(payload: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(payload);
    writer.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_flipped_bit_goes_unseen(bit in 0_usize..8 * 4_000) {
        let mut saved = taught().save();
        let bit = bit % (saved.len() * 8);
        saved[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Planner::restore(&saved).is_err());
    }

    #[test]
    fn any_payload_is_refused_or_plans(
        changes in prop::collection::vec((0_usize..10_000, any::<u8>()), 0..20),
        reports in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..20),
    ) {
        let saved = taught().save();
        let mut payload = saved[16..saved.len() - 4].to_vec();
        for (at, byte) in changes {
            let at = at % payload.len();
            payload[at] = byte;
        }
        let Ok(mut planner) = Planner::restore(&sealed(&payload)) else { return Ok(()) };
        for (tokens, tokens_squared, run_ns) in reports {
            planner.observe(3, &Report { tokens, tokens_squared, run_ns, ..Report::default() });
        }
        for entry in planner.plan(INPUT).workers {
            prop_assert!(entry.ns_per_token == 0 || entry.batch_tokens_max > 0);
        }
    }
}
