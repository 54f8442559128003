//! What a device offers: a batch of token ids in, one pooled row for each sequence out.

/// One model on one device.
///
/// The rows do not depend on the batch: a sequence gives the same row, to the last bit, alone and
/// with any neighbours.
pub trait Backend: Send {
    /// What this backend is and what it accepts.
    fn info(&self) -> &BackendInfo;

    /// Writes the pooled, unnormalised rows, `[batch.len(), hidden]`, into `pooled`.
    ///
    /// Memory taken while running depends on the longest sequence and on the threads, never on the
    /// number of sequences.
    ///
    /// # Errors
    /// [`BackendError`] when the batch cannot be run; `pooled` then holds nothing of use. The
    /// backend stays usable.
    fn run(&mut self, batch: &PackedBatch<'_>, pooled: &mut [f32]) -> Result<(), BackendError>;
}

/// What a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// The device it runs on, for example `cpu`.
    pub device: String,
    /// The numbers it computes with.
    pub precision: Precision,
    /// Length of a row.
    pub hidden: usize,
    /// Longest sequence, special tokens included.
    pub max_tokens: usize,
    /// What computes: the instruction level of our kernels, or the library's name.
    pub kernels: String,
    /// Memory its weights take.
    pub weights_bytes: u64,
    /// Memory beside them that is taken at load for batches of any size; 0 where it is taken batch by
    /// batch.
    pub arena_bytes: u64,
}

/// The numbers a backend computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floating point throughout.
    F32,
    /// Weights and activations in half precision; sums in f32. On GPUs.
    F16,
    /// Weights, and where the processor multiplies them so also activations, in bf16; sums in f32.
    Bf16,
    /// Weights and activations of the linear layers in bytes; sums exact.
    Int8,
}

impl Precision {
    /// The name users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a batch was not run.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// `pooled` has not room for exactly one row for each sequence. A mistake of the caller.
    #[error("the output holds {got} numbers, the batch needs {want}")]
    OutputSize {
        /// Numbers the output holds.
        got: usize,
        /// Sequences times hidden.
        want: usize,
    },
    /// A sequence is longer than the model allows. Truncate when tokenising.
    #[error("sequence {index} has {tokens} tokens, the model takes {limit}")]
    TooLong {
        /// Its place in the batch.
        index: usize,
        /// Its tokens.
        tokens: usize,
        /// [`BackendInfo::max_tokens`].
        limit: usize,
    },
    /// A token id is outside the model's vocabulary: tokeniser and weights do not belong together.
    #[error("token id {id} in sequence {index} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// Place of the sequence in the batch.
        index: usize,
        /// The id.
        id: u32,
        /// Rows of the word embedding.
        vocabulary: usize,
    },
    /// The computation itself failed.
    #[error("the forward pass failed")]
    Compute(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Token ids of several sequences, laid end to end.
#[derive(Clone, Copy, Debug)]
pub struct PackedBatch<'a> {
    ids: &'a [u32],
    offsets: &'a [usize],
}

/// Why ids and offsets do not form a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// There is no sequence: `offsets` needs two entries or more.
    #[error("a batch needs at least one sequence")]
    Empty,
    /// The offsets do not begin with 0 or do not end with the number of ids.
    #[error("the offsets span {first}..{last}, the batch has {ids} token ids")]
    Span {
        /// First offset.
        first: usize,
        /// Last offset.
        last: usize,
        /// Number of ids.
        ids: usize,
    },
    /// An offset is not larger than the one before it, so a sequence would have no token.
    #[error("sequence {index} has no token")]
    EmptySequence {
        /// Its place in the batch.
        index: usize,
    },
}

impl<'a> PackedBatch<'a> {
    /// Sequence `i` is `ids[offsets[i]..offsets[i + 1]]`; `offsets` has one entry more than there
    /// are sequences.
    ///
    /// # Errors
    /// [`PackError`] when the offsets do not cut `ids` into sequences of one token or more.
    pub fn new(ids: &'a [u32], offsets: &'a [usize]) -> Result<Self, PackError> {
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
            return Err(PackError::Empty);
        };
        if offsets.len() < 2 {
            return Err(PackError::Empty);
        }
        if first != 0 || last != ids.len() {
            return Err(PackError::Span {
                first,
                last,
                ids: ids.len(),
            });
        }
        match offsets.windows(2).position(|pair| pair[0] >= pair[1]) {
            Some(index) => Err(PackError::EmptySequence { index }),
            None => Ok(Self { ids, offsets }),
        }
    }

    /// Number of sequences, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens of all sequences together.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// All token ids, end to end.
    #[must_use]
    pub fn ids(&self) -> &'a [u32] {
        self.ids
    }

    /// Where the sequences begin, and the end of the last.
    #[must_use]
    pub fn offsets(&self) -> &'a [usize] {
        self.offsets
    }

    /// The sequences in order.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = &'a [u32]> + use<'a> {
        let ids = self.ids;
        self.offsets
            .windows(2)
            .map(move |pair| &ids[pair[0]..pair[1]])
    }

    /// Checks what every backend must: room for the rows, and lengths within `info`.
    pub(crate) fn check(&self, info: &BackendInfo, pooled: &[f32]) -> Result<(), BackendError> {
        let want = self.len() * info.hidden;
        if pooled.len() != want {
            return Err(BackendError::OutputSize {
                got: pooled.len(),
                want,
            });
        }
        let limit = info.max_tokens;
        match self
            .sequences()
            .enumerate()
            .find(|(_, ids)| ids.len() > limit)
        {
            Some((index, ids)) => Err(BackendError::TooLong {
                index,
                tokens: ids.len(),
                limit,
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ids: usize, offsets: &[usize], expected: Result<usize, PackError>) {
        let ids = vec![7; ids];
        assert_eq!(
            PackedBatch::new(&ids, offsets).map(|batch| batch.len()),
            expected
        );
    }

    #[test]
    fn offsets_must_cut_the_ids_into_sequences() {
        check(3, &[0, 3], Ok(1));
        check(3, &[0, 1, 3], Ok(2));
        check(0, &[], Err(PackError::Empty));
        check(0, &[0], Err(PackError::Empty));
        check(0, &[0, 0], Err(PackError::EmptySequence { index: 0 }));
        check(3, &[0, 2, 2, 3], Err(PackError::EmptySequence { index: 1 }));
        check(3, &[0, 5, 3], Err(PackError::EmptySequence { index: 1 }));
        check(
            3,
            &[1, 3],
            Err(PackError::Span {
                first: 1,
                last: 3,
                ids: 3,
            }),
        );
        check(
            3,
            &[0, 4],
            Err(PackError::Span {
                first: 0,
                last: 4,
                ids: 3,
            }),
        );
    }
}
