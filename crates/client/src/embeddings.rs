//! The answer to a call.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use embedring_ipc::Reply;
use embedring_protocol::{Precision, RowMeta, TextFault};

/// How one message of a call went. A short list travels as one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// Places in the list of the texts it carried, ascending.
    pub texts: Arc<[usize]>,
    /// Name of the worker.
    pub worker: Arc<str>,
    /// Its device.
    pub device: Arc<str>,
    /// Its model.
    pub model: Arc<str>,
    /// Arithmetic of the rows.
    pub precision: Precision,
    /// Between arrival at the worker and the start of its first batch.
    pub queue: Duration,
    /// Tokenising.
    pub tokenize: Duration,
    /// Running the batches that held its texts, those of others included.
    pub run: Duration,
    /// Between sending and receiving, in the client.
    pub round_trip: Duration,
    /// Number of its last batch, counted by the worker.
    pub batch: u64,
    /// Texts in that batch, those of other clients included.
    pub batch_texts: u32,
    /// Tokens in that batch.
    pub batch_tokens: u32,
    /// How often it was sent.
    pub sent: u32,
}

impl PartInfo {
    /// What neither waiting for the device, tokenising nor the model took: rings and wake-ups.
    #[must_use]
    pub fn rings(&self) -> Duration {
        self.round_trip
            .saturating_sub(self.queue + self.tokenize + self.run)
    }
}

/// Where the rows are.
pub(crate) enum Rows {
    /// Still in the ring slot the worker wrote them to; the slot is given back when this is dropped.
    Ring { reply: Reply, offset: usize },
    /// Put together from several messages.
    Owned(Vec<f32>),
}

/// Rows in the order of the texts. A list that travelled as one message is borrowed from the ring
/// without a copy; its slot is given back when this is dropped.
pub struct Embeddings<'c> {
    rows: Rows,
    dimensions: usize,
    metas: Vec<RowMeta>,
    parts: Vec<PartInfo>,
    client: PhantomData<&'c ()>,
}

impl fmt::Debug for Embeddings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embeddings")
            .field("rows", &self.metas.len())
            .field("dimensions", &self.dimensions)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl Embeddings<'_> {
    pub(crate) fn new(
        rows: Rows,
        dimensions: usize,
        metas: Vec<RowMeta>,
        parts: Vec<PartInfo>,
    ) -> Self {
        Self {
            rows,
            dimensions,
            metas,
            parts,
            client: PhantomData,
        }
    }

    /// Number of rows: one per text.
    #[must_use]
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    /// Never true: an empty list is an error.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metas.is_empty()
    }

    /// Components per row.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// All rows, `[len, dimensions]`, one after the other.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        match &self.rows {
            Rows::Owned(rows) => rows,
            Rows::Ring { reply, offset } => rows_in(reply.bytes(), *offset),
        }
    }

    /// The row of text `index`, `[dimensions]`; empty for an index out of range. All zero for a text
    /// with a fault.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        let start = index * self.dimensions;
        self.as_slice()
            .get(start..start + self.dimensions)
            .unwrap_or_default()
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.as_slice().chunks_exact(self.dimensions.max(1))
    }

    /// Tokens of text `index` as run, special tokens included.
    #[must_use]
    pub fn tokens(&self, index: usize) -> u32 {
        self.metas.get(index).map_or(0, |meta| meta.tokens)
    }

    /// True when text `index` was longer than the model's window and was cut.
    #[must_use]
    pub fn truncated(&self, index: usize) -> bool {
        self.metas
            .get(index)
            .is_some_and(|meta| meta.flags().is_truncated())
    }

    /// True when text `index` was the empty string.
    #[must_use]
    pub fn empty_text(&self, index: usize) -> bool {
        self.metas
            .get(index)
            .is_some_and(|meta| meta.flags().is_empty_text())
    }

    /// Why text `index` has no row; only with [`crate::Options::partial`].
    #[must_use]
    pub fn fault(&self, index: usize) -> Option<TextFault> {
        self.metas.get(index)?.flags().fault_of()
    }

    /// The messages the list travelled as, in order.
    #[must_use]
    pub fn parts(&self) -> &[PartInfo] {
        &self.parts
    }

    /// The message that carried text `index`.
    #[must_use]
    pub fn part_of(&self, index: usize) -> Option<&PartInfo> {
        self.parts
            .iter()
            .find(|part| part.texts.binary_search(&index).is_ok())
    }

    /// The rows as a vector of their own, `[len, dimensions]`.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f32> {
        self.as_slice().to_vec()
    }
}

/// The rows of a message whose shape was checked when it came.
pub(crate) fn rows_in(message: &[u8], offset: usize) -> &[f32] {
    embedring_protocol::rows_from_bytes(message.get(offset..).unwrap_or_default())
}
