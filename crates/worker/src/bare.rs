//! What a worker runs its batches with, by itself: for measuring what batches cost.

use embedring_model::{
    Backend, BackendError, BackendInfo, PackError, PackedBatch, TokenizeError, TruncationSide,
};
use thiserror::Error;

use crate::model::{ModelError, ModelSource, Served};

/// A model as a worker loads and runs it, without a ring and without a queue.
pub struct BareEngine {
    served: Served,
    backend: Box<dyn Backend>,
    pooled: Vec<f32>,
}

impl std::fmt::Debug for BareEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareEngine")
            .field("info", self.info())
            .finish_non_exhaustive()
    }
}

/// Why a batch was not run.
#[derive(Debug, Error)]
pub enum BareRunError {
    /// The offsets do not fit the ids.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The model failed.
    #[error(transparent)]
    Run(#[from] BackendError),
}

impl BareEngine {
    /// Loads a model as [`crate::run`] does; `threads` 0 stands for one per core this process may use.
    ///
    /// # Errors
    /// When the model can not be had.
    pub fn load(source: &ModelSource, threads: usize) -> Result<Self, ModelError> {
        let (served, backend) = Served::start(source, threads, None)?;
        Ok(Self {
            served,
            backend,
            pooled: Vec::new(),
        })
    }

    /// What it is and what it accepts.
    #[must_use]
    pub fn info(&self) -> &BackendInfo {
        self.backend.info()
    }

    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.served.name
    }

    /// Threads that compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.served.threads()
    }

    /// Appends the token ids of a text to `ids`, the marks around it included; a long one is cut at the model's
    /// window.
    ///
    /// # Errors
    /// When the tokeniser fails.
    pub fn tokenize(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizeError> {
        let served = &self.served;
        let max_tokens = served.max_tokens;
        served
            .tokenizer()
            .encode("", text, max_tokens, TruncationSide::Right, false, ids)?;
        Ok(())
    }

    /// Runs a batch of token ids laid end to end, with `offsets` from 0 to their number, and throws its rows away.
    ///
    /// # Errors
    /// When it can not be run.
    pub fn run(&mut self, ids: &[u32], offsets: &[usize]) -> Result<(), BareRunError> {
        let batch = PackedBatch::new(ids, offsets)?;
        let texts = offsets.len().saturating_sub(1);
        self.pooled.resize(texts * self.served.dimensions(), 0.0);
        self.backend.run(&batch, &mut self.pooled)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_runs_and_a_broken_one_is_an_error() {
        let mut engine = BareEngine::load(&ModelSource::Null { hidden: 8 }, 1).unwrap();
        assert_eq!((engine.model(), engine.info().hidden), ("null", 8));
        let mut ids = Vec::new();
        engine.tokenize("one", &mut ids).unwrap();
        let first = ids.len();
        engine.tokenize("another", &mut ids).unwrap();
        assert!(first > 0 && ids.len() > first);
        engine.run(&ids, &[0, first, ids.len()]).unwrap();
        assert!(matches!(
            engine.run(&ids, &[0, ids.len() + 1]),
            Err(BareRunError::Pack(_))
        ));
    }
}
