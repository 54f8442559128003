//! Which of two ways of serving is better, found by switching between them while requests come.
//!
//! Both ways share one queue and one device, so requests can not be split between them: what one way
//! does to the queue, the other one meets. So time is cut into blocks, in each of which one way holds.
//! Blocks come in pairs, one of each, in random order, and the test is on the differences within pairs
//! (Bojinov, Simchi-Levi and Zhao 2023, "Design and analysis of switchback experiments"). At the
//! beginning of a block, while the queue is still the other way's, nothing counts.

use crate::paired::Paired;

/// One of two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The one there is.
    A,
    /// The one that is tried.
    B,
}

/// A plan of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switchback {
    /// When the first block begins, nanoseconds.
    pub begun_ns: u64,
    /// Length of a block in nanoseconds; 0 counts as 1.
    pub block_ns: u64,
    /// What does not count at the beginning of each block, nanoseconds.
    pub settle_ns: u64,
    /// Decides the order within pairs.
    pub seed: u64,
}

/// A moment in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Number of the block, from 0.
    pub block: u64,
    /// Who has it.
    pub arm: Arm,
    /// Whether what happens now counts.
    pub counts: bool,
}

impl Switchback {
    /// Whose turn it is. Before the first block nothing counts.
    #[must_use]
    pub fn at(&self, now_ns: u64) -> Turn {
        let since_ns = now_ns.saturating_sub(self.begun_ns);
        let block_ns = self.block_ns.max(1);
        let block = since_ns / block_ns;
        Turn {
            block,
            arm: self.arm_of(block),
            counts: now_ns >= self.begun_ns && since_ns % block_ns >= self.settle_ns,
        }
    }

    /// Who has a block.
    #[must_use]
    pub fn arm_of(&self, block: u64) -> Arm {
        let first_is_b = mixed(self.seed ^ mixed(block / 2)) & 1 == 1;
        if first_is_b == block.is_multiple_of(2) {
            Arm::B
        } else {
            Arm::A
        }
    }

    /// What B's blocks have more than A's. `values` are the blocks' own, from block 0 on; `None` where a
    /// block had nothing to measure, which leaves out its pair. `None` for fewer than two whole pairs.
    #[must_use]
    pub fn compare(&self, values: &[Option<f64>]) -> Option<Paired> {
        let difference = |(pair, values): (u64, &[Option<f64>])| {
            let &[Some(first), Some(second)] = values else {
                return None;
            };
            Some(match self.arm_of(pair * 2) {
                Arm::A => second - first,
                Arm::B => first - second,
            })
        };
        let differences: Vec<f64> = (0..).zip(values.chunks(2)).filter_map(difference).collect();
        Paired::of(&differences)
    }
}

/// A number in which every bit depends on all bits of `value` (the finaliser of splitmix64, Steele, Lea
/// and Flood 2014).
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution as _, StandardNormal};

    fn plan(seed: u64) -> Switchback {
        Switchback {
            begun_ns: 1_000,
            block_ns: 100,
            settle_ns: 30,
            seed,
        }
    }

    #[test]
    fn each_pair_has_both_and_about_half_begin_with_either() {
        let plan = plan(3);
        let mut begins_with_b = 0;
        for pair in 0..1_000 {
            let (first, second) = (plan.arm_of(2 * pair), plan.arm_of(2 * pair + 1));
            assert_ne!(first, second);
            begins_with_b += usize::from(first == Arm::B);
        }
        assert!((430..570).contains(&begins_with_b), "{begins_with_b}");
    }

    #[test]
    fn the_beginning_of_a_block_does_not_count() {
        let plan = plan(1);
        assert!(!plan.at(0).counts && !plan.at(1_029).counts);
        assert!(plan.at(1_030).counts && plan.at(1_099).counts);
        assert_eq!(plan.at(1_100).block, 1);
        assert!(!plan.at(1_100).counts);
        assert_eq!(plan.at(1_250).arm, plan.arm_of(2));
    }

    /// Blocks of an instance whose load rises all the time, where B is better by `better`.
    fn values(plan: &Switchback, better: f64, seed: u64) -> Vec<Option<f64>> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..60_u32)
            .map(|block| {
                let noise: f64 = StandardNormal.sample(&mut random);
                let own = match plan.arm_of(u64::from(block)) {
                    Arm::A => 0.0,
                    Arm::B => better,
                };
                Some(f64::from(block) * 0.5 + noise + own)
            })
            .collect()
    }

    #[test]
    fn a_load_that_rises_is_not_taken_for_a_difference() {
        let wrong = (0..1_000)
            .filter(|&seed| {
                let plan = plan(seed);
                let found = plan.compare(&values(&plan, 0.0, seed)).unwrap();
                found.is_above_zero() || found.is_below_zero()
            })
            .count();
        assert!(wrong < 80, "{wrong} of 1,000");
    }

    #[test]
    fn a_difference_is_found_and_signed_for_b() {
        let found = (0..100)
            .filter(|&seed| {
                let plan = plan(seed);
                let found = plan.compare(&values(&plan, 1.5, seed)).unwrap();
                found.is_above_zero()
            })
            .count();
        assert!(found > 95, "{found} of 100");
    }

    #[test]
    fn a_block_without_a_value_leaves_out_its_pair() {
        let plan = plan(2);
        let mut values = values(&plan, 1.0, 2);
        values[6] = None;
        values.push(Some(1.0));
        assert_eq!(plan.compare(&values).unwrap().pairs, 29);
        assert_eq!(plan.compare(&[Some(1.0), Some(2.0)]), None);
    }
}
