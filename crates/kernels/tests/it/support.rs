//! Random matrices, and teams to run kernels with.

use embedring_kernels::{Crew, Level, Matrix, Team, Word};
use proptest::prelude::ProptestConfig;

/// A small generator of its own, so that a failure names one number to repeat it with.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In `[-1, 1)`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() & 0xffff) as f32 / 32768.0 - 1.0
    }

    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }
}

pub(crate) fn matrix<T: Word>(rows: usize, columns: usize, numbers: &[T]) -> Matrix<T> {
    let mut matrix = Matrix::new(rows, columns);
    for (row, numbers) in numbers.chunks_exact(columns).enumerate() {
        matrix.row_mut(row)[..columns].copy_from_slice(numbers);
    }
    matrix
}

pub(crate) fn numbers<T: Word>(matrix: &Matrix<T>, rows: usize) -> Vec<T> {
    (0..rows)
        .flat_map(|row| matrix.row(row)[..matrix.columns()].to_vec())
        .collect()
}

/// bf16 in words of two, row by row.
pub(crate) fn words_of_bf16(columns: usize, numbers: &[f32]) -> Vec<u32> {
    let bits = |x: f32| bf16(x).to_bits() >> 16;
    numbers
        .chunks_exact(columns)
        .flat_map(|row| {
            row.chunks(2)
                .map(|pair| bits(pair[0]) | pair.get(1).map_or(0, |&x| bits(x)) << 16)
        })
        .collect()
}

/// The nearest bf16, ties to even.
pub(crate) fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

/// The numbers that words of two bf16 hold.
pub(crate) fn floats_of_words(words: &[u32]) -> Vec<f32> {
    words
        .iter()
        .flat_map(|&w| [f32::from_bits(w << 16), f32::from_bits(w & 0xffff_0000)])
        .collect()
}

/// Runs `f` on every level, alone and with a crew, and checks that each level gives the same bits
/// however many threads it has.
#[track_caller]
pub(crate) fn on_every_level(mut f: impl FnMut(&mut Team<'_>) -> Vec<u32>) {
    for level in Level::available() {
        let alone = f(&mut Team::alone(level));
        let mut crew = Crew::new(3, false).unwrap();
        let together = f(&mut Team::of(level, &mut crew));
        assert_eq!(alone, together, "{level}: the number of threads shows");
    }
}

pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(got) - want).abs();
        assert!(
            off <= tolerance * want.abs().max(1.0),
            "{what}, number {at}: {got} or {want}"
        );
    }
}

/// So many cases, or one under Miri, which is a thousand times slower and has no files to keep
/// failures in.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    if !cfg!(miri) {
        return ProptestConfig::with_cases(count);
    }
    ProptestConfig {
        cases: 1,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
