//! The forward pass against rows that PyTorch made, on checkpoints that its library saved; see
//! `tests/golden/make.py`.

use std::collections::BTreeMap;
use std::path::Path;

use embedring_model::ModelDir;
use serde::Deserialize;

use crate::models::{backends, rows};
use crate::naive::relative_error;
use crate::scratch::Scratch;

#[derive(Deserialize)]
struct Golden {
    ids: Vec<Vec<u32>>,
    mean: Vec<Vec<f64>>,
    first: Vec<Vec<f64>>,
}

#[test]
fn every_family_as_pytorch_runs_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let golden = std::fs::read(folder.join("rows.json")).unwrap();
    let golden: BTreeMap<String, Golden> = serde_json::from_slice(&golden).unwrap();
    assert_eq!(golden.len(), 4);
    for (family, golden) in golden {
        for (cls, want) in [(false, &golden.mean), (true, &golden.first)] {
            let scratch = Scratch::of_files(&folder.join(&family), cls);
            let dir = ModelDir::open(scratch.path()).unwrap();
            for tested in backends() {
                let mut backend = tested.load(&dir, 2);
                let got = rows(&mut *backend, &golden.ids);
                assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(want) {
                    let off = relative_error(got, want);
                    assert!(
                        off <= tested.tolerance,
                        "{family} on {}: {off}",
                        tested.name
                    );
                }
            }
        }
    }
}
