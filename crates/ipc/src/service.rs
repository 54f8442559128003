//! How iceoryx2 is set up: all its files in the instance's directory.
//!
//! By default iceoryx2 keeps its segments as POSIX shared memory objects, flat in `/dev/shm` with
//! mode 0600: no other user can ever open them, and what a killed process leaves there lies among
//! everybody else's. Its file-backed storages put the same memory into a directory of our choice,
//! and with its feature `dev_permissions` the files are open to whoever may enter that directory.
//! The directory's own mode is the gate (see [`crate::Instance`]).

use core::fmt::Debug;

use iceoryx2::config::Config;
use iceoryx2::prelude::{FileName, Node, NodeBuilder, Path, SemanticString, SignalHandlingMode};
use iceoryx2_bb_elementary_traits::testing::abandonable::Abandonable;
use iceoryx2_bb_elementary_traits::zero_copy_send::ZeroCopySend;
use iceoryx2_cal::shm_allocator::bump_allocator::BumpAllocator;
use iceoryx2_cal::shm_allocator::pool_allocator::PoolAllocator;
use iceoryx2_cal::{
    arc_sync_policy, bag, dynamic_storage, event, hash, monitoring, reactor,
    resizable_shared_memory, serialize, shared_memory, static_storage, zero_copy_connection,
};

use crate::instance::Instance;
use crate::ring::RingError;

/// The iceoryx2 service type of all our rings: file-backed, usable from several threads.
#[derive(Clone, Debug)]
pub struct RingService;

impl iceoryx2::service::Service for RingService {
    type StaticStorage = static_storage::file::Storage;
    type ConfigSerializer = serialize::recommended::Recommended;
    type PersistentDynamicStorage<T: Debug + Send + Sync + ZeroCopySend + 'static> =
        dynamic_storage::file::Storage<T>;
    type Bag = bag::recommended::Recommended;
    type DynamicStorage<T: Debug + Send + Sync + ZeroCopySend + 'static> =
        dynamic_storage::file::Storage<T>;
    type ServiceNameHasher = hash::recommended::Recommended;
    type SharedMemory = shared_memory::file::Memory<PoolAllocator>;
    type ResizableSharedMemory = resizable_shared_memory::dynamic::DynamicMemory<
        PoolAllocator,
        shared_memory::file::Memory<PoolAllocator>,
    >;
    type Connection = zero_copy_connection::file::Connection;
    type Event = event::recommended::Ipc;
    type Monitoring = monitoring::recommended::Ipc;
    type Reactor = reactor::recommended::Ipc;
    type ArcThreadSafetyPolicy<T: Send + Debug + Abandonable> =
        arc_sync_policy::mutex_protected::MutexProtected<T>;
    type BlackboardMgmt<K: Send + Sync + Debug + ZeroCopySend + 'static> =
        dynamic_storage::file::Storage<K>;
    type BlackboardPayload = shared_memory::file::Memory<BumpAllocator>;
    type UniqueId = iceoryx2::unique_id_generator::unique_system_id::UniqueSystemId;
}

impl iceoryx2::service::internal::ServiceInternal<Self> for RingService {}

/// Directory of iceoryx2's files inside the instance's.
pub(crate) const RING_DIR: &str = "ring";

/// An iceoryx2 configuration that touches nothing outside the instance's directory and leaves the
/// dead to [`crate::clean_up_dead`].
pub(crate) fn config(instance: &Instance) -> Result<Config, RingError> {
    let root = instance.path().join(RING_DIR);
    let root = root.to_str().ok_or(RingError::Path)?;
    let root = Path::new(root.as_bytes()).map_err(|_| RingError::Path)?;
    let mut config = Config::default();
    config.global.set_root_path(&root);
    config.global.prefix = FileName::new(b"r_").map_err(|_| RingError::Path)?;
    // A process of ours that starts or ends does not stop to look after the dead: on a busy host
    // that would make every connect pay for every crash.
    config.global.node.cleanup_dead_nodes_on_creation = false;
    config.global.node.cleanup_dead_nodes_on_destruction = false;
    config.global.service.cleanup_dead_nodes_on_open = false;
    Ok(config)
}

/// A node of this process. iceoryx2 leaves signals alone: they are the application's.
pub(crate) fn node(instance: &Instance) -> Result<Node<RingService>, RingError> {
    let config = config(instance)?;
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<RingService>()
        .map_err(|error| RingError::Node(format!("{error:?}")))
}
