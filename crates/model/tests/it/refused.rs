//! Broken and unsupported model directories, each with its error.

use embedring_model::{ModelDir, ModelLoadError, ModelOpenError, Pooling};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::models::{Tested, backends};
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
    let dir = match ModelDir::open(scratch.path()) {
        Err(error) => return chain(&error),
        Ok(dir) => dir,
    };
    let said = |tested: &Tested| match tested.try_load(&dir, 1) {
        Err(error) => chain(&error),
        Ok(_) => "accepted".to_owned(),
    };
    let mut messages: Vec<_> = backends().iter().map(said).collect();
    messages.dedup();
    assert_eq!(messages.len(), 1, "backends disagree: {messages:?}");
    messages.swap_remove(0)
}

#[track_caller]
fn check(damage: impl FnOnce(&Scratch), expected: &str) {
    check_family("bert", damage, expected);
}

#[track_caller]
fn check_family(family: &str, damage: impl FnOnce(&Scratch), expected: &str) {
    let scratch = Scratch::new(&Checkpoint::of(family));
    assert_eq!(message(&scratch), "accepted");
    damage(&scratch);
    let got = message(&scratch);
    assert!(got.contains(expected), "{got:?} does not say {expected:?}");
}

#[track_caller]
fn check_config(changes: &Value, expected: &str) {
    check_family_config("bert", changes, expected);
}

#[track_caller]
fn check_family_config(family: &str, changes: &Value, expected: &str) {
    let damage = |scratch: &Scratch| {
        let mut config: Value = serde_json::from_slice(&scratch.read("config.json")).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        scratch.write("config.json", config.to_string());
    };
    check_family(family, damage, expected);
}

#[track_caller]
fn check_tensors(family: &str, change: impl FnOnce(&mut Checkpoint), expected: &str) {
    let mut checkpoint = Checkpoint::of(family);
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
        "model_type = t5 in config.json is not supported (supported: bert, roberta, xlm-roberta, \
         camembert, mpnet, distilbert)",
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
    check_config(
        &json!({ "hidden_size": "48" }),
        "config.json: hidden_size: invalid type: string \"48\"",
    );
    check_config(
        &json!({ "intermediate_size": null }),
        "missing field `intermediate_size`",
    );
}

#[test]
fn unsupported_configurations_of_the_other_families() {
    let xlm = |changes: Value, expected: &str| {
        check_family_config("xlm-roberta", &changes, expected);
    };
    // The shift is checked: a table of positions without room for it has none for a text.
    xlm(
        json!({ "max_position_embeddings": 2 }),
        "max_position_embeddings is 2, a text begins at 2",
    );
    xlm(
        json!({ "pad_token_id": u64::MAX }),
        "a text begins at 18446744073709551615",
    );
    xlm(json!({ "pad_token_id": -1 }), "pad_token_id: invalid value");
    // A shift that is not that of the file makes another table of it.
    xlm(
        json!({ "max_position_embeddings": 43 }),
        "has shape [42, 48]",
    );
    xlm(json!({ "type_vocab_size": 0 }), "type_vocab_size is 0");
    xlm(json!({ "is_decoder": true }), "is_decoder = true");

    let mpnet = |changes: Value, expected: &str| check_family_config("mpnet", &changes, expected);
    mpnet(
        json!({ "relative_attention_num_buckets": 64 }),
        "relative_attention_num_buckets = 64 in config.json is not supported (supported: 32)",
    );
    mpnet(
        json!({ "num_attention_heads": 6 }),
        "relative_attention_bias.weight has shape [32, 3], config.json calls for [32, 6]",
    );

    let distil = |changes: Value, expected: &str| {
        check_family_config("distilbert", &changes, expected);
    };
    distil(json!({ "activation": "silu" }), "activation = silu");
    distil(json!({ "n_heads": 5 }), "dim 48 is not a multiple of 5");
    distil(json!({ "n_layers": 0 }), "n_layers is 0");
    distil(json!({ "dim": null }), "missing field `dim`");
    distil(json!({ "hidden_dim": 100 }), "has shape [112, 48]");
}

#[test]
fn families_lack_what_is_theirs() {
    for (family, name) in [
        ("xlm-roberta", "embeddings.token_type_embeddings.weight"),
        ("mpnet", "encoder.relative_attention_bias.weight"),
        ("mpnet", "encoder.layer.0.attention.attn.q.weight"),
        ("distilbert", "transformer.layer.1.ffn.lin2.bias"),
    ] {
        let lacks = format!("lacks tensor {name}");
        check_tensors(family, |c| drop(c.tensors.remove(name).unwrap()), &lacks);
    }
}

/// Another family's files are told apart by their tensors, if the configuration lies.
#[test]
fn a_family_does_not_take_another_s_tensors() {
    let mut checkpoint = Checkpoint::of("mpnet");
    checkpoint.config["model_type"] = "roberta".into();
    checkpoint.config["pad_token_id"] = 1.into();
    checkpoint.config["type_vocab_size"] = 1.into();
    let got = message(&Scratch::new(&checkpoint));
    assert!(got.contains("lacks tensor"), "{got}");
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
        "bert",
        |c| drop(c.tensors.remove(name)),
        &format!("lacks tensor {name}"),
    );
    check_tensors(
        "bert",
        |c| c.tensors.get_mut(name).unwrap().0 = vec![24, 96],
        "has shape [24, 96], config.json calls for [48, 48]",
    );
    check_tensors(
        "bert",
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
    for tested in backends() {
        let error = tested.try_load(&dir, 1).err();
        assert!(
            matches!(error, Some(ModelLoadError::Changed { .. })),
            "{}: {error:?}",
            tested.name
        );
    }
}

#[test]
fn impossible_thread_counts() {
    let scratch = Scratch::new(&Checkpoint::default());
    let dir = ModelDir::open(scratch.path()).unwrap();
    for tested in backends() {
        for threads in [0, 100_000] {
            let error = tested.try_load(&dir, threads).err();
            assert!(
                matches!(error, Some(ModelLoadError::Threads { .. })),
                "{}: {error:?}",
                tested.name
            );
        }
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
