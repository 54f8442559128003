//! Broken and unsupported model directories, each with its error.

use embedring_model::{CandleCpu, ModelDir, ModelLoadError, ModelOpenError, Pooling};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::scratch::{Checkpoint, Scratch};

/// What opening or loading says, innermost cause last.
fn message(scratch: &Scratch) -> String {
    let chain = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    };
    match ModelDir::open(scratch.path()) {
        Err(error) => chain(&error),
        Ok(dir) => match CandleCpu::load(&dir, 1) {
            Err(error) => chain(&error),
            Ok(_) => "accepted".to_owned(),
        },
    }
}

#[track_caller]
fn check(damage: impl FnOnce(&Scratch), expected: &str) {
    let scratch = Scratch::new(&Checkpoint::default());
    assert_eq!(message(&scratch), "accepted");
    damage(&scratch);
    let got = message(&scratch);
    assert!(got.contains(expected), "{got:?} does not say {expected:?}");
}

#[track_caller]
fn check_config(changes: &Value, expected: &str) {
    let damage = |scratch: &Scratch| {
        let mut config: Value = serde_json::from_slice(&scratch.read("config.json")).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        scratch.write("config.json", config.to_string());
    };
    check(damage, expected);
}

#[track_caller]
fn check_tensors(change: impl FnOnce(&mut Checkpoint), expected: &str) {
    let mut checkpoint = Checkpoint::default();
    change(&mut checkpoint);
    let got = message(&Scratch::new(&checkpoint));
    assert!(got.contains(expected), "{got:?} does not say {expected:?}");
}

#[test]
fn no_directory() {
    let scratch = Scratch::new(&Checkpoint::default());
    let nowhere = scratch.path().join("nowhere");
    let error = ModelDir::open(&nowhere).unwrap_err();
    assert!(matches!(error, ModelOpenError::NotADirectory { path } if path == nowhere));
}

#[test]
fn missing_and_broken_files() {
    check(|s| s.remove("config.json"), "config.json: No such file");
    check(
        |s| s.remove("model.safetensors"),
        "model.safetensors: No such file",
    );
    check(
        |s| s.remove("1_Pooling/config.json"),
        "config.json: No such file",
    );
    check(|s| s.write("config.json", "{"), "cannot parse");
    check(
        |s| s.write("config.json", "{}"),
        "missing field `model_type`",
    );
    check(|s| s.write("modules.json", "[{}]"), "missing field `path`");
    check(
        |s| s.write("config_sentence_transformers.json", "[1]"),
        "cannot parse",
    );
}

#[test]
fn unsupported_configurations() {
    check_config(
        &json!({ "model_type": "t5" }),
        "model_type = t5 in config.json is not supp",
    );
    check_config(&json!({ "hidden_act": "silu" }), "hidden_act = silu");
    check_config(&json!({ "is_decoder": true }), "is_decoder = true");
    check_config(
        &json!({ "position_embedding_type": "relative_key" }),
        "position_embedding_type = relative_key",
    );
    check_config(
        &json!({ "num_attention_heads": 5 }),
        "not a multiple of 5 heads",
    );
    check_config(
        &json!({ "num_attention_heads": 0 }),
        "num_attention_heads is 0",
    );
    check_config(&json!({ "vocab_size": u64::MAX }), "vocab_size is");
    check_config(
        &json!({ "max_position_embeddings": 2 }),
        "longest sequence is 2 tokens",
    );
}

#[test]
fn unsupported_modules_and_pooling() {
    let module = |kind: &str, path: &str| json!({ "type": format!("s.m.{kind}"), "path": path });
    let modules = |list: Value| move |s: &Scratch| s.write("modules.json", list.to_string());
    let transformer = module("Transformer", "");
    let pooling = module("Pooling", "1_Pooling");
    let dense = module("Dense", "2_Dense");
    check(
        modules(json!([transformer, pooling, dense])),
        "type = s.m.Dense",
    );
    check(modules(json!([transformer])), "no Pooling module");
    check(modules(json!([])), "no Transformer module");
    check(modules(json!([pooling, transformer])), "in this order");
    check(
        modules(json!([module("Transformer", "../x"), pooling])),
        "path = ../x",
    );
    check(
        modules(json!([module("Transformer", "/etc"), pooling])),
        "path = /etc",
    );

    let pooling = |config: Value| {
        move |s: &Scratch| {
            s.write("1_Pooling/config.json", config.to_string());
        }
    };
    check(
        pooling(json!({ "pooling_mode_max_tokens": true })),
        "[max_tokens]",
    );
    check(
        pooling(json!({ "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true })),
        "[cls_token, mean_tokens]",
    );
    check(pooling(json!({})), "pooling_mode = []");
    check(
        pooling(json!({ "pooling_mode_mean_tokens": true, "include_prompt": false })),
        "include_prompt = false",
    );
}

#[test]
fn broken_tensors() {
    let name = "encoder.layer.1.attention.self.key.weight";
    check_tensors(
        |c| drop(c.tensors.remove(name)),
        &format!("lacks tensor {name}"),
    );
    check_tensors(
        |c| c.tensors.get_mut(name).unwrap().0 = vec![24, 96],
        "has shape [24, 96], config.json calls for [48, 48]",
    );
    check_tensors(
        |c| c.dtype = Dtype::F64,
        "is F64, supported are F32, F16 and BF16",
    );
}

#[test]
fn corrupt_weights() {
    let broken = |change: fn(&mut Vec<u8>)| {
        move |s: &Scratch| {
            let mut bytes = s.read("model.safetensors");
            change(&mut bytes);
            s.write("model.safetensors", bytes);
        }
    };
    check(broken(Vec::clear), "not a sound safetensors file");
    check(broken(|b| b.truncate(5)), "not a sound safetensors file");
    check(broken(|b| b.truncate(b.len() - 1)), "the header calls for");
    check(broken(|b| b.push(0)), "the header calls for");
    check(
        broken(|b| b[..8].fill(0xff)),
        "a header of 18446744073709551615 bytes",
    );
    check(broken(|b| b[8] = b'['), "not a sound safetensors file");
}

#[test]
fn weights_replaced_after_opening() {
    let scratch = Scratch::new(&Checkpoint::default());
    let dir = ModelDir::open(scratch.path()).unwrap();
    let mut bytes = scratch.read("model.safetensors");
    *bytes.last_mut().unwrap() ^= 1;
    scratch.write("model.safetensors", bytes);
    let error = CandleCpu::load(&dir, 1).unwrap_err();
    assert!(matches!(error, ModelLoadError::Changed { .. }), "{error}");
}

#[test]
fn impossible_thread_counts() {
    let scratch = Scratch::new(&Checkpoint::default());
    let dir = ModelDir::open(scratch.path()).unwrap();
    for threads in [0, 100_000] {
        let error = CandleCpu::load(&dir, threads).unwrap_err();
        assert!(matches!(error, ModelLoadError::Threads { .. }), "{error}");
    }
}

#[test]
fn optional_files_have_the_usual_defaults() {
    let scratch = Scratch::new(&Checkpoint {
        cls: true,
        ..Checkpoint::default()
    });
    let open = || ModelDir::open(scratch.path()).unwrap().info().clone();
    assert_eq!(
        (open().pooling, open().normalize, open().max_tokens),
        (Pooling::Cls, false, 40)
    );

    scratch.write("tokenizer_config.json", r#"{"model_max_length": 1e30}"#);
    assert_eq!(open().max_tokens, 40);
    scratch.write("tokenizer_config.json", r#"{"model_max_length": 30}"#);
    assert_eq!(open().max_tokens, 30);
    scratch.write("sentence_bert_config.json", r#"{"max_seq_length": null}"#);
    assert_eq!(open().max_tokens, 30);
    scratch.write("sentence_bert_config.json", r#"{"max_seq_length": 20}"#);
    assert_eq!(open().max_tokens, 20);
    scratch.write("sentence_bert_config.json", r#"{"max_seq_length": 1000}"#);
    assert_eq!(open().max_tokens, 40);

    let prompts = json!({ "prompts": { "query": "query: " }, "default_prompt_name": "query" });
    scratch.write("config_sentence_transformers.json", prompts.to_string());
    assert_eq!(open().prompts["query"], "query: ");
    assert_eq!(open().default_prompt.as_deref(), Some("query"));
    let prompts = json!({ "prompts": null, "default_prompt_name": "query" });
    scratch.write("config_sentence_transformers.json", prompts.to_string());
    assert!(message(&scratch).contains("default_prompt_name \"query\""));
    scratch.remove("config_sentence_transformers.json");

    scratch.write("1_Pooling/config.json", r#"{"pooling_mode": "cls"}"#);
    assert_eq!(open().pooling, Pooling::Cls);
    scratch.remove("modules.json");
    assert_eq!((open().pooling, open().normalize), (Pooling::Mean, false));
}
