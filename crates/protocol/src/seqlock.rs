//! A record of several words that is read whole or not at all, in shared memory.
//!
//! One writer at a time (its owner), any number of readers, nobody blocks. There are two copies: a write
//! goes into the one that nobody is told to read and then turns them over, so that a writer that is stopped
//! or killed in the middle leaves the value before it to be read, for as long as it likes. With one copy
//! the readers would have none meanwhile: on a busy machine a scheduler taken off its core in the middle of
//! a plan left clients and workers without one.
//!
//! The words are atomics, so a torn read is a wrong value that is thrown away and never undefined
//! behaviour (Boehm, "Can seqlocks get along with programming language memory models?", 2012, the fence
//! form).

use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sync::{AtomicU64, Ordering, fence};

/// Tries before a reader gives up. A try fails only when a write begins and ends within it.
const READ_TRIES: usize = 64;

/// `T` in twice `WORDS` words of eight bytes. All zero bytes are a valid, empty lock.
#[derive(Debug)]
#[repr(C)]
pub struct SeqLock<T, const WORDS: usize> {
    /// Writes so far; the last bit says which copy holds the last one.
    sequence: AtomicU64,
    copies: [[AtomicU64; WORDS]; 2],
    value: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable + Copy, const WORDS: usize> SeqLock<T, WORDS> {
    const FITS: () = assert!(
        size_of::<T>() == WORDS * 8,
        "WORDS must be the size of T over 8"
    );

    /// An empty lock, for tests and for memory that is not shared.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            copies: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            value: PhantomData,
        }
    }

    /// Publishes `value`. Only the record's one owner may call it; whatever an owner that was killed left
    /// half-written is written over.
    pub fn write(&self, value: &T) {
        let () = Self::FITS;
        let next = self.sequence.load(Ordering::Relaxed).wrapping_add(1);
        // Partner: the Acquire fence in `read`. A reader that still reads this copy and sees a new word
        // sees that the copies were turned over since, by the write before this one.
        fence(Ordering::Release);
        let words = &self.copies[Self::copy_of(next)];
        for (word, bytes) in words.iter().zip(value.as_bytes().chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
        }
        // Partner: the first load in `read`. A reader that sees `next` sees all new words.
        self.sequence.store(next, Ordering::Release);
    }

    /// The value as last published; `None` when nothing was published yet, or when it was published anew
    /// at each of many tries to read it.
    #[must_use]
    pub fn read(&self) -> Option<T> {
        let () = Self::FITS;
        for _ in 0..READ_TRIES {
            // Partner: the last store in `write`.
            let before = self.sequence.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            let copy = &self.copies[Self::copy_of(before)];
            let words: [u64; WORDS] =
                std::array::from_fn(|index| copy[index].load(Ordering::Relaxed));
            // Partner: the Release fence in `write`.
            fence(Ordering::Acquire);
            if self.sequence.load(Ordering::Relaxed) == before {
                return T::read_from_bytes(words.as_bytes()).ok();
            }
            std::hint::spin_loop();
        }
        None
    }

    fn copy_of(sequence: u64) -> usize {
        usize::from(sequence & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::KnownLayout;

    #[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    struct Four([u64; 4]);

    #[test]
    fn empty_reads_as_nothing_and_a_write_as_itself() {
        let lock = SeqLock::<Four, 4>::empty();
        assert_eq!(lock.read(), None);
        lock.write(&Four([1, 2, 3, 4]));
        assert_eq!(lock.read(), Some(Four([1, 2, 3, 4])));
    }

    /// Writes like [`SeqLock::write`], but is killed before the end.
    fn begin_to_write(lock: &SeqLock<Four, 4>, value: u64) {
        let next = lock.sequence.load(Ordering::Relaxed) + 1;
        for word in &lock.copies[SeqLock::<Four, 4>::copy_of(next)][..3] {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_writer_stopped_in_the_middle_leaves_what_was_there() {
        let lock = SeqLock::<Four, 4>::empty();
        begin_to_write(&lock, 9);
        assert_eq!(lock.read(), None, "nothing was published");
        for value in 1..5 {
            lock.write(&Four([value; 4]));
            begin_to_write(&lock, 9);
            assert_eq!(lock.read(), Some(Four([value; 4])));
        }
    }

    #[test]
    fn readers_never_see_a_mix() {
        let lock = SeqLock::<Four, 4>::empty();
        let rounds: u64 = if cfg!(miri) { 200 } else { 200_000 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 1..=rounds {
                    lock.write(&Four([value; 4]));
                }
            });
            scope.spawn(|| {
                let mut last = 0;
                while last < rounds {
                    if let Some(Four(words)) = lock.read() {
                        assert!(
                            words.iter().all(|word| *word == words[0]),
                            "torn: {words:?}"
                        );
                        assert!(words[0] >= last, "went back from {last} to {}", words[0]);
                        last = words[0];
                    }
                    std::thread::yield_now();
                }
            });
        });
    }
}
