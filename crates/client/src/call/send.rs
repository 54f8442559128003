//! Sending: which texts travel together, to whom, and laid into the ring slot in place.

use std::sync::Arc;

use embedring_ipc::clock::now_ns;
use embedring_ipc::{RingError, ring_bell};
use embedring_policy::{Candidate, route};
use embedring_protocol::limits::TEXTS_PER_REQUEST_MAX;
use embedring_protocol::sync::Ordering;
use embedring_protocol::{
    ModelId, PromptKind, RequestHeader, RequestWriter, TEXT_ENTRY_BYTES, TextFlags, Truncation,
    request_bytes, rows_per_response,
};

use super::{Call, Flight, Part};
use crate::error::EmbedError;
use crate::options::Prompt;
use crate::session::{Choice, Connection, Session};

impl<L> Call<L> {
    /// Sends messages until all are sent or no worker has a free slot.
    pub(super) fn send<S>(&mut self, session: &Arc<Session>) -> Result<(), EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let mut choices = std::mem::take(&mut self.choices);
        session.choices(self.model, &mut choices);
        let sent = self.send_to::<S>(session, &mut choices);
        self.choices = choices;
        sent
    }

    fn send_to<S>(
        &mut self,
        session: &Arc<Session>,
        choices: &mut Vec<Choice>,
    ) -> Result<(), EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        self.settle_model(session, choices)?;
        let Some(first) = choices.first() else {
            self.waiting_for = "no worker is serving";
            return Ok(());
        };
        let full = usize::try_from(first.identity.dimensions).unwrap_or(0);
        if self.options.dimensions > full {
            return Err(EmbedError::BadDimensions {
                asked: self.options.dimensions,
                has: full,
            });
        }
        self.dimensions = if self.options.dimensions == 0 {
            full
        } else {
            self.options.dimensions
        };
        let now = now_ns();
        let mut candidates: Vec<Candidate> = choices.iter().map(|c| c.candidate).collect();
        while let Some(part) = self.next_part::<S>(session, now) {
            let tokens = self.tokens_guess::<S>(&part);
            let Some(index) = route(&candidates, tokens) else {
                self.again.push_front(part);
                break;
            };
            let chosen = candidates
                .iter()
                .position(|c| c.index == index)
                .unwrap_or(0);
            let identity = choices
                .iter()
                .find(|c| c.candidate.index == index)
                .map(|c| c.identity);
            let sent = match identity {
                Some(identity) => session
                    .connection(index, &identity)
                    .and_then(|connection| self.launch::<S>(session, connection, &part, tokens)),
                None => Err(RingError::NoPeer),
            };
            match sent {
                Ok(()) => candidates[chosen].load.tokens += tokens,
                Err(error) => {
                    self.again.push_front(part);
                    candidates.swap_remove(chosen);
                    self.not_sent(error)?;
                }
            }
        }
        Ok(())
    }

    /// The first worker's model is the whole call's: rows of two models never meet in one answer.
    fn settle_model(
        &mut self,
        session: &Session,
        choices: &mut Vec<Choice>,
    ) -> Result<(), EmbedError> {
        if self.model != ModelId::ANY {
            return Ok(());
        }
        if let Some(wanted) = &self.options.model {
            let some = !choices.is_empty();
            choices.retain(|choice| choice.identity.model.to_text() == *wanted);
            if some && choices.is_empty() {
                let served: Vec<_> = session.models().into_iter().map(|(name, _)| name).collect();
                return Err(EmbedError::WrongModel {
                    wanted: wanted.clone(),
                    served: served.join(", "),
                });
            }
        }
        if let Some(first) = choices.first() {
            let model = first.identity.model_id;
            choices.retain(|choice| choice.identity.model_id == model);
            self.model = model;
        }
        Ok(())
    }

    fn not_sent(&mut self, error: RingError) -> Result<(), EmbedError> {
        match error {
            // Answers will come and free slots; those of other calls must be fetched by them.
            RingError::NoSlot => {
                if self.flights.is_empty() {
                    self.waiting_for = "other calls of this client, to be polled or waited for, \
                                        hold all request slots";
                }
                Ok(())
            }
            RingError::NoMemory => Err(EmbedError::NoMemory),
            RingError::Path | RingError::TooLarge { .. } => Err(EmbedError::Ring(error)),
            // Gone, going, or coming: the next look at the board knows more.
            RingError::NoPeer
            | RingError::Open(_)
            | RingError::Node(_)
            | RingError::Full
            | RingError::Failed(_) => {
                tracing::debug!(%error, "a worker could not be reached");
                self.waiting_for = "its worker could not be reached";
                Ok(())
            }
        }
    }

    /// The next message to send: one that failed, or the next texts of the list.
    fn next_part<S>(&mut self, session: &Session, now_ns: u64) -> Option<Part>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        if let Some(ready) = self
            .again
            .iter()
            .position(|part| part.not_before_ns <= now_ns)
        {
            return self.again.remove(ready);
        }
        let texts = self.texts.as_ref();
        let start = self.next_text;
        if start == texts.len() {
            return None;
        }
        let rows_max = rows_per_response(session.limits.response_slot_bytes, self.dimensions)
            .clamp(1, TEXTS_PER_REQUEST_MAX);
        let room = self.text_room(session);
        let mut bytes = 0;
        let mut end = start;
        while end < texts.len() && end - start < rows_max {
            let need = texts[end].as_ref().len().min(room - TEXT_ENTRY_BYTES) + TEXT_ENTRY_BYTES;
            if end > start && bytes + need > room {
                break;
            }
            bytes += need;
            end += 1;
        }
        self.next_text = end;
        Some(Part {
            texts: start..end,
            deaths: 0,
            sent: 0,
            not_before_ns: 0,
        })
    }

    /// Bytes that entries and texts of one message can take.
    fn text_room(&self, session: &Session) -> usize {
        session
            .limits
            .request_slot_bytes
            .saturating_sub(request_bytes(self.prompt().1.len(), 0, 0))
    }

    fn prompt(&self) -> (PromptKind, &str) {
        match &self.options.prompt {
            Prompt::Default => (PromptKind::Default, ""),
            Prompt::Text(prompt) => (PromptKind::Text, prompt),
            Prompt::Named(prompt) => (PromptKind::Name, prompt),
        }
    }

    /// Tokens of a message before anybody tokenised it: English has four bytes a token.
    fn tokens_guess<S>(&self, part: &Part) -> u64
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let texts = &self.texts.as_ref()[part.texts.clone()];
        texts
            .iter()
            .map(|text| text.as_ref().len() as u64 / 4 + 2)
            .sum()
    }

    /// Lays a message into a slot of the ring and sends it.
    fn launch<S>(
        &mut self,
        session: &Arc<Session>,
        connection: Arc<Connection>,
        part: &Part,
        tokens: u64,
    ) -> Result<(), RingError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let sent_ns = now_ns();
        let id = session.next_id();
        let (prompt_kind, prompt) = self.prompt();
        let room = self.text_room(session) - TEXT_ENTRY_BYTES;
        let texts = &self.texts.as_ref()[part.texts.clone()];
        let kept: usize = texts
            .iter()
            .map(|text| fitting(text.as_ref(), room, self.options.truncation).len())
            .sum();
        let bytes = request_bytes(prompt.len(), texts.len(), kept);
        let mut loan = connection.ring.loan(bytes)?;
        let mut header = RequestHeader::new(id, self.deadline_ns);
        header.class = self.options.class as u8;
        header.truncation = self.options.truncation as u8;
        header.normalize = self.options.normalize as u8;
        header.prompt_kind = prompt_kind as u8;
        header.model = self.model;
        header.client = session.client();
        header.dimensions = u32::try_from(self.options.dimensions).unwrap_or(u32::MAX);
        header.sent_ns = sent_ns;
        let too_large = |_| RingError::TooLarge { bytes };
        let mut writer =
            RequestWriter::new(loan.bytes_mut(), header, prompt, texts.len()).map_err(too_large)?;
        for text in texts {
            let whole = text.as_ref();
            let kept = fitting(whole, room, self.options.truncation);
            let flags = if kept.len() < whole.len() {
                TextFlags::CUT
            } else {
                TextFlags::NONE
            };
            writer.push(kept, flags).map_err(too_large)?;
        }
        writer.finish().map_err(too_large)?;
        let pending = loan.send()?;
        ring_bell(session.worker_bell(connection.index));
        connection
            .in_flight_tokens
            .fetch_add(tokens, Ordering::Relaxed);
        self.waiting_for = "the worker did not answer";
        self.flights.push(Flight {
            part: Part {
                sent: part.sent + 1,
                ..part.clone()
            },
            id,
            pending,
            connection,
            session: Arc::clone(session),
            sent_ns,
            tokens,
        });
        Ok(())
    }
}

/// The part of a text that fits a slot, cut at a character: its beginning, or its end when it is the
/// beginning that will be truncated.
fn fitting(text: &str, room: usize, truncation: Truncation) -> &str {
    if text.len() <= room {
        return text;
    }
    match truncation {
        Truncation::Right | Truncation::Refuse => {
            let mut end = room;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            &text[..end]
        }
        Truncation::Left => {
            let mut start = text.len() - room;
            while !text.is_char_boundary(start) {
                start += 1;
            }
            &text[start..]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_fits_is_whole_and_a_cut_keeps_characters_whole() {
        let text = "äöü";
        assert_eq!(fitting(text, 6, Truncation::Right), text);
        assert_eq!(fitting(text, 5, Truncation::Right), "äö");
        assert_eq!(fitting(text, 5, Truncation::Left), "öü");
        assert_eq!(fitting(text, 1, Truncation::Left), "");
    }
}
