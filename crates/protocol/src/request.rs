//! The request message: `RequestHeader | TextEntry × text_count | prompt | text bytes`, laid straight
//! into a ring slot by [`RequestWriter`], checked as a whole by [`RequestView`].

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::ModelId;
use crate::limits::{
    DIMENSIONS_MAX, PROMPT_BYTES_MAX, PROTOCOL_VERSION, SLOT_MAX, TEXTS_PER_REQUEST_MAX,
};
use crate::options::{Class, NormalizeOption, PromptKind, Truncation};

const REQUEST_MAGIC: u32 = u32::from_le_bytes(*b"ERq1");

/// Bytes of a [`RequestHeader`].
pub const REQUEST_HEADER_BYTES: usize = size_of::<RequestHeader>();
/// Bytes of one entry of the text table.
pub const TEXT_ENTRY_BYTES: usize = size_of::<TextEntry>();

/// The fixed head of a request. `magic`, `version`, `text_count`, `prompt_bytes` and `total_bytes`
/// are set by [`RequestWriter`]; the rest is the sender's to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHeader {
    magic: u32,
    version: u16,
    /// [`Class`] as a number.
    pub class: u8,
    /// [`Truncation`] as a number.
    pub truncation: u8,
    /// Chosen by the client, echoed in the response.
    pub id: u64,
    /// Absolute `CLOCK_MONOTONIC` time in nanoseconds after which nobody waits any more.
    pub deadline_ns: u64,
    /// When the client sent it, same clock.
    pub sent_ns: u64,
    /// The model wanted, or [`ModelId::ANY`].
    pub model: ModelId,
    /// Whose bell to ring when the answer lies in the ring.
    pub client: u32,
    /// Texts in this message.
    pub text_count: u32,
    /// Components of a row, 0 for all the model has.
    pub dimensions: u32,
    /// [`NormalizeOption`] as a number.
    pub normalize: u8,
    /// [`PromptKind`] as a number.
    pub prompt_kind: u8,
    prompt_bytes: u16,
    total_bytes: u32,
    reserved: u32,
}

impl RequestHeader {
    /// A header with default options.
    #[must_use]
    pub fn new(id: u64, deadline_ns: u64) -> Self {
        Self {
            magic: REQUEST_MAGIC,
            version: PROTOCOL_VERSION,
            class: 0,
            truncation: 0,
            id,
            deadline_ns,
            sent_ns: 0,
            model: ModelId::ANY,
            client: 0,
            text_count: 0,
            dimensions: 0,
            normalize: 0,
            prompt_kind: 0,
            prompt_bytes: 0,
            total_bytes: 0,
            reserved: 0,
        }
    }
}

/// What a client says about one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextFlags(u32);

impl TextFlags {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// The client left bytes of this text out because it is larger than a slot: its end when
    /// truncation is to the right, its beginning when to the left.
    pub const CUT: Self = Self(1);

    /// True when the client cut the text.
    #[must_use]
    pub fn is_cut(self) -> bool {
        self.0 & Self::CUT.0 != 0
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct TextEntry {
    offset: u32,
    bytes: u32,
    flags: u32,
}

/// Bytes a message with this prompt and these texts takes.
#[must_use]
pub fn request_bytes(prompt_bytes: usize, text_count: usize, text_bytes: usize) -> usize {
    REQUEST_HEADER_BYTES + text_count * TEXT_ENTRY_BYTES + prompt_bytes + text_bytes
}

/// Why a request could not be laid into its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestWriteError {
    /// The slot is too small: send fewer texts per message.
    #[error("the request needs {need} bytes, its slot has {slot}")]
    SlotFull {
        /// Bytes needed.
        need: usize,
        /// Bytes of the slot.
        slot: usize,
    },
    /// No texts, or more than [`TEXTS_PER_REQUEST_MAX`], or another number than announced.
    #[error("a request takes 1 to {TEXTS_PER_REQUEST_MAX} texts, this one has {count}")]
    TextCount {
        /// Texts given.
        count: usize,
    },
    /// The prompt is longer than [`PROMPT_BYTES_MAX`].
    #[error("a prompt takes {PROMPT_BYTES_MAX} bytes at most, this one has {bytes}")]
    PromptTooLong {
        /// Bytes given.
        bytes: usize,
    },
}

/// Lays a request into a slot, text by text, without a copy in between.
#[derive(Debug)]
pub struct RequestWriter<'a> {
    slot: &'a mut [u8],
    header: RequestHeader,
    announced: usize,
    written: usize,
    end: usize,
}

fn to_u32(value: usize) -> u32 {
    // Callers compare with SLOT_MAX first, which is far below 4 GiB.
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl<'a> RequestWriter<'a> {
    /// Begins a message of exactly `text_count` texts.
    ///
    /// # Errors
    /// When the counts or the prompt are out of range, or the table does not fit the slot.
    pub fn new(
        slot: &'a mut [u8],
        header: RequestHeader,
        prompt: &str,
        text_count: usize,
    ) -> Result<Self, RequestWriteError> {
        if text_count == 0 || text_count > TEXTS_PER_REQUEST_MAX {
            return Err(RequestWriteError::TextCount { count: text_count });
        }
        if prompt.len() > PROMPT_BYTES_MAX {
            return Err(RequestWriteError::PromptTooLong {
                bytes: prompt.len(),
            });
        }
        let prompt_start = REQUEST_HEADER_BYTES + text_count * TEXT_ENTRY_BYTES;
        let end = prompt_start + prompt.len();
        let slot_bytes = slot.len().min(SLOT_MAX);
        if end > slot_bytes {
            return Err(RequestWriteError::SlotFull {
                need: end,
                slot: slot_bytes,
            });
        }
        slot[prompt_start..end].copy_from_slice(prompt.as_bytes());
        let header = RequestHeader {
            magic: REQUEST_MAGIC,
            version: PROTOCOL_VERSION,
            text_count: to_u32(text_count),
            prompt_bytes: u16::try_from(prompt.len()).unwrap_or(u16::MAX),
            ..header
        };
        Ok(Self {
            slot,
            header,
            announced: text_count,
            written: 0,
            end,
        })
    }

    /// Appends one text.
    ///
    /// # Errors
    /// When it does not fit, or more texts come than were announced.
    pub fn push(&mut self, text: &str, flags: TextFlags) -> Result<(), RequestWriteError> {
        self.push_bytes(text.as_bytes(), flags)
    }

    /// Appends one text given as bytes, which the worker checks to be UTF-8.
    ///
    /// # Errors
    /// As [`RequestWriter::push`].
    pub fn push_bytes(&mut self, text: &[u8], flags: TextFlags) -> Result<(), RequestWriteError> {
        if self.written == self.announced {
            return Err(RequestWriteError::TextCount {
                count: self.written + 1,
            });
        }
        let end = self.end + text.len();
        let slot_bytes = self.slot.len().min(SLOT_MAX);
        if end > slot_bytes {
            return Err(RequestWriteError::SlotFull {
                need: end,
                slot: slot_bytes,
            });
        }
        self.slot[self.end..end].copy_from_slice(text);
        let entry = TextEntry {
            offset: to_u32(self.end),
            bytes: to_u32(text.len()),
            flags: flags.0,
        };
        let at = REQUEST_HEADER_BYTES + self.written * TEXT_ENTRY_BYTES;
        self.slot[at..at + TEXT_ENTRY_BYTES].copy_from_slice(entry.as_bytes());
        self.end = end;
        self.written += 1;
        Ok(())
    }

    /// Writes the header and gives the length of the message.
    ///
    /// # Errors
    /// When fewer texts came than were announced.
    pub fn finish(mut self) -> Result<usize, RequestWriteError> {
        if self.written != self.announced {
            return Err(RequestWriteError::TextCount {
                count: self.written,
            });
        }
        self.header.total_bytes = to_u32(self.end);
        self.slot[..REQUEST_HEADER_BYTES].copy_from_slice(self.header.as_bytes());
        Ok(self.end)
    }
}

/// What is wrong with a request. The sender gets [`crate::Status::BadRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Fewer bytes than a header.
    #[error("the message has {bytes} bytes, fewer than its header")]
    Short {
        /// Bytes received.
        bytes: usize,
    },
    /// Not an embedring request at all.
    #[error("the message does not begin like a request")]
    Magic,
    /// Another version of the protocol: client and worker come from different builds.
    #[error("the message has protocol version {got}, this worker speaks {PROTOCOL_VERSION}")]
    Version {
        /// Version received.
        got: u16,
    },
    /// `total_bytes` is not the length of the message.
    #[error("the message says it has {said} bytes and has {bytes}")]
    Length {
        /// Length the header gives.
        said: u32,
        /// Bytes received.
        bytes: usize,
    },
    /// No texts, or too many.
    #[error("the message says it has {count} texts")]
    TextCount {
        /// Count the header gives.
        count: u32,
    },
    /// An option has a number with no meaning.
    #[error("the message has an unknown option value")]
    Option,
    /// More dimensions than any model has.
    #[error("the message asks for {dimensions} dimensions")]
    Dimensions {
        /// Dimensions asked for.
        dimensions: u32,
    },
    /// The prompt is too long, does not fit, or is not UTF-8.
    #[error("the message has a bad prompt")]
    Prompt,
    /// A text lies outside the message or overlaps its table.
    #[error("text {index} lies outside the message")]
    TextRange {
        /// Place of the text in the message.
        index: usize,
    },
}

/// A checked request over a private copy of its bytes. Texts may still be invalid UTF-8: that is a
/// fault of one text, not of the message.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    bytes: &'a [u8],
    header: RequestHeader,
    class: Class,
    truncation: Truncation,
    normalize: NormalizeOption,
    prompt_kind: PromptKind,
    prompt: &'a str,
}

impl<'a> RequestView<'a> {
    /// Checks a whole message. `bytes` must be a private copy.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RequestError> {
        let (header, _) = RequestHeader::read_from_prefix(bytes)
            .map_err(|_| RequestError::Short { bytes: bytes.len() })?;
        if header.magic != REQUEST_MAGIC {
            return Err(RequestError::Magic);
        }
        if header.version != PROTOCOL_VERSION {
            return Err(RequestError::Version {
                got: header.version,
            });
        }
        if usize::try_from(header.total_bytes) != Ok(bytes.len()) {
            return Err(RequestError::Length {
                said: header.total_bytes,
                bytes: bytes.len(),
            });
        }
        let count = header.text_count as usize;
        if count == 0 || count > TEXTS_PER_REQUEST_MAX {
            return Err(RequestError::TextCount {
                count: header.text_count,
            });
        }
        if header.dimensions as usize > DIMENSIONS_MAX {
            return Err(RequestError::Dimensions {
                dimensions: header.dimensions,
            });
        }
        let prompt_start = REQUEST_HEADER_BYTES + count * TEXT_ENTRY_BYTES;
        let prompt_bytes = usize::from(header.prompt_bytes);
        let prompt = (prompt_bytes <= PROMPT_BYTES_MAX)
            .then(|| bytes.get(prompt_start..prompt_start + prompt_bytes))
            .flatten()
            .and_then(|prompt| std::str::from_utf8(prompt).ok())
            .ok_or(RequestError::Prompt)?;
        let view = Self {
            bytes,
            header,
            class: Class::from_wire(header.class).ok_or(RequestError::Option)?,
            truncation: Truncation::from_wire(header.truncation).ok_or(RequestError::Option)?,
            normalize: NormalizeOption::from_wire(header.normalize).ok_or(RequestError::Option)?,
            prompt_kind: PromptKind::from_wire(header.prompt_kind).ok_or(RequestError::Option)?,
            prompt,
        };
        view.check_texts(prompt_start + prompt_bytes)?;
        Ok(view)
    }

    fn check_texts(&self, texts_start: usize) -> Result<(), RequestError> {
        for index in 0..self.text_count() {
            let entry = self.entry(index).ok_or(RequestError::TextRange { index })?;
            let start = entry.offset as usize;
            let fits = start >= texts_start
                && start
                    .checked_add(entry.bytes as usize)
                    .is_some_and(|end| end <= self.bytes.len());
            if !fits {
                return Err(RequestError::TextRange { index });
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Option<TextEntry> {
        // Beyond the table lie the prompt and the texts, which are no entries.
        if index >= self.text_count() {
            return None;
        }
        let at = REQUEST_HEADER_BYTES + index * TEXT_ENTRY_BYTES;
        let bytes = self.bytes.get(at..at + TEXT_ENTRY_BYTES)?;
        TextEntry::read_from_bytes(bytes).ok()
    }

    /// Id and client of a message that is otherwise no request, so that its sender can be told: an
    /// answer without the id could be taken for somebody else's. `None` when it is too short for both.
    #[must_use]
    pub fn peek_sender(bytes: &[u8]) -> Option<(u64, u32)> {
        let (header, _) = RequestHeader::read_from_prefix(bytes).ok()?;
        Some((header.id, header.client))
    }

    /// The header as sent.
    #[must_use]
    pub fn header(&self) -> &RequestHeader {
        &self.header
    }

    /// Texts in the message, at least one.
    #[must_use]
    pub fn text_count(&self) -> usize {
        self.header.text_count as usize
    }

    /// How urgent it is.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// What to do with texts that are too long.
    #[must_use]
    pub fn truncation(&self) -> Truncation {
        self.truncation
    }

    /// Whether rows are normalised.
    #[must_use]
    pub fn normalize(&self) -> NormalizeOption {
        self.normalize
    }

    /// What [`RequestView::prompt`] is.
    #[must_use]
    pub fn prompt_kind(&self) -> PromptKind {
        self.prompt_kind
    }

    /// The prompt, or its name.
    #[must_use]
    pub fn prompt(&self) -> &'a str {
        self.prompt
    }

    /// Bytes of text `index`; empty when there is no such text.
    #[must_use]
    pub fn text_bytes(&self, index: usize) -> &'a [u8] {
        self.entry(index)
            .and_then(|e| {
                let start = e.offset as usize;
                self.bytes.get(start..start + e.bytes as usize)
            })
            .unwrap_or_default()
    }

    /// What the client said about text `index`.
    #[must_use]
    pub fn text_flags(&self, index: usize) -> TextFlags {
        self.entry(index)
            .map_or(TextFlags::NONE, |e| TextFlags(e.flags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(texts: &[Vec<u8>], prompt: &str) -> Vec<u8> {
        let bytes = texts.iter().map(Vec::len).sum();
        let mut slot = vec![0xAA; request_bytes(prompt.len(), texts.len(), bytes)];
        let header = RequestHeader::new(3, 5);
        let mut writer = RequestWriter::new(&mut slot, header, prompt, texts.len()).unwrap();
        for text in texts {
            writer.push_bytes(text, TextFlags::NONE).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), slot.len());
        slot
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20),
            prompt in "[a-zé ]{0,20}",
        ) {
            let slot = written(&texts, &prompt);
            let view = RequestView::parse(&slot).unwrap();
            prop_assert_eq!(view.prompt(), prompt);
            prop_assert_eq!(view.text_count(), texts.len());
            for beyond in [texts.len(), texts.len() + 1, usize::MAX] {
                prop_assert!(view.text_bytes(beyond).is_empty());
                prop_assert_eq!(view.text_flags(beyond), TextFlags::NONE);
            }
            for (index, text) in texts.iter().enumerate() {
                prop_assert_eq!(view.text_bytes(index), &text[..]);
            }
        }

        #[test]
        fn a_flipped_byte_is_refused_or_stays_inside(
            at in 0usize..200, value in any::<u8>(),
        ) {
            let mut slot = written(&[b"one".to_vec(), vec![b'x'; 90]], "p");
            let at = at % slot.len();
            slot[at] = value;
            if let Ok(view) = RequestView::parse(&slot) {
                for index in 0..view.text_count() {
                    prop_assert!(view.text_bytes(index).len() <= slot.len());
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(RequestView::parse(&bytes).is_err());
        }
    }

    #[test]
    fn each_defect_has_its_error() {
        let good = written(&[b"text".to_vec()], "");
        let broken = |at: usize, value: u8| {
            let mut slot = good.clone();
            slot[at] = value;
            RequestView::parse(&slot).unwrap_err()
        };
        assert_eq!(
            RequestView::parse(&good[..10]).unwrap_err(),
            RequestError::Short { bytes: 10 }
        );
        assert_eq!(broken(0, 0), RequestError::Magic);
        assert_eq!(RequestView::peek_sender(&good), Some((3, 0)));
        assert_eq!(RequestView::peek_sender(&good[..10]), None);
        assert_eq!(broken(4, 9), RequestError::Version { got: 9 });
        assert_eq!(broken(6, 7), RequestError::Option);
        assert!(matches!(
            RequestView::parse(&good[..good.len() - 1]),
            Err(RequestError::Length { .. })
        ));
        let table = REQUEST_HEADER_BYTES;
        assert_eq!(broken(table, 0), RequestError::TextRange { index: 0 });
        assert_eq!(broken(table + 4, 200), RequestError::TextRange { index: 0 });
    }

    #[test]
    fn the_writer_refuses_what_does_not_fit() {
        let header = RequestHeader::new(1, 1);
        let mut slot = [0; 100];
        assert!(RequestWriter::new(&mut slot, header, "", 0).is_err());
        let mut writer = RequestWriter::new(&mut slot, header, "", 1).unwrap();
        assert!(matches!(
            writer.push(&"x".repeat(50), TextFlags::NONE),
            Err(RequestWriteError::SlotFull { .. })
        ));
        assert!(writer.push("short", TextFlags::CUT).is_ok());
        assert!(writer.push("more", TextFlags::NONE).is_err());
        let used = writer.finish().unwrap();
        assert!(
            RequestView::parse(&slot[..used])
                .unwrap()
                .text_flags(0)
                .is_cut()
        );
    }
}
