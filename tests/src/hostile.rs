//! A client that keeps no rule: it puts whatever bytes it likes into a worker's ring, and writes on
//! in a message that it has sent.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use embedring_ipc::{ClientRing, Pending, RingError, RingLimits, ring_bell};
use embedring_protocol::sync::Ordering;
use embedring_protocol::{
    BellsLayout, RequestHeader, RequestWriter, ResponseView, RowMeta, Status, TextFlags,
    request_bytes,
};

use crate::instance::Instance;
use crate::process::{WATCHDOG, eventually};
use crate::random::Random;

/// A connection to one worker's ring without any of the client's checks.
#[derive(Debug)]
pub struct Hostile {
    ring: ClientRing,
    bells: embedring_ipc::BellsMap,
    worker: usize,
    slot_bytes: usize,
}

/// What a worker answered.
#[derive(Debug)]
pub struct Answer {
    /// The id it gives.
    pub id: u64,
    /// How it ended the request.
    pub status: Status,
    /// What it says about each text.
    pub metas: Vec<RowMeta>,
    /// The rows, one after the other.
    pub rows: Vec<f32>,
}

/// A request as the protocol wants it, to be broken. Text may be any bytes.
#[must_use]
pub fn good_message(id: u64, texts: &[&[u8]]) -> Vec<u8> {
    let bytes = texts.iter().map(|text| text.len()).sum();
    let mut message = vec![0; request_bytes(0, texts.len(), bytes)];
    let deadline_ns = embedring_ipc::clock::now_ns() + 60_000_000_000;
    let header = RequestHeader::new(id, deadline_ns);
    let mut writer = RequestWriter::new(&mut message, header, "", texts.len()).unwrap();
    for text in texts {
        writer.push_bytes(text, TextFlags::NONE).unwrap();
    }
    writer.finish().unwrap();
    message
}

impl Hostile {
    /// Connects to the ring of the first worker that serves. It takes no place among the bells: it
    /// does not care to be woken.
    #[must_use]
    pub fn connect(instance: &Instance) -> Self {
        let found = embedring_ipc::Instance::open(&instance.options()).unwrap();
        let board = instance.board();
        let (worker, identity) = board
            .workers
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.state().takes_requests())
            .find_map(|(index, slot)| Some((index, slot.identity.read()?)))
            .unwrap();
        let size = |value: u64| usize::try_from(value).unwrap();
        let header = board.header();
        let limits = RingLimits {
            clients_max: size(header.clients_max),
            requests_in_flight_max: size(header.requests_in_flight_max),
            request_slot_bytes: size(header.request_slot_bytes),
            response_slot_bytes: size(header.response_slot_bytes),
        };
        Self {
            ring: ClientRing::connect(&found, identity.incarnation, limits).unwrap(),
            bells: instance.bells(),
            worker,
            slot_bytes: limits.request_slot_bytes,
        }
    }

    /// Bytes of a slot.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Puts these bytes into the ring, as soon as it has a place for them.
    #[track_caller]
    #[must_use]
    pub fn send(&self, bytes: &[u8]) -> Pending {
        let mut sent = None;
        eventually("the ring has a place", WATCHDOG, || {
            sent = self.try_send(bytes);
            sent.is_some()
        });
        sent.unwrap()
    }

    /// Puts these bytes into the ring if it has a place for them.
    #[must_use]
    pub fn try_send(&self, bytes: &[u8]) -> Option<Pending> {
        let mut loan = match self.ring.loan(bytes.len()) {
            Ok(loan) => loan,
            Err(RingError::NoSlot) => return None,
            Err(error) => panic!("{error}"),
        };
        loan.bytes_mut().copy_from_slice(bytes);
        let sent = loan.send();
        ring_bell(&self.bells.workers[self.worker]);
        match sent {
            Ok(pending) => Some(pending),
            // The worker has not yet taken off what was sent and given up.
            Err(RingError::NoPeer | RingError::NoSlot) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Puts these bytes into the ring and waits for what the worker says to them.
    #[track_caller]
    #[must_use]
    pub fn ask(&self, bytes: &[u8]) -> Answer {
        answer(&self.send(bytes))
    }

    /// Puts a good message into the ring and goes on writing random bytes over all of it until
    /// the answer is there.
    #[track_caller]
    #[must_use]
    pub fn ask_and_scribble(&self, message: &[u8], random: &mut Random) -> Answer {
        let mut loan = self.ring.loan(message.len()).unwrap();
        loan.bytes_mut().copy_from_slice(message);
        let slot = loan.bytes_mut().as_mut_ptr().expose_provenance();
        let length = message.len();
        let seed = random.word();
        let stop = AtomicBool::new(false);
        let stop = &stop;
        std::thread::scope(|scope| {
            let scribbler = scope.spawn(move || {
                let mut random = Random::new(seed);
                let start = std::ptr::with_exposed_provenance_mut::<u8>(slot);
                while !stop.load(Relaxed) {
                    let at = start.wrapping_add(random.below(length));
                    // SAFETY: `at` lies in the slot, whose mapping the ring of `self` keeps for as
                    // long as this scope; no reference to it exists any more, since `send` took the
                    // loan. That the worker reads meanwhile is the attack; it copies first.
                    unsafe { at.write_volatile(random.byte()) };
                }
            });
            let pending = loan.send().unwrap();
            ring_bell(&self.bells.workers[self.worker]);
            let answer = answer(&pending);
            stop.store(true, Relaxed);
            scribbler.join().unwrap();
            answer
        })
    }

    /// Writes nonsense over all bells and clients' places, as every process that may connect can.
    pub fn scribble_bells(&self, random: &mut Random) {
        let bells: &BellsLayout = &self.bells;
        for bell in &bells.workers {
            let [rings, sleepers] = two(random);
            bell.rings.store(rings, Ordering::Relaxed);
            bell.sleepers.store(sleepers, Ordering::Relaxed);
        }
        for slot in &bells.clients {
            let [rings, sleepers] = two(random);
            slot.owner.store(random.word(), Ordering::Relaxed);
            slot.bell.rings.store(rings, Ordering::Relaxed);
            slot.bell.sleepers.store(sleepers, Ordering::Relaxed);
        }
    }
}

fn two(random: &mut Random) -> [u32; 2] {
    let word = random.word();
    [word >> 32, word & 0xffff_ffff].map(|half| u32::try_from(half).unwrap())
}

/// Waits for the answer without any bell.
#[track_caller]
fn answer(pending: &Pending) -> Answer {
    let mut answer = None;
    // The worker's slices of sleep are shorter than this by far.
    let timeout = WATCHDOG.min(Duration::from_secs(60));
    eventually("the worker answers a hostile client", timeout, || {
        answer = pending.receive().unwrap().map(|reply| {
            let view = ResponseView::parse(reply.bytes()).unwrap();
            let rows = reply.bytes().get(view.rows_offset()..).unwrap();
            Answer {
                id: view.header().id,
                status: view.header().status(),
                metas: view.metas().to_vec(),
                rows: embedring_protocol::rows_from_bytes(rows).to_vec(),
            }
        });
        answer.is_some()
    });
    answer.unwrap()
}
