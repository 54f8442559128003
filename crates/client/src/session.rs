//! A connection to one running instance: its board, its bells, our place, and rings to its workers.
//! When the instance is stopped and started again, a new session replaces this one.

use std::sync::{Arc, Mutex, PoisonError};

use embedring_ipc::clock::now_ns;
use embedring_ipc::{
    BellsMap, BoardMap, ClientPlace, ClientRing, Instance, InstanceOptions, Liveness, RingError,
    RingLimits, is_alive,
};
use embedring_policy::{BreakerLimits, Candidate, Cost, Running};
use embedring_protocol::limits::WORKERS_MAX;
use embedring_protocol::sync::{AtomicU64, Ordering};
use embedring_protocol::{
    Bell, ModelId, Plan, WorkerIdentity, WorkerIndex, WorkerSlot, WorkerState,
};

use crate::error::ConnectError;
use crate::health::{Density, Health, InFlight};

/// A worker without a sign of life for this long is not chosen while another one is there.
const HEARTBEAT_STALE_NS: u64 = 1_000_000_000;
/// A living worker shows so as often as this, but for a busy host.
const HEARTBEAT_USUAL_NS: u64 = 250_000_000;

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
    pub(crate) in_flight: InFlight,
}

impl Connection {
    /// True once the worker's process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.liveness.as_ref().is_none_or(Liveness::has_ended)
    }
}

/// A worker that could take a request, and what it serves.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) candidate: Candidate,
    pub(crate) identity: WorkerIdentity,
    /// Whether one message is all that may be sent to it, to see whether its device works again.
    pub(crate) is_try: bool,
}

/// Which workers a call may use.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Of this model, or of any.
    pub(crate) model: ModelId,
    /// On this device, or on any.
    pub(crate) device: Option<&'a str>,
}

/// The workers that a call may use.
#[derive(Default)]
pub(crate) struct Choices {
    /// Those that can be sent to.
    pub(crate) able: Vec<Choice>,
    /// Those whose breaker is open.
    pub(crate) failing: Vec<WorkerIdentity>,
    /// When the first of their breakers lets a request through.
    pub(crate) retry_ns: u64,
}

/// Whether a device is the one that somebody asked for: by its name, `cuda:0`, or by its kind, `cuda`.
pub(crate) fn is_device(device: &str, wanted: &str) -> bool {
    device == wanted
        || device
            .split_once(':')
            .is_some_and(|(kind, _)| kind == wanted)
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
    dice: AtomicU64,
    pub(crate) health: Health,
    pub(crate) density: Density,
}

impl Session {
    pub(crate) fn open(
        options: &InstanceOptions,
        breaker: BreakerLimits,
    ) -> Result<Self, ConnectError> {
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
            // Two clients of one moment must not throw the same.
            dice: AtomicU64::new(now_ns() ^ (u64::from(std::process::id()) << 40)),
            health: Health::new(breaker),
            density: Density::default(),
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

    /// A number that is another one each time, to choose by where nothing else decides.
    pub(crate) fn dice(&self) -> u64 {
        // 2^64 over the golden ratio: the upper bits of its multiples lie evenly.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        self.dice.fetch_add(STEP, Ordering::Relaxed) >> 32
    }

    /// A worker's bell.
    pub(crate) fn worker_bell(&self, index: WorkerIndex) -> &Bell {
        &self.bells.workers[index.get()]
    }

    pub(crate) fn board(&self) -> &BoardMap {
        &self.board
    }

    /// Workers that take requests. Those without a recent sign of life only if there are no others, those
    /// whose breaker is open not at all.
    pub(crate) fn choices(&self, wanted: Wanted<'_>, choices: &mut Choices) {
        choices.able.clear();
        choices.failing.clear();
        choices.retry_ns = u64::MAX;
        let now = now_ns();
        let plan = Cost::usable(self.board.scheduler.plan.read(), now);
        let mut stale = Vec::new();
        for index in WorkerIndex::all() {
            let slot = &self.board.workers[index.get()];
            let Some(identity) = served(slot, wanted) else {
                continue;
            };
            let cost = Cost::from_plan(plan.as_ref(), index);
            let sight = self.health.sight(index, &identity, cost, now);
            if sight.retry_ns > now {
                choices.failing.push(identity);
                choices.retry_ns = choices.retry_ns.min(sight.retry_ns);
                continue;
            }
            let silent_ns = now.saturating_sub(slot.heartbeat_ns.load(Ordering::Relaxed));
            let candidate = Candidate {
                load: slot.load(),
                running: running(slot, now),
                batch_tokens_max: batch_tokens_max(plan.as_ref(), index),
                text_tokens_max: identity.text_tokens_max,
                silent_ns: silent_ns.saturating_sub(HEARTBEAT_USUAL_NS),
                pace_1024: sight.pace_1024,
                ..Candidate::idle(index, cost)
            };
            let choice = Choice {
                candidate,
                identity,
                is_try: sight.is_try,
            };
            if silent_ns < HEARTBEAT_STALE_NS {
                choices.able.push(choice);
            } else {
                stale.push(choice);
            }
        }
        if choices.able.is_empty() {
            // Slow or hung: better than nobody. A dead one is noticed when it is connected to.
            choices.able.extend(
                stale
                    .into_iter()
                    .filter(|choice| is_alive(choice.identity.process)),
            );
        }
        let connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for choice in &mut choices.able {
            if let Some(connection) = &connections[choice.candidate.index.get()] {
                let load = &mut choice.candidate.load;
                load.tokens = connection.in_flight.beside(load.tokens, now);
            }
        }
    }

    /// Whether a worker that takes requests is one of those wanted, and one of those that `is_meant`.
    pub(crate) fn has_worker(
        &self,
        wanted: Wanted<'_>,
        is_meant: impl Fn(WorkerIndex) -> bool,
    ) -> bool {
        WorkerIndex::all().any(|index| {
            is_meant(index) && served(&self.board.workers[index.get()], wanted).is_some()
        })
    }

    /// Devices of all workers that are there, serving or on their way.
    pub(crate) fn devices(&self) -> Vec<String> {
        let mut devices: Vec<_> = self
            .board
            .workers
            .iter()
            .filter(|slot| slot.state() != WorkerState::Free)
            .filter_map(|slot| slot.identity.read())
            .map(|identity| identity.device.to_text())
            .filter(|device| !device.is_empty())
            .collect();
        devices.sort();
        devices.dedup();
        devices
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
            in_flight: InFlight::default(),
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

/// What the worker of this place serves, if it takes requests and is what is wanted.
fn served(slot: &WorkerSlot, wanted: Wanted<'_>) -> Option<WorkerIdentity> {
    if !slot.state().takes_requests() {
        return None;
    }
    let identity = slot.identity.read()?;
    let fits = wanted.model == ModelId::ANY || identity.model_id == wanted.model;
    let on_device = wanted
        .device
        .is_none_or(|wanted| is_device(&identity.device.to_text(), wanted));
    // Without dimensions it was started again between the two looks, and is not described yet.
    (fits && on_device && identity.dimensions > 0).then_some(identity)
}

fn running(slot: &WorkerSlot, now_ns: u64) -> Option<Running> {
    let since_ns = slot.busy_since_ns.load(Ordering::Relaxed);
    (since_ns > 0).then(|| Running {
        tokens: slot.running_tokens.load(Ordering::Relaxed),
        for_ns: now_ns.saturating_sub(since_ns),
    })
}

fn batch_tokens_max(plan: Option<&Plan>, index: WorkerIndex) -> u64 {
    plan.map_or(0, |plan| plan.workers[index.get()].batch_tokens_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_asked_for_by_name_or_by_kind() {
        for wanted in ["cuda:0", "cuda"] {
            assert!(is_device("cuda:0", wanted));
        }
        assert!(is_device("cpu", "cpu"));
        for (device, wanted) in [
            ("cuda:0", "cuda:1"),
            ("cuda:0", "cu"),
            ("cpu", "cuda"),
            ("cpu", ""),
        ] {
            assert!(!is_device(device, wanted), "{device} {wanted}");
        }
    }
}
