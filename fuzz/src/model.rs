//! The smallest model that loads: one layer, hidden 4, a vocabulary of a few pieces.

use serde_json::{Value, json};

/// Files of a model directory, as places in [`file`].
pub const FILES: [&str; 8] = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "model.safetensors",
];

/// Kinds of tokeniser that [`tokenizer`] makes.
pub const TOKENIZERS: u8 = 8;

const HIDDEN: usize = 4;
const POSITIONS: usize = 64;

/// Special tokens first, then words, pieces of words, single characters, and the same as tails.
const PIECES: [&str; 24] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "un", "believ", "able", "a", "b", "c",
    "e", "s", ".", ",", "!", "[", "]", "中", "文", "1", "σ", "é",
];

fn vocabulary() -> Vec<String> {
    let heads = PIECES.iter().map(|&piece| piece.to_owned());
    let tails = PIECES[4..].iter().map(|piece| format!("##{piece}"));
    heads.chain(tails).collect()
}

/// A `tokenizer.json`. Bits of `kind`: 1 no Chinese characters apart, 2 an added token that takes
/// the space before it and one that must be a word, 4 cased.
pub fn tokenizer(kind: u8) -> Value {
    let vocabulary = vocabulary();
    let ids: serde_json::Map<String, Value> = vocabulary
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.clone(), json!(id)))
        .collect();
    let added = |id: usize, content: &str, single_word: bool, strip: bool, special: bool| {
        json!({
            "id": id, "content": content, "special": special, "single_word": single_word,
            "lstrip": strip, "rstrip": strip, "normalized": false,
        })
    };
    let mut tokens: Vec<Value> = PIECES[..4]
        .iter()
        .enumerate()
        .map(|(id, piece)| added(id, piece, false, false, true))
        .collect();
    if kind & 2 != 0 {
        tokens.push(added(vocabulary.len(), "<mask>", false, true, true));
        tokens.push(added(vocabulary.len() + 1, "word", true, false, false));
    }
    let special = |name: &str, id: usize| json!({ "id": name, "ids": [id], "tokens": [name] });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": kind & 1 == 0,
            "strip_accents": null, "lowercase": kind & 4 == 0,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "[CLS]", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "[SEP]", "type_id": 0 } },
            ],
            "pair": [],
            "special_tokens": { "[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3) },
        },
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids,
        },
    })
}

/// The bytes of `FILES[index]` of a good model.
pub fn file(index: usize) -> Vec<u8> {
    // Two rows more than the vocabulary, for the added tokens.
    let rows = vocabulary().len() + 2;
    let json = match FILES[index] {
        "config.json" => json!({
            "model_type": "bert", "hidden_size": HIDDEN, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 5, "hidden_act": "gelu",
            "vocab_size": rows, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "is_decoder": false,
        }),
        "modules.json" => json!([
            { "path": "", "type": "sentence_transformers.models.Transformer" },
            { "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
            { "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" },
        ]),
        "1_Pooling/config.json" => json!({
            "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true,
            "include_prompt": true,
        }),
        "tokenizer_config.json" => json!({ "model_max_length": 48 }),
        "sentence_bert_config.json" => json!({ "max_seq_length": 40, "do_lower_case": false }),
        "config_sentence_transformers.json" => json!({
            "prompts": { "query": "a: " }, "default_prompt_name": null,
        }),
        "tokenizer.json" => tokenizer(2),
        _ => return weights(rows),
    };
    json.to_string().into_bytes()
}

fn weights(rows: usize) -> Vec<u8> {
    const INNER: usize = 5;
    let layer = "encoder.layer.0";
    let mut shapes: Vec<(String, Vec<usize>)> = [
        ("word_embeddings", rows),
        ("position_embeddings", POSITIONS),
        ("token_type_embeddings", 2),
    ]
    .map(|(name, rows)| (format!("embeddings.{name}.weight"), vec![rows, HIDDEN]))
    .to_vec();
    for norm in [
        "embeddings.LayerNorm".to_owned(),
        format!("{layer}.attention.output.LayerNorm"),
        format!("{layer}.output.LayerNorm"),
    ] {
        shapes.push((format!("{norm}.weight"), vec![HIDDEN]));
        shapes.push((format!("{norm}.bias"), vec![HIDDEN]));
    }
    for (name, outputs, inputs) in [
        ("attention.self.query", HIDDEN, HIDDEN),
        ("attention.self.key", HIDDEN, HIDDEN),
        ("attention.self.value", HIDDEN, HIDDEN),
        ("attention.output.dense", HIDDEN, HIDDEN),
        ("intermediate.dense", INNER, HIDDEN),
        ("output.dense", HIDDEN, INNER),
    ] {
        shapes.push((format!("{layer}.{name}.weight"), vec![outputs, inputs]));
        shapes.push((format!("{layer}.{name}.bias"), vec![outputs]));
    }
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in shapes {
        let start = data.len();
        for number in 0..shape.iter().product::<usize>() {
            let x = f32::from(u8::try_from(number * 7 % 31).unwrap_or(0)) / 16.0 - 0.9;
            data.extend(x.to_le_bytes());
        }
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let length = u64::try_from(header.len()).unwrap_or(0).to_le_bytes();
    [&length, header.as_bytes(), &data].concat()
}
