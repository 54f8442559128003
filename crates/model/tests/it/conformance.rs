//! What every backend must do, run on each of them.

use embedring_model::{Backend, BackendError, Level, ModelDir, NullBackend, PackedBatch};

use crate::models::{self, MINILM, backends, rows};
use crate::scratch::{Checkpoint, FAMILIES, Scratch};

#[test]
fn null() {
    suite("null", |_| Box::new(NullBackend::new(48, 40)), 90);
}

#[test]
fn every_family_on_every_backend() {
    for family in FAMILIES {
        let scratch = Scratch::new(&Checkpoint::of(family));
        let dir = ModelDir::open(scratch.path()).unwrap();
        for tested in backends() {
            let what = format!("{family} on {}", tested.name);
            suite(&what, |threads| tested.load(&dir, threads), 40);
        }
    }
}

/// The shapes of the model people use reach other paths of the matrix product than a tiny one. The
/// slower levels have the same paths, and take minutes.
#[test]
fn minilm_on_the_backends_of_this_machine() {
    let dir = ModelDir::open(&models::path(MINILM)).unwrap();
    let best = Level::best().name();
    let tested = |name: &str| name == "candle" || name.ends_with(&format!(" {best}"));
    for tested in backends().iter().filter(|backend| tested(&backend.name)) {
        suite(&tested.name, |threads| tested.load(&dir, threads), 6);
    }
}

fn suite(what: &str, make: impl Fn(usize) -> Box<dyn Backend>, count: usize) {
    let mut one = make(1);
    rows_do_not_depend_on_the_batch(what, &mut *one, &make, count);
    bad_batches_are_refused(what, &mut *one);
    another_text_has_another_row(what, &mut *one);
}

/// Sequences of many lengths, the longest and the shortest among them.
fn sequences(longest: usize, count: usize) -> Vec<Vec<u32>> {
    (0..count)
        .map(|i| {
            let length = match i {
                0 => longest,
                1 => 1,
                _ => 2 + i * 7 % (longest - 2),
            };
            (0..length)
                .map(|at| u32::try_from((i * 31 + at * 17) % 97).unwrap())
                .collect()
        })
        .collect()
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter()
        .map(|row| row.iter().map(|x| x.to_bits()).collect())
        .collect()
}

fn rows_do_not_depend_on_the_batch(
    what: &str,
    one: &mut dyn Backend,
    make: &impl Fn(usize) -> Box<dyn Backend>,
    count: usize,
) {
    let sequences = sequences(one.info().max_tokens, count);
    let alone: Vec<_> = sequences
        .iter()
        .flat_map(|sequence| bits(&rows(one, std::slice::from_ref(sequence))))
        .collect();
    for threads in [1, 2, 3, 8] {
        let mut backend = make(threads);
        assert_eq!(
            bits(&rows(&mut *backend, &sequences)),
            alone,
            "{what}, {threads} threads"
        );
        let mut reversed = sequences.clone();
        reversed.reverse();
        let mut rows_reversed = bits(&rows(&mut *backend, &reversed));
        rows_reversed.reverse();
        assert_eq!(
            rows_reversed, alone,
            "{what}, {threads} threads, other neighbours"
        );
        for (pair, expected) in sequences.chunks(2).zip(alone.chunks(2)).take(8) {
            assert_eq!(
                bits(&rows(&mut *backend, pair)),
                expected,
                "{what}, {threads} threads, pairs"
            );
        }
        for (sequence, expected) in sequences.iter().zip(&alone).take(8) {
            let alone = bits(&rows(&mut *backend, std::slice::from_ref(sequence)));
            assert_eq!(
                alone,
                std::slice::from_ref(expected),
                "{what}, {threads} threads, alone"
            );
        }
    }
}

fn bad_batches_are_refused(what: &str, backend: &mut dyn Backend) {
    let (hidden, limit) = (backend.info().hidden, backend.info().max_tokens);
    let good = PackedBatch::new(&[1, 2, 3], &[0, 1, 3]).unwrap();
    let expected = rows(backend, &[vec![1], vec![2, 3]]);

    for size in [0, hidden, 2 * hidden - 1, 3 * hidden] {
        let error = backend.run(&good, &mut vec![0.0; size]).unwrap_err();
        let want = 2 * hidden;
        assert!(
            matches!(error, BackendError::OutputSize { got, want: w } if got == size && w == want),
            "{what}: {error}"
        );
    }
    let ids = vec![1; limit + 2];
    let offsets = [0, 1, limit + 2];
    let long = PackedBatch::new(&ids, &offsets).unwrap();
    let error = backend.run(&long, &mut vec![0.0; 2 * hidden]).unwrap_err();
    assert!(
        matches!(error, BackendError::TooLong { index: 1, tokens, .. } if tokens == limit + 1),
        "{what}: {error}"
    );
    // It goes on as if nothing had been.
    assert_eq!(rows(backend, &[vec![1], vec![2, 3]]), expected, "{what}");
}

fn another_text_has_another_row(what: &str, backend: &mut dyn Backend) {
    let rows = rows(
        backend,
        &[vec![5, 6, 7], vec![5, 7, 6], vec![5, 6], vec![5, 6, 7]],
    );
    assert_ne!(rows[0], rows[1], "{what}: order matters");
    assert_ne!(rows[0], rows[2], "{what}");
    assert_eq!(rows[0], rows[3], "{what}");
    assert!(rows.iter().flatten().all(|x| x.is_finite()), "{what}");
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    let scratch = Scratch::new(&Checkpoint::default());
    let dir = ModelDir::open(scratch.path()).unwrap();
    for tested in backends() {
        let mut backend = tested.load(&dir, 2);
        for id in [100, u32::MAX] {
            let ids = [1, 2, id];
            let batch = PackedBatch::new(&ids, &[0, 1, 3]).unwrap();
            let error = backend.run(&batch, &mut vec![0.0; 2 * 48]).unwrap_err();
            assert!(
                matches!(error, BackendError::UnknownToken { index: 1, id: i, vocabulary: 100 } if i == id),
                "{}: {error}",
                tested.name
            );
        }
    }
}
