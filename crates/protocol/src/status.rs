//! How a request ended, and how a single text failed.

use std::fmt;

/// How a request ended. On the wire a `u16`; an unknown number reads as [`Status::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// Rows follow, one per text, in the order asked.
    Ok = 0,
    /// The message is not what the protocol says; the sender has a defect. Not worth a retry.
    BadRequest = 1,
    /// The worker's queue is full. `retry_after_ns` says when it should have room.
    Overloaded = 2,
    /// The deadline passed, or can not be met any more, before the model ran.
    DeadlineExceeded = 3,
    /// The worker serves another model than the request names.
    WrongModel = 4,
    /// The worker has no usable model; its log says why.
    ModelUnavailable = 5,
    /// The worker is at its memory bound and takes nothing new until it has restarted.
    MemoryFull = 6,
    /// The worker is ending; another one, or the same one after its restart, can take the request.
    ShuttingDown = 7,
    /// The model knows no prompt of that name.
    UnknownPrompt = 8,
    /// More dimensions were asked for than the model has.
    BadDimensions = 9,
    /// The rows do not fit the client's response slot.
    TooLarge = 10,
    /// The worker failed in a way it did not expect; its log says how.
    Internal = 11,
}

impl Status {
    /// From the wire.
    #[must_use]
    pub fn from_wire(value: u16) -> Self {
        match value {
            0 => Self::Ok,
            1 => Self::BadRequest,
            2 => Self::Overloaded,
            3 => Self::DeadlineExceeded,
            4 => Self::WrongModel,
            5 => Self::ModelUnavailable,
            6 => Self::MemoryFull,
            7 => Self::ShuttingDown,
            8 => Self::UnknownPrompt,
            9 => Self::BadDimensions,
            10 => Self::TooLarge,
            _ => Self::Internal,
        }
    }

    /// To the wire.
    #[must_use]
    pub fn to_wire(self) -> u16 {
        self as u16
    }
}

/// Why one text of an otherwise good request has no row. On the wire a `u8` in the row's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TextFault {
    /// The bytes are not UTF-8.
    InvalidUtf8 = 1,
    /// The text has more tokens than the model takes and truncation was not allowed.
    TooLong = 2,
    /// The text was cut to fit a slot and what was left does not fill the model's window, so the
    /// vector would differ from that of the whole text.
    CutTooShort = 3,
    /// The tokeniser failed on this text.
    Tokenizer = 4,
    /// The model gave a row that is not finite, or that has no direction to normalise.
    BadRow = 5,
    /// The text has more tokens than this device takes. Another device of the instance may take it.
    TooLongForDevice = 6,
}

impl TextFault {
    /// From the wire; `None` for zero or an unknown number.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::InvalidUtf8),
            2 => Some(Self::TooLong),
            3 => Some(Self::CutTooShort),
            4 => Some(Self::Tokenizer),
            5 => Some(Self::BadRow),
            6 => Some(Self::TooLongForDevice),
            _ => None,
        }
    }

    /// A short stable name for machines, as `embedring embed` prints it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooLong => "too_long",
            Self::CutTooShort => "too_large",
            Self::Tokenizer => "tokenizer",
            Self::BadRow => "bad_row",
            Self::TooLongForDevice => "too_long_for_device",
        }
    }
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidUtf8 => "the text is not valid UTF-8",
            Self::TooLong => "the text has more tokens than the model takes; allow truncation",
            Self::CutTooShort => {
                "the text is larger than a request slot and what fits does not fill the model's \
                 window; raise limits.request_slot_bytes or split the text"
            }
            Self::Tokenizer => "the tokeniser failed on the text",
            Self::BadRow => "the model gave a row that is not finite or has no length",
            Self::TooLongForDevice => {
                "the text has more tokens than any device it may go to takes; raise \
                 workers.NAME.text_tokens_max of one"
            }
        })
    }
}

/// Arithmetic a row was computed in. On the wire a `u8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Precision {
    /// 32-bit floating point throughout.
    F32 = 0,
    /// bfloat16 products, f32 sums.
    Bf16 = 1,
    /// 8-bit integer products, 32-bit sums.
    Int8 = 2,
    /// Half precision products, f32 sums.
    F16 = 3,
    /// None: a simulated device gives rows of a fixed pattern. Far from the others, whose numbers go on.
    Simulated = 128,
}

impl Precision {
    /// From the wire; an unknown number reads as `None`.
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::F32),
            1 => Some(Self::Bf16),
            2 => Some(Self::Int8),
            3 => Some(Self::F16),
            128 => Some(Self::Simulated),
            _ => None,
        }
    }

    /// The word used in configuration and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::F16 => "f16",
            Self::Simulated => "simulated",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_the_wire() {
        for wire in 0..=11 {
            assert_eq!(Status::from_wire(wire).to_wire(), wire);
        }
        assert_eq!(Status::from_wire(999), Status::Internal);
    }

    #[test]
    fn faults_and_precisions_survive_the_wire() {
        for wire in 1..=6 {
            let fault = TextFault::from_wire(wire).unwrap();
            assert_eq!(fault as u8, wire);
            assert!(!fault.to_string().is_empty() && !fault.kind().is_empty());
        }
        assert_eq!(TextFault::from_wire(0), None);
        for wire in [0, 1, 2, 3, 128] {
            assert_eq!(Precision::from_wire(wire).unwrap() as u8, wire);
        }
        assert_eq!(Precision::from_wire(9), None);
    }
}
