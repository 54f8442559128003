//! What two embedring processes must agree on: bytes ↔ types, checked.
//!
//! The decision that shaped this crate: a message is read from a private copy of its ring slot, never
//! from the slot itself, because the process at the other end can change the slot at any moment.
//! So every reader here takes an ordinary `&[u8]`, checks it completely, and only then answers
//! questions about it.
//!
//! ```
//! use embedring_protocol::{RequestHeader, RequestWriter, RequestView, TextFlags};
//!
//! let texts = ["hello", "world"];
//! let mut slot = vec![0u8; 4096];
//! let mut header = RequestHeader::new(7, 1_000_000);
//! header.dimensions = 128;
//! let mut writer = RequestWriter::new(&mut slot, header, "", texts.len()).unwrap();
//! for text in texts {
//!     writer.push(text, TextFlags::NONE).unwrap();
//! }
//! let used = writer.finish().unwrap();
//!
//! let view = RequestView::parse(&slot[..used]).unwrap();
//! assert_eq!(view.header().id, 7);
//! assert_eq!(view.text_bytes(1), b"world");
//! ```
#![forbid(unsafe_code)]

mod board;
mod histogram;
mod ids;
pub mod limits;
mod options;
mod plan;
mod request;
mod response;
mod seqlock;
mod status;
pub mod sync;

pub use board::{
    BOARD_MAGIC, BOARD_VERSION, Bell, BellsLayout, BoardHeader, BoardLayout, ClientSlot, Counter,
    REPORTS_PER_WORKER, SchedulerSlot, Stage, WorkerIdentity, WorkerSlot, WorkerState,
};
pub use histogram::{BUCKETS, Histogram, bucket_of, bucket_upper_ns, quantile_ns};
pub use ids::{ClientIndex, ModelId, Name, NameError, ProcessId, WorkerIndex};
pub use options::{Class, NormalizeOption, PromptKind, Truncation};
pub use plan::{
    Accuracies, Accuracy, CORRECTION_LENGTHS, CORRECTION_TOKENS, Corrections, Load, Plan, Report,
    Trial, WorkerPlan,
};
pub use request::{
    REQUEST_HEADER_BYTES, RequestError, RequestHeader, RequestView, RequestWriteError,
    RequestWriter, TEXT_ENTRY_BYTES, TextFlags, request_bytes,
};
pub use response::{
    RESPONSE_HEADER_BYTES, ROW_META_BYTES, ResponseError, ResponseHeader, ResponseView,
    ResponseWriter, RowFlags, RowMeta, response_bytes, rows_from_bytes, rows_per_response,
};
pub use seqlock::SeqLock;
pub use status::{Precision, Status, TextFault};
