//! XGBoost.

use std::fmt;

use xgb::parameters::BoosterParameters;
use xgb::{Booster, DMatrix, XGBError};

use crate::{Kind, LEAF_ROWS, LEAVES, LearnError, Library, Model, RATE, Rows, TREES};

/// See the module.
#[derive(Debug)]
pub(crate) struct XgBoost;

struct Trained {
    booster: Booster,
    width: usize,
}

impl fmt::Debug for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XGBoost model")
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn failed(error: XGBError) -> LearnError {
    LearnError::Library {
        library: "XGBoost",
        why: error.to_string(),
    }
}

impl Library for XgBoost {
    fn train(&self, rows: Rows<'_>, targets: &[f32]) -> Result<Box<dyn Model>, LearnError> {
        crate::checked(rows, targets)?;
        let booster = train(rows, targets).map_err(failed)?;
        Ok(Box::new(Trained {
            booster,
            width: rows.width,
        }))
    }

    fn load(&self, saved: &[u8]) -> Result<Box<dyn Model>, LearnError> {
        let (width, bytes) = crate::unframed(Kind::XgBoost, saved)?;
        let mut booster = Booster::load_buffer(bytes).map_err(failed)?;
        alone(&mut booster).map_err(failed)?;
        Ok(Box::new(Trained { booster, width }))
    }
}

fn train(rows: Rows<'_>, targets: &[f32]) -> Result<Booster, XGBError> {
    let mut matrix = DMatrix::from_dense(rows.flat, rows.len())?;
    matrix.set_labels(targets)?;
    let mut booster = Booster::new_with_cached_dmats(&BoosterParameters::default(), &[&matrix])?;
    let mean = targets.iter().sum::<f32>() / wide(targets.len());
    let wanted = [
        ("base_score", mean.to_string()),
        ("objective", "reg:squarederror".to_owned()),
        ("tree_method", "hist".to_owned()),
        ("grow_policy", "lossguide".to_owned()),
        ("max_depth", "0".to_owned()),
        ("max_leaves", LEAVES.to_string()),
        ("eta", RATE.to_string()),
        // With squared errors a row weighs 1.
        ("min_child_weight", LEAF_ROWS.to_string()),
    ];
    for (name, value) in wanted {
        booster.set_param(name, &value)?;
    }
    alone(&mut booster)?;
    for round in 0..TREES {
        booster.update(&matrix, round)?;
    }
    Ok(booster)
}

#[expect(clippy::cast_precision_loss, reason = "thousands of rows")]
fn wide(count: usize) -> f32 {
    count as f32
}

/// On one thread, silent.
fn alone(booster: &mut Booster) -> Result<(), XGBError> {
    booster.set_param("nthread", "1")?;
    booster.set_param("verbosity", "0")
}

impl Model for Trained {
    fn predict(&self, rows: Rows<'_>) -> Result<Vec<f32>, LearnError> {
        crate::same_width(rows, self.width)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let matrix = DMatrix::from_dense(rows.flat, rows.len()).map_err(failed)?;
        self.booster.predict(&matrix).map_err(failed)
    }

    fn save(&self) -> Result<Vec<u8>, LearnError> {
        let saved = self.booster.save_buffer(true).map_err(failed)?;
        Ok(crate::framed(Kind::XgBoost, self.width, &saved))
    }
}
