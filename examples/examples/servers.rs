//! Several servers without a registry: a client of a list of three, each over a transport of its own, one of which is stopped.
//!
//! `cargo run --example servers` prints which server has answered how many calls, and ends with an error if a call was lost, executed
//! twice, or made where it should not be.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire::{
    Accept, Client, ClientOptions, Connect, Context, Server, Servers, TcpAcceptor, TcpConnector,
    UnixAcceptor, UnixConnector, memory,
};

#[oncewire::service(name = "index")]
trait Index {
    /// Which server answers: any may.
    #[rpc(idempotent)]
    async fn look_up(&self, context: Context, word: String) -> String;
    /// The same, and counts: at most once, where the session is.
    async fn store(&self, context: Context, word: String) -> String;
}

struct Shelf {
    name: &'static str,
    stored: Arc<AtomicU64>,
}

impl Index for Shelf {
    async fn look_up(&self, _: Context, _: String) -> String {
        self.name.to_owned()
    }
    async fn store(&self, _: Context, _: String) -> String {
        self.stored.fetch_add(1, Ordering::Relaxed);
        self.name.to_owned()
    }
}

struct Running {
    name: &'static str,
    server: Server,
    stored: Arc<AtomicU64>,
    task: smol::Task<()>,
}

fn start(name: &'static str, acceptor: impl Accept) -> Result<Running, Box<dyn Error>> {
    let stored = Arc::new(AtomicU64::new(0));
    let shelf = Shelf { name, stored: stored.clone() };
    let server = Server::builder("index").service(IndexServer(shelf)).build()?;
    let serving = server.clone();
    let task = smol::spawn(async move {
        if let Err(error) = serving.serve(acceptor).await {
            output::note!("{name}: {error}");
        }
    });
    Ok(Running { name, server, stored, task })
}

/// Who has answered 300 reads, of which 30 are under way at once.
async fn read(index: &IndexClient) -> Result<BTreeMap<String, u32>, Box<dyn Error>> {
    let mut answers = BTreeMap::new();
    for _ in 0..10 {
        let calls: Vec<_> = (0..30).map(|_| index.look_up("word".to_owned()).start()).collect();
        for call in calls {
            *answers.entry(call.result().await?).or_default() += 1;
        }
    }
    output::show!("reads: {answers:?}");
    Ok(answers)
}

/// Who has answered 20 writes.
async fn write(index: &IndexClient) -> Result<String, Box<dyn Error>> {
    let mut answers = BTreeMap::<String, u32>::new();
    for _ in 0..20 {
        *answers.entry(index.store("word".to_owned()).result().await?).or_default() += 1;
    }
    output::show!("writes: {answers:?}");
    match answers.pop_first() {
        Some((name, 20)) => Ok(name),
        _ => Err("one session is at one server".into()),
    }
}

async fn until_healthy(client: &Client, count: usize) {
    while client.servers().iter().filter(|server| server.healthy).count() != count {
        smol::future::yield_now().await;
    }
}

async fn show(client: &Client, mut running: Vec<Running>) -> Result<(), Box<dyn Error>> {
    let index = IndexClient(client.clone());
    until_healthy(client, 3).await;
    assert_eq!(read(&index).await?.len(), 3);
    let first = write(&index).await?;

    output::show!("{first} is stopped");
    let at = running.iter().position(|one| one.name == first).ok_or("no such server")?;
    let stopped = running.remove(at);
    stopped.server.drain(Duration::from_secs(5)).await;
    stopped.task.cancel().await;
    drop(stopped.server);
    assert_eq!(read(&index).await?.len(), 2);
    let second = write(&index).await?;
    assert_ne!(first, second);

    for server in client.servers() {
        output::show!(
            "{}: healthy {}, session {}",
            server.address,
            server.healthy,
            server.has_session
        );
    }
    output::show!("{}", client.close().await);
    let stored = running.iter().map(|one| one.stored.load(Ordering::Relaxed)).sum::<u64>();
    assert_eq!((stopped.stored.load(Ordering::Relaxed), stored), (20, 20));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("oncewire-servers-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let shown = smol::block_on(async {
        let tcp = TcpAcceptor::bind("127.0.0.1:0").await?;
        let over_tcp = TcpConnector::new(tcp.local_addr());
        let path = folder.join("index.sock");
        let unix = UnixAcceptor::bind(&path)?;
        let (over_memory, in_memory) = memory::listener();
        let running = vec![start("tcp", tcp)?, start("unix", unix)?, start("memory", in_memory)?];

        let list: Vec<Box<dyn Connect>> =
            vec![Box::new(over_tcp), Box::new(UnixConnector::new(&path)), Box::new(over_memory)];
        let client = Servers::new(list).client(ClientOptions::default())?;
        show(&client, running).await
    });
    std::fs::remove_dir_all(&folder)?;
    shown
}
