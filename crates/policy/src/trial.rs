//! What a device is tried out with before the first request: batches that tell its fixed time, its time per
//! token and that per squared token apart.

/// Texts and tokens of each text; squared lengths are far apart where tokens are the same. None is large: what
/// memory a large one takes is not known yet, and it would be kept for good.
const SHAPES: [(usize, usize); 8] = [
    (1, 8),
    (1, 64),
    (4, 64),
    (16, 16),
    (1, 256),
    (2, 8),
    (8, 32),
    (1, 128),
];

/// The batches of a trial, one after the other, within a time.
#[derive(Clone, Copy, Debug)]
pub struct Trials {
    next: usize,
    left_ns: u64,
    /// Tokens and time of the largest batch so far.
    largest: (u64, u64),
}

impl Trials {
    /// To take about `ns` nanoseconds: no batch is begun that would take longer by the largest one so far.
    #[must_use]
    pub fn within(ns: u64) -> Self {
        Self {
            next: 0,
            left_ns: ns,
            largest: (1, 0),
        }
    }

    /// Texts and tokens of each text of the next batch; nothing at the end.
    pub fn next_shape(&mut self) -> Option<(usize, usize)> {
        let shape = *SHAPES.get(self.next)?;
        self.next += 1;
        let (tokens, ns) = self.largest;
        let times = tokens_of(shape).div_ceil(tokens).max(1);
        (ns.saturating_mul(times) <= self.left_ns).then_some(shape)
    }

    /// A batch took so long.
    pub fn ran(&mut self, (texts, tokens): (usize, usize), ns: u64) {
        self.left_ns = self.left_ns.saturating_sub(ns);
        let all = tokens_of((texts, tokens));
        if all >= self.largest.0 {
            self.largest = (all, ns);
        }
    }
}

fn tokens_of((texts, tokens): (usize, usize)) -> u64 {
    texts as u64 * tokens as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a trial on a device, in nanoseconds.
    fn tokens_run(fixed_ns: u64, token_ns: u64) -> (u64, u64) {
        let mut trials = Trials::within(200_000_000);
        let (mut most, mut spent) = (0, 0);
        while let Some(shape) = trials.next_shape() {
            let ns = fixed_ns + tokens_of(shape) * token_ns;
            trials.ran(shape, ns);
            most = most.max(tokens_of(shape));
            spent += ns;
        }
        (most, spent)
    }

    #[test]
    fn a_slow_device_is_not_kept_long() {
        let (most, spent) = tokens_run(1_000_000, 100_000);
        assert!(most == 256 && spent < 200_000_000, "{most} {spent}");
        // A second for a token: one batch, and it is over.
        let (most, _) = tokens_run(0, 1_000_000_000);
        assert_eq!(most, 8);
    }
}
