//! Encoders on CUDA devices, in f16 or bf16: the weights of a directory on the kernels of
//! `embedring-cuda`.

use embedring_cuda::{
    Device, DeviceError, Encoder, HostLayer, HostLinear, HostNorm, HostWeights, Numbers, Shape,
    Tuning,
};

use crate::arch::{self, Activation, Architecture};
use crate::weights::{Linear, Norm, Weights, check_ids};
use crate::{
    Backend, BackendError, BackendInfo, ModelDir, ModelLoadError, PackedBatch, Pooling, Precision,
};

/// An encoder on a CUDA device.
///
/// Rows of one device and precision are the same to the last bit whatever the batch.
#[derive(Debug)]
pub struct Cuda {
    info: BackendInfo,
    vocabulary: usize,
    encoder: Encoder,
}

impl Cuda {
    /// Loads the weights of `dir` to `device`, which the worker knows as `name` (`cuda:0`).
    ///
    /// # Errors
    /// [`ModelLoadError`] when the weights cannot be read, do not fit their description or the range
    /// of the numbers, or the device cannot compute them or has no room.
    pub fn load(
        dir: &ModelDir,
        device: &Device,
        name: &str,
        precision: Precision,
        tuning: Tuning,
    ) -> Result<Self, ModelLoadError> {
        let numbers = match precision {
            Precision::F16 => Numbers::F16,
            Precision::Bf16 => Numbers::Bf16,
            Precision::F32 | Precision::Int8 => {
                return Err(ModelLoadError::Precision {
                    device: name.to_owned(),
                    precision,
                    supported: "f16, bf16",
                });
            }
        };
        let weights = Weights::load(dir)?;
        let (info, architecture) = (dir.info(), dir.architecture());
        let embeddings = &weights.embeddings;
        let positions = embeddings.positions.len() / architecture.hidden;
        let relative = weights.relative_bias.as_ref().zip(architecture.relative);
        let relative = relative.map(|(table, relative)| {
            let (buckets, furthest) = (relative.buckets, relative.max_distance);
            arch::bias_by_distance(table, architecture.heads, buckets, furthest, positions)
        });
        let host = HostWeights {
            words: &embeddings.words,
            positions: &embeddings.positions,
            norm: norm(&embeddings.norm),
            layers: weights.layers.iter().map(layer).collect(),
            relative: relative.as_deref(),
        };
        let vocabulary = embeddings.words.len() / architecture.hidden;
        let shape = shape(architecture, vocabulary, positions, info.pooling);
        let encoder = Encoder::new(device, numbers, shape, &host, tuning)?;
        let bytes = |bytes| u64::try_from(bytes).unwrap_or(u64::MAX);
        Ok(Self {
            info: BackendInfo {
                device: name.to_owned(),
                precision,
                hidden: info.hidden,
                max_tokens: info.max_tokens,
                kernels: device.name().to_owned(),
                weights_bytes: bytes(encoder.weights_bytes()),
                arena_bytes: bytes(encoder.arena_bytes()),
            },
            vocabulary,
            encoder,
        })
    }
}

impl Backend for Cuda {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn run(&mut self, batch: &PackedBatch<'_>, pooled: &mut [f32]) -> Result<(), BackendError> {
        batch.check(&self.info, pooled)?;
        check_ids(batch, self.vocabulary)?;
        self.encoder
            .run(batch.ids(), batch.offsets(), pooled)
            .map_err(|error: DeviceError| BackendError::Compute(Box::new(error)))
    }
}

fn shape(
    architecture: &Architecture,
    vocabulary: usize,
    positions: usize,
    pooling: Pooling,
) -> Shape {
    Shape {
        hidden: architecture.hidden,
        heads: architecture.heads,
        vocabulary,
        positions,
        epsilon: architecture.norm_eps,
        activation: match architecture.activation {
            Activation::GeluErf => embedring_cuda::Activation::GeluErf,
            Activation::GeluTanh => embedring_cuda::Activation::GeluTanh,
            Activation::Relu => embedring_cuda::Activation::Relu,
        },
        first_row: match pooling {
            Pooling::Mean => false,
            Pooling::Cls => true,
        },
    }
}

fn layer(layer: &crate::weights::Layer) -> HostLayer<'_> {
    HostLayer {
        qkv: linear(&layer.qkv),
        attention: linear(&layer.attention),
        attention_norm: norm(&layer.attention_norm),
        up: linear(&layer.up),
        down: linear(&layer.down),
        down_norm: norm(&layer.down_norm),
    }
}

fn linear(linear: &Linear) -> HostLinear<'_> {
    HostLinear {
        weight: &linear.weight,
        bias: &linear.bias,
    }
}

fn norm(norm: &Norm) -> HostNorm<'_> {
    HostNorm {
        weight: &norm.weight,
        bias: &norm.bias,
    }
}
