//! Matrices whose rows begin on cache lines.

use std::sync::Arc;

use memmap2::{Advice, MmapMut};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Numbers of 32 bits: f32, or words of packed numbers.
pub trait Word: FromBytes + IntoBytes + Immutable + Copy + Default + Send + Sync {}
impl Word for f32 {}
impl Word for u32 {}

/// 32-bit numbers of a cache line.
pub(crate) const LINE: usize = 16;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

/// A matrix `[rows, columns]` in row order.
///
/// Rows are padded to whole vectors, and the padding is zero unless a kernel says otherwise: kernels
/// read and write whole vectors.
pub struct Matrix<T> {
    lines: Vec<Line>,
    rows: usize,
    columns: usize,
    stride: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: Word> Matrix<T> {
    /// Zeros.
    #[must_use]
    pub fn new(rows: usize, columns: usize) -> Self {
        // Rows a multiple of 4 KiB apart would share the same few places of the first-level cache: an
        // odd number of lines spreads them over all.
        let lines = columns.div_ceil(2 * LINE) * 2 + usize::from(rows > 1);
        Self {
            // Two lines more, since the last vectors of the last row may be read as a pair.
            lines: vec![Line([0; LINE]); lines * rows + 2],
            rows,
            columns,
            stride: lines * LINE,
            kind: std::marker::PhantomData,
        }
    }

    /// Rows there is room for.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers of a row, without the padding.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Numbers from one row to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// Row `index` with its padding.
    #[must_use]
    pub fn row(&self, index: usize) -> &[T] {
        &self.all()[index * self.stride..(index + 1) * self.stride]
    }

    /// Row `index` with its padding.
    #[must_use]
    pub fn row_mut(&mut self, index: usize) -> &mut [T] {
        let stride = self.stride;
        &mut self.all_mut()[index * stride..(index + 1) * stride]
    }

    #[expect(
        clippy::expect_used,
        reason = "whole lines of 32-bit numbers, aligned to 64 bytes"
    )]
    pub(crate) fn all(&self) -> &[T] {
        <[T]>::ref_from_bytes(self.lines.as_slice().as_bytes()).expect("lines are whole")
    }

    #[expect(
        clippy::expect_used,
        reason = "whole lines of 32-bit numbers, aligned to 64 bytes"
    )]
    pub(crate) fn all_mut(&mut self) -> &mut [T] {
        <[T]>::mut_from_bytes(self.lines.as_mut_slice().as_mut_bytes()).expect("lines are whole")
    }

    /// The whole as words.
    #[expect(
        clippy::expect_used,
        reason = "whole lines of words, aligned to 64 bytes"
    )]
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        <[u32]>::mut_from_bytes(self.lines.as_mut_slice().as_mut_bytes()).expect("lines are whole")
    }

    /// The whole as words.
    #[expect(
        clippy::expect_used,
        reason = "whole lines of words, aligned to 64 bytes"
    )]
    pub(crate) fn words(&self) -> &[u32] {
        <[u32]>::ref_from_bytes(self.lines.as_slice().as_bytes()).expect("lines are whole")
    }
}

impl<T> std::fmt::Debug for Matrix<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix[{}, {}]", self.rows, self.columns)
    }
}

/// A matrix of words that is written once and then only read: by itself, or on the pages of others.
#[derive(Debug)]
pub(crate) enum Fixed {
    Own(Matrix<u32>),
    /// `[rows, stride]`, from byte `begin` on.
    Shared {
        pages: Arc<MmapMut>,
        begin: usize,
        rows: usize,
        stride: usize,
    },
}

impl Fixed {
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Own(matrix) => matrix.rows(),
            Self::Shared { rows, .. } => *rows,
        }
    }

    /// Row `index` with its padding.
    #[expect(clippy::expect_used, reason = "whole words, on whole lines of a page")]
    pub(crate) fn row(&self, index: usize) -> &[u32] {
        match self {
            Self::Own(matrix) => matrix.row(index),
            Self::Shared {
                pages,
                begin,
                rows,
                stride,
            } => {
                assert!(index < *rows, "no such row");
                let begin = begin + index * stride * 4;
                <[u32]>::ref_from_bytes(&pages[begin..begin + stride * 4]).expect("words are whole")
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Own(matrix) => matrix.bytes(),
            Self::Shared { rows, stride, .. } => rows * stride * 4,
        }
    }

    /// Moves matrices to pages that they share, huge ones (2 MiB instead of 4 KiB) where the system
    /// has them: a forward pass goes through all weights, and looking up where each small page lies
    /// takes longer than reading it. Where it gives no memory, they stay where they are.
    pub(crate) fn share(matrices: &mut [&mut Self]) {
        let bytes = |matrix: &Self| matrix.bytes().next_multiple_of(LINE * 4);
        let total = matrices.iter().map(|matrix| bytes(matrix)).sum::<usize>();
        // Some to spare, since a vector behind the last row may be asked for ahead of time.
        let Ok(mut pages) = MmapMut::map_anon(total + 4096) else {
            return;
        };
        // A kernel without huge pages refuses, and small ones do as well.
        let _advised = pages.advise(Advice::HugePage);
        let mut places = Vec::with_capacity(matrices.len());
        let mut begin = 0;
        for matrix in matrices.iter_mut() {
            let (rows, stride) = match matrix {
                Self::Own(own) => (own.rows, own.stride),
                Self::Shared { rows, stride, .. } => (*rows, *stride),
            };
            for row in 0..rows {
                let from = matrix.row(row).as_bytes();
                pages[begin + row * stride * 4..][..from.len()].copy_from_slice(from);
            }
            places.push((begin, rows, stride));
            begin += bytes(matrix);
            // At once, so that no more than one matrix is there twice.
            **matrix = Self::Own(Matrix::new(0, 0));
        }
        let pages = Arc::new(pages);
        for (matrix, (begin, rows, stride)) in matrices.iter_mut().zip(places) {
            **matrix = Self::Shared {
                pages: Arc::clone(&pages),
                begin,
                rows,
                stride,
            };
        }
    }
}

/// A matrix that several threads write at once, each its own part.
pub(crate) struct Parts<'a, T> {
    at: *mut T,
    len: usize,
    stride: usize,
    matrix: std::marker::PhantomData<&'a mut T>,
}

// SAFETY: it stands for an exclusive borrow of numbers, which threads may share under the contract of
// `slice`.
unsafe impl<T: Word> Sync for Parts<'_, T> {}

impl<'a, T: Word> Parts<'a, T> {
    pub(crate) fn of(matrix: &'a mut Matrix<T>) -> Self {
        let stride = matrix.stride;
        let all = matrix.all_mut();
        Self {
            at: all.as_mut_ptr(),
            len: all.len(),
            stride,
            matrix: std::marker::PhantomData,
        }
    }

    /// `columns` numbers of a row.
    ///
    /// # Safety
    /// Nobody else uses these numbers while the slice lives.
    ///
    /// # Panics
    /// When they are not within the matrix.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "that is what it is for; see its contract"
    )]
    pub(crate) unsafe fn slice(&self, row: usize, columns: std::ops::Range<usize>) -> &mut [T] {
        let begin = row * self.stride + columns.start;
        let count = columns.end - columns.start;
        assert!(begin + count <= self.len, "part outside the matrix");
        // SAFETY: within the borrowed numbers, as just checked.
        let at = unsafe { self.at.add(begin) };
        // SAFETY: those are initialised and borrowed for 'a; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(at, count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: usize, columns: usize) -> Fixed {
        let mut matrix = Matrix::<u32>::new(rows, columns);
        for row in 0..rows {
            for (column, word) in matrix.row_mut(row).iter_mut().enumerate() {
                *word = u32::try_from(1000 * row + column).unwrap();
            }
        }
        Fixed::Own(matrix)
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri gives no memory from the system")]
    fn shared_matrices_hold_what_they_held() {
        let shapes = [(3, 40), (1, 5), (1, 600), (7, 33)];
        let mut matrices = shapes.map(|(rows, columns)| filled(rows, columns));
        // Twice, since what is shared already may be shared with others.
        for _ in 0..2 {
            Fixed::share(&mut matrices.each_mut());
            for (matrix, (rows, columns)) in matrices.iter().zip(shapes) {
                let own = filled(rows, columns);
                assert!(matches!(matrix, Fixed::Shared { .. }));
                assert_eq!(matrix.rows(), rows);
                assert!((0..rows).all(|row| matrix.row(row) == own.row(row)));
                assert!(matrix.row(0).as_ptr().addr().is_multiple_of(64));
            }
        }
    }
}
