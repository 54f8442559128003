//! Rounding a model to bytes: what is computed once, at load, and how its loss is measured.
//!
//! The decision that shaped this crate: **scales never come from a batch**. Weights have one scale for
//! each output, rows of activations one for each token (that part is a kernel's), and what is taken
//! from texts is taken from calibration texts of the project's own. So a text's vector does not depend
//! on its neighbours.
//!
//! ```
//! use embedring_quant::{ChannelStats, column_abs_max, fold, quantise_weight, smoothing_factors};
//!
//! // What a product of two inputs and one output read, and its weight.
//! let mut stats = ChannelStats::new(2);
//! stats.add(&[10.0, 0.1, -8.0, 0.2]);
//! let weight = [0.5, 0.25];
//!
//! let factors = smoothing_factors(stats.abs_max(), &column_abs_max(&weight, 2), 0.5);
//! let rounded = quantise_weight(&fold(&weight, &factors), 2);
//! assert_eq!(rounded.values.len(), 2);
//! ```
#![forbid(unsafe_code)]

mod calibration;
mod loss;
mod smooth;
mod stats;
mod weight;

pub use calibration::calibration_texts;
pub use loss::Loss;
pub use smooth::{column_abs_max, fold, smoothing_factors};
pub use stats::ChannelStats;
pub use weight::{ChannelInt8, corrected_bias, quantise_weight};
