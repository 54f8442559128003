//! LightGBM.

use std::fmt;

use lightgbm3::{Booster, Dataset};

use crate::{Kind, LEAF_ROWS, LEAVES, LearnError, Library, Model, RATE, Rows, TREES};

/// See the module.
#[derive(Debug)]
pub(crate) struct LightGbm;

struct Trained(Booster);

impl fmt::Debug for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LightGBM model")
    }
}

fn failed(error: &lightgbm3::Error) -> LearnError {
    LearnError::Library {
        library: "LightGBM",
        why: error.to_string(),
    }
}

/// Widths are checked to be in range by [`Rows::new`].
fn narrow(width: usize) -> i32 {
    i32::try_from(width).unwrap_or(i32::MAX)
}

impl Library for LightGbm {
    fn train(&self, rows: Rows<'_>, targets: &[f32]) -> Result<Box<dyn Model>, LearnError> {
        crate::checked(rows, targets)?;
        let dataset = Dataset::from_slice(rows.flat, targets, narrow(rows.width), true);
        let parameters = serde_json::json!({
            "objective": "regression",
            "num_iterations": TREES,
            "num_leaves": LEAVES,
            "learning_rate": RATE,
            "min_data_in_leaf": LEAF_ROWS,
            "num_threads": 1,
            "deterministic": true,
            "verbosity": -1,
        });
        let booster = dataset.and_then(|dataset| Booster::train(dataset, &parameters));
        Ok(Box::new(Trained(booster.map_err(|error| failed(&error))?)))
    }

    fn load(&self, saved: &[u8]) -> Result<Box<dyn Model>, LearnError> {
        let (_, bytes) = crate::unframed(Kind::LightGbm, saved)?;
        let text = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| !text.contains('\0'))
            .ok_or(LearnError::Saved)?;
        let booster = Booster::from_string(text).map_err(|error| failed(&error))?;
        Ok(Box::new(Trained(booster)))
    }
}

impl Model for Trained {
    fn predict(&self, rows: Rows<'_>) -> Result<Vec<f32>, LearnError> {
        let expected = usize::try_from(self.0.num_features()).unwrap_or(0);
        crate::same_width(rows, expected)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let width = narrow(rows.width);
        let found = self
            .0
            .predict_with_params(rows.flat, width, true, "num_threads=1")
            .map_err(|error| failed(&error))?;
        #[expect(clippy::cast_possible_truncation, reason = "as exact as the rows")]
        let found = found.into_iter().map(|value| value as f32).collect();
        Ok(found)
    }

    fn save(&self) -> Result<Vec<u8>, LearnError> {
        let text = self.0.save_string().map_err(|error| failed(&error))?;
        let width = usize::try_from(self.0.num_features()).unwrap_or(0);
        Ok(crate::framed(Kind::LightGbm, width, text.as_bytes()))
    }
}
