//! What the processes of an instance share through the operating system.
//!
//! The decision that shaped this crate: everything lies in one directory on tmpfs, guarded by that
//! directory's permissions, and waiting is done on futex words in shared memory with the peer's
//! pidfd looked at in between.
//!
//! ```no_run
//! use embedring_ipc::{Instance, InstanceOptions, WorkerRing, ClientRing, RingLimits};
//!
//! let instance = Instance::create(&InstanceOptions::new("demo")).unwrap();
//! let limits = RingLimits::default();
//! let worker = WorkerRing::create(&instance, 1, limits).unwrap();
//! let client = ClientRing::connect(&instance, 1, limits).unwrap();
//!
//! let mut loan = client.loan(5).unwrap();
//! loan.bytes_mut().copy_from_slice(b"hello");
//! let pending = loan.send().unwrap();
//! let request = worker.receive().unwrap().unwrap();
//! let mut reply = request.reply(4).unwrap();
//! reply.bytes_mut().copy_from_slice(b"back");
//! reply.send().unwrap();
//! assert_eq!(pending.receive().unwrap().unwrap().bytes(), b"back");
//! ```

mod bell;
mod cleanup;
pub mod clock;
mod instance;
mod map;
mod process;
mod registry;
mod ring;
mod service;
mod users;
mod wait;

pub use bell::{Sleeper, ring_bell};
pub use cleanup::{Cleaned, clean_up_dead};
pub use instance::{Instance, InstanceError, InstanceOptions, ROOM_BYTES_MIN, RoleLock};
pub use map::{BellsMap, BoardMap, MapError};
pub use process::{Liveness, current_process, is_alive, resident_bytes};
pub use registry::{ClaimError, ClientPlace, WorkerPlace, free_dead_places};
pub use ring::{
    ClientRing, Incoming, Loan, Pending, Reply, ReplyLoan, RingError, RingLimits, WorkerRing,
};
pub use service::RingService;
pub use wait::{WaitStrategy, Waiter};
