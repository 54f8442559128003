//! Sending: which texts travel together, to whom, and laid into the ring slot in place.

use std::sync::Arc;

use embedring_ipc::clock::now_ns;
use embedring_ipc::{Pending, RingError, ring_bell};
use embedring_policy::{Candidate, Errand, Routed, route};
use embedring_protocol::limits::TEXTS_PER_REQUEST_MAX;
use embedring_protocol::{
    ModelId, PromptKind, RequestHeader, RequestWriter, TEXT_ENTRY_BYTES, TextFlags, Truncation,
    WorkerIdentity, request_bytes, rows_per_response,
};

use super::part::{Part, Room, Unsent};
use super::{Call, Flight};
use crate::error::EmbedError;
use crate::options::{OnOverload, Prompt};
use crate::session::{Choice, Choices, Connection, Session};

/// Whom can be sent to, in one go.
struct Round<'a> {
    session: &'a Arc<Session>,
    /// All workers that the call may use.
    all: &'a [Choice],
    /// Those that have slots left, with what was sent to them counted in.
    open: Vec<Candidate>,
    now_ns: u64,
}

impl Round<'_> {
    /// Tokens of a text, as far as a device's limit goes: one that is too long for all, as it is guessed,
    /// may go to any of them. They count the tokens.
    fn longest(&self, tokens: u64) -> u64 {
        let is_for_one = self.all.iter().any(|choice| choice.candidate.takes(tokens));
        if is_for_one { tokens } else { 0 }
    }

    /// A message is on its way: counted, and the last one where it is a try.
    fn sent(&mut self, routed: Routed, tokens: u64) {
        let is_try = |choice: &Choice| choice.candidate.index == routed.index && choice.is_try;
        if self.all.iter().any(is_try) {
            self.close(routed);
        }
        let mut open = self.open.iter_mut();
        if let Some(open) = open.find(|open| open.index == routed.index) {
            open.load.tokens = open.load.tokens.saturating_add(tokens);
        }
    }

    fn close(&mut self, routed: Routed) {
        self.open.retain(|open| open.index != routed.index);
    }
}

impl<L> Call<L> {
    /// Sends messages until all are sent or no worker has a free slot.
    pub(super) fn send<S>(&mut self, session: &Arc<Session>) -> Result<(), EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let mut choices = std::mem::take(&mut self.choices);
        session.choices(self.wanted(), &mut choices);
        let settled = self.settle_model(session, &mut choices);
        self.choices = choices;
        settled?;
        let Some(first) = self.choices.able.first().copied() else {
            return self.nobody_to_send_to(session);
        };
        self.failing_until_ns = None;
        self.settle_dimensions(&first)?;
        if !self.has_begun {
            self.has_begun = true;
            self.unsent = Unsent::all(self.texts.as_ref(), first.identity.max_tokens);
        }
        let choices = std::mem::take(&mut self.choices);
        let sent = self.send_to::<S>(session, &choices);
        self.choices = choices;
        sent
    }

    fn send_to<S>(&mut self, session: &Arc<Session>, choices: &Choices) -> Result<(), EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let mut round = Round {
            session,
            all: &choices.able,
            open: choices.able.iter().map(|choice| choice.candidate).collect(),
            now_ns: now_ns(),
        };
        for _ in 0..self.again.len() {
            let Some(part) = self.again.pop_front() else {
                break;
            };
            self.send_again::<S>(&mut round, part)?;
        }
        while !round.open.is_empty() && self.send_next::<S>(&mut round)? {}
        Ok(())
    }

    /// Nobody serves what is wanted, or all who do fail.
    fn nobody_to_send_to(&mut self, session: &Session) -> Result<(), EmbedError> {
        if !self.choices.failing.is_empty() {
            let retry_ns = self.choices.retry_ns;
            self.failing_until_ns = Some(retry_ns);
            if self.options.on_overload == OnOverload::Fail || retry_ns >= self.deadline_ns {
                return Err(self.all_fail(retry_ns));
            }
            return Ok(());
        }
        if let Some(wanted) = &self.options.use_device {
            let devices = session.devices();
            let is_there = |device: &String| crate::session::is_device(device, wanted);
            if !devices.is_empty() && !devices.iter().any(is_there) {
                return Err(EmbedError::NoDevice {
                    wanted: wanted.clone(),
                    devices: devices.join(", "),
                });
            }
        }
        self.waiting_for = "no worker is serving";
        Ok(())
    }

    fn settle_dimensions(&mut self, choice: &Choice) -> Result<(), EmbedError> {
        let full = usize::try_from(choice.identity.dimensions).unwrap_or(0);
        if self.options.dimensions > full {
            return Err(EmbedError::BadDimensions {
                asked: self.options.dimensions,
                has: full,
            });
        }
        self.dimensions = match self.options.dimensions {
            0 => full,
            some => some,
        };
        Ok(())
    }

    /// Sends a message that failed or was refused, to a worker that has not refused it.
    fn send_again<S>(&mut self, round: &mut Round<'_>, mut part: Part) -> Result<(), EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        if part.not_before_ns > round.now_ns {
            self.again.push_back(part);
            return Ok(());
        }
        let index = |choice: &Choice| choice.candidate.index;
        if round.all.iter().all(|choice| part.avoids(index(choice))) {
            let pause_ns = self.nobody_takes(part.refusal)?;
            part.avoid_nobody();
            part.not_before_ns = round.now_ns.saturating_add(pause_ns);
            self.again.push_back(part);
            return Ok(());
        }
        let open = round.open.iter().filter(|open| !part.avoids(open.index));
        let open: Vec<Candidate> = open.copied().collect();
        let tokens = self.tokens(round, part.weight, part.texts.len());
        let errand = Errand {
            tokens,
            longest: round.longest(self.tokens(round, part.heaviest, 1)),
            left: tokens,
            time_ns: self.deadline_ns.saturating_sub(round.now_ns),
        };
        let Some(routed) = route(&open, errand, round.session.dice()) else {
            self.again.push_back(part);
            return Ok(());
        };
        match self.launch::<S>(round, routed, &part, tokens) {
            Ok(()) => round.sent(routed, tokens),
            Err(error) => {
                self.again.push_back(part);
                round.close(routed);
                self.not_sent(error)?;
            }
        }
        Ok(())
    }

    /// Sends the next texts of the list; false when none can be sent now.
    fn send_next<S>(&mut self, round: &mut Round<'_>) -> Result<bool, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let texts = self.texts.as_ref();
        let left = self.tokens(round, self.unsent.weight(), texts.len());
        let routed = self.unsent.heads(texts.len()).find_map(|place| {
            let tokens = self.tokens(round, self.unsent.weight_of(&texts[place]), 1);
            let errand = Errand {
                tokens,
                longest: round.longest(tokens),
                left,
                time_ns: self.deadline_ns.saturating_sub(round.now_ns),
            };
            let routed = route(&round.open, errand, round.session.dice())?;
            Some((routed, errand.longest == 0))
        });
        let Some((routed, is_for_any)) = routed else {
            // Who takes the next text has no slot free; others may take those behind it.
            let is_more = self.unsent.heads(texts.len()).next().is_some();
            return Ok(is_more && self.unsent.pass(texts.len()));
        };
        let room = self.room(round, routed, is_for_any);
        let Some(part) = self.unsent.take(texts, room) else {
            round.close(routed);
            return Ok(true);
        };
        let tokens = self.tokens(round, part.weight, part.texts.len());
        match self.launch::<S>(round, routed, &part, tokens) {
            Ok(()) => round.sent(routed, tokens),
            Err(error) => {
                self.unsent.put_back(&part);
                round.close(routed);
                self.not_sent(error)?;
            }
        }
        Ok(true)
    }

    /// Tokens of so many texts of this weight, as guessed: nobody has tokenised them yet.
    fn tokens(&self, round: &Round<'_>, weight: u64, texts: usize) -> u64 {
        let max = self.unsent.max_tokens().saturating_mul(texts as u64);
        round.session.density.tokens(weight).min(max.max(1))
    }

    /// What a message to this worker may hold.
    fn room(&self, round: &Round<'_>, routed: Routed, is_for_any: bool) -> Room {
        let session = round.session;
        let rows_max = rows_per_response(session.limits.response_slot_bytes, self.dimensions)
            .clamp(1, TEXTS_PER_REQUEST_MAX);
        let limit = round
            .all
            .iter()
            .find(|choice| choice.candidate.index == routed.index)
            .map_or(0, |choice| choice.candidate.text_tokens_max);
        let is_limited = limit > 0 && limit < self.unsent.max_tokens() && !is_for_any;
        Room {
            texts: rows_max,
            bytes: self.text_room(session),
            entry_bytes: TEXT_ENTRY_BYTES,
            weight: session.density.weight(routed.tokens),
            text_weight: if is_limited {
                session.density.weight(limit)
            } else {
                u64::MAX
            },
        }
    }

    /// The first worker's model is the whole call's: rows of two models never meet in one answer.
    fn settle_model(&mut self, session: &Session, choices: &mut Choices) -> Result<(), EmbedError> {
        if self.model != ModelId::ANY {
            return Ok(());
        }
        if let Some(wanted) = &self.options.model {
            let is_empty =
                |choices: &Choices| choices.able.is_empty() && choices.failing.is_empty();
            let some = !is_empty(choices);
            let is_wanted = |identity: &WorkerIdentity| identity.model.to_text() == *wanted;
            choices.able.retain(|choice| is_wanted(&choice.identity));
            choices.failing.retain(is_wanted);
            if some && is_empty(choices) {
                let served: Vec<_> = session.models().into_iter().map(|(name, _)| name).collect();
                return Err(EmbedError::WrongModel {
                    wanted: wanted.clone(),
                    served: served.join(", "),
                });
            }
        }
        if let Some(first) = choices.able.first() {
            let model = first.identity.model_id;
            choices
                .able
                .retain(|choice| choice.identity.model_id == model);
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
            | RingError::AllHeld
            | RingError::Failed(_) => {
                tracing::debug!(%error, "a worker could not be reached");
                self.waiting_for = "its worker could not be reached";
                Ok(())
            }
        }
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

    /// Sends a message and remembers that it is on its way.
    fn launch<S>(
        &mut self,
        round: &Round<'_>,
        routed: Routed,
        part: &Part,
        tokens: u64,
    ) -> Result<(), RingError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let session = round.session;
        let mut all = round.all.iter();
        let choice = all
            .find(|choice| choice.candidate.index == routed.index)
            .ok_or(RingError::NoPeer)?;
        let connection = session.connection(routed.index, &choice.identity)?;
        let id = session.next_id();
        let sent_ns = now_ns();
        let pending = self.lay::<S>(session, &connection, part, (id, sent_ns))?;
        ring_bell(session.worker_bell(routed.index));
        connection.in_flight.sent(tokens, sent_ns);
        session.health.sent(routed.index, &choice.identity, sent_ns);
        self.waiting_for = "the worker did not answer";
        let open = round.open.iter().find(|open| open.index == routed.index);
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
            cost: choice.candidate.cost,
            predicted_ns: open.map_or(0, |open| open.completion_ns(tokens)),
        });
        Ok(())
    }

    /// Lays a message into a slot of the ring and sends it.
    fn lay<S>(
        &self,
        session: &Session,
        connection: &Connection,
        part: &Part,
        (id, sent_ns): (u64, u64),
    ) -> Result<Pending, RingError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let (prompt_kind, prompt) = self.prompt();
        let room = self.text_room(session) - TEXT_ENTRY_BYTES;
        let all = self.texts.as_ref();
        let texts = || part.texts.iter().map(move |&place| all[place].as_ref());
        let kept: usize = texts()
            .map(|text| fitting(text, room, self.options.truncation).len())
            .sum();
        let count = part.texts.len();
        let bytes = request_bytes(prompt.len(), count, kept);
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
            RequestWriter::new(loan.bytes_mut(), header, prompt, count).map_err(too_large)?;
        for whole in texts() {
            let kept = fitting(whole, room, self.options.truncation);
            let flags = if kept.len() < whole.len() {
                TextFlags::CUT
            } else {
                TextFlags::NONE
            };
            writer.push(kept, flags).map_err(too_large)?;
        }
        writer.finish().map_err(too_large)?;
        loan.send()
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
