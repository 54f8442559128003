//! The CUDA backend on the emulated device, against the reference.

use embedring_model::cuda_device::{Copies, Device, Tuning};
use embedring_model::{
    Backend, BackendError, Cuda, ModelDir, ModelLoadError, PackedBatch, Precision,
};
use serde_json::json;

use crate::models::{self, MINILM, rows};
use crate::scratch::{Checkpoint, FAMILIES, Scratch};

/// Sizes that the kernels take, and not much more.
fn small(family: &str, heads: usize) -> Checkpoint {
    let sizes = match family {
        "distilbert" => json!({ "dim": 128, "n_heads": heads, "hidden_dim": 192 }),
        _ => json!({
            "hidden_size": 128,
            "num_attention_heads": heads,
            "intermediate_size": 192,
        }),
    };
    let mut changes = sizes;
    // Longer than the sequences that one warp computes, and than one step of keys.
    changes["max_position_embeddings"] = json!(150);
    Checkpoint::new(family, &changes, 11)
}

fn load(dir: &ModelDir, precision: Precision, chunk_tokens: usize) -> Cuda {
    let device = Device::emulated(Copies::Late, precision == Precision::Bf16);
    let tuning = Tuning {
        chunk_tokens: Some(chunk_tokens),
        ..Tuning::default()
    };
    Cuda::load(dir, &device, "cuda:emulated", precision, tuning).unwrap()
}

fn sequences(longest: usize) -> Vec<Vec<u32>> {
    let sequence = |(i, length): (usize, usize)| {
        let id = move |at| u32::try_from((i * 31 + at * 17) % 97).unwrap();
        (0..length).map(id).collect()
    };
    [1, longest, 16, 5, 65]
        .into_iter()
        .enumerate()
        .map(sequence)
        .collect()
}

#[test]
fn emulated_rows_are_those_of_the_reference() {
    for family in FAMILIES {
        for heads in [2, 4] {
            let scratch = Scratch::new(&small(family, heads));
            let dir = ModelDir::open(scratch.path()).unwrap();
            let sequences = sequences(dir.info().max_tokens);
            let mut reference = models::backends()[0].load(&dir, 1);
            let want = rows(&mut *reference, &sequences);
            for (precision, slack) in [(Precision::F16, 0.01), (Precision::Bf16, 0.08)] {
                let got = rows(&mut load(&dir, precision, 1000), &sequences);
                for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                    assert!(
                        (got - want).abs() <= slack,
                        "{family}, {heads} heads, {precision}: {got} instead of {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn emulated_rows_do_not_depend_on_the_batch() {
    let scratch = Scratch::new(&small("bert", 2));
    let dir = ModelDir::open(scratch.path()).unwrap();
    let mut backend = load(&dir, Precision::F16, 512);
    let sequences = sequences(dir.info().max_tokens);
    let together = rows(&mut backend, &sequences);
    for (sequence, expected) in sequences.iter().zip(&together) {
        let alone = rows(&mut backend, std::slice::from_ref(sequence));
        assert_eq!(alone, std::slice::from_ref(expected));
    }
    // More than a chunk.
    let many: Vec<_> = sequences.iter().cycle().take(15).cloned().collect();
    let rows = rows(&mut backend, &many);
    for (row, expected) in rows.iter().zip(together.iter().cycle()) {
        assert_eq!(row, expected);
    }
}

#[test]
fn emulated_minilm_is_minilm() {
    let dir = ModelDir::open(&models::path(MINILM)).unwrap();
    let text = vec![vec![
        101, 2129, 2079, 1045, 2562, 2026, 11829, 3647, 1029, 102,
    ]];
    let want = rows(&mut *models::backends()[0].load(&dir, 2), &text);
    let got = rows(&mut load(&dir, Precision::F16, 512), &text);
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let (a, b) = (&got[0], &want[0]);
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    assert!(cosine > 0.99999, "{cosine}");
}

#[test]
fn emulated_devices_refuse_what_they_cannot_compute() {
    let device = Device::emulated(Copies::Late, false);
    let tiny = Scratch::new(&Checkpoint::default());
    let dir = ModelDir::open(tiny.path()).unwrap();
    let error = Cuda::load(&dir, &device, "cuda:0", Precision::F16, Tuning::default());
    assert!(matches!(error, Err(ModelLoadError::Device(_))), "{error:?}");
    let error = Cuda::load(&dir, &device, "cuda:0", Precision::Int8, Tuning::default());
    let message = error.err().map(|error| error.to_string());
    assert_eq!(
        message.as_deref(),
        Some("cuda:0 does not compute in int8: choose f16, bf16")
    );

    let scratch = Scratch::new(&small("bert", 2));
    let dir = ModelDir::open(scratch.path()).unwrap();
    let mut backend = load(&dir, Precision::F16, 512);
    let hidden = backend.info().hidden;
    let batch = PackedBatch::new(&[5, 1_000], &[0, 2]).unwrap();
    let error = backend.run(&batch, &mut vec![0.0; hidden]).unwrap_err();
    assert!(matches!(
        error,
        BackendError::UnknownToken { id: 1_000, .. }
    ));
}
