//! Threads that work on one thing at a time, and who works on it.
//!
//! Work is cut into tasks which threads take one by one. The thread that calls is one of them and
//! waits for nobody to begin: a helper that is asleep, or that the system has put aside, costs
//! nothing but its share.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::thread::{JoinHandle, Thread};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Level;

/// Looks for work that a helper takes before it sleeps, some 20 µs in all: longer than the calling
/// thread takes from one piece of work to the next within a batch.
const LOOKS_BEFORE_SLEEP: u32 = 400;
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
    /// Which piece of work this is (any number that differs from the last), how many tasks it has
    /// and which is next: 24, 20 and 20 bits. One word, so that who takes a task knows that it
    /// belongs to this piece.
    ticket: Ticket,
    /// Tasks finished.
    done: AtomicUsize,
    work: UnsafeCell<Work>,
    asleep: Box<[AtomicBool]>,
    failed: AtomicBool,
    ended: AtomicBool,
}

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

fn pack(piece: u64, tasks: usize, next: usize) -> u64 {
    piece << 40 | (tasks as u64) << 20 | next as u64
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
            ticket: Ticket::new(0),
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
    /// done. `thread` is below [`Crew::threads`], and no two calls at one time have the same.
    ///
    /// # Panics
    /// When `f` does, after the other tasks are done.
    pub fn each<F: Fn(usize, usize) + Sync>(&mut self, tasks: usize, f: F) {
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
        let piece = (shared.ticket.load(Ordering::Relaxed) >> 40) + 1;
        // Pairs with the Acquire of `take`: who gets a task of this piece sees its work.
        shared
            .ticket
            .store(pack(piece & 0xff_ffff, tasks, 0), Ordering::Release);
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

impl Shared {
    /// The next task, if there is one.
    fn take(&self) -> Option<usize> {
        let mut ticket = self.ticket.load(Ordering::Relaxed);
        loop {
            let (tasks, next) = unpack(ticket);
            if next >= tasks {
                return None;
            }
            // Acquire pairs with the Release of `each`.
            match self.ticket.compare_exchange_weak(
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

    /// Takes tasks until there are none; true when there was one.
    fn work_off(&self, thread: usize) -> bool {
        let mut any = false;
        while let Some(task) = self.take() {
            any = true;
            // SAFETY: this thread holds a task, so the work stays what it is until `done` says so.
            let work = unsafe { *self.work.get() };
            // SAFETY: `closure` is what `call` was made for, borrowed until all tasks are done.
            let run = AssertUnwindSafe(|| unsafe { (work.call)(work.closure, thread, task) });
            if catch_unwind(run).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            // Pairs with the Acquire of `wait_for`: who sees all done sees what the tasks wrote.
            self.done.fetch_add(1, Ordering::Release);
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
        while !self.ended.load(Ordering::Relaxed) {
            if self.work_off(thread) {
                looks = 0;
            } else if looks < LOOKS_BEFORE_SLEEP {
                looks += 1;
                std::hint::spin_loop();
            } else {
                self.sleep(thread);
                looks = 0;
            }
        }
    }

    fn sleep(&self, thread: usize) {
        self.asleep[thread].store(true, Ordering::Relaxed);
        // Pairs with the fence in `wake`.
        fence(Ordering::SeqCst);
        let (tasks, next) = unpack(self.ticket.load(Ordering::Relaxed));
        if next >= tasks && !self.ended.load(Ordering::Relaxed) {
            // Returns at once when it was woken meanwhile; a needless return does no harm.
            std::thread::park();
        }
        self.asleep[thread].store(false, Ordering::Relaxed);
    }
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
            Some(crew) => crew.each(tasks, f),
            None => (0..tasks).for_each(|task| f(0, task)),
        }
    }

    /// Cuts `count` things into runs, several for each thread so that none is left idle for long,
    /// and calls `f(thread, run)` for each.
    pub(crate) fn each_run<F>(&mut self, count: usize, f: F)
    where
        F: Fn(usize, std::ops::Range<usize>) + Sync,
    {
        let threads = self.threads();
        let run = if threads == 1 {
            count
        } else {
            count.div_ceil(threads * RUNS_PER_THREAD)
        };
        let run = run.max(1);
        self.each(count.div_ceil(run), |thread, task| {
            f(thread, task * run..((task + 1) * run).min(count));
        });
    }
}

const RUNS_PER_THREAD: usize = 4;

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
