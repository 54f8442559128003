//! A connection to one running instance: its board, its bells, our place, and rings to its workers.
//! When the instance is stopped and started again, a new session replaces this one.

use std::sync::{Arc, Mutex, PoisonError};

use embedring_ipc::clock::now_ns;
use embedring_ipc::{
    BellsMap, BoardMap, ClientPlace, ClientRing, Instance, InstanceOptions, Liveness, RingError,
    RingLimits, is_alive,
};
use embedring_policy::{Candidate, Cost};
use embedring_protocol::limits::WORKERS_MAX;
use embedring_protocol::sync::{AtomicU64, Ordering};
use embedring_protocol::{Bell, ModelId, WorkerIdentity, WorkerIndex, WorkerState};

use crate::error::ConnectError;

/// A worker without a sign of life for this long is not chosen while another one is there.
const HEARTBEAT_STALE_NS: u64 = 1_000_000_000;

/// Ids of a session begin at the time of its start, shifted by this: room for a thousand requests in
/// each nanosecond, and bits left for the time of half a year.
const ID_BITS: u32 = 10;

/// A ring to one start of a worker.
pub(crate) struct Connection {
    pub(crate) index: WorkerIndex,
    pub(crate) identity: WorkerIdentity,
    /// Names of the worker, its device and its model, made once for all answers.
    pub(crate) names: [Arc<str>; 3],
    pub(crate) ring: ClientRing,
    liveness: Option<Liveness>,
    /// Tokens sent and not answered, as estimated: the board learns of them only when the worker
    /// takes them off the ring.
    pub(crate) in_flight_tokens: AtomicU64,
}

impl Connection {
    /// True once the worker's process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.liveness.as_ref().is_none_or(Liveness::has_ended)
    }
}

/// A worker that could take a request, and what it serves.
pub(crate) struct Choice {
    pub(crate) candidate: Candidate,
    pub(crate) identity: WorkerIdentity,
}

/// See the module.
pub(crate) struct Session {
    pub(crate) instance: Instance,
    board: BoardMap,
    bells: Arc<BellsMap>,
    place: ClientPlace,
    pub(crate) limits: RingLimits,
    connections: Mutex<[Option<Arc<Connection>>; WORKERS_MAX]>,
    next_id: AtomicU64,
}

impl Session {
    pub(crate) fn open(options: &InstanceOptions) -> Result<Self, ConnectError> {
        let instance = Instance::open(options)?;
        let board = BoardMap::open(&instance)?;
        let bells = Arc::new(BellsMap::open(&instance)?);
        let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let header = board.header();
        let limits = RingLimits {
            clients_max: size(header.clients_max),
            requests_in_flight_max: size(header.requests_in_flight_max),
            request_slot_bytes: size(header.request_slot_bytes),
            response_slot_bytes: size(header.response_slot_bytes),
        };
        let place = ClientPlace::claim(&bells, limits.clients_max)?;
        Ok(Self {
            instance,
            board,
            bells,
            place,
            limits,
            connections: Mutex::new([const { None }; WORKERS_MAX]),
            // Unlike the ids of any other session of this host, before or after: see `is_for_another`.
            next_id: AtomicU64::new((now_ns() << ID_BITS) ^ u64::from(std::process::id())),
        })
    }

    /// Our bell.
    pub(crate) fn bell(&self) -> &Bell {
        self.place.bell()
    }

    /// Our place, which a request carries so that the worker rings the right bell.
    pub(crate) fn client(&self) -> u32 {
        u32::try_from(self.place.index().get()).unwrap_or(u32::MAX)
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A worker's bell.
    pub(crate) fn worker_bell(&self, index: WorkerIndex) -> &Bell {
        &self.bells.workers[index.get()]
    }

    pub(crate) fn board(&self) -> &BoardMap {
        &self.board
    }

    /// Workers that take requests: those of `model` when it is given. Workers without a recent sign
    /// of life only if there are no others.
    pub(crate) fn choices(&self, model: ModelId, choices: &mut Vec<Choice>) {
        choices.clear();
        let now = now_ns();
        let plan = Cost::usable(self.board.scheduler.plan.read(), now);
        let mut stale = Vec::new();
        for index in WorkerIndex::all() {
            let slot = &self.board.workers[index.get()];
            if !slot.state().takes_requests() {
                continue;
            }
            let Some(identity) = slot.identity.read() else {
                continue;
            };
            if model != ModelId::ANY && identity.model_id != model {
                continue;
            }
            // Started again between the two looks, and not yet described.
            if identity.dimensions == 0 {
                continue;
            }
            let choice = Choice {
                candidate: Candidate {
                    index,
                    cost: Cost::from_plan(plan.as_ref(), index),
                    load: slot.load(),
                },
                identity,
            };
            let heartbeat = slot.heartbeat_ns.load(Ordering::Relaxed);
            if now.saturating_sub(heartbeat) < HEARTBEAT_STALE_NS {
                choices.push(choice);
            } else {
                stale.push(choice);
            }
        }
        if choices.is_empty() {
            // Slow or hung: better than nobody. A dead one is noticed when it is connected to.
            choices.extend(
                stale
                    .into_iter()
                    .filter(|choice| is_alive(choice.identity.process)),
            );
        }
        let connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for choice in choices {
            if let Some(connection) = &connections[choice.candidate.index.get()] {
                choice.candidate.load.tokens += connection.in_flight_tokens.load(Ordering::Relaxed);
            }
        }
    }

    /// The ring to a worker, made if need be.
    pub(crate) fn connection(
        &self,
        index: WorkerIndex,
        identity: &WorkerIdentity,
    ) -> Result<Arc<Connection>, RingError> {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = &mut connections[index.get()];
        if let Some(connection) = place
            && connection.identity.incarnation == identity.incarnation
        {
            return Ok(Arc::clone(connection));
        }
        *place = None;
        let liveness = Liveness::watch(identity.process).ok_or(RingError::NoPeer)?;
        let ring = ClientRing::connect(&self.instance, identity.incarnation, self.limits)?;
        let connection = Arc::new(Connection {
            index,
            identity: *identity,
            names: [identity.name, identity.device, identity.model]
                .map(|name| name.to_text().into()),
            ring,
            liveness: Some(liveness),
            in_flight_tokens: AtomicU64::new(0),
        });
        *place = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Forgets the ring to a worker that ended.
    pub(crate) fn forget(&self, connection: &Arc<Connection>) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = &mut connections[connection.index.get()];
        if place
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, connection))
        {
            *place = None;
        }
    }

    /// True when a worker may come: one is starting or restarting, or somebody is there to start one.
    pub(crate) fn worker_may_come(&self) -> bool {
        let starting = self.board.workers.iter().any(|slot| {
            slot.state() != WorkerState::Free
                && slot
                    .identity
                    .read()
                    .is_some_and(|identity| is_alive(identity.process))
        });
        self.is_current() && (starting || self.instance.role_is_held("up"))
    }

    /// True while the instance is the one that was connected to: not stopped, and not started again
    /// in the meantime.
    pub(crate) fn is_current(&self) -> bool {
        self.instance.still_there() && self.board.is_current()
    }

    /// Names of the models that are served.
    pub(crate) fn models(&self) -> Vec<(String, ModelId)> {
        let mut models: Vec<_> = self
            .board
            .workers
            .iter()
            .filter(|slot| slot.state().takes_requests())
            .filter_map(|slot| slot.identity.read())
            .map(|identity| (identity.model.to_text(), identity.model_id))
            .collect();
        models.sort();
        models.dedup();
        models
    }
}
