//! The response message: `ResponseHeader | RowMeta × row_count | f32 rows`, the rows laid straight
//! into the ring slot by the worker and borrowed from it by the client.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::ModelId;
use crate::limits::{DIMENSIONS_MAX, PROTOCOL_VERSION, TEXTS_PER_REQUEST_MAX};
use crate::status::{Status, TextFault};

const RESPONSE_MAGIC: u32 = u32::from_le_bytes(*b"ERs1");

/// Bytes of a [`ResponseHeader`].
pub const RESPONSE_HEADER_BYTES: usize = size_of::<ResponseHeader>();
/// Bytes of a [`RowMeta`].
pub const ROW_META_BYTES: usize = size_of::<RowMeta>();

const _: () = assert!(RESPONSE_HEADER_BYTES.is_multiple_of(4) && ROW_META_BYTES.is_multiple_of(4));

/// The fixed head of a response. Times are durations in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResponseHeader {
    magic: u32,
    version: u16,
    status: u16,
    /// The request's id.
    pub id: u64,
    /// The model that ran.
    pub model: ModelId,
    /// Between arrival at the worker and the start of the first batch.
    pub queue_ns: u64,
    /// Tokenising this request's texts.
    pub tokenize_ns: u64,
    /// Running the batches that held its texts.
    pub run_ns: u64,
    /// When to try again, for [`Status::Overloaded`]; else 0.
    pub retry_after_ns: u64,
    /// Number of the (last) batch, counted by the worker.
    pub batch: u64,
    /// Texts in that batch, those of other clients included.
    pub batch_texts: u32,
    /// Tokens in that batch.
    pub batch_tokens: u32,
    /// Place of the worker on the board.
    pub worker: u16,
    /// [`crate::Precision`] as a number.
    pub precision: u8,
    reserved: u8,
    /// Rows that follow.
    pub row_count: u32,
    /// Components of a row.
    pub dimensions: u32,
    /// What the status is about: the bound that was hit, or the dimensions the model has.
    pub detail: u32,
}

impl ResponseHeader {
    /// A header without rows.
    #[must_use]
    pub fn new(id: u64, status: Status) -> Self {
        Self {
            magic: RESPONSE_MAGIC,
            version: PROTOCOL_VERSION,
            status: status.to_wire(),
            id,
            model: ModelId::ANY,
            queue_ns: 0,
            tokenize_ns: 0,
            run_ns: 0,
            retry_after_ns: 0,
            batch: 0,
            batch_texts: 0,
            batch_tokens: 0,
            worker: 0,
            precision: 0,
            reserved: 0,
            row_count: 0,
            dimensions: 0,
            detail: 0,
        }
    }

    /// How the request ended.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_wire(self.status)
    }
}

/// What happened to one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowFlags(u32);

impl RowFlags {
    const TRUNCATED: u32 = 1;
    const EMPTY: u32 = 2;
    const FAULT_SHIFT: u32 = 8;

    /// Flags of a text that has a row.
    #[must_use]
    pub fn good(truncated: bool, empty: bool) -> Self {
        let truncated = if truncated { Self::TRUNCATED } else { 0 };
        let empty = if empty { Self::EMPTY } else { 0 };
        Self(truncated | empty)
    }

    /// Flags of a text without one.
    #[must_use]
    pub fn fault(fault: TextFault) -> Self {
        Self((fault as u32) << Self::FAULT_SHIFT)
    }

    /// Tokens were cut off.
    #[must_use]
    pub fn is_truncated(self) -> bool {
        self.0 & Self::TRUNCATED != 0
    }

    /// The text was the empty string.
    #[must_use]
    pub fn is_empty_text(self) -> bool {
        self.0 & Self::EMPTY != 0
    }

    /// Why there is no row, if so.
    #[must_use]
    pub fn fault_of(self) -> Option<TextFault> {
        TextFault::from_wire(self.0.to_le_bytes()[1])
    }
}

/// What travels with each row.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RowMeta {
    /// Tokens of the text as run, special tokens included.
    pub tokens: u32,
    flags: u32,
}

impl RowMeta {
    /// From its parts.
    #[must_use]
    pub fn new(tokens: u32, flags: RowFlags) -> Self {
        Self {
            tokens,
            flags: flags.0,
        }
    }

    /// What happened to the text.
    #[must_use]
    pub fn flags(&self) -> RowFlags {
        RowFlags(self.flags)
    }
}

/// Bytes a response with these rows takes.
#[must_use]
pub fn response_bytes(rows: usize, dimensions: usize) -> usize {
    RESPONSE_HEADER_BYTES + rows * (ROW_META_BYTES + dimensions * 4)
}

/// Rows of `dimensions` components that fit a slot of `slot_bytes`.
#[must_use]
pub fn rows_per_response(slot_bytes: usize, dimensions: usize) -> usize {
    (slot_bytes.saturating_sub(RESPONSE_HEADER_BYTES) / (ROW_META_BYTES + dimensions * 4))
        .min(TEXTS_PER_REQUEST_MAX)
}

/// A response slot of known shape: rows are written into it in any order, over several batches if
/// need be, and the rest at the end.
#[derive(Debug)]
pub struct ResponseWriter<'a> {
    header: &'a mut [u8],
    metas: &'a mut [u8],
    rows: &'a mut [f32],
    dimensions: usize,
}

impl<'a> ResponseWriter<'a> {
    /// `slot` must be [`response_bytes`]`(rows, dimensions)` long and aligned to 4; `None` otherwise.
    /// Nothing is written: a writer over a slot that holds some rows already keeps them.
    #[must_use]
    pub fn new(slot: &'a mut [u8], rows: usize, dimensions: usize) -> Option<Self> {
        if slot.len() != response_bytes(rows, dimensions) {
            return None;
        }
        let (header, rest) = slot.split_at_mut(RESPONSE_HEADER_BYTES);
        let (metas, rest) = rest.split_at_mut(rows * ROW_META_BYTES);
        let rows = <[f32]>::mut_from_bytes(rest).ok()?;
        Some(Self {
            header,
            metas,
            rows,
            dimensions,
        })
    }

    /// The row of text `index`, to be written in place; empty when there is none.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        let start = index * self.dimensions;
        self.rows
            .get_mut(start..start + self.dimensions)
            .unwrap_or_default()
    }

    /// Writes header and row table, and zeroes the rows of texts that have none. The slot is then a
    /// whole message.
    pub fn finish(mut self, head: ResponseHeader, metas: &[RowMeta]) {
        for (index, meta) in metas.iter().enumerate() {
            let at = index * ROW_META_BYTES;
            if let Some(place) = self.metas.get_mut(at..at + ROW_META_BYTES) {
                place.copy_from_slice(meta.as_bytes());
            }
            if meta.flags().fault_of().is_some() {
                self.row_mut(index).fill(0.0);
            }
        }
        let head = ResponseHeader {
            row_count: u32::try_from(self.metas.len() / ROW_META_BYTES).unwrap_or(u32::MAX),
            dimensions: u32::try_from(self.dimensions).unwrap_or(u32::MAX),
            ..head
        };
        self.header.copy_from_slice(head.as_bytes());
    }
}

/// What is wrong with a response; the client treats the worker as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// Fewer bytes than a header.
    #[error("the response has {bytes} bytes, fewer than its header")]
    Short {
        /// Bytes received.
        bytes: usize,
    },
    /// Not an embedring response, or of another version.
    #[error("the response has another format or version than this client speaks")]
    Format,
    /// Rows and length do not fit together.
    #[error("the response says {rows} rows of {dimensions} and has {bytes} bytes")]
    Shape {
        /// Rows the header gives.
        rows: u32,
        /// Components the header gives.
        dimensions: u32,
        /// Bytes received.
        bytes: usize,
    },
}

/// A checked response. Header and row table are copied when it is parsed; the rows stay where they
/// are and are copied or borrowed by the caller: any bits are a valid `f32`, so a worker that still
/// writes could change values, never shape or memory safety.
#[derive(Clone, Debug)]
pub struct ResponseView {
    header: ResponseHeader,
    metas: Vec<RowMeta>,
}

impl ResponseView {
    /// Checks header and shape of a message that is `bytes.len()` long.
    ///
    /// # Errors
    /// When the message is not a response of this version or its shape does not fit its length.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResponseError> {
        let (header, rest) = ResponseHeader::read_from_prefix(bytes)
            .map_err(|_| ResponseError::Short { bytes: bytes.len() })?;
        if header.magic != RESPONSE_MAGIC || header.version != PROTOCOL_VERSION {
            return Err(ResponseError::Format);
        }
        let shape = ResponseError::Shape {
            rows: header.row_count,
            dimensions: header.dimensions,
            bytes: bytes.len(),
        };
        let rows = header.row_count as usize;
        let dimensions = header.dimensions as usize;
        if rows > TEXTS_PER_REQUEST_MAX
            || dimensions > DIMENSIONS_MAX
            || bytes.len() != response_bytes(rows, dimensions)
        {
            return Err(shape);
        }
        let metas = rest
            .chunks_exact(ROW_META_BYTES)
            .take(rows)
            .filter_map(|meta| RowMeta::read_from_bytes(meta).ok())
            .collect();
        Ok(Self { header, metas })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &ResponseHeader {
        &self.header
    }

    /// What happened to each text, in the order asked.
    #[must_use]
    pub fn metas(&self) -> &[RowMeta] {
        &self.metas
    }

    /// Where the rows begin in the message.
    #[must_use]
    pub fn rows_offset(&self) -> usize {
        RESPONSE_HEADER_BYTES + self.metas.len() * ROW_META_BYTES
    }
}

/// The `f32` values in `bytes`; empty when they are not aligned to 4 or no whole number of values.
#[must_use]
pub fn rows_from_bytes(bytes: &[u8]) -> &[f32] {
    <[f32]>::ref_from_bytes(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn aligned(bytes: usize) -> Vec<u32> {
        vec![0x5555_5555; bytes.div_ceil(4)]
    }

    fn written(rows: usize, dimensions: usize) -> Vec<u32> {
        let mut slot = aligned(response_bytes(rows, dimensions));
        let bytes = slot.as_mut_slice().as_mut_bytes();
        let mut metas = Vec::new();
        for index in 0..rows {
            // A new writer each time: rows written through an earlier one stay.
            let mut writer = ResponseWriter::new(bytes, rows, dimensions).unwrap();
            let tokens = u32::try_from(index).unwrap();
            metas.push(RowMeta::new(
                tokens,
                RowFlags::good(index % 2 == 1, index == 0),
            ));
            writer.row_mut(index).fill(tokens as f32);
        }
        let writer = ResponseWriter::new(bytes, rows, dimensions).unwrap();
        writer.finish(ResponseHeader::new(9, Status::Ok), &metas);
        slot
    }

    #[test]
    fn what_is_written_is_read() {
        let slot = written(5, 7);
        let bytes = slot.as_bytes();
        let view = ResponseView::parse(bytes).unwrap();
        assert_eq!((view.header().id, view.header().status()), (9, Status::Ok));
        assert!(view.metas()[0].flags().is_empty_text() && view.metas()[3].flags().is_truncated());
        let rows = <[f32]>::ref_from_bytes(&bytes[view.rows_offset()..]).unwrap();
        assert_eq!(rows.len(), 35);
        assert_eq!(rows[34], 4.0);
    }

    #[test]
    fn faults_travel_in_the_flags() {
        let flags = RowFlags::fault(TextFault::CutTooShort);
        assert_eq!(flags.fault_of(), Some(TextFault::CutTooShort));
        assert_eq!(RowFlags::good(true, true).fault_of(), None);
    }

    #[test]
    fn a_slot_of_the_wrong_size_is_refused() {
        let mut slot = aligned(400);
        assert!(ResponseWriter::new(slot.as_mut_slice().as_mut_bytes(), 1, 3).is_none());
    }

    #[test]
    fn rows_that_fit_fit() {
        let rows = rows_per_response(64 * 1024, 384);
        assert!(response_bytes(rows, 384) <= 64 * 1024);
        assert!(response_bytes(rows + 1, 384) > 64 * 1024);
        assert_eq!(rows_per_response(10, 384), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_flipped_byte_never_reaches_outside(at in 0usize..220, value in any::<u8>()) {
            let mut slot = written(3, 5);
            let bytes = slot.as_mut_slice().as_mut_bytes();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(view) = ResponseView::parse(bytes) {
                prop_assert!(view.rows_offset() + view.metas().len() * view.header().dimensions as usize * 4 == bytes.len());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(ResponseView::parse(&bytes).is_err());
        }
    }
}
