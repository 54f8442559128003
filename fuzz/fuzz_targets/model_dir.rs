//! A model directory from anywhere: one file of a good one is damaged, and whatever still opens is
//! used.
//!
//! Input: which file (1 byte), how (1 byte), then for
//! * 0: the whole file;
//! * 1: offset (2), bytes to take out (1), bytes to put in (the rest);
//! * 2: pairs of offset (2) and byte (1) to write over;
//! * 3: pairs of place (1) and number (8): the number there, counted from 0, is replaced.
//!
//! For `model.safetensors`, 1 and 3 change the JSON header, and its length before it is made right.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use embedring_fuzz::{Bytes, FILES, Guard, file, scratch};
use embedring_model::{
    Backend, CandleCpu, ModelDir, PackedBatch, Tokenizer, TruncationSide, finish_row,
};
use libfuzzer_sys::fuzz_target;

/// A thousand times what the model takes.
#[global_allocator]
static GUARD: Guard = Guard { limit: 64 << 20 };

const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";

/// Threads that end between two inputs look like leaks to the sanitizer, and looking for them would
/// take most of the time. A leak is no fault of a parser.
#[unsafe(no_mangle)]
extern "C" fn __lsan_is_turned_off() -> i32 {
    1
}

fuzz_target!(|data: &[u8]| {
    let (path, good) = good_model();
    let mut input = Bytes::new(data);
    let index = usize::from(input.u8()) % FILES.len();
    let place = path.join(FILES[index]);
    let damaged = damage(FILES[index], good[index].clone(), &mut input);
    std::fs::write(&place, damaged).expect("the scratch folder can be written");
    use_it(path, FILES[index]);
    std::fs::write(&place, &good[index]).expect("the scratch folder can be written");
});

fn good_model() -> (&'static Path, &'static [Vec<u8>]) {
    static GOOD: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let path = scratch();
    let files = GOOD.get_or_init(|| {
        std::fs::create_dir_all(path.join("1_Pooling")).expect("a folder");
        let files: Vec<_> = (0..FILES.len()).map(file).collect();
        for (name, bytes) in FILES.iter().zip(&files) {
            std::fs::write(path.join(name), bytes).expect("a file");
        }
        assert!(use_it(path, ""), "the model is good before it is damaged");
        files
    });
    (path, files)
}

fn damage(name: &str, mut bytes: Vec<u8>, input: &mut Bytes<'_>) -> Vec<u8> {
    let how = input.u8() % 4;
    if how == 0 {
        return input.rest().to_vec();
    }
    if how == 2 {
        for edit in input.rest().chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
            bytes[at] = edit[2];
        }
        return bytes;
    }
    if name != WEIGHTS {
        return damage_text(&bytes, how, input);
    }
    let mut length = [0; 8];
    length.copy_from_slice(&bytes[..8]);
    let end = 8 + usize::try_from(u64::from_le_bytes(length)).expect("a small file");
    let header = damage_text(&bytes[8..end], how, input);
    let length = u64::try_from(header.len()).expect("a small file");
    [&length.to_le_bytes(), header.as_slice(), &bytes[end..]].concat()
}

fn damage_text(text: &[u8], how: u8, input: &mut Bytes<'_>) -> Vec<u8> {
    let mut text = text.to_vec();
    if how == 1 {
        let at = usize::from(input.u16()) % (text.len() + 1);
        let end = (at + usize::from(input.u8())).min(text.len());
        text.splice(at..end, input.rest().iter().copied());
        return text;
    }
    for edit in input.rest().chunks_exact(9) {
        let mut edit = Bytes::new(edit);
        let (place, number) = (usize::from(edit.u8()), edit.u64());
        let digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_digit);
        let starts = (0..text.len()).filter(|&at| digit(at) && (at == 0 || !digit(at - 1)));
        let Some(start) = starts.clone().nth(place % starts.count().max(1)) else {
            break;
        };
        let end = (start..).find(|&at| !digit(at)).unwrap_or(start);
        text.splice(start..end, number.to_string().into_bytes());
    }
    text
}

/// Whether all of it opens and runs. Of the two slow parts, the one that has nothing to do with the
/// damaged file is left out.
fn use_it(path: &Path, damaged: &str) -> bool {
    let Ok(dir) = ModelDir::open(path) else {
        return false;
    };
    let ids = if damaged == WEIGHTS {
        Vec::new()
    } else {
        tokenize(&dir)
    };
    if damaged == TOKENIZER {
        return !ids.is_empty();
    }
    // Whatever the tokeniser said, the weights are loaded.
    run(&dir, if ids.is_empty() { &[0, 1, 2] } else { &ids })
}

/// The ids of a last text; empty when there is no tokeniser.
fn tokenize(dir: &ModelDir) -> Vec<u32> {
    let mut ids = Vec::new();
    let Ok(tokenizer) = Tokenizer::open(dir) else {
        return ids;
    };
    for side in [TruncationSide::Right, TruncationSide::Left] {
        for text in [
            "",
            "hello unbelievable worlds. 中文 é",
            "a b c 1! <mask> word",
        ] {
            ids.clear();
            if let Ok(encoded) = tokenizer.encode("a: ", text, 9, side, false, &mut ids) {
                assert_eq!(encoded.tokens, ids.len());
                assert!(ids.len() <= 9.min(dir.info().max_tokens));
            }
        }
    }
    ids
}

fn run(dir: &ModelDir, ids: &[u32]) -> bool {
    let Ok(mut model) = CandleCpu::load(dir, 1) else {
        return false;
    };
    let (hidden, offsets) = (model.info().hidden, [0, ids.len()]);
    let batch = PackedBatch::new(ids, &offsets).expect("one sequence");
    let mut pooled = vec![0.0; hidden];
    // Ids that the damaged model does not have, or more than it has positions for, are refused.
    let ran = model.run(&batch, &mut pooled).is_ok();
    let mut row = vec![0.0; hidden];
    ran && finish_row(&pooled, dir.info().normalize, &mut row).is_ok()
}
