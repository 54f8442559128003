//! embedring's own client and worker.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use embedring_client::{Client, WaitStrategy};
use embedring_ipc::clock::{now_ns, to_ns};
use embedring_worker::WorkerOptions;

use crate::{DIMENSIONS, Stages, TEXT_BYTES, Turn, Variant, eventually, warm_up};

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
    let mut stages = [const { Vec::new() }; 4];
    for _ in 0..count {
        let begun_ns = now_ns();
        let answer = client.embed(&texts)?;
        let took_ns = now_ns() - begun_ns;
        round_trips_ns.push(took_ns);
        ensure!(
            answer.len() == 1 && answer.dimensions() == DIMENSIONS,
            "a wrong answer"
        );
        let part = &answer.parts()[0];
        let intake = part.queue.saturating_sub(part.tokenize);
        let own_work = part.tokenize + part.run;
        let rings = part.round_trip.saturating_sub(intake + own_work);
        stages[0].push(took_ns.saturating_sub(to_ns(part.round_trip)));
        stages[1].push(to_ns(intake));
        stages[2].push(to_ns(own_work));
        stages[3].push(to_ns(rings));
    }
    let [client, intake, own_work, rings] = stages.map(|mut stage| {
        stage.sort_unstable();
        stage.get(count / 2).copied().unwrap_or(0)
    });
    Ok(Turn {
        round_trips_ns,
        stages: Some(Stages {
            client,
            intake,
            own_work,
            rings,
        }),
    })
}
