//! The service, and the journal that the server writes before it answers.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire_driver::{Method, Runtime, Server, SmolRuntime};
use oncewire_pipe::StdioAcceptor;
use oncewire_tcp::TcpAcceptor;
use oncewire_unix::UnixAcceptor;
use serde::{Deserialize, Serialize};

use super::control::{Control, READY, die_with_parent};
use super::journal::{Journal, Key, Ran, Receipt};

/// Appends an element to the client's log.
pub(super) const APPEND: Method<Arguments, Receipt> = Method::new("killer/append");
/// Adds one to the client's counter.
pub(super) const ADD: Method<Arguments, Receipt> = Method::new("killer/add");

/// Silence after which a peer is called dead: short, so that stopped processes are.
const KEEPALIVE: Duration = Duration::from_millis(250);

/// What a client asks for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Arguments {
    pub(super) key: Key,
    pub(super) element: u64,
    /// How long the answer is to take after the execution.
    pub(super) wait_ms: u32,
}

/// The state of a server: elements of each client's log, and its counter.
#[derive(Debug)]
struct Service {
    life: u32,
    journal: Journal,
    positions: Mutex<HashMap<(u32, u32, bool), u64>>,
}

impl Service {
    fn execute(&self, is_append: bool, arguments: Arguments) -> Receipt {
        let Arguments { key, element, .. } = arguments;
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let position = positions.entry((key.client, key.generation, is_append)).or_default();
        *position += 1;
        let ran = Ran { key, element, is_append, position: *position };
        // Under the lock, so that the journal's order is the order of execution.
        self.journal.write(&ran.line()).expect("a journal that cannot be written proves nothing");
        Receipt { life: self.life, position: *position }
    }
}

fn build(life: u32, journal: Journal) -> Result<Server, Box<dyn Error + Send + Sync>> {
    let runtime = SmolRuntime::global();
    let service = Arc::new(Service { life, journal, positions: Mutex::default() });
    let handler = move |is_append| {
        let (service, runtime) = (service.clone(), runtime.clone());
        move |_, arguments: Arguments| {
            let receipt = service.execute(is_append, arguments);
            let runtime = runtime.clone();
            async move {
                if arguments.wait_ms > 0 {
                    let wait = Duration::from_millis(u64::from(arguments.wait_ms));
                    pause(runtime.as_ref(), wait).await;
                }
                receipt
            }
        }
    };
    let server = Server::builder("killer")
        .method(&APPEND, handler(true))
        .method(&ADD, handler(false))
        .configure(|config| config.keepalive = KEEPALIVE)
        .build()?;
    Ok(server)
}

/// Waits on the runtime's timer.
pub(super) async fn pause(runtime: &SmolRuntime, pause: Duration) {
    let mut timer = runtime.timer();
    timer.set(runtime.now() + pause);
    std::future::poll_fn(|cx| timer.poll(cx)).await;
}

/// A server that all clients share.
pub(super) fn play_server(
    dir: &Path,
    life: u32,
    place: &str,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    die_with_parent()?;
    let control = Control::join(dir, &format!("server 0 {life}"), |_| {})?;
    let journal = Journal::create(&dir.join(format!("runs-{life}")))?;
    let server = build(life, journal)?;
    smol::block_on(async {
        match place.split_once(':') {
            Some(("tcp", address)) => {
                let acceptor = TcpAcceptor::bind_insecure(address).await?;
                control.say(READY)?;
                server.serve(acceptor).await?;
            }
            _ => {
                let acceptor = UnixAcceptor::bind(place)?;
                control.say(READY)?;
                server.serve(acceptor).await?;
            }
        }
        Ok(())
    })
}

/// Lives of servers that belong to one client are counted from a multiple of this.
const LIVES_OF_CHILDREN: u32 = 1_000_000;

/// A server that one client's dial started, on its stdin and stdout.
pub(super) fn play_child(dir: &Path, client: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
    let acceptor = StdioAcceptor::new()?;
    let _control = Control::join(dir, &format!("relay {client} 1"), |_| {})?;
    let mut life = LIVES_OF_CHILDREN * (1 + client);
    let journal = loop {
        match Journal::create(&dir.join(format!("runs-{life}"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => life += 1,
            journal => break journal?,
        }
    };
    let server = build(life, journal)?;
    Ok(smol::block_on(server.serve(acceptor))?)
}
