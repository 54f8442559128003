//! Wakes futures: one thread per client that sleeps on the client's bell while futures wait. It is
//! started by the first future and sleeps without waking when there are none.

use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use embedring_ipc::Sleeper;

use crate::client::Inner;

/// Longest sleep while futures wait: how soon they look at their workers' lives.
const SLICE: Duration = Duration::from_millis(5);

/// Futures that wait for an answer.
#[derive(Debug, Default)]
pub(crate) struct Reactor {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wakers: Vec<Waker>,
    started: bool,
    closed: bool,
}

impl Reactor {
    /// Has `waker` woken at the next ring of the client's bell, after a slice at the latest.
    ///
    /// # Errors
    /// When the thread can not be started.
    pub(crate) fn register(&self, waker: &Waker, client: &Weak<Inner>) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.started {
            let client = Weak::clone(client);
            std::thread::Builder::new()
                .name("embedring-wake".to_owned())
                .spawn(move || wake_futures(&client))?;
            state.started = true;
        }
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.changed.notify_one();
    }

    /// Waits, a while at most, for futures to wait; `None` when closed.
    fn take(&self) -> Option<Vec<Waker>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wakers.is_empty() && !state.closed {
            let waited = self.changed.wait_timeout(state, Duration::from_millis(200));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (!state.closed).then(|| std::mem::take(&mut state.wakers))
    }
}

/// The thread. It holds no strong reference while it sleeps for long, so that it never keeps a client
/// alive.
fn wake_futures(client: &Weak<Inner>) {
    while let Some(inner) = client.upgrade() {
        let Some(wakers) = inner.reactor.take() else {
            return;
        };
        let session = inner.session();
        // Announced before the futures look, so that an answer after their look is noticed.
        let sleeper = (!wakers.is_empty()).then(|| Sleeper::announce(session.bell()));
        wakers.into_iter().for_each(Waker::wake);
        if let Some(sleeper) = sleeper {
            sleeper.sleep(SLICE);
        }
    }
}
