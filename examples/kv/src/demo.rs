//! The demonstration: a server on a ledger in a process that is killed again and again, and connections that are cut in the middle of
//! frames. What the clients see is linearizable all the same.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire::{Client, ClientOptions, Runtime, SmolRuntime, TcpConnector};
use oncewire_sim::Rng;
use smol::Task;
use smol::future::{or, poll_fn};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

use crate::KvClient;
use crate::history::{History, Outcomes};

/// Kills, unless the command line says otherwise.
pub const KILLS: u64 = 20;
const CLIENTS: u64 = 6;
/// Calls between two kills, at least.
const CALLS_BETWEEN: u64 = 40;
/// A connection is cut before so many bytes have come back.
const CUT_BELOW: u64 = 1_500;
/// How long anything may take. Only what fails takes so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

async fn sleep(time: Duration) {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + time);
    poll_fn(|cx| timer.poll(cx)).await;
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new one.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn new() -> Result<TempDir, String> {
        // At random: a process that was killed has left its folder, and the number of a process comes again.
        let mut random = [0; 8];
        SmolRuntime::global().random(&mut random);
        let name = format!("oncewire-kv-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)
            .map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
        Ok(TempDir(path))
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The server's process, which dies with this.
struct ServerProcess(Child);

impl ServerProcess {
    /// Starts it, and says where it listens.
    fn start(ledger: &Path) -> Result<(ServerProcess, String), String> {
        let cannot = |error: std::io::Error| format!("cannot start the server: {error}");
        let program = std::env::current_exe().map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(["serve", "127.0.0.1:0", "--tethered", "--ledger"]).arg(ledger);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let mut line = String::new();
        let stdout = child.stdout.take().map(BufReader::new);
        stdout.map_or(Ok(0), |mut stdout| stdout.read_line(&mut line)).map_err(cannot)?;
        let server = ServerProcess(child);
        let address = line.trim().strip_prefix("serving at ");
        let address = address.ok_or_else(|| format!("the server says {line:?}"))?;
        Ok((server, address.to_owned()))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends this process when its stdin does: nothing is left running when the demonstration is killed.
pub fn tether() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

/// Where the server is now.
type Place = Arc<Mutex<String>>;

/// Passes on what comes, to wherever the server is, and cuts each connection somewhere.
async fn relay(listener: TcpListener, server: Place, cuts: Arc<AtomicU64>) {
    let mut rng = Rng::new(7);
    let mut passing: Vec<Task<()>> = Vec::new();
    while let Ok((client, _)) = listener.accept().await {
        passing.retain(|task| !task.is_finished());
        let address = server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A server that is down refuses the client, too.
        let Ok(server) = TcpStream::connect(address).await else { continue };
        let (left, cuts) = (rng.below(CUT_BELOW), cuts.clone());
        passing.push(smol::spawn(async move {
            let up = async {
                let _ = smol::io::copy(client.clone(), server.clone()).await;
            };
            let down = pass(server.clone(), client.clone(), left, &cuts);
            or(up, down).await;
        }));
    }
}

/// Passes on so many bytes, which may end in the middle of a frame.
async fn pass(mut from: TcpStream, mut to: TcpStream, mut left: u64, cuts: &AtomicU64) {
    let mut buf = vec![0; 4096];
    while left > 0 {
        let len = from.read(&mut buf).await.unwrap_or(0);
        let passes = (len as u64).min(left) as usize;
        if len == 0 || to.write_all(&buf[..passes]).await.is_err() {
            return;
        }
        left -= passes as u64;
    }
    cuts.fetch_add(1, Ordering::Relaxed);
}

async fn calls_reach(history: &History, total: u64) -> Result<(), String> {
    let runtime = SmolRuntime::global();
    let begun = runtime.now();
    while history.outcomes().replied < total {
        if runtime.now().since(begun) > GIVE_UP_AFTER {
            return Err("no call is answered any more".to_owned());
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Runs it; whether what the clients saw is linearizable, and nothing is unknown.
///
/// # Errors
/// Why it could not be tried.
pub async fn run(kills: u64) -> Result<bool, String> {
    let dir = TempDir::new()?;
    let ledger = dir.file("kv.ledger");
    let cannot = |error: std::io::Error| error.to_string();
    let (mut server, address) = ServerProcess::start(&ledger)?;
    let place = Place::new(Mutex::new(address));
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(cannot)?;
    let relayed = listener.local_addr().map_err(cannot)?;
    let cuts = Arc::new(AtomicU64::new(0));
    let relaying = smol::spawn(relay(listener, place.clone(), cuts.clone()));

    let (history, stop) = (History::default(), Arc::new(AtomicBool::new(false)));
    let clients: Vec<Task<()>> = (0..CLIENTS)
        .map(|client| {
            let (history, stop) = (history.clone(), stop.clone());
            let options = ClientOptions::default()
                .with_timeout(GIVE_UP_AFTER * 2)
                .with_backoff_max(Duration::from_millis(50));
            let kv = KvClient(Client::new(TcpConnector::new(relayed), options));
            smol::spawn(async move {
                let mut rng = Rng::apart(1, client);
                let mut number = client;
                while !stop.load(Ordering::Relaxed) {
                    history.act(&kv, &mut rng, number).await;
                    number += CLIENTS;
                    // A history that is too long cannot be checked.
                    sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    for _ in 0..kills {
        calls_reach(&history, history.outcomes().replied + CALLS_BETWEEN).await?;
        drop(server);
        let (next, address) = ServerProcess::start(&ledger)?;
        server = next;
        *place.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
    calls_reach(&history, history.outcomes().replied + CALLS_BETWEEN).await?;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await;
    }
    drop((server, relaying));
    let Outcomes { replied, not_executed, unknown } = history.outcomes();
    output::show!(
        "the server was killed {kills} times, and connections were cut {} times",
        cuts.load(Ordering::Relaxed)
    );
    output::show!("{replied} calls were answered, {not_executed} not executed, {unknown} unknown");
    match history.check() {
        Ok(()) => output::show!("what {CLIENTS} clients saw is linearizable"),
        Err(why) => {
            output::show!("WRONG: {why}");
            return Ok(false);
        }
    }
    Ok(unknown == 0)
}
