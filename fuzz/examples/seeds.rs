//! Writes `seeds/TARGET/NAME`: a few good inputs for each target, to start from. The layouts are
//! those that the targets describe in their first lines.

use std::path::Path;

use embedring_optimizer::Planner;
use embedring_protocol::{
    BOARD_MAGIC, BoardHeader, BoardLayout, Name, Plan, ProcessId, Report, RequestHeader,
    RequestWriter, ResponseHeader, ResponseWriter, RowFlags, RowMeta, Status, TextFlags,
    WorkerIdentity, WorkerPlan, request_bytes, response_bytes,
};
use zerocopy::IntoBytes;

/// No seed is larger, so that they can be kept with the source.
const BYTES_MAX: usize = 32 << 10;

fn main() {
    requests();
    responses();
    boards();
    saved();
    configs();
    model_dirs();
    wheels();
    texts();
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    assert!(bytes.len() <= BYTES_MAX, "{target}/{name} is too large");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), bytes).expect("a file");
}

fn requests() {
    for (name, texts) in [
        ("one", vec!["hello"]),
        (
            "some",
            vec!["What is a ring?", "", "Ein Wort, zwei Wörter", "中文"],
        ),
    ] {
        let bytes = texts.iter().map(|text| text.len()).sum();
        let mut slot = vec![0; request_bytes(7, texts.len(), bytes)];
        let mut header = RequestHeader::new(7, 1_000_000_000);
        header.prompt_kind = 1;
        header.dimensions = 128;
        let mut writer =
            RequestWriter::new(&mut slot, header, "query: ", texts.len()).expect("a slot");
        for text in texts {
            writer.push(text, TextFlags::CUT).expect("room");
        }
        writer.finish().expect("all texts");
        write("request", name, &[&[0], slot.as_slice()].concat());
    }
    // Header (44 bytes of recipe), two damages, two texts, no slack, a prompt, the texts.
    let mut recipe = vec![1];
    recipe.extend([5; 31]);
    recipe.extend([2, 8, 0, 1, 60, 0, 255, 2, 0, 3]);
    recipe.extend(b"abc\x01\x05hello\x00\x05world");
    write("request", "recipe", &recipe);
}

fn responses() {
    for (name, rows, dimensions) in [("rows", 3, 8), ("none", 0, 0)] {
        let mut words = vec![0u32; response_bytes(rows, dimensions) / 4];
        let slot = words.as_mut_bytes();
        let mut writer = ResponseWriter::new(slot, rows, dimensions).expect("the right size");
        let metas: Vec<_> = (0..rows)
            .map(|index| {
                writer.row_mut(index).fill(0.5);
                RowMeta::new(9, RowFlags::good(index == 1, index == 2))
            })
            .collect();
        let status = if rows > 0 {
            Status::Ok
        } else {
            Status::Overloaded
        };
        writer.finish(ResponseHeader::new(7, status), &metas);
        write("response", name, &[&[0], &*slot].concat());
    }
    let mut recipe = vec![1];
    recipe.extend([0; 18]);
    recipe.extend([
        0, 3, 4, 1, 80, 0, 255, 9, 0, 0, 9, 0, 3, 9, 0, 64, 63, 64, 65,
    ]);
    write("response", "recipe", &recipe);
}

/// A lock whose value was published once: the count, the first copy, the second one, which counts.
fn lock(value: &[u8]) -> Vec<u8> {
    let first = vec![0; value.len()];
    [&1u64.to_le_bytes(), first.as_slice(), value].concat()
}

fn boards() {
    let process = ProcessId {
        pid: 4242,
        start_ticks: 99,
    };
    let header = BoardHeader {
        version: 1,
        clients_max: 64,
        requests_in_flight_max: 8,
        request_slot_bytes: 65_536,
        response_slot_bytes: 65_536,
    };
    let mut plan = Plan {
        epoch: 3,
        published_ns: 1_000,
        ..Plan::default()
    };
    plan.workers[0] = WorkerPlan {
        ns_per_token: 20_000,
        ns_per_batch: 1_000_000,
        batch_tokens_max: 2_048,
        queue_tokens_max: 100_000,
        ps_per_square: 43_000,
        squares_per_token: 30,
        worst_1024: 1_200,
        ..WorkerPlan::default()
    };
    let mut bytes = vec![0, 0];
    bytes.extend(BOARD_MAGIC.to_le_bytes());
    bytes.extend(lock(header.as_bytes()));
    bytes.extend(lock(process.as_bytes()));
    bytes.extend(7u64.to_le_bytes());
    bytes.extend(lock(plan.as_bytes()));
    bytes.resize(2 + std::mem::offset_of!(BoardLayout, workers), 0);
    let head = bytes.clone();

    let identity = WorkerIdentity {
        process,
        incarnation: 1,
        name: Name::lossy("cpu"),
        device: Name::lossy("cpu"),
        model: Name::lossy("all-MiniLM-L6-v2"),
        model_id: embedring_protocol::ModelId([7; 16]),
        dimensions: 384,
        max_tokens: 256,
        precision: 0,
        text_tokens_max: 0,
        memory_max_bytes: 1 << 30,
        reports_before: 0,
    };
    bytes.extend(2u64.to_le_bytes());
    bytes.extend(lock(identity.as_bytes()));
    for number in [5u64, 3, 120, 1_000, 90_000_000, 95_000_000] {
        bytes.extend(number.to_le_bytes());
    }
    write("board", "one_worker", &bytes);

    // No word of the worker's place is zero, so each of its locks is published.
    let mut flood = head;
    flood[0] = 1;
    flood.extend([2u64, 10, 4, 1_000_000].map(u64::to_le_bytes).concat());
    write("board", "flood", &flood);
}

fn saved() {
    let mut planner = Planner::default();
    planner.learn();
    planner.begin(0, &WorkerIdentity::default());
    for batch in 1..=40 {
        let tokens = 20 + 37 * (batch % 11);
        planner.observe(
            0,
            &Report {
                batch,
                finished_ns: batch * 10_000_000,
                texts: 1 + batch % 3,
                tokens,
                tokens_squared: tokens * tokens,
                run_ns: 1_000_000 + 9_000 * tokens,
                longest_tokens: tokens,
                ..Report::default()
            },
        );
    }
    write(
        "saved",
        "models",
        &[&[0], planner.save().as_slice()].concat(),
    );
    let learned = planner.save_learned(&[]).expect("it learns");
    write("saved", "learned", &[&[1], learned.as_slice()].concat());
}

fn configs() {
    let file = "instance = \"search\"\n[model]\nname = \"tiny-bert\"\nmax_tokens = 128\n\
                [limits]\nclients_max = 8\nrequest_slot_bytes = \"64KiB\"\n\
                [workers.cpu]\nthreads = 2\nidle_unload_s = 60\n[log]\nformat = \"json\"\n";
    write("config", "file", file.as_bytes());
    write(
        "config",
        "environment",
        b"\0INSTANCE\0other\0WORKERS__GPU__THREADS\x004",
    );
    let all = embedring_config::Config::default().to_toml();
    write("config", "all_keys", all.as_bytes());
}

fn model_dirs() {
    for (index, file) in embedring_fuzz::FILES.iter().enumerate() {
        let number = u8::try_from(index).unwrap_or(0);
        let name = file.replace('/', "_");
        // Nothing taken out, a space put in at the front.
        write(
            "model_dir",
            &format!("{name}.splice"),
            &[number, 1, 0, 0, 0, b' '],
        );
        let mut replaced = vec![number, 3, 4];
        replaced.extend(3u64.to_le_bytes());
        write("model_dir", &format!("{name}.number"), &replaced);
        let whole = [&[number, 0], embedring_fuzz::file(index).as_slice()].concat();
        if whole.len() <= BYTES_MAX {
            write("model_dir", &name, &whole);
        }
    }
}

fn wheels() {
    let entry = |path: &str| {
        // The digest of `{}`.
        let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        format!("{{\"path\":\"{path}\",\"bytes\":2,\"sha256\":\"{digest}\"}}")
    };
    let files = ["config.json", "tokenizer.json", "model.safetensors"].map(entry);
    let manifest = format!(
        "{{\"version\":1,\"name\":\"small\",\"source\":\"s\",\"weights_checked\":false,\
         \"files\":[{}]}}",
        files.join(",")
    );
    write("wheel", "manifest", &[b"\0", manifest.as_bytes()].concat());
    write("wheel", "name", b"\x01org/name");
    write("wheel", "files", b"\x02\x00\x02{}\x02{}\x04data\x02{}");
    write(
        "wheel",
        "files_missing",
        b"\x02\x02{}\x02{}\x02{}\x04data\xff",
    );
}

fn texts() {
    for (name, kind, options, tokens, text) in [
        ("right", 0, 0x10, 12, "hello, unbelievable worlds! "),
        ("left", 1, 0x21, 9, "a b c 中文 1. "),
        ("cut_right", 2, 0xf2, 20, "hello world <mask> word é "),
        (
            "cut_left",
            11,
            0xf3,
            20,
            "Ünbelievable ΣΑΣ [SEP] \u{301}e\u{301} ",
        ),
    ] {
        let mut bytes = vec![kind, options, tokens, 0, 1, 3];
        bytes.extend(b"a: ");
        bytes.extend(text.as_bytes());
        write("text", name, &bytes);
    }
}
