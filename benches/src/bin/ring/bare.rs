//! iceoryx2 by itself: request-response with payloads of the same size and nothing around it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use iceoryx2::config::Config;
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::server::Server;
use iceoryx2::prelude::{
    AllocationStrategy, FileName, Node, NodeBuilder, Path as RingPath, SemanticString, ServiceName,
    SignalHandlingMode, ipc,
};

use crate::{DIMENSIONS, TEXT_BYTES, Turn, eventually, measure};

/// What our messages take beside text and row: headers and tables.
const REQUEST_BYTES: usize = TEXT_BYTES + 84;
const RESPONSE_BYTES: usize = DIMENSIONS * 4 + 104;

type BareServer = Server<ipc::Service, [u8], (), [u8], ()>;
type BareClient = Client<ipc::Service, [u8], (), [u8], ()>;

/// iceoryx2's debug forms are all it says about errors.
fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("iceoryx2: {error:?}")
}

/// Its shared memory lies flat in `/dev/shm`: the prefix keeps two benches apart.
fn prefix(dir: &Path) -> String {
    let name = dir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("ring_{name}_")
}

/// Removes what the killed server left in `/dev/shm`.
pub(crate) fn remove_leftovers(dir: &Path) -> Result<()> {
    let prefix = prefix(dir);
    for entry in std::fs::read_dir("/dev/shm")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn node(dir: &Path) -> Result<Node<ipc::Service>> {
    let mut config = Config::default();
    let root = RingPath::new(dir.to_string_lossy().as_bytes()).map_err(failed)?;
    config.global.set_root_path(&root);
    config.global.prefix = FileName::new(prefix(dir).as_bytes()).map_err(failed)?;
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create()
        .map_err(failed)
}

macro_rules! service {
    ($node:expr, $clients:expr) => {
        $node
            .service_builder(&ServiceName::new("bench").map_err(failed)?)
            .request_response::<[u8], [u8]>()
            .max_servers(1)
            .max_clients($clients)
            .max_nodes($clients + 2)
            .max_active_requests_per_client(8)
            .open_or_create()
            .map_err(failed)
    };
}

fn server(node: &Node<ipc::Service>, clients: usize) -> Result<BareServer> {
    service!(node, clients)?
        .server_builder()
        .initial_max_slice_len(64 * 1024)
        .allocation_strategy(AllocationStrategy::Static)
        .create()
        .map_err(failed)
}

fn client(node: &Node<ipc::Service>, clients: usize) -> Result<BareClient> {
    service!(node, clients)?
        .client_builder()
        .initial_max_slice_len(64 * 1024)
        .allocation_strategy(AllocationStrategy::Static)
        .create()
        .map_err(failed)
}

/// Answers one request, if there is one.
fn answer(server: &BareServer) -> Result<bool> {
    let Some(request) = server.receive().map_err(failed)? else {
        return Ok(false);
    };
    let first = request.payload()[0];
    let response = request.loan_slice_uninit(RESPONSE_BYTES).map_err(failed)?;
    response.write_from_fn(|_| first).send().map_err(failed)?;
    Ok(true)
}

pub(crate) fn serve_polling(dir: &Path, clients: usize) -> Result<()> {
    let node = node(dir)?;
    let server = server(&node, clients)?;
    loop {
        if !answer(&server)? {
            std::hint::spin_loop();
        }
    }
}

fn round_trip(client: &BareClient, mut wait: impl FnMut() -> Result<()>) -> Result<()> {
    let request = client.loan_slice_uninit(REQUEST_BYTES).map_err(failed)?;
    let pending = request.write_from_fn(|_| 7).send().map_err(failed)?;
    ensure!(pending.number_of_server_connections() > 0, "no server yet");
    wait()?;
    loop {
        if let Some(response) = pending.receive().map_err(failed)? {
            ensure!(
                response.payload().len() == RESPONSE_BYTES && response.payload()[0] == 7,
                "a wrong answer"
            );
            return Ok(());
        }
        wait()?;
    }
}

pub(crate) fn measure_polling(dir: &Path, idle: usize, count: usize) -> Result<Turn> {
    let node = node(dir)?;
    let poll = || {
        std::hint::spin_loop();
        Ok(())
    };
    let ours = client(&node, idle + 1)?;
    eventually("a first answer", || round_trip(&ours, poll))?;
    let others: Vec<_> = (0..idle)
        .map(|_| client(&node, idle + 1))
        .collect::<Result<_>>()?;
    for other in &others {
        round_trip(other, poll)?;
    }
    measure(count, || round_trip(&ours, poll))
}

/// Two event services: requests wake the server, answers wake the client.
fn events(
    node: &Node<ipc::Service>,
    name: &str,
) -> Result<(Notifier<ipc::Service>, Listener<ipc::Service>)> {
    let service = node
        .service_builder(&ServiceName::new(name).map_err(failed)?)
        .event()
        .open_or_create()
        .map_err(failed)?;
    let notifier = service.notifier_builder().create().map_err(failed)?;
    let listener = service.listener_builder().create().map_err(failed)?;
    Ok((notifier, listener))
}

pub(crate) fn serve_blocking(dir: &Path) -> Result<()> {
    let node = node(dir)?;
    let server = server(&node, 1)?;
    let (_, requests) = events(&node, "requests")?;
    let (answers, _) = events(&node, "answers")?;
    loop {
        requests
            .timed_wait(|_| (), Duration::from_secs(1))
            .map_err(failed)?;
        while answer(&server)? {
            answers.notify().map_err(failed)?;
        }
    }
}

pub(crate) fn measure_blocking(dir: &Path, count: usize) -> Result<Turn> {
    let node = node(dir)?;
    let client = client(&node, 1)?;
    let (requests, _) = events(&node, "requests")?;
    let (_, answers) = events(&node, "answers")?;
    let mut sent = false;
    let mut once = || {
        sent = false;
        round_trip(&client, || {
            if !sent {
                sent = true;
                requests.notify().map_err(failed)?;
            }
            answers
                .timed_wait(|_| (), Duration::from_millis(100))
                .map_err(failed)?;
            Ok(())
        })
    };
    eventually("a first answer", &mut once)?;
    measure(count, once)
}
