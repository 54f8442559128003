//! Messages: which texts of a list travel together.

use std::collections::VecDeque;
use std::sync::Arc;

use embedring_protocol::WorkerIndex;

use crate::health::weight;

/// A message to be sent.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Places of its texts in the list, ascending.
    pub(super) texts: Arc<[usize]>,
    /// What its texts weigh.
    pub(super) weight: u64,
    /// The weight of the heaviest.
    pub(super) heaviest: u64,
    /// Workers that died with it in their hands.
    pub(super) deaths: u32,
    /// Times that a worker failed on it.
    pub(super) failures: u32,
    /// How often it was sent.
    pub(super) sent: u32,
    pub(super) not_before_ns: u64,
    /// Workers that would not have it, a bit for each.
    pub(super) avoid: u16,
    /// Why the last one would not, until all were asked.
    pub(super) refusal: Refusal,
}

/// Why a worker would not have a message that another one may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// None has refused it.
    None,
    /// No room; there should be some after this time.
    NoRoom { retry_after_ns: u64 },
    /// It would be late.
    Late,
}

impl Part {
    pub(super) fn new(texts: Vec<usize>, weight: u64, heaviest: u64) -> Self {
        Self {
            texts: texts.into(),
            weight,
            heaviest,
            deaths: 0,
            failures: 0,
            sent: 0,
            not_before_ns: 0,
            avoid: 0,
            refusal: Refusal::None,
        }
    }

    /// The same texts are not sent to this worker again, until all others were asked too.
    pub(super) fn avoid(&mut self, worker: WorkerIndex) {
        self.avoid |= 1 << worker.get();
    }

    pub(super) fn avoids(&self, worker: WorkerIndex) -> bool {
        self.avoid & (1 << worker.get()) != 0
    }

    /// All were asked: from the beginning.
    pub(super) fn avoid_nobody(&mut self) {
        self.avoid = 0;
        self.refusal = Refusal::None;
    }

    /// Only these of its texts.
    pub(super) fn only(&self, texts: Vec<usize>, weight: u64, heaviest: u64) -> Self {
        Self {
            texts: texts.into(),
            weight,
            heaviest,
            ..self.clone()
        }
    }
}

/// What a message may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) texts: usize,
    /// Bytes of texts and their entries.
    pub(super) bytes: usize,
    /// Bytes of an entry.
    pub(super) entry_bytes: usize,
    /// Share of the list, by weight.
    pub(super) weight: u64,
    /// Weight of a text at most.
    pub(super) text_weight: u64,
}

/// The texts of a list that were not sent yet.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    next: usize,
    /// Texts before `next` that were too long for the device whose message was made, ascending.
    passed: VecDeque<usize>,
    /// What all of them weigh.
    weight: u64,
    max_tokens: u64,
}

/// Texts that are passed over at most: beyond that they wait in the list.
const PASSED_MAX: usize = 1024;

impl Unsent {
    /// All texts of a list, for models that read `max_tokens` of a text.
    pub(super) fn all<S: AsRef<str>>(texts: &[S], max_tokens: u64) -> Self {
        Self {
            next: 0,
            passed: VecDeque::new(),
            weight: texts
                .iter()
                .map(|text| weight(text.as_ref().len(), max_tokens))
                .sum(),
            max_tokens,
        }
    }

    pub(super) fn is_empty(&self, count: usize) -> bool {
        self.next >= count && self.passed.is_empty()
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    pub(super) fn weight_of<S: AsRef<str>>(&self, text: &S) -> u64 {
        weight(text.as_ref().len(), self.max_tokens)
    }

    /// The texts that a next message may begin with: the first that was passed over, and the next.
    pub(super) fn heads(&self, count: usize) -> impl Iterator<Item = usize> {
        let next = (self.next < count).then_some(self.next);
        self.passed.front().copied().into_iter().chain(next)
    }

    /// Tokens of a text that the models read.
    pub(super) fn max_tokens(&self) -> u64 {
        self.max_tokens
    }

    /// Passes over the next text, which nobody that can be sent to now may have; false when there is none,
    /// or enough were passed over.
    pub(super) fn pass(&mut self, count: usize) -> bool {
        if self.next >= count || self.passed.len() >= PASSED_MAX {
            return false;
        }
        self.passed.push_back(self.next);
        self.next += 1;
        true
    }

    /// Takes the next message off the list: texts in order, those first that were passed over. Always at
    /// least one when a head is light enough.
    pub(super) fn take<S: AsRef<str>>(&mut self, texts: &[S], room: Room) -> Option<Part> {
        let mut message = Message::default();
        let mut at = 0;
        while at < self.passed.len() {
            let place = self.passed[at];
            let weight = self.weight_of(&texts[place]);
            if weight > room.text_weight {
                at += 1;
                continue;
            }
            if !message.push(place, texts[place].as_ref().len(), weight, room) {
                return self.message(message);
            }
            self.passed.remove(at);
        }
        while self.next < texts.len() {
            let text = &texts[self.next];
            let weight = self.weight_of(text);
            if weight > room.text_weight {
                if self.pass(texts.len()) {
                    continue;
                }
                break;
            }
            if !message.push(self.next, text.as_ref().len(), weight, room) {
                break;
            }
            self.next += 1;
        }
        self.message(message)
    }

    /// Puts the texts of a message back that could not be sent: they may be cut otherwise next time.
    pub(super) fn put_back(&mut self, part: &Part) {
        self.weight += part.weight;
        self.passed.extend(part.texts.iter());
        self.passed.make_contiguous().sort_unstable();
    }

    fn message(&mut self, message: Message) -> Option<Part> {
        let Message {
            texts,
            weight,
            heaviest,
            ..
        } = message;
        if texts.is_empty() {
            return None;
        }
        self.weight = self.weight.saturating_sub(weight);
        Some(Part::new(texts, weight, heaviest))
    }
}

/// A message being filled.
#[derive(Debug, Default)]
struct Message {
    texts: Vec<usize>,
    bytes: usize,
    weight: u64,
    heaviest: u64,
}

impl Message {
    /// Adds a text unless that is too much; the first one always fits.
    fn push(&mut self, place: usize, text_bytes: usize, weight: u64, room: Room) -> bool {
        let need = text_bytes.min(room.bytes - room.entry_bytes) + room.entry_bytes;
        let is_full = self.texts.len() >= room.texts
            || self.bytes + need > room.bytes
            // The share is met best by the nearest whole text.
            || self.weight + weight / 2 > room.weight;
        if is_full && !self.texts.is_empty() {
            return false;
        }
        self.texts.push(place);
        self.bytes += need;
        self.weight += weight;
        self.heaviest = self.heaviest.max(weight);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        texts: 4,
        bytes: 1 << 16,
        entry_bytes: 12,
        weight: u64::MAX,
        text_weight: u64::MAX,
    };

    fn places(part: Option<Part>) -> Vec<usize> {
        part.map_or_else(Vec::new, |part| part.texts.to_vec())
    }

    #[test]
    fn a_list_is_cut_in_order_and_completely() {
        let texts = vec!["x"; 10];
        let mut unsent = Unsent::all(&texts, 512);
        assert_eq!(unsent.weight(), 90);
        let mut all = Vec::new();
        while !unsent.is_empty(texts.len()) {
            let part = unsent.take(&texts, ROOM).unwrap();
            assert_eq!(part.weight, 9 * part.texts.len() as u64);
            all.extend(part.texts.to_vec());
        }
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(
            (unsent.weight(), places(unsent.take(&texts, ROOM))),
            (0, vec![])
        );
    }

    #[test]
    fn a_message_ends_at_its_bytes_and_at_its_share() {
        let texts = vec!["x".repeat(100); 10];
        let mut unsent = Unsent::all(&texts, 512);
        let bytes = Room { bytes: 250, ..ROOM };
        assert_eq!(places(unsent.take(&texts, bytes)), [0, 1]);
        let share = Room {
            weight: 290,
            ..ROOM
        };
        assert_eq!(
            places(unsent.take(&texts, share)),
            [2, 3, 4],
            "270 and half a text"
        );
        let none = Room { weight: 0, ..ROOM };
        assert_eq!(places(unsent.take(&texts, none)), [5], "never none");
        let large = Room { bytes: 20, ..ROOM };
        assert_eq!(places(unsent.take(&texts, large)), [6], "it is cut later");
    }

    #[test]
    fn texts_too_long_for_a_device_are_left_for_others() {
        let texts: Vec<String> = (0..8)
            .map(|at| "x".repeat(if at % 3 == 0 { 900 } else { 9 }))
            .collect();
        let mut unsent = Unsent::all(&texts, 512);
        let short = Room {
            text_weight: 100,
            ..ROOM
        };
        assert_eq!(places(unsent.take(&texts, short)), [1, 2, 4, 5]);
        assert_eq!(unsent.heads(8).collect::<Vec<_>>(), [0, 7]);
        let part = unsent.take(&texts, ROOM).unwrap();
        assert_eq!(part.texts[..], [0, 3, 6, 7]);
        assert!(unsent.is_empty(8));
        unsent.put_back(&part);
        assert_eq!(unsent.weight(), part.weight);
        assert_eq!(places(unsent.take(&texts, ROOM)), [0, 3, 6, 7]);
    }

    #[test]
    fn workers_that_refused_are_avoided_until_all_did() {
        let mut part = Part::new(vec![0], 1, 1);
        let [first, second] = [0, 15].map(|index| WorkerIndex::new(index).unwrap());
        part.avoid(second);
        assert!(part.avoids(second) && !part.avoids(first));
        part.avoid_nobody();
        assert!(!part.avoids(second));
    }
}
