//! The open loop: texts at random times, and whether each was answered in time.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result};
use embedring_client::{Client, OnOverload, Options, Pending};
use embedring_ipc::clock::{now_ns, sleep_until_ns};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1};

use crate::instance::{Device, Instance};

/// Time for a question; a paragraph has four times as much.
pub(crate) const DEADLINE_MS: u64 = 100;
const PARAGRAPH_TIMES: u64 = 4;
/// Of requests, how many are questions; median and deviation of the logarithm of their tokens.
const QUESTIONS: f64 = 0.75;
const QUESTION_TOKENS: (f64, f64) = (20.0, 0.6);
const PARAGRAPH_TOKENS: (f64, f64) = (180.0, 0.5);
/// Calls under way at most: beyond that the driver is the bottleneck, and the load is lost anyway.
const CALLS_MAX: usize = 400;

/// A client that sends texts at a given load.
pub(crate) struct Load {
    clients: Vec<Client>,
    token_ns: f64,
}

/// What became of the texts of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Part that was answered by its deadline.
    pub(crate) in_time: f64,
    /// Part of the tokens that the worker `slow` ran.
    pub(crate) slow_share: f64,
    /// How late texts were sent, beside when they were meant to be.
    pub(crate) late_ms_p99: f64,
}

struct Text {
    at_ns: u64,
    deadline_ns: u64,
    text: String,
}

/// Clients, so that request slots are not what is short.
const CLIENTS: usize = 24;

impl Load {
    pub(crate) fn new(instance: &Instance, fast: Device) -> Result<Self> {
        let connect = || {
            Client::builder(&instance.name)
                .wait(embedring_client::WaitStrategy::Block)
                .connect()
        };
        let clients = (0..CLIENTS).map(|_| connect()).collect::<Result<_, _>>()?;
        Ok(Self {
            clients,
            token_ns: fast.token_ns as f64,
        })
    }

    /// Sends texts for some seconds at a load, of what the fast device can do.
    pub(crate) fn run(&self, load: f64, seconds: f64, seed: u64) -> Result<Outcome> {
        let texts = self.texts(load, seconds, seed);
        let mut calls: VecDeque<(u64, Pending<'_, String>)> = VecDeque::new();
        let mut tally = Tally::default();
        let count = texts.len();
        let begun_ns = now_ns() + 10_000_000;
        let mut texts = texts
            .into_iter()
            .zip(self.clients.iter().cycle())
            .peekable();
        while texts.peek().is_some() || !calls.is_empty() {
            tally.poll(&mut calls);
            let now = now_ns();
            let Some((text, client)) = texts.next_if(|(text, _)| begun_ns + text.at_ns <= now)
            else {
                // Answers wake nobody here: a look each fifth of a millisecond is enough for deadlines
                // of a hundred.
                let next = texts
                    .peek()
                    .map_or(u64::MAX, |(text, _)| begun_ns + text.at_ns);
                sleep_until_ns(next.min(now + 200_000));
                continue;
            };
            let meant_ns = begun_ns + text.at_ns;
            tally.late_ns.push(now - meant_ns);
            let deadline_ns = begun_ns + text.deadline_ns;
            let left_ns = deadline_ns.saturating_sub(now);
            if calls.len() >= CALLS_MAX || left_ns == 0 {
                continue;
            }
            let options = Options {
                timeout: Duration::from_nanos(left_ns),
                on_overload: OnOverload::Fail,
                ..Options::default()
            };
            if let Ok(call) = client.start(vec![text.text], &options) {
                calls.push_back((deadline_ns, call));
            }
        }
        tally.outcome(count)
    }

    fn texts(&self, load: f64, seconds: f64, seed: u64) -> Vec<Text> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mean = mean_tokens();
        let gap_ns = mean * self.token_ns / load.max(1e-6);
        let (mut texts, mut at_ns) = (Vec::new(), 0.0);
        while at_ns < seconds * 1e9 {
            let unit: f64 = Exp1.sample(&mut random);
            at_ns += unit * gap_ns;
            let (is_question, tokens) = text(&mut random);
            let times = if is_question { 1 } else { PARAGRAPH_TIMES };
            let at_ns = Duration::from_secs_f64(at_ns / 1e9);
            let at_ns = embedring_ipc::clock::to_ns(at_ns);
            texts.push(Text {
                at_ns,
                deadline_ns: at_ns + DEADLINE_MS * 1_000_000 * times,
                // Simulated devices without a model read bytes as tokens, and put two around them.
                text: "x".repeat(tokens.saturating_sub(2)),
            });
        }
        texts
    }
}

fn text(random: &mut ChaCha8Rng) -> (bool, usize) {
    let is_question = random.random_bool(QUESTIONS);
    let (median, deviation) = if is_question {
        QUESTION_TOKENS
    } else {
        PARAGRAPH_TOKENS
    };
    let normal: f64 = rand_distr::StandardNormal.sample(random);
    let tokens = Duration::from_secs_f64(median * (deviation * normal).exp()).as_secs();
    (
        is_question,
        usize::try_from(tokens.clamp(3, 512)).unwrap_or(3),
    )
}

fn mean_tokens() -> f64 {
    const TEXTS: u32 = 20_000;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let sum: usize = (0..TEXTS).map(|_| text(&mut random).1).sum();
    sum as f64 / f64::from(TEXTS)
}

#[derive(Debug, Default)]
struct Tally {
    in_time: usize,
    tokens: [u64; 2],
    late_ns: Vec<u64>,
}

impl Tally {
    /// Takes in what has come, of all calls.
    fn poll(&mut self, calls: &mut VecDeque<(u64, Pending<'_, String>)>) {
        for _ in 0..calls.len() {
            let Some((deadline_ns, mut call)) = calls.pop_front() else {
                return;
            };
            match call.poll() {
                Ok(false) => calls.push_back((deadline_ns, call)),
                Ok(true) => {
                    self.in_time += usize::from(now_ns() <= deadline_ns);
                    if let Ok(answer) = call.wait() {
                        let is_slow = answer
                            .parts()
                            .first()
                            .is_some_and(|part| &*part.worker == "slow");
                        self.tokens[usize::from(is_slow)] += u64::from(answer.tokens(0));
                    }
                }
                // Refused, late: not in time, whatever the reason.
                Err(_) => {}
            }
        }
    }

    fn outcome(mut self, count: usize) -> Result<Outcome> {
        self.late_ns.sort_unstable();
        let late_ns = self.late_ns.get(self.late_ns.len() * 99 / 100);
        let late_ns = late_ns.context("nothing was sent")?;
        let [fast, slow] = self.tokens;
        Ok(Outcome {
            in_time: self.in_time as f64 / count.max(1) as f64,
            slow_share: slow as f64 / (fast + slow).max(1) as f64,
            late_ms_p99: *late_ns as f64 / 1e6,
        })
    }
}
