//! A record of several words that is read whole or not at all, in shared memory.
//!
//! One writer at a time (its owner), any number of readers, nobody blocks. The words are atomics, so
//! a torn read is a wrong value that is thrown away and never undefined behaviour (Boehm, "Can
//! seqlocks get along with programming language memory models?", 2012, the fence form).

use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sync::{AtomicU64, Ordering, fence};

/// Tries before a reader gives up. A writer holds the lock for well under a microsecond; one that
/// was killed in the middle holds it until the next write.
const READ_TRIES: usize = 64;

/// `T` in `WORDS` words of eight bytes. All zero bytes are a valid, empty lock.
#[derive(Debug)]
#[repr(C)]
pub struct SeqLock<T, const WORDS: usize> {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
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
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            value: PhantomData,
        }
    }

    /// Publishes `value`. Only the record's one owner may call it; a lock left odd by an owner that
    /// was killed is taken over.
    pub fn write(&self, value: &T) {
        let () = Self::FITS;
        let begin = self.sequence.load(Ordering::Relaxed).wrapping_add(1) | 1;
        self.sequence.store(begin, Ordering::Relaxed);
        // Partner: the Acquire fence in `read`. A reader that sees any new word sees `begin` too.
        fence(Ordering::Release);
        for (word, bytes) in self.words.iter().zip(value.as_bytes().chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
        }
        // Partner: the first load in `read`. A reader that sees `begin + 1` sees all new words.
        self.sequence
            .store(begin.wrapping_add(1), Ordering::Release);
    }

    /// The value as last published; `None` when nothing was published yet or no whole value could
    /// be read, because a writer is busy or died in the middle.
    #[must_use]
    pub fn read(&self) -> Option<T> {
        let () = Self::FITS;
        for _ in 0..READ_TRIES {
            // Partner: the last store in `write`.
            let before = self.sequence.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            if before & 1 == 1 {
                std::hint::spin_loop();
                continue;
            }
            let words: [u64; WORDS] =
                std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
            // Partner: the Release fence in `write`.
            fence(Ordering::Acquire);
            if self.sequence.load(Ordering::Relaxed) == before {
                return T::read_from_bytes(words.as_bytes()).ok();
            }
        }
        None
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
    fn a_writer_killed_in_the_middle_is_taken_over() {
        let lock = SeqLock::<Four, 4>::empty();
        lock.write(&Four([1; 4]));
        lock.sequence.store(3, Ordering::Relaxed);
        assert_eq!(lock.read(), None, "odd: a write is under way");
        lock.write(&Four([2; 4]));
        assert_eq!(lock.read(), Some(Four([2; 4])));
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
