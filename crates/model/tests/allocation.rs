//! The packed backend takes its memory at load: a batch allocates nothing, whatever its size.
//!
//! A test binary of its own, since it replaces the allocator of the whole process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use embedring_model::{
    Backend as _, Level, ModelDir, PackedBatch, PackedCpu, PackedOptions, Precision,
    PrecisionChoice,
};

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sequences of 1 to `longest` tokens.
fn batch(sequences: usize, longest: usize) -> (Vec<u32>, Vec<usize>) {
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for sequence in 0..sequences {
        let length = 1 + sequence * 37 % longest;
        ids.extend((0..length).map(|at| u32::try_from((sequence * 31 + at * 17) % 97).unwrap()));
        offsets.push(ids.len());
    }
    (ids, offsets)
}

/// With sequences up to this long, [`batch`] repeats itself after so many.
const REPEATING: usize = 8;
const REPEATS_AFTER: usize = 97 * 8;

#[test]
fn a_batch_of_any_size_allocates_nothing() {
    let models = std::env::var_os("EMBEDRING_TEST_MODELS")
        .expect("no models to test with: run `cargo xtask setup`, or set EMBEDRING_TEST_MODELS");
    let dir = ModelDir::open(&PathBuf::from(models).join("tiny-bert")).unwrap();
    let (ids, offsets) = batch(40, 60);
    let calibration: Vec<Vec<u32>> = offsets
        .windows(2)
        .map(|w| ids[w[0]..w[1]].to_vec())
        .collect();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let options = PackedOptions {
            threads: 2,
            pin: false,
            precision: PrecisionChoice::Fixed(precision),
            level: Level::best(),
            survey: false,
        };
        let mut backend = PackedCpu::load(&dir, &calibration, &options).unwrap();
        let hidden = backend.info().hidden;
        // The last is more than is planned at once.
        for (sequences, longest) in [(1, 1), (1, 512), (3, 512), (300, 512), (5000, REPEATING)] {
            let (ids, offsets) = batch(sequences, longest);
            let mut pooled = vec![0.0; sequences * hidden];
            let batch = PackedBatch::new(&ids, &offsets).unwrap();
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            backend.run(&batch, &mut pooled).unwrap();
            let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
            if longest == REPEATING {
                let rows: Vec<_> = pooled.chunks_exact(hidden).collect();
                let mut pairs = rows.iter().zip(rows.iter().skip(REPEATS_AFTER));
                assert!(
                    pairs.all(|(row, again)| row == again),
                    "a row in another's place"
                );
            }
            assert_eq!(
                allocated, 0,
                "{precision}: {sequences} sequences up to {longest} tokens"
            );
        }
    }
}
