//! The scheduler goes away in the middle of an overload: requests go on being answered or refused in time
//! by the last plan, and what it knew is there when it comes back.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use embedring_ipc::clock::to_ns;
use embedring_load::{Driver, End, Outcome, Planned, Progress};
use embedring_optimizer::Planner;
use embedring_protocol::BoardLayout;
use embedring_tests::{
    Instance, Setup, Signal, WATCHDOG, eventually, kill, patient, signal, warm_up,
};
use embedring_traffic::Kind;

const MS: u64 = 1_000_000;
/// A text of 60 tokens takes 6 ms: no more than 166 texts a second, of which twice as many come.
const TOKENS: usize = 60;
const GAP_NS: u64 = 3 * MS;
/// Two seconds with the scheduler, two without, two with it again.
const THIRD: usize = 670;
const TIME: Duration = Duration::from_millis(300);
/// What a call may take beyond its time.
const GRACE: Duration = Duration::from_secs(1);

fn requests() -> Vec<Planned> {
    (0..THIRD * 3)
        .map(|at| Planned {
            due_ns: at as u64 * GAP_NS,
            kind: Kind::Question,
            time_ns: to_ns(TIME),
            text: format!("{at:0TOKENS$}"),
        })
        .collect()
}

/// What the board says of the only worker.
struct Known {
    epoch: u64,
    batches: u64,
}

fn known(board: &BoardLayout) -> Known {
    Known {
        epoch: board.scheduler.plan.read().unwrap().epoch,
        batches: board.scheduler.accuracies.read().unwrap().workers[0].batches,
    }
}

/// Batches that the file of what was learned knows of; 0 while there is none.
fn saved_batches(instance: &Instance) -> u64 {
    let file = std::fs::read(instance.path().join("models")).unwrap_or_default();
    let planner = Planner::restore(&file).unwrap_or_default();
    planner.accuracies().workers[0].batches
}

/// On-time answers of requests that were due between two of them, per request.
fn on_time_share(outcomes: &[Outcome], from: usize, until: usize) -> f64 {
    let due = from as u64 * GAP_NS..until as u64 * GAP_NS;
    let all = outcomes.iter().filter(|one| due.contains(&one.due_ns));
    let on_time = all.filter(|one| one.is_on_time()).count();
    on_time as f64 / (until - from) as f64
}

/// Every request has ended, in time or nearly so, in a row or for a reason that overload is.
#[track_caller]
fn expect_ends(outcomes: &[Outcome]) {
    assert_eq!(outcomes.len(), THIRD * 3);
    for outcome in outcomes {
        let (after_ns, kind) = match outcome.end {
            End::Answered { latency_ns, .. } => (latency_ns, "answered"),
            End::Failed { kind, after_ns, .. } => (after_ns, kind),
        };
        if kind == "generator_late" {
            continue;
        }
        assert!(
            ["answered", "overloaded", "deadline"].contains(&kind),
            "{outcome:?}"
        );
        assert!(after_ns < to_ns(TIME + GRACE), "{outcome:?}");
    }
}

/// An overload in whose second third `away` keeps the scheduler away, as long as it is called again and
/// again, and after which `back` lets it come back.
#[track_caller]
fn check(mut away: impl FnMut(&Instance), back: impl FnOnce(&Instance)) {
    let instance = Setup::simulated(&[("a", 2 * MS, 100_000)])
        .quick_restarts()
        .set("SUPERVISOR__HANG_TIMEOUT_MS", "600000")
        .up();
    let board = instance.board();
    let client = instance.client();
    warm_up(&instance, &client, &["a"]);
    // The first batches make the model; those after it are predicted.
    eventually("what was learned is saved", WATCHDOG, || {
        client.embed_with(&["one more"], &patient()).unwrap();
        saved_batches(&instance) > 0
    });
    let clients = [instance.client(), instance.client()];
    let driver = Driver {
        clients: &clients,
        slots: THIRD,
        step: Duration::from_micros(500),
        give_up: Duration::ZERO,
    };
    let planned = requests();
    let sent = AtomicUsize::new(0);
    let wait_until_sent = |count: usize, look: &mut dyn FnMut()| {
        eventually("requests are sent", WATCHDOG, || {
            look();
            sent.load(Relaxed) >= count
        });
        sent.load(Relaxed)
    };
    std::thread::scope(|scope| {
        let mut watch = |now: Progress<'_>| {
            sent.store(now.sent, Relaxed);
            ControlFlow::Continue(())
        };
        let run = scope.spawn(move || driver.run(&planned, &mut watch));
        let gone = wait_until_sent(THIRD, &mut || ());
        let saved = saved_batches(&instance);
        away(&instance);
        let last = known(&board);
        let returns = wait_until_sent(THIRD * 2, &mut || away(&instance));
        back(&instance);
        // It plans again, and not from nothing.
        let after = known(&board).epoch;
        assert!(after >= last.epoch, "{after} after {}", last.epoch);
        eventually("it plans again", WATCHDOG, || {
            let epoch = known(&board).epoch;
            assert!(epoch >= after, "{epoch} after {after}");
            epoch > after + 1
        });
        let first = known(&board);
        assert!(first.batches >= saved, "{} of {saved}", first.batches);
        let outcomes = run.join().unwrap().unwrap();
        expect_ends(&outcomes);
        let before = on_time_share(&outcomes, 0, gone);
        let during = on_time_share(&outcomes, gone, returns);
        // As many as before, but a busy machine may have taken the time of either.
        assert!(during > before / 3.0, "{before} before, {during} without");
        eventually("it goes on learning", WATCHDOG, || {
            client.embed_with(&["one more"], &patient()).unwrap();
            known(&board).batches > first.batches
        });
    });
}

#[test]
fn a_scheduler_killed_in_an_overload_comes_back_with_what_it_knew() {
    let mut is_killed = false;
    let once = |instance: &Instance| {
        if !is_killed {
            is_killed = kill(instance.scheduler_pid());
        }
    };
    check(once, |_| ());
}

#[test]
fn without_a_scheduler_an_overload_goes_on_by_the_last_plan() {
    // Whenever it is back.
    let again = |instance: &Instance| {
        kill(instance.scheduler_pid());
    };
    check(again, |_| ());
}

#[test]
fn a_scheduler_that_hangs_in_an_overload_holds_nobody_up() {
    let stop = |instance: &Instance| assert!(signal(instance.scheduler_pid(), Signal::STOP));
    let go_on = |instance: &Instance| assert!(signal(instance.scheduler_pid(), Signal::CONT));
    check(stop, go_on);
}
