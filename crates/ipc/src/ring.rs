//! The two ends of a ring: the worker's, which receives requests and answers them, and the client's.
//!
//! A slot is loaned, written in place, and sent; the other end borrows it. Slots are fixed in number
//! and size when the ring is made: a dynamic allocation strategy cost 441 MB and 1.4 s per client.

use std::fmt;

use iceoryx2::active_request::ActiveRequest;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::ReceiveError;
use iceoryx2::port::client::{Client, RequestSendError};
use iceoryx2::port::server::Server;
use iceoryx2::prelude::{AllocationStrategy, BackpressureStrategy, Node, ServiceName};
use iceoryx2::request_mut::RequestMut;
use iceoryx2::response::Response;
use iceoryx2::response_mut::ResponseMut;
use thiserror::Error;

use embedring_protocol::limits::{
    CLIENTS_DEFAULT, REQUEST_SLOT_DEFAULT, REQUESTS_IN_FLIGHT_DEFAULT, RESPONSE_SLOT_DEFAULT,
};

use crate::instance::Instance;
use crate::service::{RingService, node};

/// Number and size of the slots of a ring. All processes of an instance must agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Clients that can connect.
    pub clients_max: usize,
    /// Requests one client may have in flight.
    pub requests_in_flight_max: usize,
    /// Bytes of a request slot.
    pub request_slot_bytes: usize,
    /// Bytes of a response slot.
    pub response_slot_bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            clients_max: CLIENTS_DEFAULT,
            requests_in_flight_max: REQUESTS_IN_FLIGHT_DEFAULT,
            request_slot_bytes: REQUEST_SLOT_DEFAULT,
            response_slot_bytes: RESPONSE_SLOT_DEFAULT,
        }
    }
}

/// What can go wrong with a ring.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// The instance's path is no path iceoryx2 can use.
    #[error("the instance's directory has a name that is too long or not UTF-8; set runtime.dir")]
    Path,
    /// This process could not be registered.
    #[error("could not register with the instance's rings: {0}")]
    Node(String),
    /// The worker's ring is not there, or not reachable.
    #[error("could not open the ring: {0}")]
    Open(String),
    /// The ring has as many clients as it can have.
    #[error("the ring has all the clients it can have")]
    Full,
    /// All request slots of this client are in flight: receive an answer first.
    #[error("all request slots are in flight")]
    NoSlot,
    /// The worker holds as many requests of a client as it may, those that the client has given up included, and
    /// can take no further one of it.
    #[error("all request slots of a client are in the worker's hands")]
    AllHeld,
    /// The message is larger than a slot.
    #[error("a message of {bytes} bytes is larger than a slot")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Nobody is at the other end.
    #[error("nobody is at the other end of the ring")]
    NoPeer,
    /// The tmpfs is full.
    #[error("no memory left for the ring's slots; enlarge the tmpfs or set runtime.dir")]
    NoMemory,
    /// iceoryx2 failed in a way that has no name here.
    #[error("the ring failed: {0}")]
    Failed(String),
}

type Payload = [u8];
type Active = ActiveRequest<RingService, Payload, (), Payload, ()>;

fn service_name(incarnation: u64) -> Result<ServiceName, RingError> {
    ServiceName::new(&format!("embedring/{incarnation:016x}")).map_err(|_| RingError::Path)
}

// No payload alignment is asked for: iceoryx2 would round the size of each *element* up to it and a
// slot of 64 KiB would take 4 MiB. Slots begin behind iceoryx2's own header and are
// aligned to 8, which rows of f32 need half of; a test below holds it.
macro_rules! builder {
    ($node:expr, $name:expr, $limits:expr) => {
        $node
            .service_builder($name)
            .request_response::<Payload, Payload>()
            // Every request is answered or its client is gone; nothing is ever overwritten.
            .enable_safe_overflow_for_requests(false)
            .enable_safe_overflow_for_responses(false)
            .enable_fire_and_forget_requests(false)
            .max_servers(1)
            .max_clients($limits.clients_max)
            .max_nodes($limits.clients_max + 2)
            .max_active_requests_per_client($limits.requests_in_flight_max)
            .max_loaned_requests(2)
            .max_response_buffer_size(1)
            .max_borrowed_responses_per_pending_response(2)
    };
}

/// The worker's end of its ring.
pub struct WorkerRing {
    server: Server<RingService, Payload, (), Payload, ()>,
    // Declared after the port, so that it is dropped after it.
    _node: Node<RingService>,
}

impl fmt::Debug for WorkerRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerRing").finish_non_exhaustive()
    }
}

impl WorkerRing {
    /// Makes the ring of one start of a worker.
    ///
    /// # Errors
    /// When iceoryx2 can not make its files.
    pub fn create(
        instance: &Instance,
        incarnation: u64,
        limits: RingLimits,
    ) -> Result<Self, RingError> {
        let node = node(instance)?;
        let service = builder!(node, &service_name(incarnation)?, limits)
            .create()
            .map_err(|error| RingError::Open(format!("{error:?}")))?;
        let server = service
            .server_builder()
            .initial_max_slice_len(limits.response_slot_bytes)
            .allocation_strategy(AllocationStrategy::Static)
            .max_loaned_responses_per_request(1)
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            .create()
            .map_err(|error| RingError::Open(format!("{error:?}")))?;
        Ok(Self {
            server,
            _node: node,
        })
    }

    /// The next request in the ring, if any.
    ///
    /// # Errors
    /// When a connection can not be set up, the others go on; [`RingError::AllHeld`] until requests are dropped or
    /// answered.
    pub fn receive(&self) -> Result<Option<Incoming>, RingError> {
        match self.server.receive() {
            Ok(request) => Ok(request.map(|active| Incoming { active })),
            Err(ReceiveError::ExceedsMaxBorrows) => Err(RingError::AllHeld),
            Err(error) => Err(RingError::Failed(format!("{error:?}"))),
        }
    }
}

/// A request in the ring, to be answered. Dropping it unanswered tells the client that nothing comes.
pub struct Incoming {
    active: Active,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

impl Incoming {
    /// Copies the message, at most `bytes_max` of it, into `copy`, replacing what it held. Whatever
    /// the client does to the slot afterwards no longer matters.
    pub fn copy_to(&self, copy: &mut Vec<u8>, bytes_max: usize) {
        let payload = self.active.payload();
        copy.clear();
        copy.extend_from_slice(&payload[..payload.len().min(bytes_max)]);
    }

    /// True when the client has given up on it, or is gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        !self.active.is_connected()
    }

    /// Loans a response slot of `bytes` bytes.
    ///
    /// # Errors
    /// When `bytes` is more than a slot has or the client no longer takes answers.
    pub fn reply(&self, bytes: usize) -> Result<ReplyLoan, RingError> {
        let loan = self
            .active
            .loan_slice_uninit(bytes)
            .map_err(|error| loan_error(error, bytes))?;
        // SAFETY: any byte is a valid `u8`, and the slot lies in a mapping that the kernel filled with
        // zeros: it holds what earlier messages left. Zeroing 64 KiB first would cost 2 µs.
        let loan = unsafe { loan.assume_init() };
        Ok(ReplyLoan { loan })
    }
}

fn loan_error(error: iceoryx2::port::LoanError, bytes: usize) -> RingError {
    use iceoryx2::port::LoanError;
    match error {
        LoanError::ExceedsMaxLoanSize => RingError::TooLarge { bytes },
        LoanError::OutOfMemory | LoanError::ExceedsMaxLoans => RingError::NoSlot,
        LoanError::InternalFailure => RingError::Failed("loan".to_owned()),
    }
}

/// A response slot being written.
pub struct ReplyLoan {
    loan: ResponseMut<RingService, Payload, ()>,
}

impl fmt::Debug for ReplyLoan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyLoan").finish_non_exhaustive()
    }
}

impl ReplyLoan {
    /// The slot, to be written in place; aligned to 8 bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.loan.payload_mut()
    }

    /// Puts it into the ring. The client's bell is the caller's to ring.
    ///
    /// # Errors
    /// When the client no longer takes answers.
    pub fn send(self) -> Result<(), RingError> {
        self.loan
            .send()
            .map_err(|error| RingError::Failed(format!("{error:?}")))
    }
}

/// A client's end of one worker's ring.
pub struct ClientRing {
    client: Client<RingService, Payload, (), Payload, ()>,
    // Declared after the port, so that it is dropped after it.
    _node: Node<RingService>,
}

impl fmt::Debug for ClientRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRing").finish_non_exhaustive()
    }
}

impl ClientRing {
    /// Connects to the ring of one start of a worker. All request slots are allocated here: a full
    /// tmpfs is an error now and not a bus error while a text is written.
    ///
    /// # Errors
    /// When the ring is not there or full, or the tmpfs is.
    pub fn connect(
        instance: &Instance,
        incarnation: u64,
        limits: RingLimits,
    ) -> Result<Self, RingError> {
        use iceoryx2::service::port_factory::client::ClientCreateError;
        // iceoryx2's own files can not be allocated beforehand.
        if !instance.has_room() {
            return Err(RingError::NoMemory);
        }
        let node = node(instance)?;
        let service = builder!(node, &service_name(incarnation)?, limits)
            .open()
            .map_err(|error| RingError::Open(format!("{error:?}")))?;
        let client = service
            .client_builder()
            .initial_max_slice_len(limits.request_slot_bytes)
            .allocation_strategy(AllocationStrategy::Static)
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            .create()
            .map_err(|error| {
                if error == ClientCreateError::ExceedsMaxSupportedClients {
                    RingError::Full
                } else {
                    RingError::Open(format!("{error:?}"))
                }
            })?;
        let ring = Self {
            client,
            _node: node,
        };
        ring.allocate_slots()?;
        Ok(ring)
    }

    /// Has the kernel allocate every page of the mapping that the request slots lie in.
    fn allocate_slots(&self) -> Result<(), RingError> {
        let loan = self.loan(1)?;
        let address = loan.loan.payload().as_ptr().addr();
        populate_mapping_of(address)
    }

    /// Loans a request slot of `bytes` bytes.
    ///
    /// # Errors
    /// When all slots are in flight or `bytes` is more than a slot has.
    pub fn loan(&self, bytes: usize) -> Result<Loan, RingError> {
        let loan = self
            .client
            .loan_slice_uninit(bytes)
            .map_err(|error| loan_error(error, bytes))?;
        // SAFETY: as in `Incoming::reply`.
        let loan = unsafe { loan.assume_init() };
        Ok(Loan { loan })
    }
}

/// Finds the mapping that holds `address` and allocates all its pages.
fn populate_mapping_of(address: usize) -> Result<(), RingError> {
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|error| RingError::Failed(error.to_string()))?;
    let range = maps.lines().find_map(|line| {
        let (start, rest) = line.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(rest.split(' ').next()?, 16).ok()?;
        (start..end).contains(&address).then_some((start, end))
    });
    let Some((start, end)) = range else {
        return Err(RingError::Failed("the slots are not mapped".to_owned()));
    };
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: populating writes nothing and moves nothing; the range is one whole mapping of this
    // process, page aligned as /proc gives it, kept alive by the port that the caller holds.
    let populated = unsafe {
        rustix::mm::madvise(
            start,
            end - start.addr(),
            rustix::mm::Advice::LinuxPopulateWrite,
        )
    };
    match populated {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::FAULT | rustix::io::Errno::NOMEM | rustix::io::Errno::NOSPC) => {
            Err(RingError::NoMemory)
        }
        // Kernels before 5.14 do not know the advice; the pages are then allocated by their first use.
        Err(_) => Ok(()),
    }
}

/// A request slot being written.
pub struct Loan {
    loan: RequestMut<RingService, Payload, (), Payload, ()>,
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").finish_non_exhaustive()
    }
}

impl Loan {
    /// The slot, to be written in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.loan.payload_mut()
    }

    /// Puts it into the ring. The worker's bell is the caller's to ring.
    ///
    /// # Errors
    /// When too many requests are in flight or nobody is at the other end.
    pub fn send(self) -> Result<Pending, RingError> {
        match self.loan.send() {
            Ok(pending) if pending.number_of_server_connections() == 0 => Err(RingError::NoPeer),
            Ok(pending) => Ok(Pending { pending }),
            Err(RequestSendError::ExceedsMaxActiveRequests) => Err(RingError::NoSlot),
            Err(RequestSendError::SendError(error)) => Err(RingError::Failed(format!("{error:?}"))),
        }
    }
}

/// A request in flight. Dropping it cancels: the worker skips what has not run yet.
pub struct Pending {
    pending: PendingResponse<RingService, Payload, (), Payload, ()>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Pending {
    /// The answer, if it is there.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn receive(&self) -> Result<Option<Reply>, RingError> {
        match self.pending.receive() {
            Ok(reply) => Ok(reply.map(|response| Reply { response })),
            Err(error) => Err(RingError::Failed(format!("{error:?}"))),
        }
    }

    /// False once the worker has dropped the request: nothing comes after what is in the ring now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.pending.is_connected()
    }
}

/// An answer, borrowed from the ring until dropped.
pub struct Reply {
    response: Response<RingService, Payload, ()>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl Reply {
    /// The message, aligned to 8 bytes. The worker that wrote it could still change it; see
    /// `embedring_protocol::ResponseView` for why that is harmless.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.response.payload()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::InstanceOptions;

    fn instance() -> (tempfile::TempDir, Instance) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let options = InstanceOptions {
            dir: dir.path().into(),
            ..InstanceOptions::new("t")
        };
        let instance = Instance::create(&options).unwrap();
        (dir, instance)
    }

    fn send(client: &ClientRing, text: &[u8]) -> Result<Pending, RingError> {
        let mut loan = client.loan(text.len())?;
        loan.bytes_mut().copy_from_slice(text);
        loan.send()
    }

    fn answer(worker: &WorkerRing) {
        let request = worker.receive().unwrap().unwrap();
        let mut copy = Vec::new();
        request.copy_to(&mut copy, 1 << 20);
        let mut reply = request.reply(copy.len()).unwrap();
        reply.bytes_mut().copy_from_slice(&copy);
        reply.send().unwrap();
    }

    #[test]
    fn requests_come_back_answered_and_out_of_order_too() {
        let (_dir, instance) = instance();
        let limits = RingLimits::default();
        let worker = WorkerRing::create(&instance, 5, limits).unwrap();
        let client = ClientRing::connect(&instance, 5, limits).unwrap();
        let one = send(&client, b"one").unwrap();
        let two = send(&client, b"two").unwrap();
        let first = worker.receive().unwrap().unwrap();
        answer(&worker);
        assert_eq!(two.receive().unwrap().unwrap().bytes(), b"two");
        assert!(one.receive().unwrap().is_none());
        let mut reply = first.reply(1).unwrap();
        reply.bytes_mut().copy_from_slice(b"1");
        assert_eq!(reply.bytes_mut().as_ptr().addr() % 8, 0);
        reply.send().unwrap();
        assert_eq!(one.receive().unwrap().unwrap().bytes(), b"1");
    }

    #[test]
    fn a_dropped_request_is_seen_at_the_other_end() {
        let (_dir, instance) = instance();
        let limits = RingLimits::default();
        let worker = WorkerRing::create(&instance, 5, limits).unwrap();
        let client = ClientRing::connect(&instance, 5, limits).unwrap();
        let pending = send(&client, b"x").unwrap();
        let request = worker.receive().unwrap().unwrap();
        assert!(!request.is_abandoned());
        drop(pending);
        assert!(request.is_abandoned(), "cancelled by the client");
        let pending = send(&client, b"y").unwrap();
        drop(worker.receive().unwrap().unwrap());
        assert!(!pending.is_connected(), "dropped by the worker");
    }

    #[test]
    fn slots_are_bounded_in_number_and_size() {
        let (_dir, instance) = instance();
        let limits = RingLimits {
            requests_in_flight_max: 3,
            ..RingLimits::default()
        };
        let worker = WorkerRing::create(&instance, 5, limits).unwrap();
        let client = ClientRing::connect(&instance, 5, limits).unwrap();
        let too_large = client.loan(limits.request_slot_bytes + 1).unwrap_err();
        assert!(matches!(too_large, RingError::TooLarge { .. }));
        let pending: Vec<_> = (0..3).map(|_| send(&client, b"x").unwrap()).collect();
        assert_eq!(send(&client, b"x").unwrap_err(), RingError::NoSlot);
        for one in &pending {
            answer(&worker);
            assert!(one.receive().unwrap().is_some());
        }
        drop(pending);
        send(&client, b"x").unwrap();
    }

    #[test]
    fn a_ring_that_is_not_there_is_an_error() {
        let (_dir, instance) = instance();
        let missing = ClientRing::connect(&instance, 9, RingLimits::default());
        assert!(matches!(missing, Err(RingError::Open(_))));
    }

    #[test]
    fn all_files_lie_in_the_instance_and_go_with_it() {
        let (dir, instance) = instance();
        let limits = RingLimits::default();
        let worker = WorkerRing::create(&instance, 5, limits).unwrap();
        let client = ClientRing::connect(&instance, 5, limits).unwrap();
        assert!(instance.path().join("ring").is_dir());
        drop((worker, client));
        instance.remove().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn sixty_four_clients_connect() {
        let (_dir, instance) = instance();
        let limits = RingLimits::default();
        let worker = WorkerRing::create(&instance, 5, limits).unwrap();
        let clients: Vec<_> = (0..limits.clients_max)
            .map(|_| ClientRing::connect(&instance, 5, limits).unwrap())
            .collect();
        assert!(ClientRing::connect(&instance, 5, limits).is_err());
        for client in &clients {
            let pending = send(client, b"x").unwrap();
            answer(&worker);
            assert!(pending.receive().unwrap().is_some());
        }
    }
}
