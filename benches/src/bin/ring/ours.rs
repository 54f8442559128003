//! embedring's own client and worker.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use embedring_client::{Client, WaitStrategy};
use embedring_ipc::clock::now_ns;
use embedring_worker::WorkerOptions;

use crate::{DIMENSIONS, TEXT_BYTES, Turn, Variant, eventually, warm_up};

const INSTANCE: &str = "bench";

fn wait_of(variant: Variant) -> WaitStrategy {
    match variant {
        Variant::OursPolling | Variant::OursPolling64 => WaitStrategy::Poll,
        Variant::OursBlocking => WaitStrategy::Block,
        Variant::OursAdaptive
        | Variant::BarePolling
        | Variant::BarePolling64
        | Variant::SocketBlocking
        | Variant::BareBlocking => WaitStrategy::Adaptive {
            spin: Duration::from_micros(50),
        },
    }
}

pub(crate) fn serve(variant: Variant, dir: &Path) -> Result<()> {
    let mut options = WorkerOptions::null(INSTANCE, "cpu", DIMENSIONS);
    options.instance.dir = dir.to_path_buf();
    options.wait = wait_of(variant);
    embedring_worker::run(&options, &AtomicBool::new(false), &mut |_| ()).context("worker")?;
    Ok(())
}

fn connect(variant: Variant, dir: &Path) -> Result<Client> {
    Ok(Client::builder(INSTANCE)
        .dir(dir)
        .wait(wait_of(variant))
        .connect()?)
}

pub(crate) fn measure(variant: Variant, dir: &Path, count: usize) -> Result<Turn> {
    let client = eventually("connect", || connect(variant, dir))?;
    let text = "x".repeat(TEXT_BYTES);
    let texts = [text.as_str()];
    eventually("a first answer", || Ok(client.embed(&texts)?))?;
    let idle: Vec<Client> = (0..variant.idle_clients())
        .map(|_| connect(variant, dir))
        .collect::<Result<_>>()?;
    for other in &idle {
        other.embed(&texts)?;
    }
    for _ in 0..warm_up(count) {
        client.embed(&texts)?;
    }
    let mut round_trips_ns = Vec::with_capacity(count);
    let mut worker_ns = Vec::with_capacity(count);
    for _ in 0..count {
        let begun_ns = now_ns();
        let answer = client.embed(&texts)?;
        round_trips_ns.push(now_ns() - begun_ns);
        ensure!(
            answer.len() == 1 && answer.dimensions() == DIMENSIONS,
            "a wrong answer"
        );
        let part = &answer.parts()[0];
        let took = part.tokenize + part.run;
        worker_ns.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
    worker_ns.sort_unstable();
    Ok(Turn {
        round_trips_ns,
        worker_ns: worker_ns.get(count / 2).copied(),
    })
}
