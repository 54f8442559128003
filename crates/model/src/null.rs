//! A backend without a model, for measuring and testing everything around the model.

use crate::{Backend, BackendError, BackendInfo, PackedBatch, Precision};

/// Gives each sequence a row that is a cheap pure function of its token ids.
///
/// Two texts get different rows (as good as a 64-bit hash makes them), so a test can check that a
/// vector belongs to its text by computing it again with [`NullBackend::row`].
#[derive(Clone, Debug)]
pub struct NullBackend {
    info: BackendInfo,
}

impl NullBackend {
    /// Rows of `hidden` numbers for sequences of at most `max_tokens`.
    #[must_use]
    pub fn new(hidden: usize, max_tokens: usize) -> Self {
        let device = "cpu".to_owned();
        let precision = Precision::F32;
        let info = BackendInfo {
            device,
            precision,
            hidden,
            max_tokens,
            kernels: "none".to_owned(),
            weights_bytes: 0,
            arena_bytes: 0,
        };
        Self { info }
    }

    /// Writes the pooled row of one sequence: numbers in `[-1, 1)`, never all zero.
    pub fn row(ids: &[u32], row: &mut [f32]) {
        let seed = ids.iter().fold(GOLDEN, |state, &id| {
            mix(state ^ u64::from(id).wrapping_add(1))
        });
        // Each number from the seed and its place alone, not from the one before: no long chain, so
        // that measuring what is around the backend is not measuring this.
        for (x, place) in row.iter_mut().zip(0u64..) {
            let bits = mix(seed.wrapping_add(place.wrapping_mul(GOLDEN)));
            // 23 bits fill the fraction exactly; the half keeps zero out.
            #[expect(clippy::cast_precision_loss, reason = "the upper 23 bits fit an f32")]
            let fraction = ((bits >> 41) as f32 + 0.5) / 4_194_304.0;
            *x = fraction - 1.0;
        }
    }
}

/// 2^64 over the golden ratio: an odd number without a pattern.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bijection on 64 bits whose every output bit depends on every input bit.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(GOLDEN);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

impl Backend for NullBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn run(&mut self, batch: &PackedBatch<'_>, pooled: &mut [f32]) -> Result<(), BackendError> {
        batch.check(&self.info, pooled)?;
        for (ids, row) in batch
            .sequences()
            .zip(pooled.chunks_exact_mut(self.info.hidden))
        {
            Self::row(ids, row);
        }
        Ok(())
    }
}
