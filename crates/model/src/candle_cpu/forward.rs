//! The forward pass for one sequence.

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};

use super::ops::{AddNorm, Bias, Product, Softmax, normalise};
use crate::Pooling;
use crate::arch::{Activation, Architecture, bias_by_distance};
use crate::weights::{self, Embeddings, Norm, Weights};

/// A loaded model, shared by threads.
pub(super) struct Encoder {
    pub(super) embeddings: Embeddings,
    layers: Vec<Layer>,
    relative_bias: Option<Vec<f32>>,
    architecture: Architecture,
    pooling: Pooling,
}

/// One layer, its products on tensors.
struct Layer {
    qkv: Linear,
    attention: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

/// A linear layer. Its weight is seen as `[inputs, outputs]`, but lies in memory the way the file
/// has it, so that the numbers one output needs are neighbours: in the other order every step of
/// the product would reach into another page.
struct Linear {
    weight: Tensor,
    bias: Vec<f32>,
}

impl Linear {
    fn new(linear: weights::Linear) -> Result<Self> {
        let outputs = linear.bias.len();
        let inputs = linear.weight.len() / outputs;
        let weight = Tensor::from_vec(linear.weight, (outputs, inputs), &Device::Cpu)?.t()?;
        let bias = linear.bias;
        Ok(Self { weight, bias })
    }
}

impl Layer {
    fn new(layer: weights::Layer) -> Result<Self> {
        Ok(Self {
            qkv: Linear::new(layer.qkv)?,
            attention: Linear::new(layer.attention)?,
            attention_norm: layer.attention_norm,
            up: Linear::new(layer.up)?,
            down: Linear::new(layer.down)?,
            down_norm: layer.down_norm,
        })
    }
}

impl Encoder {
    pub(super) fn new(
        weights: Weights,
        architecture: Architecture,
        pooling: Pooling,
    ) -> Result<Self> {
        let layers = weights.layers.into_iter().map(Layer::new);
        Ok(Self {
            embeddings: weights.embeddings,
            layers: layers.collect::<Result<_>>()?,
            relative_bias: weights.relative_bias,
            architecture,
            pooling,
        })
    }

    /// Writes the pooled row of one sequence of known ids. `threads` is the size of the rayon pool
    /// this is called in; with 1 everything happens on the calling thread.
    pub(super) fn row(&self, ids: &[u32], threads: usize, pooled: &mut [f32]) -> Result<()> {
        let pass = Pass {
            config: &self.architecture,
            bias: self.bias(ids.len()),
            threads,
        };
        let mut x = pass.embed(&self.embeddings, ids)?;
        for layer in &self.layers {
            x = pass.layer(layer, &x)?;
        }
        let (storage, layout) = x.storage_and_layout();
        let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        else {
            bail!("the last layer is not dense f32");
        };
        pool(self.pooling, &data[start..end], pooled);
        Ok(())
    }

    /// What is added to the scores of a sequence, by head and distance.
    fn bias(&self, tokens: usize) -> Option<Vec<f32>> {
        let (table, relative) = (self.relative_bias.as_ref()?, self.architecture.relative?);
        Some(bias_by_distance(
            table,
            self.architecture.heads,
            relative.buckets,
            relative.max_distance,
            tokens,
        ))
    }
}

/// Pools the rows of the tokens, `[tokens, hidden]`, into `pooled`.
fn pool(pooling: Pooling, rows: &[f32], pooled: &mut [f32]) {
    let hidden = pooled.len();
    match pooling {
        Pooling::Cls => pooled.copy_from_slice(&rows[..hidden]),
        Pooling::Mean => {
            #[expect(
                clippy::cast_precision_loss,
                reason = "positions are far fewer than 2^24"
            )]
            let count = (rows.len() / hidden) as f32;
            pooled.fill(0.0);
            for row in rows.chunks_exact(hidden) {
                for (sum, x) in pooled.iter_mut().zip(row) {
                    *sum += x;
                }
            }
            for sum in pooled {
                *sum /= count;
            }
        }
    }
}

struct Pass<'a> {
    config: &'a Architecture,
    /// `[heads, 2 * tokens - 1]`.
    bias: Option<Vec<f32>>,
    threads: usize,
}

impl Pass<'_> {
    /// `[tokens, hidden]`.
    fn embed(&self, embeddings: &Embeddings, ids: &[u32]) -> Result<Tensor> {
        let hidden = self.config.hidden;
        let mut rows = Vec::with_capacity(ids.len() * hidden);
        for (id, position) in ids.iter().zip(embeddings.positions.chunks_exact(hidden)) {
            let at = usize::try_from(*id)
                .unwrap_or(usize::MAX)
                .saturating_mul(hidden);
            let Some(word) = embeddings.words.get(at..at.saturating_add(hidden)) else {
                bail!("token id {id} is outside the vocabulary");
            };
            let start = rows.len();
            rows.extend(word.iter().zip(position).map(|(w, p)| w + p));
            normalise(&mut rows[start..], &embeddings.norm, self.config.norm_eps);
        }
        Tensor::from_vec(rows, (ids.len(), hidden), &Device::Cpu)
    }

    fn layer(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let context = self.attend(&self.linear(&layer.qkv, x, None)?)?;
        let x = self.close(&layer.attention, &layer.attention_norm, &context, x)?;
        let inner = self.linear(&layer.up, &x, Some(self.config.activation))?;
        self.close(&layer.down, &layer.down_norm, &inner, &x)
    }

    /// Self-attention: `[tokens, 3 * hidden]` to `[tokens, hidden]`.
    fn attend(&self, qkv: &Tensor) -> Result<Tensor> {
        let (tokens, _) = qkv.dims2()?;
        let (heads, width) = (self.config.heads, self.config.hidden / self.config.heads);
        // [3, heads, tokens, width], views into one tensor: the product takes any strides.
        let parts = qkv
            .reshape((tokens, 3, heads, width))?
            .permute((1, 2, 0, 3))?;
        let (q, k, v) = (parts.get(0)?, parts.get(1)?, parts.get(2)?);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a head is far narrower than 2^24"
        )]
        let scale = (width as f32).sqrt().recip();
        let scores = self.product(&q, &k.t()?, scale)?;
        scores.inplace_op1(&Softmax {
            bias: self.bias.as_deref(),
            threads: self.threads,
        })?;
        self.product(&scores, &v, 1.0)?
            .transpose(0, 1)?
            .reshape((tokens, heads * width))
    }

    /// The linear layer that ends a block: added to the block's input and normalised.
    fn close(&self, linear: &Linear, norm: &Norm, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let y = self.product(x, &linear.weight, 1.0)?;
        let (eps, threads) = (self.config.norm_eps, self.threads);
        y.inplace_op2(
            residual,
            &AddNorm {
                bias: &linear.bias,
                norm,
                eps,
                threads,
            },
        )?;
        Ok(y)
    }

    fn linear(
        &self,
        linear: &Linear,
        x: &Tensor,
        activation: Option<Activation>,
    ) -> Result<Tensor> {
        let y = self.product(x, &linear.weight, 1.0)?;
        y.inplace_op1(&Bias {
            bias: &linear.bias,
            activation,
            threads: self.threads,
        })?;
        Ok(y)
    }

    fn product(&self, a: &Tensor, b: &Tensor, scale: f32) -> Result<Tensor> {
        a.apply_op2_no_bwd(
            b,
            &Product {
                scale,
                threads: self.threads,
            },
        )
    }
}
