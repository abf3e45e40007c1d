//! Reads a large body over connections that break, and looks at every byte.

// Real time: a program, not a test.
#![allow(clippy::disallowed_methods)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncewire::stream::StreamMethod;
use oncewire::{Bytes, Client, ClientOptions, Method, Server, TcpAcceptor, TcpConnector};
use smol::future;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};
use smol::stream::{self, Stream};

/// The bytes of a body of this length.
const BODY: StreamMethod<u64, Bytes> = StreamMethod::bytes("files/body").resumable();
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

/// Passes on what comes, and cuts the connection after so many bytes.
async fn relay(listener: TcpListener, server: String, cuts: Arc<AtomicU64>) -> std::io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let server = TcpStream::connect(&*server).await?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        let up = smol::io::copy(client.clone(), server.clone());
        let down = async {
            let (mut from, mut to) = (server.clone(), client.clone());
            let (mut buf, mut left) = (vec![0; 64 << 10], CUT_EVERY);
            while left > 0 {
                let len = from.read(&mut buf).await?;
                if len == 0 {
                    return Ok(0);
                }
                to.write_all(&buf[..len]).await?;
                left = left.saturating_sub(len as u64);
            }
            cuts.fetch_add(1, Ordering::Relaxed);
            Ok(0)
        };
        // Both sockets are closed when their last clones are dropped, here.
        let _ended = future::or(up, down).await;
    }
}

async fn read(client: &Client, len: u64) -> Result<(), AnyError> {
    let pattern = pattern();
    let mut body = client.stream(&BODY, &len);
    let mut position = 0;
    while let Some(bytes) = body.next().await {
        let mut bytes = bytes?;
        while !bytes.is_empty() {
            let expected = piece(&pattern, position, bytes.len() as u64);
            if bytes.split_to(expected.len()) != expected {
                return Err(format!("other bytes at position {position}").into());
            }
            position += expected.len() as u64;
        }
    }
    if position != len { Err(format!("it ended at {position} of {len}").into()) } else { Ok(()) }
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

async fn run(len: u64) -> Result<(), AnyError> {
    let pattern = pattern();
    let server = Server::builder("files")
        .stream(&BODY, move |_, len, from| std::future::ready(body(pattern.clone(), len, from)))
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
    let mut times = Vec::new();
    let begun = Instant::now();
    future::or(read(&client, len), small_calls(&client, &mut times)).await?;
    let took = begun.elapsed();
    times.sort();
    let at = |percent| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let (mib, cuts) = (len / MIB, cuts.load(Ordering::Relaxed));
    println!("{mib} MiB in {took:.1?} through {cuts} cuts: every byte came, in order");
    println!("{} small calls beside it: p50 {:.1?}, p99 {:.1?}", times.len(), at(50), at(99));
    drop((client, relaying, serving));
    if cuts > 0 { Ok(()) } else { Err("nothing was cut".into()) }
}

fn main() -> ExitCode {
    let mib = std::env::args().nth(1).map_or(Ok(256), |mib| mib.parse());
    let Ok(mib @ 51..=1_048_576) = mib else {
        eprintln!("a number of MiB is expected, 51 at least");
        return ExitCode::from(2);
    };
    match smol::block_on(run(mib * MIB)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
