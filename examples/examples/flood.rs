//! What a connection that sends as fast as it can takes from the others, measured on real processes: the time that an
//! honest caller waits for a reply beside it, and the time at which a client that is flooded ends a call of 200 ms.
//!
//! `cargo run --release --example flood`; exits 1 if a promise is broken. `flood KIND N` measures one kind of attack.

#![allow(clippy::disallowed_methods, reason = "measures real processes by the real clock")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oncewire::protocol::wire::{self, Frame, ReplyHeader, Role};
use oncewire::protocol::{self as core, Heap, Principal, Status};
use oncewire::{
    Client, ClientOptions, Context, Server, ServerConfig, ServerId, ServiceName, SessionId,
    UnixAcceptor, UnixConnector, Xid,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[oncewire::service(name = "flood")]
trait Flood {
    async fn echo(&self, _: Context, n: u32) -> u32 {
        n
    }
    /// Takes 10 µs of the processor.
    async fn work(&self, _: Context, n: u32) -> u32 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(10) {
            std::hint::spin_loop();
        }
        n
    }
}

struct Flooded;

impl Flood for Flooded {}

/// The promise: the 99th percentile beside one flooder is at most so long, or [`FACTOR_MAX`] times that alone.
const HONEST_MAX: Duration = Duration::from_millis(5);
/// See [`HONEST_MAX`].
const FACTOR_MAX: u32 = 5;
/// The promise: a flooded client ends a call so long after its deadline at most.
const LATE_MAX: Duration = Duration::from_millis(50);
/// Slots of an attacker's session.
const SLOTS: u32 = 1024;
/// How long each measurement takes.
const TIME: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", path] => serve(path),
        ["attack", path, kind, count] => attack(path, kind, count.parse()?),
        [kind, count] => measure(&[(kind, count.parse()?)]),
        _ => measure(&[("pings", 1), ("asks", 1), ("calls", 1), ("pings", 20), ("calls", 20)]),
    }
}

// ---- the server ----

fn serve(path: &str) -> Result<()> {
    let server = Server::builder("flood").service(FloodServer(Flooded)).build()?;
    let acceptor = UnixAcceptor::bind(path)?;
    ready()?;
    Ok(smol::block_on(smol::spawn(async move { server.serve(acceptor).await }))?)
}

/// Tells the parent that we have begun, and ends with it.
fn ready() -> Result<()> {
    output::show!("ready");
    std::io::stdout().flush()?;
    std::thread::spawn(|| {
        let mut nothing = [0];
        let _at_end = std::io::stdin().read(&mut nothing);
        std::process::exit(0);
    });
    Ok(())
}

// ---- the attackers ----

fn attack(path: &str, kind: &str, count: usize) -> Result<()> {
    if kind == "calls" {
        return smol::block_on(call_for_ever(path, count));
    }
    let mut out = [0; wire::CONTROL_LEN_MAX];
    let frame = match kind {
        "pings" => Frame::Ping(Role::Client),
        // The first call on the first slot: an `Ask` for another number would end the connection.
        "asks" => Frame::Ask(Xid::new(SLOTS.into()).ok_or("no xid")?, 1),
        _ => return Err(format!("no attack is called {kind}").into()),
    };
    let len = wire::encode(&frame, &mut out).ok_or("it does not fit")?;
    let frames = out[..len].repeat(4096);
    for _ in 0..count {
        let stream = open(path)?;
        let frames = frames.clone();
        std::thread::spawn(move || flood(stream, &frames));
    }
    ready()?;
    std::thread::park();
    Ok(())
}

/// Opens a session and makes one call, so that there is a reply to ask for.
fn open(path: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    let mut config = core::ClientConfig::default();
    config.slots = SLOTS;
    let mut client = core::Client::<Heap>::new(config);
    let begun = Instant::now();
    let now = || core::Instant::ZERO + begun.elapsed();
    client.handle_connected(now());
    client.call(now(), core::Call::new(FloodMethods::ECHO.id(), &[1][..]))?;
    let mut buffer = vec![0; 1 << 16];
    while client.pending() > 0 {
        while let Some(len) = client.poll_transmit(now(), &mut buffer) {
            stream.write_all(&buffer[..len.get()])?;
        }
        while client.poll_event().is_some() {}
        let len = stream.read(&mut buffer)?;
        let mut data = &buffer[..len];
        while !data.is_empty() {
            data = &data[client.handle_data(now(), data)?.consumed..];
        }
    }
    Ok(stream)
}

/// Writes the same frames again and again, and throws away what comes back.
fn flood(mut stream: UnixStream, frames: &[u8]) {
    if let Ok(mut back) = stream.try_clone() {
        std::thread::spawn(move || std::io::copy(&mut back, &mut std::io::sink()));
    }
    while stream.write_all(frames).is_ok() {}
}

/// Ordinary clients with 1,000 calls in flight each.
async fn call_for_ever(path: &str, count: usize) -> Result<()> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let client = client(path);
        for n in 0..1000 {
            let client = client.clone();
            tasks.push(smol::spawn(async move { while client.work(n).await.ok().is_ok() {} }));
        }
    }
    ready()?;
    std::future::pending().await
}

// ---- the measurement ----

/// A process of this program; ends with this value.
struct Process(Child);

impl Process {
    fn start(args: &[&str]) -> Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let process = Process(child);
        let mut ready = String::new();
        stdout.read_line(&mut ready)?;
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path in the temporary directory; removed with this value.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        Place(std::env::temp_dir().join(format!("oncewire-flood-{}-{name}", std::process::id())))
    }

    fn text(&self) -> Result<&str> {
        Ok(self.0.to_str().ok_or("the temporary directory's name is no text")?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("lock"));
    }
}

/// How long an honest caller waits.
#[derive(Clone, Copy, Debug)]
struct Waits {
    connect: Duration,
    median: Duration,
    p99: Duration,
    calls: usize,
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Waits { connect, median, p99, calls } = self;
        write!(f, "connected in {connect:?}, median {median:?}, p99 {p99:?} of {calls} calls")
    }
}

fn measure(attacks: &[(&str, usize)]) -> Result<()> {
    let place = Place::new("server");
    let _server = Process::start(&["serve", place.text()?])?;
    let alone = honest(&place.0)?;
    output::show!("alone: {alone}");
    let mut broken = Vec::new();
    for (kind, count) in attacks {
        let _attack = Process::start(&["attack", place.text()?, kind, &count.to_string()])?;
        let waits = honest(&place.0)?;
        output::show!("beside {count} × {kind}: {waits}");
        if waits.p99 > HONEST_MAX.max(FACTOR_MAX * alone.p99) && *count == 1 {
            broken.push(format!("beside {count} × {kind}: {:?}", waits.p99));
        }
    }
    for kind in ["pings", "answers"] {
        let late = flooded_client(kind, &place.0)?;
        if late > LATE_MAX {
            broken.push(format!("a client flooded with {kind}: {late:?} after its deadline"));
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("; ").into()) }
}

fn client(path: impl AsRef<Path>) -> FloodClient {
    FloodClient(Client::new(UnixConnector::new(path), ClientOptions::default()))
}

/// A client of its own makes one call after the other.
fn honest(path: &Path) -> Result<Waits> {
    smol::block_on(async {
        let begun = Instant::now();
        let client = client(path);
        client.echo(0).await.ok()?;
        let connect = begun.elapsed();
        let mut times = Vec::new();
        while begun.elapsed() < TIME {
            let before = Instant::now();
            client.echo(1).await.ok()?;
            times.push(before.elapsed());
            smol::Timer::after(Duration::from_millis(1)).await;
        }
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(TIME);
        Ok(Waits { connect, median: at(50), p99: at(99), calls: times.len() })
    })
}

/// How long after its deadline a call ends at a client whose server floods it; meanwhile another client of the process
/// calls an honest server.
fn flooded_client(kind: &'static str, honest_path: &Path) -> Result<Duration> {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let place = Place::new(kind);
    let listener = UnixListener::bind(&place.0)?;
    std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        flood_client(stream, kind)
    });
    let flooded = client(&place.0);
    flooded.echo(0).block().ok()?;
    let other = client(honest_path);
    let beside = std::thread::spawn(move || {
        smol::block_on(smol::spawn(async move {
            let begun = Instant::now();
            let outcome = other.echo(1).await;
            (begun.elapsed(), outcome.ok().is_ok())
        }))
    });
    let watched = flooded.0.clone();
    let watcher = std::thread::spawn(move || {
        std::thread::sleep(TIMEOUT / 2);
        let begun = Instant::now();
        let _ = watched.status();
        begun.elapsed()
    });
    let begun = Instant::now();
    let outcome = flooded.echo(1).timeout(TIMEOUT).block();
    let late = begun.elapsed().saturating_sub(TIMEOUT);
    let (neighbour, answered) = beside.join().map_err(|_| "the neighbour panicked")?;
    let status = watcher.join().map_err(|_| "the watcher panicked")?;
    output::show!(
        "a client flooded with {kind}: {outcome:?} {late:?} after its deadline; status() took {status:?}, \
         a call of another client {neighbour:?} ({answered})"
    );
    Ok(late)
}

/// Welcomes a client, answers one call, and then sends frames that were not asked for.
fn flood_client(mut stream: UnixStream, kind: &str) -> Result<()> {
    let config = ServerConfig::new(ServerId::from_bytes([1; 16]), ServiceName::EMPTY);
    let mut server =
        core::Server::<Heap>::new(config, &[core::MethodSpec::new(FloodMethods::ECHO.id())])?;
    let now = core::Instant::ZERO;
    let secret = SessionId::from_bytes([2; 16]);
    let conn = server.handle_connected(now, Principal::ANONYMOUS, secret).ok_or("no room")?;
    let mut buffer = vec![0; 1 << 16];
    let mut answered = false;
    while !answered {
        let len = stream.read(&mut buffer)?;
        let mut data = &buffer[..len];
        while !data.is_empty() {
            let received = server.handle_data(now, conn, data)?;
            data = &data[received.consumed..];
            if let Some(core::Incoming::Request(request)) = received.item {
                let running = server.start(now, request.admission).map_err(|_| "refused")?;
                server.reply(now, running, &[0][..]).map_err(|_| "too large")?;
                answered = true;
            }
        }
        while let Some(len) = server.poll_transmit(now, conn, &mut buffer) {
            stream.write_all(&buffer[..len.get()])?;
        }
    }
    let frame = match kind {
        "pings" => Frame::Ping(Role::Server),
        // Of a call that has ended: dropped.
        _ => Frame::Reply(
            ReplyHeader { status: Status::Done, xid: Xid::new(1).ok_or("no xid")? },
            &[],
        ),
    };
    let len = wire::encode(&frame, &mut buffer).ok_or("it does not fit")?;
    let frames = buffer[..len].repeat(4096);
    flood(stream, &frames);
    Ok(())
}
