//! A transformer encoder with its weights packed for one precision, and its forward pass.

use embedring_kernels::{
    Activation, Heads, Input, Level, Norm, Numbers, Output, Packed, Panels, Qkv, Tables, Team,
    add_norm, attention, embed, pack, product,
};

use super::arena::Arena;
use super::int8::Int8Scheme;
use crate::arch::{Activation as ModelActivation, Architecture, bias_by_distance};
use crate::weights::{
    Layer as LayerWeights, Linear as LinearWeights, Norm as NormWeights, Weights,
};
use crate::{Pooling, Precision};

/// An encoder of one precision.
#[derive(Debug)]
pub(super) struct Encoder {
    level: Level,
    precision: Precision,
    numbers: Numbers,
    attends_in_bf16: bool,
    hidden: usize,
    intermediate: usize,
    max_tokens: usize,
    heads: usize,
    activation: Activation,
    norm: Norm,
    layers: Vec<Layer>,
    /// Added to scores by distance, `[heads, 2 * max_tokens - 1]`, or empty.
    relative: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    attention: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

impl Layer {
    /// Those of all its products, in the order in which a forward pass reads them.
    fn panels_mut(&mut self) -> [&mut Panels; 4] {
        [
            &mut self.qkv,
            &mut self.attention,
            &mut self.up,
            &mut self.down,
        ]
        .map(|linear| &mut linear.panels)
    }
}

/// A product and what its input is multiplied with before it is rounded to bytes.
#[derive(Debug)]
struct Linear {
    panels: Panels,
    factors: Vec<f32>,
}

/// The four products of a layer, by what they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// Queries, keys and values.
    Qkv,
    /// The projection after the attention.
    Attention,
    /// Into the inner width.
    Up,
    /// Back from it.
    Down,
}

impl Site {
    pub(super) const ALL: [Self; 4] = [Self::Qkv, Self::Attention, Self::Up, Self::Down];
}

/// Sees what each product reads, in f32: layer, site, `[tokens, inputs]` and the number of tokens.
pub(super) type Observer<'a> =
    &'a mut dyn FnMut(usize, Site, &embedring_kernels::Matrix<f32>, usize);

impl Encoder {
    /// Packs `weights`. `scheme` is needed for [`Precision::Int8`] and unused else.
    pub(super) fn new(
        level: Level,
        precision: Precision,
        architecture: &Architecture,
        max_tokens: usize,
        weights: &Weights,
        scheme: Option<&Int8Scheme>,
    ) -> Self {
        let numbers = match precision {
            Precision::F32 => Numbers::F32,
            Precision::Bf16 if level.multiplies_bf16() => Numbers::Bf16,
            Precision::Bf16 => Numbers::Bf16Weights,
            Precision::Int8 => Numbers::Int8,
            Precision::F16 => unreachable!("refused before weights are loaded"),
        };
        let width = architecture.hidden / architecture.heads;
        let relative = match (&weights.relative_bias, &architecture.relative) {
            (Some(table), Some(relative)) => bias_by_distance(
                table,
                architecture.heads,
                relative.buckets,
                relative.max_distance,
                max_tokens,
            ),
            _ => Vec::new(),
        };
        let packing = Packing {
            level,
            numbers,
            scheme,
            eps: architecture.norm_eps,
            query_outputs: architecture.hidden,
            query_scale: query_scale(width),
        };
        let mut layers: Vec<Layer> = (0..)
            .zip(&weights.layers)
            .map(|(index, layer)| packing.layer(index, layer))
            .collect();
        Panels::share(layers.iter_mut().flat_map(Layer::panels_mut));
        Self {
            level,
            precision,
            numbers,
            attends_in_bf16: level.multiplies_bf16()
                && precision != Precision::F32
                && width.is_multiple_of(2),
            hidden: architecture.hidden,
            intermediate: architecture.intermediate,
            max_tokens,
            heads: architecture.heads,
            activation: match architecture.activation {
                ModelActivation::GeluErf => Activation::GeluErf,
                ModelActivation::GeluTanh => Activation::GeluTanh,
                ModelActivation::Relu => Activation::Relu,
            },
            norm: packing.norm(&weights.embeddings.norm),
            layers,
            relative,
        }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }
    pub(super) fn numbers(&self) -> Numbers {
        self.numbers
    }
    pub(super) fn attends_in_bf16(&self) -> bool {
        self.attends_in_bf16
    }
    pub(super) fn hidden(&self) -> usize {
        self.hidden
    }
    pub(super) fn intermediate(&self) -> usize {
        self.intermediate
    }
    pub(super) fn max_tokens(&self) -> usize {
        self.max_tokens
    }
    pub(super) fn head_width(&self) -> usize {
        self.hidden / self.heads
    }

    /// Bytes of its packed weights.
    pub(super) fn bytes(&self) -> usize {
        let linear = |linear: &Linear| linear.panels.bytes() + 4 * linear.factors.len();
        self.layers
            .iter()
            .flat_map(|layer| [&layer.qkv, &layer.attention, &layer.up, &layer.down])
            .map(linear)
            .sum::<usize>()
            + 4 * self.relative.len()
    }

    /// Runs the sequences in `arena.ids` and `arena.offsets`; their rows are then in `arena.x`.
    pub(super) fn forward(
        &self,
        team: &mut Team<'_>,
        tables: Tables<'_>,
        arena: &mut Arena,
        mut observer: Option<Observer<'_>>,
    ) {
        let tokens = arena.ids.len();
        let first = self.packed(self.layers.first().map(|layer| &layer.qkv));
        let into = first.of(&mut arena.packed, &mut arena.scales);
        embed(
            team,
            &arena.ids,
            &arena.offsets,
            tables,
            &self.norm,
            &mut arena.x,
            into,
        );
        for (index, layer) in self.layers.iter().enumerate() {
            let mut observe = |site, rows: &_| {
                if let Some(observer) = &mut observer {
                    observer(index, site, rows, tokens);
                }
            };
            observe(Site::Qkv, &arena.x);
            self.attend(team, layer, tokens, arena);
            observe(Site::Attention, &arena.context);
            let output = Output::F32(&mut arena.y);
            let input = self.input(&arena.context, &arena.packed, &arena.scales);
            let panels = &layer.attention.panels;
            product(team, tokens, input, panels, Activation::None, output);
            let into = self.packed(Some(&layer.up));
            let into = into.of(&mut arena.packed, &mut arena.scales);
            add_norm(
                team,
                tokens,
                &arena.y,
                &layer.attention_norm,
                &mut arena.x,
                into,
            );
            observe(Site::Up, &arena.x);
            self.widen(team, layer, tokens, arena);
            observe(Site::Down, &arena.inner);
            let output = Output::F32(&mut arena.y);
            let input = self.input(&arena.inner, &arena.inner_packed, &arena.scales);
            let panels = &layer.down.panels;
            product(team, tokens, input, panels, Activation::None, output);
            let into = self.packed(self.layers.get(index + 1).map(|layer| &layer.qkv));
            let into = into.of(&mut arena.packed, &mut arena.scales);
            add_norm(team, tokens, &arena.y, &layer.down_norm, &mut arena.x, into);
        }
    }

    /// From `x` to the attention's output, packed for the projection.
    fn attend(&self, team: &mut Team<'_>, layer: &Layer, tokens: usize, arena: &mut Arena) {
        let input = self.input(&arena.x, &arena.packed, &arena.scales);
        let output = if self.attends_in_bf16 {
            Output::Bf16(&mut arena.qkv_words)
        } else {
            Output::F32(&mut arena.qkv)
        };
        product(
            team,
            tokens,
            input,
            &layer.qkv.panels,
            Activation::None,
            output,
        );
        let qkv = if self.attends_in_bf16 {
            Qkv::Bf16(&arena.qkv_words)
        } else {
            Qkv::F32(&arena.qkv)
        };
        let heads = Heads {
            count: self.heads,
            width: self.head_width(),
            bias: &self.relative,
        };
        if self.attends_in_bf16 && self.numbers == Numbers::Bf16 {
            let output = Output::Bf16(&mut arena.packed);
            attention(team, qkv, &arena.offsets, heads, &arena.scratch, output);
            return;
        }
        let output = Output::F32(&mut arena.context);
        attention(team, qkv, &arena.offsets, heads, &arena.scratch, output);
        let into = self.packed(Some(&layer.attention));
        let into = into.of(&mut arena.packed, &mut arena.scales);
        if !matches!(into, Packed::None) {
            pack(team, tokens, &arena.context, into);
        }
    }

    /// From `x` to the inner rows, packed for the way back.
    fn widen(&self, team: &mut Team<'_>, layer: &Layer, tokens: usize, arena: &mut Arena) {
        let input = self.input(&arena.x, &arena.packed, &arena.scales);
        let output = if self.numbers == Numbers::Bf16 {
            Output::Bf16(&mut arena.inner_packed)
        } else {
            Output::F32(&mut arena.inner)
        };
        product(
            team,
            tokens,
            input,
            &layer.up.panels,
            self.activation,
            output,
        );
        if self.numbers == Numbers::Int8 {
            let into = self.packed(Some(&layer.down));
            let into = into.of(&mut arena.inner_packed, &mut arena.scales);
            pack(team, tokens, &arena.inner, into);
        }
    }

    /// What a product of this precision reads.
    fn input<'a>(
        &self,
        floats: &'a embedring_kernels::Matrix<f32>,
        words: &'a embedring_kernels::Matrix<u32>,
        scales: &'a [embedring_kernels::RowScale],
    ) -> Input<'a> {
        match self.numbers {
            Numbers::F32 | Numbers::Bf16Weights => Input::F32(floats),
            Numbers::Bf16 => Input::Bf16(words),
            Numbers::Int8 => Input::Int8(words, scales),
        }
    }

    /// How rows are packed for `next`.
    fn packed<'a>(&self, next: Option<&'a Linear>) -> Packs<'a> {
        match (self.numbers, next) {
            (Numbers::F32 | Numbers::Bf16Weights, _) | (_, None) => Packs::None,
            (Numbers::Bf16, _) => Packs::Bf16,
            (Numbers::Int8, Some(next)) => Packs::Int8(&next.factors),
        }
    }
}

/// [`Packed`] without the memory it goes to.
enum Packs<'a> {
    None,
    Bf16,
    Int8(&'a [f32]),
}

impl<'a> Packs<'a> {
    fn of(
        self,
        words: &'a mut embedring_kernels::Matrix<u32>,
        scales: &'a mut [embedring_kernels::RowScale],
    ) -> Packed<'a> {
        match self {
            Self::None => Packed::None,
            Self::Bf16 => Packed::Bf16(words),
            Self::Int8(factors) => Packed::Int8 {
                words,
                scales,
                factors,
            },
        }
    }
}

/// The factor of the scores, `1 / √width`, which the queries' weights take in.
fn query_scale(width: usize) -> f32 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a head is far narrower than 2^24"
    )]
    let width = width as f32;
    1.0 / width.sqrt()
}

/// What all layers are packed by.
struct Packing<'a> {
    level: Level,
    numbers: Numbers,
    scheme: Option<&'a Int8Scheme>,
    eps: f32,
    query_outputs: usize,
    query_scale: f32,
}

impl Packing<'_> {
    fn norm(&self, norm: &NormWeights) -> Norm {
        Norm {
            weight: norm.weight.clone(),
            bias: norm.bias.clone(),
            eps: self.eps,
        }
    }

    fn layer(&self, index: usize, layer: &LayerWeights) -> Layer {
        let qkv = scaled_queries(&layer.qkv, self.query_outputs, self.query_scale);
        Layer {
            qkv: self.linear(index, Site::Qkv, &qkv),
            attention: self.linear(index, Site::Attention, &layer.attention),
            attention_norm: self.norm(&layer.attention_norm),
            up: self.linear(index, Site::Up, &layer.up),
            down: self.linear(index, Site::Down, &layer.down),
            down_norm: self.norm(&layer.down_norm),
        }
    }

    fn linear(&self, layer: usize, site: Site, linear: &LinearWeights) -> Linear {
        match self.scheme {
            Some(scheme) if self.numbers == Numbers::Int8 => {
                let (factors, weight, bias) = scheme.quantise(layer, site, linear);
                Linear {
                    panels: Panels::int8(self.level, &weight.values, &weight.scales, &bias),
                    factors,
                }
            }
            _ => Linear {
                panels: Panels::new(self.level, self.numbers, &linear.weight, &linear.bias),
                factors: Vec::new(),
            },
        }
    }
}

/// The same layer with the factor of the scores in the queries' weights.
fn scaled_queries(qkv: &LinearWeights, outputs: usize, scale: f32) -> LinearWeights {
    let mut scaled = LinearWeights {
        weight: qkv.weight.clone(),
        bias: qkv.bias.clone(),
    };
    let inputs = qkv.weight.len() / qkv.bias.len();
    scaled.weight[..outputs * inputs]
        .iter_mut()
        .chain(&mut scaled.bias[..outputs])
        .for_each(|x| *x *= scale);
    scaled
}

/// Whether a sequence's row is that of its first token, and not the mean.
pub(super) fn takes_first(pooling: Pooling) -> bool {
    match pooling {
        Pooling::Mean => false,
        Pooling::Cls => true,
    }
}
