//! Lines that carry less than the sockets' buffers hold, both ways: C94.
//!
//! A relay between client and server lets so many bytes a second pass each way, and counts them. The buffers of four real
//! sockets are in between, so that a large body has left its sender long before it has arrived.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oncewire_tcp::protocol::{MethodId, MethodSpec};
use oncewire_tcp::{Client, ClientOptions, Outcome, Server, TcpAcceptor, TcpConnector};

const SWALLOW: MethodId = MethodId::of("slow/swallow");
const PRODUCE: MethodId = MethodId::of("slow/produce");

#[derive(Clone, Copy, Debug)]
enum Way {
    Up,
    Down,
}

/// A relay of limited rate, and what went through it.
struct Relay {
    address: SocketAddr,
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Relay {
    fn to(server: SocketAddr, rate: u64) -> Arc<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Arc::new(Relay {
            address: listener.local_addr().unwrap(),
            connections: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        });
        let relays = relay.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else { return };
                relays.connections.fetch_add(1, Ordering::SeqCst);
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down) = (relays.clone(), relays.clone());
                thread::spawn(move || pump(ends.0, ends.1, rate, &up.up));
                thread::spawn(move || pump(server, client, rate, &down.down));
            }
        });
        relay
    }
}

/// Copies at a rate until either side ends.
#[allow(clippy::disallowed_methods, reason = "a rate is a matter of real time")]
fn pump(mut from: TcpStream, mut to: TcpStream, rate: u64, count: &AtomicU64) {
    let mut piece = vec![0; (rate / 50).clamp(64, 64 << 10) as usize];
    let mut due = Instant::now();
    let copied = (|| -> io::Result<()> {
        loop {
            let len = from.read(&mut piece)?;
            if len == 0 {
                return Ok(());
            }
            due = due.max(Instant::now()) + Duration::from_nanos(len as u64 * 1_000_000_000 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            count.fetch_add(len as u64, Ordering::SeqCst);
            to.write_all(&piece[..len])?;
        }
    })();
    drop(copied);
    // Whatever ended it, both sides must learn of it.
    let _gone = from.shutdown(Shutdown::Both);
    let _gone = to.shutdown(Shutdown::Both);
}

/// Sends a body of `len` bytes one way; the sentence says what became of it.
fn send(rate: u64, way: Way, len: usize, keepalive: Option<Duration>) -> (bool, String) {
    let runs = Arc::new(AtomicU64::new(0));
    let counts = runs.clone();
    let mut produce = MethodSpec::new(PRODUCE);
    produce.reply_len_max = 64 << 20;
    let server = Server::builder("slow")
        .configure(|config| {
            config.keepalive = keepalive.unwrap_or(config.keepalive);
            config.request_len_max = 64 << 20;
            config.reply_len_max = 64 << 20;
        })
        .method_raw(MethodSpec::new(SWALLOW), move |_, body| {
            counts.fetch_add(1, Ordering::SeqCst);
            std::future::ready(body.slice(..8))
        })
        .method_raw(produce, move |_, _| std::future::ready(vec![7; len].into()))
        .build()
        .unwrap();
    smol::block_on(async {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::to(acceptor.local_addr(), rate);
        let serves = server.clone();
        let serving = smol::spawn(async move { serves.serve(acceptor).await });
        let mut options = ClientOptions::default();
        options.timeout = Duration::from_secs(60);
        options.reply_len_max = 64 << 20;
        options.request_len_max = 64 << 20;
        let client = Client::new(TcpConnector::new(relay.address), options);
        let outcome = match way {
            Way::Up => client.call_raw(SWALLOW, vec![7; len]).await,
            Way::Down => client.call_raw(PRODUCE, vec![]).await,
        };
        let arrived = match &outcome {
            Outcome::Reply(body) => body.len() == if let Way::Up = way { 8 } else { len },
            _ => false,
        };
        let [connections, up, down] =
            [&relay.connections, &relay.up, &relay.down].map(|count| count.load(Ordering::SeqCst));
        let sent = if let Way::Up = way { up } else { down };
        drop(serving);
        let end = if arrived { "a reply".to_owned() } else { format!("{outcome:?}") };
        let said = format!(
            "{way:?}, {len} bytes at {rate} B/s: {connections} connections, {sent} bytes sent, {end}"
        );
        (arrived && connections == 1 && sent < len as u64 + 10_000, said)
    })
}

fn all(cases: Vec<(u64, Way, usize, Option<Duration>)>) {
    let threads: Vec<_> = cases
        .into_iter()
        .map(|(rate, way, len, keepalive)| thread::spawn(move || send(rate, way, len, keepalive)))
        .collect();
    let mut failed = Vec::new();
    for thread in threads {
        let (fine, said) = thread.join().unwrap();
        println!("{said}");
        if !fine {
            failed.push(said);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn c94_bodies_that_take_three_keepalives_arrive_at_once_at_any_rate() {
    let keepalive = Duration::from_secs(2);
    let mut cases = Vec::new();
    for rate in [10_000, 200_000, 2_000_000] {
        for way in [Way::Up, Way::Down] {
            cases.push((rate, way, rate as usize * 6, Some(keepalive)));
        }
    }
    all(cases);
}

/// The figures that were seen with the defaults before, and 10 MB/s: takes half a minute.
#[test]
#[ignore = "takes half a minute of real time"]
fn c94_bodies_that_take_longer_than_the_default_keepalive_arrive() {
    all(vec![
        (200_000, Way::Up, 4_000_000, None),
        (500_000, Way::Down, 15_000_000, None),
        (10_000, Way::Up, 300_000, None),
        (10_000, Way::Down, 300_000, None),
        (10_000_000, Way::Up, 64_000_000, Some(Duration::from_secs(1))),
        (10_000_000, Way::Down, 64_000_000, Some(Duration::from_secs(1))),
    ]);
}
