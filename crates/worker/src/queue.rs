//! What waits: requests, and their texts in order of arrival.

use embedring_policy::{Waiting, pick_batch};

use crate::request::Request;

/// One text of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) request: usize,
    pub(crate) row: usize,
}

/// A batch ready to run: tokens flat, offsets, and whose texts they are.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) ids: Vec<u32>,
    pub(crate) offsets: Vec<usize>,
    pub(crate) items: Vec<Item>,
    pub(crate) tokens_squared: u64,
}

impl Batch {
    fn clear(&mut self) {
        self.ids.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.items.clear();
        self.tokens_squared = 0;
    }
}

/// Requests in their places, and the texts that wait. Places are reused, so that a queue in steady
/// state allocates nothing.
#[derive(Default)]
pub(crate) struct Queue {
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    items: Vec<Item>,
    waiting: Vec<Waiting>,
    chosen: Vec<usize>,
    /// Texts and tokens waiting or running.
    pub(crate) texts: u64,
    pub(crate) tokens: u64,
}

impl Queue {
    pub(crate) fn has_waiting(&self) -> bool {
        !self.items.is_empty()
    }

    /// Tokens waiting, those that run not counted.
    pub(crate) fn waiting_tokens(&self) -> u64 {
        self.waiting.iter().map(|text| text.tokens).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.requests.len()
    }

    /// Takes in a request; its texts without a fault wait from now on.
    pub(crate) fn push(&mut self, request: Request) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        for (row, meta) in request.metas.iter().enumerate() {
            if meta.flags().fault_of().is_some() {
                continue;
            }
            let tokens = u64::from(meta.tokens);
            self.items.push(Item {
                request: place,
                row,
            });
            self.waiting.push(Waiting {
                class: request.class,
                tokens,
                arrived_ns: request.arrived_ns,
            });
            self.texts += 1;
            self.tokens += tokens;
        }
        self.requests[place] = Some(request);
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Request> {
        self.requests.get_mut(place)?.as_mut()
    }

    /// Takes a request out; what of it still waits is forgotten.
    pub(crate) fn remove(&mut self, place: usize) -> Option<Request> {
        let request = self.requests.get_mut(place)?.take()?;
        self.free.push(place);
        let mut kept = 0;
        for index in 0..self.items.len() {
            if self.items[index].request == place {
                self.texts -= 1;
                self.tokens -= self.waiting[index].tokens;
                continue;
            }
            self.items.swap(kept, index);
            self.waiting.swap(kept, index);
            kept += 1;
        }
        self.items.truncate(kept);
        self.waiting.truncate(kept);
        Some(request)
    }

    /// A text of a batch is done, whether its request is still there or not.
    pub(crate) fn done(&mut self, tokens: u64) {
        self.texts -= 1;
        self.tokens -= tokens;
    }

    /// Requests nobody waits for any more, or whose deadline has passed.
    pub(crate) fn lost(&self, now_ns: u64) -> Vec<usize> {
        self.requests
            .iter()
            .enumerate()
            .filter_map(|(place, request)| {
                let request = request.as_ref()?;
                (now_ns >= request.deadline_ns || request.is_abandoned()).then_some(place)
            })
            .collect()
    }

    /// All requests, to be answered before the end.
    pub(crate) fn places(&self) -> Vec<usize> {
        (0..self.requests.len())
            .filter(|place| self.requests[*place].is_some())
            .collect()
    }

    /// Moves the next batch's texts from the queue into `batch`.
    pub(crate) fn take_batch(
        &mut self,
        now_ns: u64,
        tokens_max: u64,
        texts_max: usize,
        batch: &mut Batch,
    ) {
        batch.clear();
        pick_batch(
            &self.waiting,
            now_ns,
            tokens_max,
            texts_max,
            &mut self.chosen,
        );
        for &index in &self.chosen {
            let item = self.items[index];
            let Some(request) = self.requests[item.request].as_mut() else {
                continue;
            };
            let ids = request.row_ids(item.row);
            batch.ids.extend_from_slice(ids);
            batch.tokens_squared += (ids.len() as u64).pow(2);
            batch.offsets.push(batch.ids.len());
            batch.items.push(item);
            if request.timing.started_ns == 0 {
                request.timing.started_ns = now_ns;
            }
        }
        self.chosen.sort_unstable();
        let mut chosen = self.chosen.iter().peekable();
        let mut index = 0;
        let mut keep = |_: &Item| {
            let taken = chosen.next_if(|next| **next == index).is_some();
            index += 1;
            !taken
        };
        self.items.retain(|item| keep(item));
        let mut chosen = self.chosen.iter().peekable();
        let mut index = 0;
        self.waiting.retain(|_| {
            let taken = chosen.next_if(|next| **next == index).is_some();
            index += 1;
            !taken
        });
    }
}
