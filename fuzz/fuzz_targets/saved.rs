//! The files in which a scheduler keeps what it learned: damaged, cut, or of somebody else.
//!
//! Input: which of the two files (1 byte), then the file. Checksums are not compared in builds for
//! fuzzing, or hardly any input would get beyond them.

#![no_main]

use embedring_fuzz::Bytes;
use embedring_optimizer::{Planner, PlanningInput};
use embedring_protocol::{Report, WorkerIdentity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Bytes::new(data);
    let is_learned = input.u8() % 2 == 1;
    let saved = input.rest();
    if is_learned {
        let mut planner = Planner::default();
        let Ok(models) = planner.restore_learned(saved) else {
            return;
        };
        let again = planner.save_learned(&models).expect("it learns");
        let kept = Planner::default().restore_learned(&again);
        assert!(kept.expect("what was saved comes back").len() <= models.len());
        go_on(planner);
    } else if let Ok(planner) = Planner::restore(saved) {
        let again = Planner::restore(&planner.save()).expect("what was saved comes back");
        assert_eq!(again.accuracies(), planner.accuracies());
        go_on(planner);
    }
});

/// Plans, sees a batch on a new worker and on each old one, and plans again.
fn go_on(mut planner: Planner) {
    let report = Report {
        batch: 1,
        finished_ns: 1_000_000_000,
        texts: 4,
        tokens: 80,
        tokens_squared: 1_600,
        run_ns: 5_000_000,
        longest_tokens: 20,
        ..Report::default()
    };
    for now_ns in [0, 1 << 40, u64::MAX] {
        let planned = planner.plan(PlanningInput {
            batch_time_target_ns: 50_000_000,
            now_ns,
        });
        for entry in &planned.workers {
            let none = entry.ns_per_token == 0;
            assert!(none || entry.batch_tokens_max > 0 && entry.queue_tokens_max > 0);
        }
        for place in 0..planned.workers.len() {
            if now_ns > 0 {
                planner.begin(place, &WorkerIdentity::default());
            }
            planner.observe(place, &report);
        }
    }
}
