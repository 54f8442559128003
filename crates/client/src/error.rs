//! What can go wrong, and what the caller can do about it.

use std::time::Duration;

use embedring_ipc::{ClaimError, InstanceError, MapError, RingError};
use embedring_protocol::TextFault;
use thiserror::Error;

/// Why no connection could be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No such instance, or not for this user.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The instance's shared memory can not be used: of another version, or not ready.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The instance has all the clients it admits.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

/// Why a call gave no rows.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// The list has no texts.
    #[error("the list of texts is empty")]
    EmptyList,
    /// The instance went away and could not be connected to again.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nobody serves, and nobody is there to start a worker.
    #[error("instance '{instance}' has no worker running; start it with `embedring up`")]
    NoWorker {
        /// Name of the instance.
        instance: String,
    },
    /// Workers serve, but not this model.
    #[error("no worker serves model '{wanted}'; served: {served}")]
    WrongModel {
        /// The model asked for.
        wanted: String,
        /// The models there are.
        served: String,
    },
    /// Workers serve, but not on this device.
    #[error("no worker runs on device '{wanted}'; there are: {devices}")]
    NoDevice {
        /// The device asked for.
        wanted: String,
        /// The devices there are.
        devices: String,
    },
    /// All devices that could be used failed again and again of late, and none is tried again before the
    /// deadline ([`crate::OnOverload::Fail`]: or at once).
    #[error(
        "all devices that could be used fail ({workers}); see the workers' logs, or try again in \
         {retry_after:?}"
    )]
    DevicesFailing {
        /// Their workers and devices.
        workers: String,
        /// When the first of them is tried again.
        retry_after: Duration,
    },
    /// The model has no prompt of that name.
    #[error("the model has no prompt named '{name}'")]
    UnknownPrompt {
        /// The name asked for.
        name: String,
    },
    /// More components were asked for than the model has.
    #[error("{asked} dimensions were asked for, the model has {has}")]
    BadDimensions {
        /// Asked for.
        asked: usize,
        /// The model's.
        has: usize,
    },
    /// The prompt is longer than a request can carry.
    #[error("the prompt has {bytes} bytes, at most {max} are possible")]
    PromptTooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The workers have no room ([`crate::OnOverload::Fail`], or the deadline came first).
    #[error("the workers have no room; try again in {retry_after:?}")]
    Overloaded {
        /// When there should be room.
        retry_after: Duration,
    },
    /// The time-out is over, or can not be kept.
    #[error("not answered within {timeout:?} ({reason}); raise the time-out or send less")]
    Deadline {
        /// The call's time-out.
        timeout: Duration,
        /// What it was waiting for.
        reason: &'static str,
    },
    /// Workers died one after the other while they had this request; it is not sent again, since it
    /// may be what kills them.
    #[error("{deaths} workers died while they had this request; it is not sent again")]
    WorkerDied {
        /// How many.
        deaths: u32,
    },
    /// A text has no row. The whole call failed, since `partial` was not asked for.
    #[error("text {index}: {fault}")]
    Text {
        /// Place of the text in the list.
        index: usize,
        /// Why.
        fault: TextFault,
    },
    /// The worker failed; its log says how.
    #[error("the worker failed on this request; see its log")]
    Worker,
    /// The instance's tmpfs is full, or its workers are at their memory bound.
    #[error(
        "no memory left: the tmpfs of the instance is full or its workers are at memory_max_bytes"
    )]
    NoMemory,
    /// Client and worker do not understand each other: different versions.
    #[error("client and worker speak different versions of the protocol; update the older one")]
    Protocol,
    /// The ring failed.
    #[error(transparent)]
    Ring(#[from] RingError),
}

impl EmbedError {
    /// A short stable name for machines, as `embedring embed` prints it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::EmptyList => "empty_list",
            Self::Connect(_) => "connect",
            Self::NoWorker { .. } => "no_worker",
            Self::WrongModel { .. } => "wrong_model",
            Self::NoDevice { .. } => "no_device",
            Self::DevicesFailing { .. } => "devices_failing",
            Self::UnknownPrompt { .. } => "unknown_prompt",
            Self::BadDimensions { .. } => "bad_dimensions",
            Self::PromptTooLong { .. } => "prompt_too_long",
            Self::Overloaded { .. } => "overloaded",
            Self::Deadline { .. } => "deadline",
            Self::WorkerDied { .. } => "worker_died",
            Self::Text { fault, .. } => fault.kind(),
            Self::Worker => "worker_failed",
            Self::NoMemory => "no_memory",
            Self::Protocol => "protocol",
            Self::Ring(_) => "ring",
        }
    }
}
