//! What lies on the device for good: numbers, weights, tables.

use half::{bf16, f16};

use crate::device::{Buffer, Device, DeviceError};
use crate::kernels::DEPTH;

/// The 16-bit numbers that rows and weights are kept in; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// IEEE half precision: 11 bits, up to 65,504.
    F16,
    /// bfloat16: 8 bits, the range of f32.
    Bf16,
}

impl Numbers {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Rounded to these numbers, as bits; to infinity where they end.
    #[must_use]
    pub fn round(self, numbers: &[f32]) -> Vec<u16> {
        let one: fn(f32) -> u16 = match self {
            Self::F16 => |x| f16::from_f32(x).to_bits(),
            Self::Bf16 => |x| bf16::from_f32(x).to_bits(),
        };
        numbers.iter().map(|&x| one(x)).collect()
    }
}

/// The non-linearity of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// None.
    None,
    /// GELU by the error function.
    GeluErf,
    /// GELU by its approximation with a tanh.
    GeluTanh,
    /// The larger of 0 and x.
    Relu,
}

impl Activation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::GeluErf => "gelu_erf",
            Self::GeluTanh => "gelu_tanh",
            Self::Relu => "relu",
        }
    }
}

/// A linear layer on the device.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Buffer<u16>,
    pub(crate) bias: Buffer<f32>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl Linear {
    /// `weight` is `[outputs, inputs]`.
    ///
    /// # Errors
    /// [`DeviceError`] when the sizes are no multiples of 64 or there is no memory.
    pub(crate) fn upload(
        device: &Device,
        numbers: Numbers,
        weight: &[f32],
        bias: &[f32],
    ) -> Result<Self, DeviceError> {
        let outputs = bias.len();
        let inputs = weight.len() / outputs.max(1);
        assert_eq!(weight.len(), inputs * outputs, "a bias for each output");
        for got in [inputs, outputs] {
            if got == 0 || !got.is_multiple_of(DEPTH) {
                return Err(DeviceError::Unsupported {
                    what: "a layer of size",
                    got,
                    want: "a multiple of 64",
                });
            }
        }
        Ok(Self {
            weight: device.upload(&numbers.round(weight))?,
            bias: device.upload(bias)?,
            inputs,
            outputs,
        })
    }

    /// Numbers it gives for each row.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes it takes on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.bytes()
    }
}

/// A layer normalisation on the device.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Buffer<f32>,
    pub(crate) bias: Buffer<f32>,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// Both have the length of a row.
    ///
    /// # Errors
    /// [`DeviceError`] when there is no memory.
    pub(crate) fn upload(
        device: &Device,
        weight: &[f32],
        bias: &[f32],
        epsilon: f32,
    ) -> Result<Self, DeviceError> {
        assert_eq!(weight.len(), bias.len(), "both have the length of a row");
        Ok(Self {
            weight: device.upload(weight)?,
            bias: device.upload(bias)?,
            epsilon,
        })
    }

    /// Bytes it takes on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.bytes()
    }
}

/// Tables of embeddings on the device.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) words: Buffer<u16>,
    pub(crate) positions: Buffer<u16>,
}

impl Tables {
    /// `[vocabulary, hidden]` and `[positions, hidden]`.
    ///
    /// # Errors
    /// [`DeviceError`] when there is no memory.
    pub(crate) fn upload(
        device: &Device,
        numbers: Numbers,
        words: &[f32],
        positions: &[f32],
    ) -> Result<Self, DeviceError> {
        Ok(Self {
            words: device.upload(&numbers.round(words))?,
            positions: device.upload(&numbers.round(positions))?,
        })
    }

    /// Bytes they take on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.words.bytes() + self.positions.bytes()
    }
}

/// Biases of attention scores by distance on the device, `[heads, 2 reach - 1]`, at
/// key - query + reach - 1.
#[derive(Debug)]
pub(crate) struct Relative {
    pub(crate) biases: Buffer<f32>,
    pub(crate) reach: usize,
}

impl Relative {
    /// # Errors
    /// [`DeviceError`] when there is no memory.
    pub(crate) fn upload(
        device: &Device,
        biases: &[f32],
        reach: usize,
    ) -> Result<Self, DeviceError> {
        Ok(Self {
            biases: device.upload(biases)?,
            reach,
        })
    }

    /// Bytes it takes on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.biases.bytes()
    }
}
