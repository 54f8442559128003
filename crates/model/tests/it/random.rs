//! Random batches against the twin: lengths from empty texts to whole windows, 1 to 1,000 texts, odd
//! shapes of every family and real weights, on every backend.
//!
//! In the ordinary run a round of each kind. `EMBEDRING_RANDOM_SECONDS=3600` goes on for an hour, and
//! `EMBEDRING_RANDOM_SEED` begins at the round that a failure named.

use std::io::Write as _;
use std::time::{Duration, Instant};

use embedring_model::{ModelDir, Tokenizer, TruncationSide};
use serde_json::{Value, json};

use crate::models::{self, Tested, backends, rows};
use crate::naive::{Naive, relative_error};
use crate::scratch::{Checkpoint, FAMILIES, Random, Scratch};

const WINDOW: usize = 512;
const TEXTS_MAX: usize = 1000;
/// Batches of a round.
const BATCHES: usize = 3;

/// What a text may be made of.
const WORDS: [&str; 16] = [
    "the",
    "account",
    "is",
    "unbelievably",
    "naïve",
    "Straße",
    "東京",
    "🙂",
    "\u{0}",
    "\u{fffd}",
    "42",
    "x_y.z",
    "...",
    "  ",
    "\n",
    "donaudampfschifffahrtsgesellschaft",
];

/// A model to try, and sequences whose rows are known.
struct Subject {
    name: String,
    dir: ModelDir,
    sequences: Vec<Vec<u32>>,
    rows: Vec<Vec<f64>>,
    /// Texts of a batch at most.
    texts_max: usize,
    /// Of what backends may be off: random weights make rounding grow from layer to layer.
    slack: f64,
    /// Held while the model is in use.
    _files: Option<Scratch>,
}

impl Subject {
    /// A random checkpoint of some family, with heads and inner rows of odd widths.
    fn scratch(random: &mut Random) -> Self {
        let family = FAMILIES[random.below(FAMILIES.len())];
        let (heads, width) = (1 + random.below(6), 12 + random.below(30));
        let (hidden, inner) = (heads * width, 16 + random.below(200));
        let layers = 1 + random.below(3);
        let positions = WINDOW + 2;
        let sizes: Value = if family == "distilbert" {
            json!({ "dim": hidden, "n_heads": heads, "n_layers": layers, "hidden_dim": inner,
                    "max_position_embeddings": positions })
        } else {
            json!({ "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers,
                    "intermediate_size": inner, "max_position_embeddings": positions })
        };
        let mut checkpoint = Checkpoint::new(family, &sizes, random.bits());
        checkpoint.cls = random.below(3) == 0;
        calm(&mut checkpoint);
        let files = Scratch::new(&checkpoint);
        let dir = ModelDir::open(files.path()).unwrap();
        let sequences = (0..40)
            .map(|_| {
                let length = 1 + random.mostly_small(WINDOW);
                (0..length)
                    .map(|_| u32::try_from(random.below(100)).unwrap())
                    .collect()
            })
            .collect();
        let name = format!("{family} {sizes}");
        Self {
            slack: 2.0,
            ..Self::new(name, dir, &checkpoint, sequences, Some(files))
        }
    }

    /// A real model on `texts` texts.
    fn real(model: &str, texts: usize, random: &mut Random) -> Self {
        let path = models::path(model);
        let dir = ModelDir::open(&path).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let longest = dir.info().max_tokens;
        let sequences = (0..texts)
            .map(|_| {
                let words = random.mostly_small(longest);
                let text: String = (0..words)
                    .flat_map(|_| [WORDS[random.below(WORDS.len())], " "])
                    .collect();
                let mut ids = Vec::new();
                tokenizer
                    .encode("", &text, longest, TruncationSide::Right, false, &mut ids)
                    .unwrap();
                ids
            })
            .collect();
        let checkpoint = Checkpoint::read(&path);
        Self::new(model.to_owned(), dir, &checkpoint, sequences, None)
    }

    fn new(
        name: String,
        dir: ModelDir,
        checkpoint: &Checkpoint,
        sequences: Vec<Vec<u32>>,
        files: Option<Scratch>,
    ) -> Self {
        let rows = sequences
            .iter()
            .map(|ids| Naive(checkpoint).pooled(ids))
            .collect();
        Self {
            name,
            dir,
            sequences,
            rows,
            texts_max: TEXTS_MAX,
            slack: 1.0,
            _files: files,
        }
    }

    /// Runs the same random batches on `tested`; gives the number of tokens.
    fn check(&self, tested: &Tested, what: &str, mut random: Random) -> usize {
        let threads = 1 + random.below(4);
        let what = format!(
            "{what}, {} on {}, {threads} threads",
            self.name, tested.name
        );
        let mut backend = tested.load(&self.dir, threads);
        let mut first: Vec<Option<Vec<f32>>> = vec![None; self.sequences.len()];
        let mut tokens = 0;
        for _ in 0..BATCHES {
            let places: Vec<usize> = (0..=random.mostly_small(self.texts_max))
                .map(|_| random.below(self.sequences.len()))
                .collect();
            let batch: Vec<Vec<u32>> = places
                .iter()
                .map(|&at| self.sequences[at].clone())
                .collect();
            tokens += batch.iter().map(Vec::len).sum::<usize>();
            for (place, row) in places.into_iter().zip(rows(&mut *backend, &batch)) {
                if let Some(first) = &first[place] {
                    assert!(*first == row, "{what}: the batch shows in text {place}");
                    continue;
                }
                let off = relative_error(&row, &self.rows[place]);
                let allowed = tested.tolerance * self.slack;
                assert!(
                    off <= allowed,
                    "{what}: text {place} is {off} off, {allowed} is allowed"
                );
                first[place] = Some(row);
            }
        }
        tokens
    }
}

/// Makes the sums of wide products as large as those of 48 inputs, for which tolerances are set: with
/// larger ones, what rounding a weight changes grows from layer to layer.
fn calm(checkpoint: &mut Checkpoint) {
    for (name, (shape, numbers)) in &mut checkpoint.tensors {
        if let [_, inputs] = shape[..]
            && !name.contains("embeddings")
        {
            let factor = (48.0 / inputs as f32).sqrt().min(1.0);
            numbers.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is {value:?} and no number")),
    )
}

#[test]
fn random_batches() {
    let time = number("EMBEDRING_RANDOM_SECONDS").map(Duration::from_secs);
    let seed = number("EMBEDRING_RANDOM_SEED").unwrap_or(3);
    let (begun, mut told) = (now(), now());
    let backends = backends();
    let mut tokens = 0;
    for round in 0_u64.. {
        let ordinary_end = time.is_none() && round == 3;
        if ordinary_end || time.is_some_and(|time| begun.elapsed() >= time) {
            break;
        }
        let seed = seed + round;
        let mut random = Random(seed);
        let subject = match seed % 20 {
            // A thousand texts would take the portable level an hour.
            1 if time.is_some() => Subject {
                texts_max: 40,
                ..Subject::real(models::MINILM, 8, &mut random)
            },
            5 | 10 | 15 => Subject::real(models::TINY, 20, &mut random),
            _ => Subject::scratch(&mut random),
        };
        let what = format!("EMBEDRING_RANDOM_SEED={seed}");
        for tested in &backends {
            tokens += subject.check(tested, &what, Random(seed));
        }
        if told.elapsed() > Duration::from_secs(60) {
            told = now();
            writeln!(
                std::io::stderr(),
                "{} s: {} rounds, {tokens} tokens",
                begun.elapsed().as_secs(),
                round + 1
            )
            .unwrap();
        }
    }
    writeln!(
        std::io::stderr(),
        "{} s: {tokens} tokens on {} backends in all",
        begun.elapsed().as_secs(),
        backends.len()
    )
    .unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the length of this run")]
fn now() -> Instant {
    Instant::now()
}
