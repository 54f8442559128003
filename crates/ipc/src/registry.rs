//! How workers and clients take their places on the board and among the bells, and how the dead lose
//! them.

use std::sync::Arc;

use embedring_protocol::sync::Ordering;
use embedring_protocol::{
    Bell, BoardLayout, ClientIndex, Name, ProcessId, WorkerIdentity, WorkerIndex, WorkerSlot,
    WorkerState,
};
use thiserror::Error;

use crate::clock::now_ns;
use crate::map::{BellsMap, BoardMap};
use crate::process::{current_process, is_alive};

/// Why a place could not be taken.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// A living worker has the name.
    #[error("worker '{name}' is already running (pid {pid})")]
    NameTaken {
        /// The name.
        name: String,
        /// Its process.
        pid: u64,
    },
    /// All places of the board are taken by living workers.
    #[error("the instance has {max} workers already, the most it can have")]
    WorkersFull {
        /// The bound.
        max: usize,
    },
    /// All places are taken by living clients.
    #[error(
        "the instance has {max} clients already, the most it admits; close one, share one client \
         between threads, or raise limits.clients_max and restart the instance"
    )]
    ClientsFull {
        /// The bound.
        max: usize,
    },
    /// The board was mapped read-only.
    #[error("this process mapped the board read-only and can not serve")]
    ReadOnly,
}

/// A worker's place. Given back when dropped.
#[derive(Debug)]
pub struct WorkerPlace {
    board: Arc<BoardMap>,
    bells: Arc<BellsMap>,
    index: WorkerIndex,
    identity: WorkerIdentity,
}

impl WorkerPlace {
    /// Takes the place the name had before, else a free one. `process` and `incarnation` of the
    /// identity are filled in.
    ///
    /// # Errors
    /// When a living worker has the name, or there is no place.
    pub fn claim(
        board: &Arc<BoardMap>,
        bells: &Arc<BellsMap>,
        name: &str,
    ) -> Result<Self, ClaimError> {
        let _held = board.lock().ok_or(ClaimError::ReadOnly)?;
        let index = find_place(board, &Name::lossy(name))?;
        let process = current_process();
        let slot = &board.workers[index.get()];
        let identity = WorkerIdentity {
            process,
            // Unique on this host since boot: no two processes have one pid at one nanosecond.
            incarnation: (now_ns() << 22) ^ process.pid,
            name: Name::lossy(name),
            device: Name::EMPTY,
            model: Name::EMPTY,
            model_id: embedring_protocol::ModelId::ANY,
            dimensions: 0,
            max_tokens: 0,
            precision: 0,
            memory_max_bytes: 0,
            text_tokens_max: 0,
            reports_before: slot.reports_written(),
        };
        slot.set_state(WorkerState::Starting);
        slot.load_texts.store(0, Ordering::Relaxed);
        slot.load_tokens.store(0, Ordering::Relaxed);
        slot.busy_since_ns.store(0, Ordering::Relaxed);
        slot.running_tokens.store(0, Ordering::Relaxed);
        slot.rss_peak_bytes.store(0, Ordering::Relaxed);
        slot.heartbeat_ns.store(now_ns(), Ordering::Relaxed);
        slot.identity.write(&identity);
        // A predecessor killed in its sleep still counts as a sleeper.
        bells.workers[index.get()]
            .sleepers
            .store(0, Ordering::SeqCst);
        Ok(Self {
            board: Arc::clone(board),
            bells: Arc::clone(bells),
            index,
            identity,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn index(&self) -> WorkerIndex {
        self.index
    }

    /// Names this start of the worker; its ring is called by it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.identity.incarnation
    }

    /// The place itself.
    #[must_use]
    pub fn slot(&self) -> &WorkerSlot {
        &self.board.workers[self.index.get()]
    }

    /// The bell clients ring after they put a request into the ring.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bells.workers[self.index.get()]
    }

    /// Publishes what the worker serves.
    pub fn describe(&mut self, describe: impl FnOnce(&mut WorkerIdentity)) {
        describe(&mut self.identity);
        self.slot().identity.write(&self.identity);
    }

    /// Says what the worker is doing, which is a sign of life.
    pub fn set_state(&self, state: WorkerState) {
        // Before the state: loading a model takes longer than a worker that serves may be silent, and
        // whoever sees that it serves must not take the silence of the load for its own.
        self.slot().heartbeat_ns.store(now_ns(), Ordering::Relaxed);
        self.slot().set_state(state);
    }
}

impl Drop for WorkerPlace {
    fn drop(&mut self) {
        self.set_state(WorkerState::Free);
    }
}

fn find_place(board: &BoardMap, name: &Name) -> Result<WorkerIndex, ClaimError> {
    let mut free = None;
    let mut abandoned = None;
    for index in WorkerIndex::all() {
        let slot = &board.workers[index.get()];
        let owner = slot.identity.read();
        let living =
            owner.filter(|owner| slot.state() != WorkerState::Free && is_alive(owner.process));
        match (owner, living) {
            (_, Some(owner)) if owner.name == *name => {
                return Err(ClaimError::NameTaken {
                    name: name.to_text(),
                    pid: owner.process.pid,
                });
            }
            (_, Some(_)) => {}
            (Some(owner), None) if owner.name == *name => return Ok(index),
            (None, None) => free = free.or(Some(index)),
            (Some(_), None) => abandoned = abandoned.or(Some(index)),
        }
    }
    free.or(abandoned).ok_or(ClaimError::WorkersFull {
        max: board.workers.len(),
    })
}

/// A client's place. Given back when dropped.
#[derive(Debug)]
pub struct ClientPlace {
    bells: Arc<BellsMap>,
    index: ClientIndex,
    word: u64,
}

impl ClientPlace {
    /// Takes a free place, or one whose owner is dead.
    ///
    /// # Errors
    /// When `clients_max` living clients are there.
    pub fn claim(bells: &Arc<BellsMap>, clients_max: usize) -> Result<Self, ClaimError> {
        let word = current_process().packed();
        for (number, slot) in bells.clients.iter().take(clients_max).enumerate() {
            let owner = slot.owner.load(Ordering::Acquire);
            if owner != 0 && is_alive(ProcessId::from_packed(owner)) {
                continue;
            }
            // Partner: the store in `drop`. Whoever gets the place sees it empty.
            let mine =
                slot.owner
                    .compare_exchange(owner, word, Ordering::AcqRel, Ordering::Relaxed);
            if let (Ok(_), Some(index)) = (mine, ClientIndex::new(number)) {
                slot.bell.sleepers.store(0, Ordering::SeqCst);
                return Ok(Self {
                    bells: Arc::clone(bells),
                    index,
                    word,
                });
            }
        }
        Err(ClaimError::ClientsFull { max: clients_max })
    }

    /// Where it is.
    #[must_use]
    pub fn index(&self) -> ClientIndex {
        self.index
    }

    /// The bell a worker rings after it put an answer into the ring.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bells.clients[self.index.get()].bell
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        // Partner: the compare-and-swap in `claim`. Only our own claim is given back: a hostile peer
        // may have taken the place from us, and then it is no longer ours to free.
        let _was_ours = self.bells.clients[self.index.get()]
            .owner
            .compare_exchange(self.word, 0, Ordering::Release, Ordering::Relaxed)
            .is_ok();
    }
}

/// Frees the places of dead workers and clients. Returns how many.
pub fn free_dead_places(board: &BoardMap, bells: &BellsMap) -> usize {
    let board_layout: &BoardLayout = board;
    let mut freed = 0;
    for slot in &board_layout.workers {
        if slot.state() == WorkerState::Free {
            continue;
        }
        let _held = board.lock();
        let dead = slot
            .identity
            .read()
            .is_none_or(|owner| !is_alive(owner.process));
        if dead && slot.state() != WorkerState::Free {
            slot.set_state(WorkerState::Free);
            slot.load_texts.store(0, Ordering::Relaxed);
            slot.load_tokens.store(0, Ordering::Relaxed);
            slot.busy_since_ns.store(0, Ordering::Relaxed);
            slot.running_tokens.store(0, Ordering::Relaxed);
            freed += 1;
        }
    }
    for slot in &bells.clients {
        let owner = slot.owner.load(Ordering::Acquire);
        if owner != 0
            && !is_alive(ProcessId::from_packed(owner))
            && slot
                .owner
                .compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            freed += 1;
        }
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Instance, InstanceOptions};
    use embedring_protocol::BoardHeader;

    fn maps() -> (tempfile::TempDir, Arc<BoardMap>, Arc<BellsMap>) {
        let dir = tempfile::tempdir().unwrap();
        let options = InstanceOptions {
            dir: dir.path().into(),
            ..InstanceOptions::new("t")
        };
        let instance = Instance::create(&options).unwrap();
        let board = BoardMap::create(&instance, BoardHeader::default()).unwrap();
        let bells = BellsMap::create(&instance).unwrap();
        (dir, Arc::new(board), Arc::new(bells))
    }

    #[test]
    fn a_worker_gets_its_old_place_back_and_no_name_is_had_twice() {
        let (_dir, board, bells) = maps();
        let cpu = WorkerPlace::claim(&board, &bells, "cpu").unwrap();
        let gpu = WorkerPlace::claim(&board, &bells, "gpu").unwrap();
        assert_ne!(cpu.index(), gpu.index());
        assert!(matches!(
            WorkerPlace::claim(&board, &bells, "gpu"),
            Err(ClaimError::NameTaken { .. })
        ));
        let (place, incarnation) = (cpu.index(), cpu.incarnation());
        drop(cpu);
        let again = WorkerPlace::claim(&board, &bells, "cpu").unwrap();
        assert_eq!(again.index(), place);
        assert_ne!(again.incarnation(), incarnation);
    }

    #[test]
    fn a_worker_that_begins_to_serve_has_not_been_silent() {
        let (_dir, board, bells) = maps();
        let place = WorkerPlace::claim(&board, &bells, "cpu").unwrap();
        let heartbeat = &place.slot().heartbeat_ns;
        // As after a load of any length.
        heartbeat.store(1, Ordering::Relaxed);
        let before_ns = now_ns();
        place.set_state(WorkerState::Serving);
        assert!(heartbeat.load(Ordering::Relaxed) >= before_ns);
    }

    #[test]
    fn the_dead_lose_their_places() {
        let (_dir, board, bells) = maps();
        let mut place = WorkerPlace::claim(&board, &bells, "cpu").unwrap();
        place.describe(|identity| identity.process.start_ticks += 1);
        bells.clients[0].owner.store(
            ProcessId {
                start_ticks: 1,
                ..current_process()
            }
            .packed(),
            Ordering::Relaxed,
        );
        assert_eq!(free_dead_places(&board, &bells), 2);
        assert_eq!(place.slot().state(), WorkerState::Free);
        assert_eq!(free_dead_places(&board, &bells), 0);
    }

    #[test]
    fn one_client_too_many_is_told_so() {
        let (_dir, _board, bells) = maps();
        let places: Vec<_> = (0..4)
            .map(|_| ClientPlace::claim(&bells, 4).unwrap())
            .collect();
        let error = ClientPlace::claim(&bells, 4).unwrap_err();
        assert!(error.to_string().contains("limits.clients_max"), "{error}");
        drop(places);
        ClientPlace::claim(&bells, 4).unwrap();
    }
}
