//! Lines of an input, some at a time. A line that can not be a text is an error in its place.

use std::fmt;
use std::io::{self, BufRead, Read};

/// Bytes of a line at most: a text far beyond any model's window, and a bound for our memory.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Why a line is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineError {
    InvalidUtf8 { at: usize },
    TooLarge,
}

impl LineError {
    /// A short stable name for machines.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::InvalidUtf8 { .. } => "invalid_utf8",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUtf8 { at } => write!(f, "the line is not valid UTF-8 from byte {at} on"),
            Self::TooLarge => write!(f, "the line has more than {LINE_BYTES_MAX} bytes"),
        }
    }
}

/// Some lines: the texts among them, and for each line why it is none.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) texts: Vec<String>,
    pub(super) errors: Vec<Option<LineError>>,
    pub(super) bytes: u64,
}

impl Chunk {
    pub(super) fn of_texts(texts: &[String]) -> Self {
        Self {
            texts: texts.to_vec(),
            errors: vec![None; texts.len()],
            bytes: texts.iter().map(|text| text.len() as u64).sum(),
        }
    }

    fn push(&mut self, line: Vec<u8>, too_large: bool) {
        if too_large {
            self.errors.push(Some(LineError::TooLarge));
            return;
        }
        match String::from_utf8(line) {
            Ok(text) => {
                self.texts.push(text);
                self.errors.push(None);
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                self.errors.push(Some(LineError::InvalidUtf8 { at }));
            }
        }
    }
}

/// Lines of one input. `\n` and `\r\n` end a line; a last line without an end is one.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input }
    }

    /// The next lines, `None` at the end of the input.
    pub(super) fn next_chunk(
        &mut self,
        texts_max: usize,
        bytes_max: usize,
    ) -> io::Result<Option<Chunk>> {
        let mut chunk = Chunk::default();
        let bytes_max = bytes_max as u64;
        while chunk.errors.len() < texts_max && chunk.bytes < bytes_max {
            let mut line = Vec::new();
            let limit = LINE_BYTES_MAX as u64 + 1;
            let read = (&mut self.input).take(limit).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            chunk.bytes += read as u64;
            let too_large = line.len() > LINE_BYTES_MAX && line.last() != Some(&b'\n');
            if too_large {
                drop(std::mem::take(&mut line));
                chunk.bytes += self.skip_line()?;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
            }
            chunk.push(line, too_large);
        }
        Ok((!chunk.errors.is_empty()).then_some(chunk))
    }

    /// Passes over the rest of a line in bounded memory.
    fn skip_line(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = self.input.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let step = end.map_or(buffer.len(), |end| end + 1);
            let at_end = end.is_some() || buffer.is_empty();
            self.input.consume(step);
            skipped += step as u64;
            if at_end {
                return Ok(skipped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(input: &[u8], texts_max: usize) -> Vec<Chunk> {
        let mut lines = Lines::new(input);
        std::iter::from_fn(|| lines.next_chunk(texts_max, 1 << 20).unwrap()).collect()
    }

    #[test]
    fn every_line_has_its_place() {
        let chunks = chunks(b"one\r\n\nbad\xff\nlast", 3);
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[0].texts, ["one", ""]);
        assert_eq!(
            chunks[0].errors,
            [None, None, Some(LineError::InvalidUtf8 { at: 3 })]
        );
        assert_eq!(chunks[1].texts, ["last"]);
        assert_eq!(chunks.iter().map(|chunk| chunk.bytes).sum::<u64>(), 15);
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(chunks(b"", 3).is_empty());
    }

    #[test]
    fn a_line_beyond_the_bound_is_passed_over() {
        let mut input = vec![b'x'; LINE_BYTES_MAX + 5];
        input.extend_from_slice(b"\nnext\n");
        let chunks = chunks(&input, 1);
        assert_eq!(chunks[0].errors, [Some(LineError::TooLarge)]);
        assert_eq!(chunks[1].texts, ["next"]);
    }
}
