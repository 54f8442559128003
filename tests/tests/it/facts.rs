//! Rows of the real model, through all processes, against numbers from its reference.

use embedring_client::{NormalizeOption, Options};
use embedring_tests::{MINILM, Setup, distance};

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
fn begins(row: &[f32], expected: &[f32]) {
    let begin = &row[..expected.len()];
    assert!(
        distance(begin, expected) < 1e-3,
        "{begin:?} is not {expected:?}"
    );
}

#[test]
fn minilm_gives_the_rows_of_its_reference() {
    let instance = Setup::model(MINILM).up();
    let client = instance.client();
    let raw = Options {
        normalize: NormalizeOption::No,
        ..Options::default()
    };
    let texts = ["What is Deep Learning?", "Deep Learning is..."];
    let answer = client.embed_with(&texts, &raw).unwrap();
    let first = answer.row(0);
    begins(
        first,
        &[-0.59045, -0.25218, 0.14960, 0.05506, -0.11826, -0.16704],
    );
    let norm = first.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((norm - 7.58101).abs() < 1e-3, "{norm}");
    let alike = cosine(first, answer.row(1));
    assert!((alike - 0.674_376).abs() < 1e-3, "{alike}");

    let hello = client.embed(&["hello world"]).unwrap();
    begins(
        hello.row(0),
        &[-0.034_478, 0.03102, 0.00673, 0.02611, -0.039_362],
    );
    let short = Options {
        dimensions: 128,
        ..Options::default()
    };
    let test = client.embed_with(&["test"], &short).unwrap();
    assert_eq!(test.dimensions(), 128);
    begins(test.row(0), &[0.020_964_1, 0.045_658_1, -0.066_505_9]);

    let part = &hello.parts()[0];
    assert_eq!((&*part.model, &*part.device), (MINILM, "cpu"));
    let worker = &client.workers()[0];
    assert_eq!((worker.dimensions, worker.max_tokens), (384, 256));

    // By the command line, to the same last bit.
    let ran = instance.run(&["embed", "hello world"]).expect_code(0);
    let row: Vec<f32> = serde_json::from_value(ran.objects()[0]["embedding"].clone()).unwrap();
    assert_eq!(
        embedring_tests::bits(&row),
        embedring_tests::bits(hello.row(0))
    );
}
