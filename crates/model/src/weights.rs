//! `model.safetensors` to plain f32 numbers, read once from front to back: what every backend
//! starts from, whatever the family.
//!
//! The file is read, not mapped: a mapped file that somebody truncates kills the process, and
//! one that somebody rewrites changes the model under way. Each tensor goes straight from the
//! read buffer into its f32 place, so loading takes little more memory than the weights.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};

use crate::arch::{Architecture, Names, RELATIVE_BIAS};
use crate::{BackendError, ModelDir, PackedBatch, Precision};

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelLoadError {
    /// The weights cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The weights are not a safetensors file. Pull the model again.
    #[error("{} is not a sound safetensors file: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is no longer the one that [`ModelDir::open`] saw.
    #[error("{} was changed while the model was being loaded", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A tensor that the model needs is not there.
    #[error("{} lacks tensor {name}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor does not have the shape that `config.json` calls for.
    #[error("tensor {name} has shape {got:?}, config.json calls for {want:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape expected.
        want: Vec<usize>,
    },
    /// A tensor is of a kind of number that is not converted.
    #[error("tensor {name} is {dtype}, supported are F32, F16 and BF16")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its kind.
        dtype: String,
    },
    /// Bytes need calibration texts, and there are none.
    #[error("int8 and a survey need calibration texts, and there are none")]
    NoCalibration,
    /// A weight is infinite or not a number.
    #[error("tensor {name} holds a number that is not finite")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// A thread count outside 1..=1024 was asked for, or the threads could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// Why not.
        reason: String,
    },
    /// The device does not compute in this precision.
    #[error("{device} does not compute in {precision}: choose {supported}")]
    Precision {
        /// The device.
        device: String,
        /// What was asked for.
        precision: Precision,
        /// What it computes in.
        supported: &'static str,
    },
    /// The GPU failed, or does not compute such a model.
    #[cfg(any(feature = "cuda", feature = "emulated-cuda"))]
    #[error("cannot load the model to the GPU")]
    Device(#[from] embedring_cuda::DeviceError),
    /// The tensor library failed.
    #[error("cannot build the tensors")]
    Tensor(#[from] candle_core::Error),
}

/// All weights of a model without its pooler and heads.
pub(crate) struct Weights {
    pub(crate) embeddings: Embeddings,
    pub(crate) layers: Vec<Layer>,
    /// `[heads, buckets]`, for [`bias_by_distance`](crate::arch::bias_by_distance).
    pub(crate) relative_bias: Option<Vec<f32>>,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
}

/// Tables that are looked up row by row, and their normalisation.
#[derive(Debug)]
pub(crate) struct Embeddings {
    /// `[vocabulary, hidden]`.
    pub(crate) words: Vec<f32>,
    /// `[positions, hidden]`, row 0 for the first token of a text. The row of token type 0 is added
    /// in: there is no other type here.
    pub(crate) positions: Vec<f32>,
    pub(crate) norm: Norm,
}

/// A layer normalisation.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// A linear layer.
pub(crate) struct Linear {
    /// `[outputs, inputs]`, as the file has it.
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// One encoder layer.
pub(crate) struct Layer {
    /// Query, key and value below each other: `[3 * hidden, hidden]`.
    pub(crate) qkv: Linear,
    pub(crate) attention: Linear,
    pub(crate) attention_norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) down_norm: Norm,
}

impl Weights {
    pub(crate) fn load(dir: &ModelDir) -> Result<Self, ModelLoadError> {
        let architecture = dir.architecture();
        let names = &architecture.family.names;
        let mut file = Tensors::read(dir.weights(), &dir.info().digest, names)?;
        let embeddings = Embeddings::take(&mut file, architecture)?;
        let layers = (0..architecture.layers)
            .map(|index| Layer::take(&mut file, architecture, index))
            .collect::<Result<_, _>>()?;
        let relative_bias = match architecture.relative {
            None => None,
            Some(relative) => {
                let shape = [relative.buckets, architecture.heads];
                Some(transposed(&file.take(RELATIVE_BIAS, &shape)?, shape[1]))
            }
        };
        Ok(Self {
            embeddings,
            layers,
            relative_bias,
            bytes: file.bytes_taken,
        })
    }
}

/// `[rows, columns]` as `[columns, rows]`.
fn transposed(numbers: &[f32], columns: usize) -> Vec<f32> {
    let column = |at| numbers.iter().skip(at).step_by(columns).copied();
    (0..columns).flat_map(column).collect()
}

impl Embeddings {
    fn take(file: &mut Tensors, architecture: &Architecture) -> Result<Self, ModelLoadError> {
        let hidden = architecture.hidden;
        let words = file.take(
            "embeddings.word_embeddings.weight",
            &[architecture.vocabulary, hidden],
        )?;
        let offset = architecture.position_offset;
        let mut positions = file.take(
            "embeddings.position_embeddings.weight",
            &[offset + architecture.positions, hidden],
        )?;
        positions.drain(..offset * hidden);
        if architecture.token_types > 0 {
            let types = file.take(
                "embeddings.token_type_embeddings.weight",
                &[architecture.token_types, hidden],
            )?;
            for row in positions.chunks_exact_mut(hidden) {
                for (x, t) in row.iter_mut().zip(&types) {
                    *x += t;
                }
            }
        }
        let norm = Norm::take(file, "embeddings.LayerNorm", hidden)?;
        Ok(Self {
            words,
            positions,
            norm,
        })
    }

    /// Bytes of the tables.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.words.len() + self.positions.len())
    }

    /// Checks that the table of words has all ids of a batch.
    pub(crate) fn check(&self, batch: &PackedBatch<'_>, hidden: usize) -> Result<(), BackendError> {
        check_ids(batch, self.words.len() / hidden)
    }
}

/// Checks that all ids of a batch are below `vocabulary`.
pub(crate) fn check_ids(batch: &PackedBatch<'_>, vocabulary: usize) -> Result<(), BackendError> {
    let unknown = |id: u32| usize::try_from(id).map_or(true, |id| id >= vocabulary);
    for (index, ids) in batch.sequences().enumerate() {
        if let Some(&id) = ids.iter().find(|id| unknown(**id)) {
            return Err(BackendError::UnknownToken {
                index,
                id,
                vocabulary,
            });
        }
    }
    Ok(())
}

impl Norm {
    fn take(file: &mut Tensors, name: &str, size: usize) -> Result<Self, ModelLoadError> {
        // Files converted from TensorFlow use the older pair of names.
        let (weight, bias) = if file.has(&format!("{name}.gamma")) {
            ("gamma", "beta")
        } else {
            ("weight", "bias")
        };
        let weight = file.take(&format!("{name}.{weight}"), &[size])?;
        let bias = file.take(&format!("{name}.{bias}"), &[size])?;
        Ok(Self { weight, bias })
    }
}

impl Linear {
    fn take(
        file: &mut Tensors,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, ModelLoadError> {
        let weight = file.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = file.take(&format!("{name}.bias"), &[outputs])?;
        Ok(Self { weight, bias })
    }

    /// Puts the outputs of another layer behind those of this one.
    fn join(mut self, below: Self) -> Self {
        self.weight.extend(below.weight);
        self.bias.extend(below.bias);
        self
    }
}

impl Layer {
    fn take(
        file: &mut Tensors,
        architecture: &Architecture,
        index: usize,
    ) -> Result<Self, ModelLoadError> {
        let (hidden, inner) = (architecture.hidden, architecture.intermediate);
        let names = &architecture.family.names;
        let name = |part: &str| format!("{}{index}.{part}", names.layer);
        let [query, key, value] = names.qkv.map(name);
        Ok(Self {
            qkv: Linear::take(file, &query, hidden, hidden)?
                .join(Linear::take(file, &key, hidden, hidden)?)
                .join(Linear::take(file, &value, hidden, hidden)?),
            attention: Linear::take(file, &name(names.attention), hidden, hidden)?,
            attention_norm: Norm::take(file, &name(names.attention_norm), hidden)?,
            up: Linear::take(file, &name(names.up), hidden, inner)?,
            down: Linear::take(file, &name(names.down), inner, hidden)?,
            down_norm: Norm::take(file, &name(names.down_norm), hidden)?,
        })
    }
}

/// The tensors of a file that belong to an encoder, as f32.
struct Tensors {
    path: PathBuf,
    found: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    bytes_taken: u64,
}

/// A header larger than this is no encoder's.
const HEADER_SIZE_MAX: u64 = 8 << 20;

impl Tensors {
    fn read(path: &Path, digest: &[u8; 32], names: &Names) -> Result<Self, ModelLoadError> {
        let error = |source| ModelLoadError::Read {
            path: path.to_owned(),
            source,
        };
        let corrupt = |reason| ModelLoadError::Corrupt {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(error)?;
        let size = file.metadata().map_err(error)?.len();
        let mut file = Hashed {
            file,
            hash: Sha256::new(),
        };

        let mut length = [0; 8];
        file.fill(&mut length).map_err(|e| corrupt(e.to_string()))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_SIZE_MAX || length.saturating_add(8) > size {
            return Err(corrupt(format!(
                "a header of {length} bytes in a file of {size}"
            )));
        }
        let mut header = vec![0; usize::try_from(length).unwrap_or(0)];
        file.fill(&mut header).map_err(error)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| corrupt(e.to_string()))?;
        let want = u64::try_from(metadata.data_len())
            .unwrap_or(u64::MAX)
            .saturating_add(8 + length);
        if want != size {
            return Err(corrupt(format!(
                "{size} bytes, the header calls for {want}"
            )));
        }
        let mut found = BTreeMap::new();
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else {
                continue;
            };
            match encoder_name(&name, names) {
                Some(known) => {
                    let numbers = file.numbers(&name, info, path)?;
                    found.insert(known.to_owned(), (info.shape.clone(), numbers));
                }
                None => file
                    .skip(info.data_offsets.1 - info.data_offsets.0)
                    .map_err(error)?,
            }
        }
        if <[u8; 32]>::from(file.hash.finalize()) != *digest {
            return Err(ModelLoadError::Changed {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            found,
            bytes_taken: 0,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.found.contains_key(name)
    }

    fn take(&mut self, name: &str, want: &[usize]) -> Result<Vec<f32>, ModelLoadError> {
        let name = name.to_owned();
        let Some((got, numbers)) = self.found.remove(&name) else {
            return Err(ModelLoadError::MissingTensor {
                path: self.path.clone(),
                name,
            });
        };
        if got != want {
            return Err(ModelLoadError::Shape {
                name,
                got,
                want: want.to_vec(),
            });
        }
        // Such a number would be lost where activations are rounded to bytes, and give a wrong row.
        if !numbers.iter().all(|x| x.is_finite()) {
            return Err(ModelLoadError::NotFinite { name });
        }
        self.bytes_taken += u64::try_from(size_of_val(numbers.as_slice())).unwrap_or(u64::MAX);
        Ok(numbers)
    }
}

/// The name without the prefix that some files have, if the tensor is one that the encoder uses.
fn encoder_name<'a>(name: &'a str, names: &Names) -> Option<&'a str> {
    let name = name.strip_prefix(names.prefix).unwrap_or(name);
    let embeds = name.starts_with("embeddings.") && !name.ends_with("_ids");
    (embeds || name.starts_with(names.layer) || name == RELATIVE_BIAS).then_some(name)
}

/// A file that is hashed as it is read.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl Hashed {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(buffer)?;
        self.hash.update(&*buffer);
        Ok(())
    }

    fn skip(&mut self, bytes: usize) -> io::Result<()> {
        self.blocks(bytes, |_| ())
    }

    /// Reads `bytes` in blocks of a size that divides by that of every number.
    fn blocks(&mut self, mut bytes: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; bytes.min(1 << 16)];
        while bytes > 0 {
            let block = bytes.min(buffer.len());
            self.fill(&mut buffer[..block])?;
            each(&buffer[..block]);
            bytes -= block;
        }
        Ok(())
    }

    fn numbers(
        &mut self,
        name: &str,
        info: &TensorInfo,
        path: &Path,
    ) -> Result<Vec<f32>, ModelLoadError> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "a new kind is refused like the others"
        )]
        let convert: fn(&[u8], &mut Vec<f32>) = match info.dtype {
            Dtype::F32 => |block, out| {
                let (numbers, _) = block.as_chunks();
                out.extend(numbers.iter().map(|&x| f32::from_le_bytes(x)));
            },
            Dtype::F16 => |block, out| {
                let (numbers, _) = block.as_chunks();
                out.extend(
                    numbers
                        .iter()
                        .map(|&x| half::f16::from_le_bytes(x).to_f32()),
                );
            },
            Dtype::BF16 => |block, out| {
                let (numbers, _) = block.as_chunks();
                out.extend(
                    numbers
                        .iter()
                        .map(|&x| half::bf16::from_le_bytes(x).to_f32()),
                );
            },
            other => {
                let dtype = format!("{other:?}");
                return Err(ModelLoadError::Dtype {
                    name: name.to_owned(),
                    dtype,
                });
            }
        };
        let mut numbers = Vec::with_capacity(info.shape.iter().product());
        self.blocks(info.data_offsets.1 - info.data_offsets.0, |b| {
            convert(b, &mut numbers)
        })
        .map_err(|source| ModelLoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(numbers)
    }
}
