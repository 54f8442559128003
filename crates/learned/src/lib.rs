//! Trees that learn numbers from rows of numbers: LightGBM and XGBoost behind one small interface.
//!
//! The decision that shaped this crate: it knows nothing of batches, workers or plans. Rows and targets go
//! in, a model comes out, and a model is bytes when it has to outlive its process. Each library is behind
//! a cargo feature of its name; without them everything here still compiles, and asking for a library says
//! that it is not there.
//!
//! ```
//! use embedring_learned::{Kind, Rows};
//!
//! let flat: Vec<f32> = (0..200).map(|at| at as f32).collect();
//! let targets: Vec<f32> = flat.iter().map(|x| if *x < 100.0 { 0.0 } else { 1.0 }).collect();
//! let rows = Rows::new(&flat, 1).unwrap();
//! match Kind::LightGbm.library() {
//!     Ok(library) => {
//!         let model = library.train(rows, &targets).unwrap();
//!         let high = model.predict(Rows::new(&[150.0], 1).unwrap()).unwrap();
//!         assert!(high[0] > 0.9);
//!     }
//!     Err(error) => assert!(error.to_string().contains("lightgbm")),
//! }
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "lightgbm")]
mod lightgbm;
#[cfg(feature = "xgboost")]
mod xgboost;

use std::fmt;

use thiserror::Error;

/// Trees of a model, their leaves at most, how much each corrects, and rows of a leaf at least: few and
/// small, because what there is to learn from is a few thousand rows, mostly noise.
#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
const TREES: i32 = 60;
#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
const LEAVES: i32 = 15;
#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
const RATE: f64 = 0.1;
#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
const LEAF_ROWS: i32 = 20;

/// Rows of one width, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows<'a> {
    flat: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// `flat` is a whole number of rows of `width` finite numbers; `None` when it is not.
    #[must_use]
    pub fn new(flat: &'a [f32], width: usize) -> Option<Self> {
        let whole = width > 0 && i32::try_from(width).is_ok() && flat.len().is_multiple_of(width);
        (whole && flat.iter().all(|value| value.is_finite())).then_some(Self { flat, width })
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flat.len() / self.width
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }
}

/// Why nothing was learned, predicted, saved or loaded.
#[derive(Debug, Error)]
pub enum LearnError {
    /// There is nothing to learn from, or not one finite target for each row.
    #[error("{rows} rows and {targets} targets are nothing to learn from")]
    Targets {
        /// Rows given.
        rows: usize,
        /// Targets given.
        targets: usize,
    },
    /// The rows have another width than those that were learned from.
    #[error("rows of {got} numbers, learned from rows of {expected}")]
    Width {
        /// Numbers in a row.
        got: usize,
        /// Numbers in a row that was learned from.
        expected: usize,
    },
    /// The bytes are no saved model.
    #[error("the bytes are no saved model")]
    Saved,
    /// The library says why.
    #[error("{library}: {why}")]
    Library {
        /// Its name.
        library: &'static str,
        /// Its words.
        why: String,
    },
}

/// The library is not part of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this build of embedring has no {kind}; one with the feature `{kind}` has")]
pub struct NotBuiltError {
    kind: Kind,
}

/// A library that learns trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// LightGBM, by the crate `lightgbm3`.
    LightGbm,
    /// XGBoost, by the crate `xgb`.
    XgBoost,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::LightGbm, Self::XgBoost];

    /// Its name, and that of its feature.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LightGbm => "lightgbm",
            Self::XgBoost => "xgboost",
        }
    }

    /// The library.
    ///
    /// # Errors
    /// When this build does not have it.
    pub fn library(self) -> Result<&'static dyn Library, NotBuiltError> {
        match self {
            #[cfg(feature = "lightgbm")]
            Self::LightGbm => Ok(&lightgbm::LightGbm),
            #[cfg(feature = "xgboost")]
            Self::XgBoost => Ok(&xgboost::XgBoost),
            #[cfg(not(all(feature = "lightgbm", feature = "xgboost")))]
            kind => Err(NotBuiltError { kind }),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Learns numbers from rows, on the calling thread alone: the other cores are wanted by those whose time
/// is learned. The same rows give the same model.
pub trait Library: fmt::Debug + Send + Sync {
    /// Learns to predict `targets`, one for each row.
    ///
    /// # Errors
    /// When there is nothing to learn from, or the library fails.
    fn train(&self, rows: Rows<'_>, targets: &[f32]) -> Result<Box<dyn Model>, LearnError>;

    /// A model that was saved.
    ///
    /// # Errors
    /// When the bytes are not those that a model of this library was saved as.
    fn load(&self, saved: &[u8]) -> Result<Box<dyn Model>, LearnError>;
}

/// What was learned. Stays on the thread that made it.
pub trait Model: fmt::Debug {
    /// One number for each row.
    ///
    /// # Errors
    /// When rows have another width than those learned from, or the library fails.
    fn predict(&self, rows: Rows<'_>) -> Result<Vec<f32>, LearnError>;

    /// As bytes for [`Library::load`].
    ///
    /// # Errors
    /// When the library fails.
    fn save(&self) -> Result<Vec<u8>, LearnError>;
}

#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
fn checked(rows: Rows<'_>, targets: &[f32]) -> Result<(), LearnError> {
    let finite = targets.iter().all(|target| target.is_finite());
    if rows.is_empty() || rows.len() != targets.len() || !finite {
        return Err(LearnError::Targets {
            rows: rows.len(),
            targets: targets.len(),
        });
    }
    Ok(())
}

#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
fn same_width(rows: Rows<'_>, expected: usize) -> Result<(), LearnError> {
    if rows.width == expected {
        return Ok(());
    }
    Err(LearnError::Width {
        got: rows.width,
        expected,
    })
}

/// What a library saved, with its name, its width and a checksum before it: both libraries read beyond the
/// end of a model that was cut.
#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
fn framed(kind: Kind, width: usize, saved: &[u8]) -> Vec<u8> {
    let mut framed = head(kind, width, saved).to_vec();
    framed.extend(saved);
    framed
}

/// The opposite of [`framed`]: width and bytes.
#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
fn unframed(kind: Kind, framed: &[u8]) -> Result<(usize, &[u8]), LearnError> {
    let unframed = || {
        let (found, saved) = framed.split_first_chunk::<HEAD_BYTES>()?;
        let width = u64::from_le_bytes(*found[8..].first_chunk()?);
        let width = usize::try_from(width).ok()?;
        (*found == head(kind, width, saved)).then_some((width, saved))
    };
    unframed().ok_or(LearnError::Saved)
}

#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
const HEAD_BYTES: usize = 24;

#[cfg(any(feature = "lightgbm", feature = "xgboost"))]
fn head(kind: Kind, width: usize, saved: &[u8]) -> [u8; HEAD_BYTES] {
    let name = match kind {
        Kind::LightGbm => *b"lightgbm",
        Kind::XgBoost => *b"xgboost1",
    };
    // FNV-1a, 64 bits: against accidents, not against anybody.
    let sum = saved.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&name);
    head[8..16].copy_from_slice(&(width as u64).to_le_bytes());
    head[16..].copy_from_slice(&sum.to_le_bytes());
    head
}

#[cfg(test)]
mod tests;
