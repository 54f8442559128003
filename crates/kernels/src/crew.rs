//! Threads that work on one thing at a time, and who works on it.
//!
//! Work is cut into tasks, of which each thread has a share that it takes one by one, and the shares
//! lie the same way in every piece of work: what a thread wrote in one it mostly reads itself in the
//! next. Who has finished its share takes from those of others. The thread that calls is one of them
//! and waits for nobody to begin: a helper that is asleep, or that the system has put aside, costs
//! nothing but its share.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Level;

/// How long a helper looks for work before it sleeps: longer than the calling thread takes from one
/// piece of work to the next within a batch, and from one short batch to the next when they come one
/// after the other. Waking a sleeper takes about as long.
const AWAKE: Duration = Duration::from_micros(100);
/// Looks from one look at the clock to the next.
const LOOKS_PER_CLOCK: u32 = 32;
/// Looks before a thread that waits for the last tasks lets others run meanwhile.
const LOOKS_BEFORE_YIELD: u32 = 2_000;

/// The threads of one engine: the one that calls [`Crew::each`], and helpers that sleep between
/// batches.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    threads: Vec<Thread>,
}

/// Why there is no crew.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// A number of threads outside of `1..=1024`.
    #[error("{threads} threads are not within 1..={THREADS_MAX}")]
    Count {
        /// Asked for.
        threads: usize,
    },
    /// The system gave no thread.
    #[error("cannot start a thread")]
    Start(#[source] std::io::Error),
    /// The system did not say or set on which cores threads run.
    #[error("cannot tie threads to cores")]
    Pin(#[source] std::io::Error),
}

/// More than any machine this is meant for.
pub const THREADS_MAX: usize = 1024;
const TASKS_MAX: usize = (1 << 20) - 1;

#[derive(Debug)]
struct Shared {
    /// The share of each thread.
    shares: Box<[Share]>,
    /// Tasks finished.
    done: AtomicUsize,
    work: UnsafeCell<Work>,
    asleep: Box<[AtomicBool]>,
    failed: AtomicBool,
    ended: AtomicBool,
}

/// Which piece of work this is (any number that differs from the last), where the share ends and which
/// task of it is next: 24, 20 and 20 bits. One word, so that who takes a task knows that it belongs to
/// this piece. On two lines, since processors fetch them in pairs: taking one's own tasks must not wait
/// for others.
#[derive(Debug)]
#[repr(align(128))]
struct Share(Ticket);

#[expect(clippy::disallowed_types, reason = "the memory of this process alone")]
type Ticket = std::sync::atomic::AtomicU64;

/// A borrowed closure `Fn(thread, task)` without its type.
#[derive(Clone, Copy, Debug)]
struct Work {
    closure: *const (),
    call: unsafe fn(*const (), usize, usize),
}

// SAFETY: `work` is written only between two pieces of work, when every task of the last is done, and
// read only by a thread that holds a task of the present one; its closure is `Sync` (see `each`).
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

fn pack(piece: u64, end: usize, next: usize) -> u64 {
    piece << 40 | (end as u64) << 20 | next as u64
}

#[expect(clippy::cast_possible_truncation, reason = "20 bits")]
fn unpack(ticket: u64) -> (usize, usize) {
    let bits = |x: u64| (x & TASKS_MAX as u64) as usize;
    (bits(ticket >> 20), bits(ticket))
}

impl Crew {
    /// Starts `threads - 1` helpers. With `pin`, each thread is tied to one core of those that this
    /// process may use, the calling one to the first.
    ///
    /// # Errors
    /// [`CrewError`] when the threads cannot be had.
    pub fn new(threads: usize, pin: bool) -> Result<Self, CrewError> {
        if threads == 0 || threads > THREADS_MAX {
            return Err(CrewError::Count { threads });
        }
        let cores = if pin { cores()? } else { Vec::new() };
        tie(&cores, 0)?;
        let shared = Arc::new(Shared {
            shares: (0..threads).map(|_| Share(Ticket::new(0))).collect(),
            done: AtomicUsize::new(0),
            work: UnsafeCell::new(Work {
                closure: std::ptr::null(),
                call: |_, _, _| (),
            }),
            asleep: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            failed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let mut crew = Self {
            shared,
            helpers: Vec::new(),
            threads: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&crew.shared);
            let cores = cores.clone();
            let helper = std::thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || {
                    // It was tied once already, for thread 0; a core that has gone since is no harm.
                    let _tied = tie(&cores, index);
                    shared.help(index);
                })
                .map_err(CrewError::Start)?;
            crew.threads.push(helper.thread().clone());
            crew.helpers.push(helper);
        }
        Ok(crew)
    }

    /// Number of threads, the calling one included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `f(thread, task)` for each task of `0..tasks`, on all threads, and returns when all are
    /// done. `thread` is below [`Crew::threads`], and no two calls at one time have the same. Tasks
    /// begin in their order.
    ///
    /// # Panics
    /// When `f` does, after the other tasks are done.
    pub fn each<F: Fn(usize, usize) + Sync>(&mut self, tasks: usize, f: F) {
        self.run(tasks, |thread| if thread == 0 { 0..tasks } else { 0..0 }, f);
    }

    /// The same, but each thread begins with a share of its own: the same part of every piece of work.
    pub(crate) fn each_by_shares<F: Fn(usize, usize) + Sync>(&mut self, tasks: usize, f: F) {
        let threads = self.threads();
        self.run(
            tasks,
            |thread| tasks * thread / threads..tasks * (thread + 1) / threads,
            f,
        );
    }

    /// `share` cuts the tasks by thread.
    fn run<F: Fn(usize, usize) + Sync>(
        &mut self,
        tasks: usize,
        share: impl Fn(usize) -> Range<usize>,
        f: F,
    ) {
        if self.threads.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(|task| f(0, task));
        }
        assert!(
            tasks <= TASKS_MAX,
            "{tasks} tasks are too many for one piece of work"
        );
        /// # Safety
        /// `closure` points at an `F`.
        unsafe fn call<F: Fn(usize, usize)>(closure: *const (), thread: usize, task: usize) {
            // SAFETY: the caller's promise.
            let f = unsafe { &*closure.cast::<F>() };
            f(thread, task);
        }
        let shared = &*self.shared;
        // SAFETY: the tasks of the piece before are done, so nobody reads it, and nobody will before
        // the ticket below is out.
        unsafe {
            *shared.work.get() = Work {
                closure: (&raw const f).cast(),
                call: call::<F>,
            };
        }
        shared.done.store(0, Ordering::Relaxed);
        let piece = (shared.shares[0].0.load(Ordering::Relaxed) >> 40) + 1;
        for (thread, ticket) in shared.shares.iter().enumerate() {
            let tasks = share(thread);
            // Pairs with the Acquire of `Share::take`: who gets a task of this piece sees its work.
            ticket.0.store(
                pack(piece & 0xff_ffff, tasks.end, tasks.start),
                Ordering::Release,
            );
        }
        self.wake();
        shared.work_off(0);
        // Also when a task of this thread panicked: the helpers still use `f`.
        shared.wait_for(tasks);
        if shared.failed.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a task of the crew panicked"));
        }
    }

    fn wake(&self) {
        // Pairs with the fence in `sleep`: either we see the sleeper, or it sees the ticket.
        fence(Ordering::SeqCst);
        for (thread, asleep) in self.threads.iter().zip(&self.shared.asleep[1..]) {
            if asleep.load(Ordering::Relaxed) {
                asleep.store(false, Ordering::Relaxed);
                thread.unpark();
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.wake();
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper that panicked outside of a task has printed why, and is gone all the same.
            let _ended = helper.join();
        }
    }
}

impl Share {
    /// Which piece of work it is of.
    fn piece(&self) -> u64 {
        self.0.load(Ordering::Relaxed) >> 40
    }

    /// The next task, if there is one and it is of `piece`.
    fn take(&self, piece: u64) -> Option<usize> {
        let mut ticket = self.0.load(Ordering::Relaxed);
        loop {
            let (end, next) = unpack(ticket);
            if next >= end || ticket >> 40 != piece {
                return None;
            }
            // Acquire pairs with the Release of `each`.
            match self.0.compare_exchange_weak(
                ticket,
                ticket + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(next),
                Err(now) => ticket = now,
            }
        }
    }

    fn has_tasks(&self) -> bool {
        let (end, next) = unpack(self.0.load(Ordering::Relaxed));
        next < end
    }
}

impl Shared {
    /// Takes tasks, its own first, until there are none; true when there was one.
    fn work_off(&self, thread: usize) -> bool {
        let threads = self.shares.len();
        // Shares are given out one after the other: whoever has not got its own yet would begin with
        // another's.
        let piece = self.shares[thread].piece();
        let mut any = false;
        for owner in (thread..threads).chain(0..thread) {
            let mut finished = 0;
            while let Some(task) = self.shares[owner].take(piece) {
                finished += 1;
                // SAFETY: this thread holds a task, so the work stays what it is until `done` says so.
                let work = unsafe { *self.work.get() };
                // SAFETY: `closure` is what `call` was made for, borrowed until all tasks are done.
                let run = AssertUnwindSafe(|| unsafe { (work.call)(work.closure, thread, task) });
                if catch_unwind(run).is_err() {
                    self.failed.store(true, Ordering::Relaxed);
                }
            }
            if finished > 0 {
                any = true;
                // Pairs with the Acquire of `wait_for`: who sees all done sees what the tasks wrote.
                self.done.fetch_add(finished, Ordering::Release);
            }
        }
        any
    }

    fn wait_for(&self, tasks: usize) {
        let mut looks = 0;
        while self.done.load(Ordering::Acquire) < tasks {
            looks += 1;
            if looks < LOOKS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                // The helper that has the last task may be waiting for this core.
                std::thread::yield_now();
            }
        }
    }

    fn help(&self, thread: usize) {
        let mut looks = 0;
        let mut idle_since = now();
        while !self.ended.load(Ordering::Relaxed) {
            if self.work_off(thread) {
                (looks, idle_since) = (0, now());
                continue;
            }
            looks += 1;
            if looks % LOOKS_PER_CLOCK == 0 && idle_since.elapsed() >= AWAKE {
                self.sleep(thread);
                (looks, idle_since) = (0, now());
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn sleep(&self, thread: usize) {
        self.asleep[thread].store(true, Ordering::Relaxed);
        // Pairs with the fence in `wake`.
        fence(Ordering::SeqCst);
        let idle = !self.shares.iter().any(Share::has_tasks);
        if idle && !self.ended.load(Ordering::Relaxed) {
            // Returns at once when it was woken meanwhile; a needless return does no harm.
            std::thread::park();
        }
        self.asleep[thread].store(false, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "a duration within this thread")]
fn now() -> Instant {
    Instant::now()
}

/// The cores this process may use.
fn cores() -> Result<Vec<usize>, CrewError> {
    let set = sched_getaffinity(None).map_err(|error| CrewError::Pin(error.into()))?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .collect())
}

/// Ties the calling thread to its core; does nothing when `cores` is empty.
fn tie(cores: &[usize], index: usize) -> Result<(), CrewError> {
    let Some(&core) = cores.get(index % cores.len().max(1)) else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| CrewError::Pin(error.into()))
}

/// Who runs a kernel: with which instructions, and on which threads.
#[derive(Debug)]
pub struct Team<'a> {
    level: Level,
    crew: Option<&'a mut Crew>,
}

impl<'a> Team<'a> {
    /// The calling thread alone.
    #[must_use]
    pub fn alone(level: Level) -> Self {
        Self { level, crew: None }
    }

    /// All threads of `crew`.
    #[must_use]
    pub fn of(level: Level, crew: &'a mut Crew) -> Self {
        Self {
            level,
            crew: Some(crew),
        }
    }

    /// Its instructions.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Number of its threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.crew.as_ref().map_or(1, |crew| crew.threads())
    }

    /// Calls `f(thread, task)` for each task of `0..tasks`.
    pub(crate) fn each<F: Fn(usize, usize) + Sync>(&mut self, tasks: usize, f: F) {
        match &mut self.crew {
            Some(crew) => crew.each_by_shares(tasks, f),
            None => (0..tasks).for_each(|task| f(0, task)),
        }
    }

    /// Cuts `count` things into runs of at least `least`, several for each thread so that none is left
    /// idle for long, and calls `f(thread, run)` for each.
    pub(crate) fn each_run<F>(&mut self, count: usize, least: usize, f: F)
    where
        F: Fn(usize, Range<usize>) + Sync,
    {
        let threads = self.threads();
        let wanted = if threads == 1 {
            1
        } else {
            threads * RUNS_PER_THREAD
        };
        let runs = wanted.min(count / least).max(1);
        // Of sizes that differ by one at most, so that threads can come out even.
        self.each(runs, |thread, run| {
            f(thread, count * run / runs..count * (run + 1) / runs);
        });
    }

    /// Calls `f(block, run)` for each of `blocks` and each run of `count` things: one block after the
    /// other, with as many runs as give each thread several.
    pub(crate) fn each_pair<F>(&mut self, blocks: usize, count: usize, f: F)
    where
        F: Fn(usize, Range<usize>) + Sync,
    {
        let runs = (self.threads() * RUNS_PER_THREAD)
            .div_ceil(blocks)
            .min(count);
        let runs = if self.threads() == 1 { 1 } else { runs };
        self.each(blocks * runs, |_, task| {
            let (block, run) = (task / runs, task % runs);
            f(block, count * run / runs..count * (run + 1) / runs);
        });
    }
}

/// More would be a meeting of threads at every few microseconds.
const RUNS_PER_THREAD: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_runs_once_and_writes_are_seen() {
        for threads in [1, 2, 5] {
            let mut crew = Crew::new(threads, false).unwrap();
            for tasks in [0, 1, 2, 3, 17, 200] {
                for _ in 0..if cfg!(miri) { 2 } else { 200 } {
                    let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    crew.each(tasks, |thread, task| {
                        assert!(thread < threads);
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn shares_are_the_same_in_every_piece_and_all_are_taken() {
        let mut crew = Crew::new(3, false).unwrap();
        for tasks in [2, 3, 7, 100] {
            let began: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(usize::MAX)).collect();
            // No thread goes on before each has begun: so each begins with its own share.
            let arrived = AtomicUsize::new(0);
            crew.each_by_shares(tasks, |thread, task| {
                began[task].store(thread, Ordering::SeqCst);
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < tasks.min(3) {
                    std::thread::yield_now();
                }
            });
            let began: Vec<_> = began.iter().map(|b| b.load(Ordering::SeqCst)).collect();
            assert!(began.iter().all(|&thread| thread < 3), "{began:?}");
            for thread in 0..3 {
                let share = tasks * thread / 3..tasks * (thread + 1) / 3;
                assert!(share.is_empty() || began[share.start] == thread || tasks < 3);
            }
        }
    }

    #[test]
    fn helpers_wake_from_sleep() {
        let mut crew = Crew::new(3, false).unwrap();
        for _ in 0..if cfg!(miri) { 2 } else { 20 } {
            while !crew.shared.asleep[1..]
                .iter()
                .all(|a| a.load(Ordering::SeqCst))
            {
                std::thread::yield_now();
            }
            // Every thread is needed: a task ends only when all three are at one.
            let arrived = AtomicUsize::new(0);
            crew.each(3, |_, _| {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 3 {
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_crew_goes_on() {
        let mut crew = Crew::new(2, false).unwrap();
        let ran = AtomicUsize::new(0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            crew.each(8, |_, task| {
                ran.fetch_add(1, Ordering::Relaxed);
                assert!(task != 3, "task 3 fails");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(ran.load(Ordering::Relaxed), 8);
        crew.each(8, |_, _| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 16);
    }

    #[test]
    fn counts_of_threads_are_checked() {
        for threads in [0, THREADS_MAX + 1] {
            assert!(matches!(
                Crew::new(threads, false),
                Err(CrewError::Count { .. })
            ));
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn pinned_threads_stay_on_their_cores() {
        // In a thread of its own: the calling thread is tied as well.
        std::thread::spawn(|| {
            let cores = cores().unwrap();
            let mut crew = Crew::new(2, true).unwrap();
            let arrived = AtomicUsize::new(0);
            crew.each(2, |thread, _| {
                let set = sched_getaffinity(None).unwrap();
                assert_eq!(set.count(), 1);
                assert!(set.is_set(cores[thread % cores.len()]));
                arrived.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(arrived.load(Ordering::SeqCst), 2);
        })
        .join()
        .unwrap();
    }
}
