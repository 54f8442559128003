//! What a killed process leaves: places on the board, and iceoryx2's files of its node.

use iceoryx2::node::{Node, NodeState};
use iceoryx2::prelude::CallbackProgression;

use crate::instance::Instance;
use crate::map::{BellsMap, BoardMap};
use crate::registry::free_dead_places;
use crate::ring::RingError;
use crate::service::{RING_DIR, RingService, config};

/// What was cleaned up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Places of workers and clients freed.
    pub places: usize,
    /// iceoryx2 nodes whose files were removed.
    pub nodes: usize,
    /// Nodes that could not be cleaned up this time.
    pub failed: usize,
}

impl Cleaned {
    /// True when there was nothing to do.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Frees the places of dead processes and removes the ring files they left. Safe to call from
/// several processes at once; costs one directory listing when nobody died.
///
/// # Errors
/// When the instance's rings can not be listed.
pub fn clean_up_dead(
    instance: &Instance,
    board: &BoardMap,
    bells: &BellsMap,
) -> Result<Cleaned, RingError> {
    let mut cleaned = Cleaned {
        places: free_dead_places(board, bells),
        ..Cleaned::default()
    };
    if !instance.path().join(RING_DIR).is_dir() {
        return Ok(cleaned);
    }
    let config = config(instance)?;
    let listed = Node::<RingService>::list(&config, |state| {
        if let NodeState::Dead(dead) = state {
            match dead.try_remove_stale_resources() {
                Ok(()) => cleaned.nodes += 1,
                // Another process is at it, or a peer still holds a part: next time.
                Err(error) => {
                    tracing::debug!(?error, "a dead node is not cleaned up yet");
                    cleaned.failed += 1;
                }
            }
        }
        CallbackProgression::Continue
    });
    listed.map_err(|error| RingError::Failed(format!("{error:?}")))?;
    Ok(cleaned)
}
