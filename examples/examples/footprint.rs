//! What idle clients cost a server, measured on real processes: resident memory for each connection of 10,000, and the
//! time that a `fail_fast` call takes to end after its server was killed.
//!
//! `cargo run --release --example footprint`; exits 1 if a promise is broken.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use oncewire::{
    Client, ClientOptions, Context, Executed, Runtime, Server, SmolRuntime, UnixAcceptor,
    UnixConnector,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CONNECTIONS: usize = 10_000;
/// The promise: bytes of resident memory that an idle connection costs the server.
const CONNECTION_BYTES_MAX: usize = 8 << 10;
/// The promise: time until a call ends after `kill -9` of its server.
const FAIL_FAST_MAX_MS: u64 = 10;
const KILLS: usize = 20;

#[oncewire::service(name = "footprint")]
trait Footprint {
    async fn add_one(&self, _: Context, n: i32) -> i32 {
        n + 1
    }
    /// Bytes of resident memory.
    #[rpc(idempotent)]
    async fn resident(&self, _: Context) -> u64 {
        resident_bytes().unwrap_or(0)
    }
    async fn forever(&self, _: Context) {
        std::future::pending().await
    }
}

struct Measured;

impl Footprint for Measured {}

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(&std::env::args().nth(2).ok_or("serve where?")?),
        _ => measure(),
    }
}

fn serve(path: &str) -> Result<()> {
    let server = Server::builder("footprint").service(FootprintServer(Measured)).build()?;
    let acceptor = UnixAcceptor::bind(path)?;
    output::show!("ready");
    std::io::stdout().flush()?;
    // Ends when the parent does.
    std::thread::spawn(|| {
        let mut nothing = [0];
        let _at_end = std::io::stdin().read(&mut nothing);
        std::process::exit(0);
    });
    Ok(smol::block_on(server.serve(acceptor))?)
}

/// Resident memory of this process, from `/proc/self/statm`.
fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("statm has no second field")?.parse()?;
    Ok(pages * 4096)
}

/// A server process; ends with this value.
struct ServerProcess {
    child: Child,
    path: std::path::PathBuf,
    _stdin: ChildStdin,
    _stdout: BufReader<ChildStdout>,
}

impl ServerProcess {
    fn start(name: &str) -> Result<ServerProcess> {
        let file = format!("oncewire-footprint-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut ready = String::new();
        stdout.read_line(&mut ready)?;
        Ok(ServerProcess { child, path, _stdin: stdin, _stdout: stdout })
    }

    fn client(&self) -> FootprintClient {
        let connector = UnixConnector::new(&self.path);
        FootprintClient(Client::new(connector, ClientOptions::default()))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.path.with_extension("lock"));
    }
}

fn measure() -> Result<()> {
    let connection = smol::block_on(connection_bytes())?;
    let fail_fast = smol::block_on(fail_fast_micros())?;
    output::show!("{CONNECTIONS} idle connections: {connection} bytes of resident memory each");
    output::show!("a fail_fast call after kill -9: {fail_fast} µs at the most of {KILLS}");
    if connection > CONNECTION_BYTES_MAX {
        return Err(format!("more than {CONNECTION_BYTES_MAX} bytes a connection").into());
    }
    if fail_fast > FAIL_FAST_MAX_MS * 1000 {
        return Err(format!("more than {FAIL_FAST_MAX_MS} ms").into());
    }
    Ok(())
}

/// Opens the connections, makes one call on each, and looks when all are idle again.
async fn connection_bytes() -> Result<usize> {
    let server = ServerProcess::start("idle")?;
    let observer = server.client();
    observer.add_one(1).await.ok()?;
    let before = observer.resident().await.ok()?;
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let client = server.client();
        client.add_one(1).await.ok()?;
        clients.push(client);
    }
    // Acknowledged by now, or a tenth of a second later: the last client's own next call comes after that.
    let after = observer.resident().await.ok()?;
    Ok((after.saturating_sub(before) as usize) / CONNECTIONS)
}

/// The longest time from the kill of the server to the end of the call, in microseconds.
async fn fail_fast_micros() -> Result<u64> {
    let runtime = SmolRuntime::global();
    let mut longest = 0;
    for kill in 0..KILLS {
        let mut server = ServerProcess::start(&format!("kill-{kill}"))?;
        let client = server.client();
        client.add_one(1).await.ok()?;
        let call = client.forever().fail_fast(true).start();
        // Answered behind the other one, so that one is in flight.
        client.add_one(1).await.ok()?;
        server.child.kill()?;
        let killed = runtime.now();
        let outcome = call.await;
        longest = longest.max(runtime.now().since(killed).as_micros() as u64);
        if outcome.executed() != Executed::Unknown {
            return Err(format!("the call ended as {outcome:?}").into());
        }
    }
    Ok(longest)
}
