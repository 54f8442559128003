//! When something is learned, who is promoted, and what ends a promotion; the model is a function that
//! knows the answer, so that nothing here depends on a library.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

use super::*;
use crate::{Planner, PlanningInput};

const INPUT: PlanningInput = PlanningInput {
    batch_time_target_ns: 100_000_000,
    now_ns: 0,
};

/// A device that is `slower` times as slow as its costs for batches of more than 1,000 tokens, and those
/// who are fed with its batches.
struct Device {
    random: ChaCha8Rng,
    slower: f64,
    batches: u64,
    planner: Planner,
}

impl Device {
    fn new(slower: f64, seed: u64) -> Self {
        let mut planner = Planner::default();
        planner.learn();
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            slower,
            batches: 0,
            planner,
        }
    }

    fn tokens(&mut self) -> u64 {
        let log: f64 = StandardNormal.sample(&mut self.random);
        crate::number::whole((6.9 + log).exp()).clamp(20, 16_000)
    }

    fn time_ns(&self, tokens: u64) -> f64 {
        let step = if tokens > 1_000 { self.slower } else { 1.0 };
        (1e6 + 5e3 * float(tokens)) * step
    }

    fn run(&mut self, batches: u64, factor: f64) {
        for _ in 0..batches {
            self.batches += 1;
            let tokens = self.tokens();
            let noise: f64 = StandardNormal.sample(&mut self.random);
            let run_ns = self.time_ns(tokens) * (0.05 * noise).exp() * factor;
            let report = Report {
                batch: self.batches,
                finished_ns: self.batches * 1_000_000_000,
                texts: tokens / 20,
                tokens,
                tokens_squared: tokens * 20,
                longest_tokens: 20,
                run_ns: crate::number::whole(run_ns),
                ..Report::default()
            };
            self.planner.observe(0, &report);
        }
    }

    /// Answers with what the device takes, times `wrong`.
    fn learn(&mut self, wrong: f64) -> bool {
        let Some((set, questions)) = self.planner.training() else {
            return false;
        };
        assert_eq!(set.rows.len(), set.targets.len() * TrainingSet::WIDTH);
        let base = self.planner.plan(INPUT).workers[0];
        let answers = self.answers(base, wrong);
        self.planner.answer(&questions, &answers);
        true
    }

    fn answers(&self, base: embedring_protocol::WorkerPlan, wrong: f64) -> Vec<f32> {
        places()
            .map(|(tokens, squares)| {
                let base_ns = float(base.ns_per_batch)
                    + float(base.ns_per_token * tokens)
                    + float(base.ps_per_square * squares) / 1e3;
                #[expect(clippy::cast_possible_truncation, reason = "a logarithm")]
                let answer = (self.time_ns(tokens) * wrong / base_ns).ln() as f32;
                answer
            })
            .collect()
    }

    /// Learns once, and runs until somebody is promoted or that is decided against.
    fn taught(slower: f64, wrong: f64, seed: u64) -> Self {
        let mut device = Self::new(slower, seed);
        device.run(300, 1.0);
        assert!(device.learn(wrong));
        assert!(!device.planner.is_learned(0), "not before it was tried");
        device.run(600, 1.0);
        device
    }
}

#[test]
fn a_model_that_is_better_on_later_batches_is_published() {
    let mut device = Device::taught(1.6, 1.0, 1);
    assert!(device.planner.is_learned(0));
    let plan = device.planner.plan(INPUT).workers[0];
    let cost = embedring_policy::Cost::from_plan(
        Some(&embedring_protocol::Plan {
            workers: [plan; WORKERS_MAX],
            ..Default::default()
        }),
        embedring_protocol::WorkerIndex::new(0).unwrap(),
    );
    for tokens in [60, 200, 2_500, 8_000] {
        let ratio = float(cost.batch_ns(tokens)) / device.time_ns(tokens);
        assert!((0.94..1.06).contains(&ratio), "{tokens}: {ratio}");
    }
    assert!(cost.batch_ns(plan.batch_tokens_max) <= 101_000_000);
}

#[test]
fn a_model_that_is_no_better_is_not_published() {
    for seed in 0..20 {
        let device = Device::taught(1.0, 1.0, seed);
        assert!(
            !device.planner.is_learned(0),
            "exactly analytic: seed {seed}"
        );
        let device = Device::taught(1.6, 1.5, seed);
        assert!(!device.planner.is_learned(0), "wrong by half: seed {seed}");
    }
}

/// The original trained on every request from the moment its history was full.
#[test]
fn defect_10_a_full_history_is_not_learned_from_with_every_report() {
    let mut device = Device::new(1.0, 1);
    let mut learned = 0_u64;
    for _ in 0..10_000 {
        device.run(1, 1.0);
        learned += u64::from(device.learn(1.0));
    }
    let full = 2_048;
    assert!(
        (2..=10_000 / (full / 4) + 4).contains(&learned),
        "{learned} times in 10,000 reports"
    );
    // With nothing new, nothing; while something is being learned, nothing either.
    assert!(!device.learn(1.0));
    device.run(600, 1.0);
    assert!(device.planner.training().is_some());
    device.run(600, 1.0);
    assert!(device.planner.training().is_none());
}

#[test]
fn a_device_that_changes_is_the_analytic_models_at_once_and_learned_anew() {
    let mut device = Device::taught(1.6, 1.0, 1);
    assert!(device.planner.is_learned(0));
    // An answer that is still on its way is of the device as it was.
    device.run(200, 1.0);
    let (_, questions) = device.planner.training().unwrap();
    let batches = (1..=20)
        .find(|_| {
            device.run(1, 3.0);
            !device.planner.is_learned(0)
        })
        .expect("noticed within 20 batches");
    assert!(batches <= 10, "{batches}");
    assert_eq!(
        device.planner.plan(INPUT).workers[0].corrections,
        embedring_protocol::Corrections::default()
    );
    device.planner.answer(
        &questions,
        &vec![0.0; questions.rows.len() / TrainingSet::WIDTH],
    );
    assert!(
        device.planner.questions().is_empty(),
        "a late answer is dropped"
    );
    assert!(!device.learn(1.0), "not from batches of before");
    device.run(300, 3.0);
    assert!(device.learn(3.0));
    device.run(600, 3.0);
    assert!(device.planner.is_learned(0), "and promoted again");
}

#[test]
fn a_model_that_becomes_worse_than_the_analytic_one_is_dropped() {
    let mut device = Device::taught(1.6, 1.0, 1);
    assert!(device.planner.is_learned(0));
    // Worse by less than what is taken for a change.
    let [questions] = &device.planner.questions()[..] else {
        panic!("one model is in use");
    };
    let questions = questions.clone();
    device.planner.answer(
        &questions,
        &vec![0.0; questions.rows.len() / TrainingSet::WIDTH],
    );
    device.slower = 1.15;
    device.run(2_000, 1.0);
    assert!(!device.planner.is_learned(0));
}

#[test]
fn answers_that_can_not_be_change_nothing_and_end_the_wait() {
    let mut device = Device::new(1.6, 1);
    device.run(300, 1.0);
    for answers in [vec![], vec![0.0; 7], vec![f32::NAN; 48]] {
        let (_, questions) = device.planner.training().unwrap();
        device.planner.answer(&questions, &answers);
        assert!(device.planner.questions().is_empty(), "{answers:?}");
        device.run(600, 1.0);
    }
    assert!(device.learn(1.0));
}

#[test]
fn what_is_known_comes_back_from_its_bytes_with_the_models_in_use() {
    let mut device = Device::taught(1.6, 1.0, 1);
    let model = device.planner.questions()[0].model;
    let models = [(model, vec![1, 2, 3]), (model + 7, vec![4])];
    let saved = device.planner.save_learned(&models).unwrap();
    let mut again = Planner::restore(&device.planner.save()).unwrap();
    assert_eq!(again.save_learned(&[]), None, "a file of its own");
    let kept = again.restore_learned(&saved).unwrap();
    assert_eq!(kept, models[..1]);
    assert_eq!(again.questions(), device.planner.questions());
    assert_eq!(again.plan(INPUT), device.planner.plan(INPUT));
    // What is cut, changed or somebody else's is refused, and nothing is lost by the attempt.
    for at in (0..saved.len()).step_by(4_001) {
        let mut damaged = saved.clone();
        damaged[at] ^= 1;
        assert!(again.restore_learned(&damaged).is_err(), "byte {at}");
        assert!(again.restore_learned(&saved[..at]).is_err(), "cut at {at}");
    }
    let other = device.planner.save();
    assert_eq!(again.restore_learned(&other), Err(RestoreError::Impossible));
    assert!(again.is_learned(0));
}

#[test]
fn more_tokens_in_texts_of_one_length_never_take_less_time_whatever_a_model_answers() {
    let base = Coefficients {
        batch_ns: 1e6,
        token_ns: 1e3,
        square_ns: 0.5,
    };
    let answers: Vec<f32> = (0_u16..48)
        .map(|at| f32::from(at * 37 % 23) - 11.0)
        .collect();
    let contender = Contender::new(1, base, &answers, std::iter::empty());
    for column in 0..4 {
        let mut before = 0.0;
        for row in 0..12 {
            let (tokens, squares) = embedring_policy::correction_place(row, column);
            if squares / tokens < 8 << (2 * column) {
                continue;
            }
            let batch = Batch {
                tokens: float(tokens),
                squares: float(squares),
                run_ns: 1.0,
            };
            let ns = contender.predict(&batch).ns;
            assert!(
                ns >= before * 0.999,
                "{tokens} {squares}: {ns} after {before}"
            );
            before = ns;
        }
    }
}
