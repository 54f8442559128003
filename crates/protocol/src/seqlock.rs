//! A record of several words that is read whole or not at all, in shared memory.
//!
//! One writer at a time (its owner), any number of readers, nobody blocks. There are two copies, and a write
//! goes to the one that is not read: a writer that is stopped or killed in the middle leaves the last value
//! standing. A reader is disturbed only by two writes during one read. The words are atomics, so a torn read is
//! a wrong value that is thrown away and never undefined behaviour (Boehm, "Can seqlocks get along with
//! programming language memory models?", 2012, the fence form).

use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sync::{AtomicU64, Ordering, fence};

/// Tries before a reader gives up. A read takes well under a microsecond; that many pairs of writes during
/// as many reads are not somebody's status.
const READ_TRIES: usize = 64;

/// `T` in `WORDS` words of eight bytes. All zero bytes are a valid, empty lock.
#[derive(Debug)]
#[repr(C)]
pub struct SeqLock<T, const WORDS: usize> {
    /// Values published so far; the last one is in the copy of its lowest bit.
    published: AtomicU64,
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
            published: AtomicU64::new(0),
            copies: [(); 2].map(|()| std::array::from_fn(|_| AtomicU64::new(0))),
            value: PhantomData,
        }
    }

    /// Publishes `value`. Only the record's one owner may call it.
    pub fn write(&self, value: &T) {
        let () = Self::FITS;
        // After 2^64 writes it would be empty again; a write a nanosecond takes five centuries.
        let number = self.published.load(Ordering::Relaxed).wrapping_add(1);
        // Partner: the Acquire fence in `read`. A reader that sees a new word, in the copy that it took for
        // the last value, sees that there is a later one.
        fence(Ordering::Release);
        for (word, bytes) in self
            .copy(number)
            .iter()
            .zip(value.as_bytes().chunks_exact(8))
        {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
        }
        // Partner: the first load in `read`. A reader that sees `number` sees all new words.
        self.published.store(number, Ordering::Release);
    }

    /// The value as last published; `None` when nothing was published yet, or while values are published
    /// faster than they can be read.
    #[must_use]
    pub fn read(&self) -> Option<T> {
        let () = Self::FITS;
        for _ in 0..READ_TRIES {
            // Partner: the last store in `write`.
            let number = self.published.load(Ordering::Acquire);
            if number == 0 {
                return None;
            }
            let copy = self.copy(number);
            let words: [u64; WORDS] =
                std::array::from_fn(|index| copy[index].load(Ordering::Relaxed));
            // Partner: the Release fence in `write`.
            fence(Ordering::Acquire);
            if self.published.load(Ordering::Relaxed) == number {
                return T::read_from_bytes(words.as_bytes()).ok();
            }
        }
        None
    }

    fn copy(&self, number: u64) -> &[AtomicU64; WORDS] {
        &self.copies[usize::from(number & 1 == 1)]
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

    #[test]
    fn a_writer_killed_in_the_middle_leaves_the_last_value() {
        let lock = SeqLock::<Four, 4>::empty();
        for value in 1..=4 {
            lock.write(&Four([value; 4]));
            // The next write, of which half was done.
            lock.copy(value + 1)[..2]
                .iter()
                .for_each(|word| word.store(99, Ordering::Relaxed));
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
