//! A worker under a memory cap and random requests of any size: it neither dies nor passes its cap, and
//! what it can not do in time it refuses.
//!
//! In the ordinary run some dozens of requests; `EMBEDRING_RANDOM_REQUESTS=10000` is the full one, takes
//! some ten minutes on two cores, and prints its figures with `--nocapture`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use embedring_client::{Client, OnOverload, Options};
use embedring_ipc::clock::now_ns;
use embedring_tests::{Instance, MINILM, Random, Setup, bits, patient};

/// Requests where the environment does not say how many.
const REQUESTS: usize = 60;
const CLIENTS: u64 = 4;
const TEXTS_MAX: usize = 256;
/// More than the model's window, so that longer ones are cut.
const TOKENS_MAX: usize = 1_000;
/// A text whose row is known, hidden among the others of each list.
const KNOWN: &str = "the answer does not depend on its neighbours";
/// What a call may take beyond its time.
const GRACE: Duration = Duration::from_secs(1);

/// A token each in the vocabularies of BERT's family.
const WORDS: [&str; 16] = [
    "the", "river", "house", "stone", "light", "water", "night", "paper", "green", "music",
    "table", "north", "voice", "glass", "world", "field",
];

fn text(random: &mut Random, tokens: usize) -> String {
    let words: Vec<&str> = (0..tokens).map(|_| *random.pick(&WORDS)).collect();
    words.join(" ")
}

/// Every size up to the largest, the small ones as often as the large ones: half of all sizes are drawn
/// evenly, half evenly by their number of digits.
fn size(random: &mut Random, max: usize) -> usize {
    if random.below(2) == 0 {
        return 1 + random.below(max);
    }
    let bits = max.ilog2() + 1;
    let top = 1_usize << random.below(bits as usize + 1);
    (1 + random.below(top)).min(max)
}

/// What became of requests.
#[derive(Debug, Default)]
struct Tally {
    answered: u64,
    texts: u64,
    cut: u64,
    refused: BTreeMap<&'static str, u64>,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.texts += other.texts;
        self.cut += other.cut;
        self.slowest = self.slowest.max(other.slowest);
        for (kind, count) in other.refused {
            *self.refused.entry(kind).or_default() += count;
        }
    }

    fn ended(&self) -> u64 {
        self.answered + self.refused.values().sum::<u64>()
    }
}

/// One request of `texts` texts of `tokens` tokens at most, and whether its answer is as it must be.
#[track_caller]
fn ask(
    client: &Client,
    random: &mut Random,
    (texts, tokens): (usize, usize),
    options: &Options,
    known: &[u32],
    tally: &mut Tally,
) {
    let mut list: Vec<String> = (0..texts)
        .map(|_| {
            let tokens = 1 + random.below(tokens);
            text(random, tokens)
        })
        .collect();
    let place = random.below(texts);
    KNOWN.clone_into(&mut list[place]);
    let begun_ns = now_ns();
    let answer = client.embed_with(&list, options);
    let took = Duration::from_nanos(now_ns() - begun_ns);
    tally.slowest = tally.slowest.max(took);
    assert!(took < options.timeout + GRACE, "{took:?} for {options:?}");
    match answer {
        Ok(answer) => {
            assert_eq!(answer.len(), texts);
            assert_eq!(bits(answer.row(place)), known);
            for (at, text) in list.iter().enumerate() {
                let words = text.split(' ').count();
                // Two more stand for the beginning and the end.
                let fits = words + 2 <= 256;
                assert_eq!(answer.truncated(at), !fits, "{words} words");
                assert!(answer.tokens(at) <= 256);
                tally.cut += u64::from(!fits);
            }
            tally.answered += 1;
            tally.texts += texts as u64;
        }
        Err(error) => {
            assert!(
                ["overloaded", "deadline"].contains(&error.kind()),
                "{error}"
            );
            *tally.refused.entry(error.kind()).or_default() += 1;
        }
    }
}

/// Kilobytes of a line of `/proc/PID/status`; 0 when there is no such process.
fn status_kb(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.map_or(0, |number| number.parse().unwrap())
}

/// The most that is seen resident of a process until `stop`.
fn watch(pid: u32, stop: &AtomicBool) -> u64 {
    let mut most_kb = 0;
    while !stop.load(Relaxed) {
        most_kb = most_kb.max(status_kb(pid, "VmRSS:"));
        std::thread::sleep(Duration::from_millis(2));
    }
    most_kb
}

/// Sends requests of random sizes, in random and short times, from several clients until all are sent.
fn storm(instance: &Instance, requests: usize, known: &[u32]) -> Tally {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = |number: u64| {
            let next = &next;
            move || {
                let client = instance.client();
                let mut random = Random::new(number);
                let mut tally = Tally::default();
                while next.fetch_add(1, Relaxed) < requests {
                    let options = Options {
                        timeout: Duration::from_millis(50 + random.below(1_450) as u64),
                        on_overload: OnOverload::Fail,
                        ..Options::default()
                    };
                    let sizes = (size(&mut random, TEXTS_MAX), size(&mut random, TOKENS_MAX));
                    ask(&client, &mut random, sizes, &options, known, &mut tally);
                }
                tally
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(client(n))).collect();
        let mut all = Tally::default();
        for client in clients {
            all.add(client.join().unwrap());
        }
        all
    })
}

/// Begins the kernel's count of the most that was resident anew.
fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// A worker that holds `cap_bytes` from the first request to the last.
#[track_caller]
fn check(setup: Setup, cap_bytes: u64, requests: usize, begin: impl FnOnce(u32)) {
    let instance = setup
        .quick_restarts()
        .set("WORKERS__CPU__MEMORY_MAX_BYTES", &cap_bytes.to_string())
        .up();
    let pid = instance.worker_pid("cpu");
    begin(pid);
    let client = instance.client();
    let known = client.embed_with(&[KNOWN], &patient()).unwrap();
    let known = bits(known.row(0));
    let begun_ns = now_ns();
    let stop = AtomicBool::new(false);
    let (sampled_kb, tally) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| watch(pid, &stop));
        let tally = storm(&instance, requests, &known);
        // Nothing that was refused or given up is left in the way of one with time.
        let mut last = Tally::default();
        let mut random = Random::new(99);
        let sizes = (40, TOKENS_MAX);
        ask(&client, &mut random, sizes, &patient(), &known, &mut last);
        assert_eq!((last.answered, last.cut > 0), (1, true), "{last:?}");
        stop.store(true, Relaxed);
        (sampler.join().unwrap(), tally)
    });
    let took = Duration::from_nanos(now_ns() - begun_ns);
    // The kernel's own mark sees what comes between two samples, but is brought up to date lazily.
    let peak_kb = status_kb(pid, "VmHWM:").max(sampled_kb);
    let worker = instance.worker("cpu");
    report(&format!(
        "cap {} MB, {requests} requests in {took:?}: {tally:?}; resident {} MB sampled, {} MB peak; {worker}",
        cap_bytes / 1_000_000,
        sampled_kb * 1_024 / 1_000_000,
        peak_kb * 1_024 / 1_000_000,
    ));
    assert_eq!(tally.ended(), requests as u64, "{tally:?}");
    assert_eq!(worker["pid"], pid, "it was replaced");
    assert_eq!(worker["loads"], 1, "{worker}");
    assert!(sampled_kb > 0, "it was watched");
    assert!(peak_kb * 1_024 < cap_bytes, "{peak_kb} kB");
}

#[expect(clippy::print_stderr, reason = "figures of a run by hand")]
fn report(line: &str) {
    eprintln!("{line}");
}

fn requests() -> usize {
    std::env::var("EMBEDRING_RANDOM_REQUESTS").map_or(REQUESTS, |number| number.parse().unwrap())
}

#[test]
fn random_requests_of_any_size_stay_within_the_memory_of_the_worker() {
    check(Setup::model(MINILM), 600_000_000, requests(), |_| ());
}

#[test]
fn a_cap_close_to_the_need_is_kept_as_well() {
    // Batches as large as can be, which take as long as they like.
    let setup = || Setup::model(MINILM).set("SCHEDULER__BATCH_TIME_TARGET_MS", "60000");
    let need = setup().up().worker("cpu")["rss_bytes"].as_u64().unwrap();
    // While precisions are compared at the start there is more than one of the model.
    check(setup(), need + (32 << 20), requests(), forget_peak);
}
