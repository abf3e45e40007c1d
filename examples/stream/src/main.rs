//! Reads a large body, and sends it back, over connections that break, and looks at every byte.

// Real time: a program, not a test.
#![allow(clippy::disallowed_methods)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncewire::stream::{Incoming, StreamMethod, UploadMethod};
use oncewire::{Bytes, Client, ClientOptions, Method, Server, TcpAcceptor, TcpConnector};
use smol::future;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};
use smol::stream::{self, Stream};

/// The bytes of a body of this length.
const BODY: StreamMethod<u64, Bytes> = StreamMethod::bytes("files/body").resumable();
/// Takes a body; returns its length, or what is wrong with it.
const STORE: UploadMethod<(), Bytes, Result<u64, String>> = UploadMethod::bytes("files/store");
const ADD_ONE: Method<u64, u64> = Method::new("files/add_one");

const MIB: u64 = 1 << 20;
const CUT_EVERY: u64 = 50 * MIB;
/// A prime, so that a byte that is left out or comes twice is noticed.
const PERIOD: u64 = 65_521;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The pattern of a body, twice: any piece of a period's length begins in its first half.
fn pattern() -> Bytes {
    (0..2 * PERIOD)
        .map(|at| (at % PERIOD).to_le_bytes())
        .map(|[low, high, ..]| low ^ high)
        .collect()
}

fn piece(pattern: &Bytes, position: u64, len: u64) -> Bytes {
    let start = (position % PERIOD) as usize;
    pattern.slice(start..start + len.min(PERIOD) as usize)
}

fn body(pattern: Bytes, len: u64, from: u64) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(from, move |at| {
        let next = piece(&pattern, at, len.saturating_sub(at));
        let behind = at + next.len() as u64;
        std::future::ready((!next.is_empty()).then_some((next, behind)))
    })
}

/// Looks at each byte of a body that begins with these.
struct Checked {
    pattern: Bytes,
    position: u64,
}

impl Checked {
    fn take(&mut self, mut bytes: Bytes) -> Result<(), String> {
        while !bytes.is_empty() {
            let expected = piece(&self.pattern, self.position, bytes.len() as u64);
            if bytes.split_to(expected.len()) != expected {
                return Err(format!("other bytes at position {}", self.position));
            }
            self.position += expected.len() as u64;
        }
        Ok(())
    }
}

/// Takes effect when `body` has ended, which is when the client has committed: here it only counts.
async fn store(pattern: Bytes, mut body: Incoming<Bytes>) -> Result<u64, String> {
    let mut checked = Checked { pattern, position: 0 };
    while let Some(bytes) = body.next().await {
        checked.take(bytes)?;
    }
    Ok(checked.position)
}

/// Passes on what comes, and cuts the connection after so many bytes.
async fn relay(listener: TcpListener, server: String, cuts: Arc<AtomicU64>) -> std::io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let server = TcpStream::connect(&*server).await?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        let up = pass(client.clone(), server.clone(), &cuts);
        let down = pass(server.clone(), client.clone(), &cuts);
        // Both sockets are closed when their last clones are dropped, here.
        let _ended = future::or(up, down).await;
    }
}

async fn pass(mut from: TcpStream, mut to: TcpStream, cuts: &AtomicU64) -> std::io::Result<()> {
    let (mut buf, mut left) = (vec![0; 64 << 10], CUT_EVERY);
    while left > 0 {
        let len = from.read(&mut buf).await?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(&buf[..len]).await?;
        left = left.saturating_sub(len as u64);
    }
    cuts.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn read(client: &Client, len: u64) -> Result<(), AnyError> {
    let mut checked = Checked { pattern: pattern(), position: 0 };
    let mut body = client.stream(&BODY, &len);
    while let Some(bytes) = body.next().await {
        checked.take(bytes?)?;
    }
    let position = checked.position;
    if position != len { Err(format!("it ended at {position} of {len}").into()) } else { Ok(()) }
}

async fn send(client: &Client, len: u64) -> Result<(), AnyError> {
    let pattern = pattern();
    let mut body = client.upload(&STORE, &());
    while body.position() < len {
        body.send(piece(&pattern, body.position(), len - body.position())).await?;
    }
    let stored = body.commit().await??;
    if stored != len { Err(format!("{stored} of {len} were stored").into()) } else { Ok(()) }
}

/// The times of small calls, one after the other, for ever.
async fn small_calls(client: &Client, times: &mut Vec<Duration>) -> Result<(), AnyError> {
    for n in 0.. {
        let begun = Instant::now();
        if client.call(&ADD_ONE, &n).result().await? != n + 1 {
            return Err("a wrong sum".into());
        }
        times.push(begun.elapsed());
        smol::Timer::after(Duration::from_micros(200)).await;
    }
    Ok(())
}

/// Does it with small calls beside it, and says how long they took.
async fn beside_small_calls(
    what: &str,
    client: &Client,
    body: impl Future<Output = Result<(), AnyError>>,
    len: u64,
    cuts: &AtomicU64,
) -> Result<(), AnyError> {
    let mut times = Vec::new();
    let (begun, cuts_before) = (Instant::now(), cuts.load(Ordering::Relaxed));
    future::or(body, small_calls(client, &mut times)).await?;
    let took = begun.elapsed();
    times.sort();
    let at = |percent| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let (mib, cuts) = (len / MIB, cuts.load(Ordering::Relaxed) - cuts_before);
    output::show!("{mib} MiB {what} in {took:.1?} through {cuts} cuts: every byte came, in order");
    output::show!("{} small calls beside it: p50 {:.1?}, p99 {:.1?}", times.len(), at(50), at(99));
    if cuts > 0 { Ok(()) } else { Err("nothing was cut".into()) }
}

async fn run(len: u64) -> Result<(), AnyError> {
    let [of_body, of_store] = [(); 2].map(|()| pattern());
    let server = Server::builder("files")
        .stream(&BODY, move |_, len, from| std::future::ready(body(of_body.clone(), len, from)))
        .upload(&STORE, move |_, (), body| store(of_store.clone(), body))
        .method(&ADD_ONE, |_, n| async move { n + 1 })
        .build()?;
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
    let address = acceptor.local_addr().to_string();
    let serving = smol::spawn(async move { server.serve(acceptor).await });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let relayed = listener.local_addr()?.to_string();
    let cuts = Arc::new(AtomicU64::new(0));
    let relaying = smol::spawn(relay(listener, address, cuts.clone()));

    let client = Client::new(TcpConnector::new(relayed), ClientOptions::default());
    beside_small_calls("down", &client, read(&client, len), len, &cuts).await?;
    beside_small_calls("up", &client, send(&client, len), len, &cuts).await?;
    drop((client, relaying, serving));
    Ok(())
}

const USAGE: &str =
    "Reads a large body, and sends one, over connections that break: every byte comes, in order.

Usage: stream [MIB]     51 to 1048576 MiB, 256 unless said

Exit status 0: all bytes came; 1: they did not; 2: bad input, with a line that says what.";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let mib = match (args.next(), args.next()) {
        (Some(help), None) if help == "--help" || help == "-h" => {
            output::show!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        (None, _) => Some(256),
        (Some(mib), None) => mib.to_str().and_then(|mib| mib.parse().ok()),
        _ => None,
    };
    let Some(mib @ 51..=1_048_576) = mib else {
        output::note!("stream: expected is a number of MiB, 51 to 1048576, or nothing; see --help");
        return ExitCode::from(2);
    };
    match smol::block_on(run(mib * MIB)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("stream: {error}");
            ExitCode::FAILURE
        }
    }
}
