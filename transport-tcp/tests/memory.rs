//! Strangers attack a server's memory, in a process of its own, and its resident memory is measured: C98 to C105.
//!
//! After each attack, and while the attackers' connections are open, an ordinary client's calls are answered as if nothing
//! were: a hostile peer affects its own session only.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use oncewire_tcp::protocol::wire::{self, Ack, Frame, Hello, RequestHeader};
use oncewire_tcp::protocol::{MethodId, MethodSpec, Xid};
use oncewire_tcp::{Client, ClientOptions, Method, Server, TcpAcceptor, TcpConnector};

const ECHO: Method<u32, u32> = Method::new("memory/echo");
/// Is never answered.
const HOLD: MethodId = MethodId::of("memory/hold");
/// Is answered with 8 MiB.
const BIG: MethodId = MethodId::of("memory/big");

const MIB: usize = 1 << 20;
const BIG_LEN: usize = 8 * MIB;
/// The server's budgets, of replies and of requests.
const BUDGET: u64 = 64 << 20;

/// Is no test in the process that runs the tests: there it does nothing.
#[test]
fn server_process() {
    if std::env::var_os("ONCEWIRE_MEMORY_SERVER").is_none() {
        return;
    }
    let mut big = MethodSpec::new(BIG);
    big.reply_len_max = BIG_LEN as u32;
    let body = oncewire_tcp::Bytes::from(vec![7; BIG_LEN]);
    let server = Server::builder("memory")
        .configure(|config| {
            config.kept_max = BUDGET;
            config.requests_max = BUDGET;
        })
        .method(&ECHO, |_, n| std::future::ready(n))
        .method_raw(MethodSpec::new(HOLD), |_, body| async move {
            std::future::pending::<()>().await;
            body
        })
        // A copy each: shared ones would cost nothing.
        .method_raw(big, move |_, _| std::future::ready(body.to_vec().into()))
        .build()
        .unwrap();
    smol::block_on(async {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        println!("address {}", acceptor.local_addr());
        let serving = smol::spawn(async move { server.serve(acceptor).await });
        // Lives as long as its standard input.
        smol::unblock(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap();
        drop(serving);
    });
}

struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Kept open: the test harness of the process still writes to it.
    _stdout: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Victim {
    fn start() -> Victim {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server_process", "--nocapture"])
            .env("ONCEWIRE_MEMORY_SERVER", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(|line| line.unwrap())
            .find_map(|line| line.split_once("address ").map(|(_, at)| at.parse().unwrap()))
            .expect("the server says where it is");
        Victim { child, stdin, _stdout: lines, address }
    }

    /// Bytes of its memory that are resident.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// A connection with a session of 1,024 slots.
    fn open(&self) -> TcpStream {
        let mut stream = self.connect();
        say(
            &mut stream,
            &Frame::Hello(Hello {
                magic: wire::MAGIC,
                version_min: wire::VERSION,
                version_max: wire::VERSION,
                features: 0,
                resume: None,
                slots: 1_024,
                request_len_max: 16 << 20,
                reply_len_max: 16 << 20,
                service: None,
                server: None,
                token: None,
            }),
        );
        let mut len = [0; 4];
        stream.read_exact(&mut len).unwrap();
        stream.read_exact(&mut vec![0; u32::from_le_bytes(len) as usize]).unwrap();
        stream
    }

    /// An ordinary client calls, in a session of its own.
    fn serves_others(&self, attack: &str) {
        let mut options = ClientOptions::default();
        options.timeout = Duration::from_secs(60);
        let client = Client::new(TcpConnector::new(self.address), options);
        for number in 0..20 {
            let reply = smol::block_on(async { client.call(&ECHO, &number).await });
            assert_eq!(reply.ok(), Ok(number), "{attack}");
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ended = self.child.wait();
    }
}

/// Writes a frame; a server that has closed the connection is no error.
fn say(stream: &mut TcpStream, frame: &Frame<'_>) {
    let body = if let Frame::Request(_, body) = frame { body.len() } else { 0 };
    let mut out = vec![0; wire::CONTROL_LEN_MAX + body];
    let len = wire::encode(frame, &mut out).unwrap();
    let _closed = stream.write_all(&out[..len]);
}

fn request(method: MethodId, number: u64, flags: u8, body: &[u8]) -> Frame<'_> {
    let xid = Xid::new(number).unwrap();
    Frame::Request(RequestHeader { flags, method, remaining_ms: 600_000, xid, acked: 0 }, body)
}

/// 15,000 such used to cost 979 MB.
fn one_byte_each(victim: &Victim) -> Vec<TcpStream> {
    (0..3_000)
        .map(|_| {
            let mut stream = victim.connect();
            stream.write_all(&[21]).unwrap();
            stream
        })
        .collect()
}

/// 5,000 such used to cost 784 MB, long after they were gone.
fn last_slot(victim: &Victim) -> Vec<TcpStream> {
    for _ in 0..1_000 {
        let mut stream = victim.open();
        say(&mut stream, &request(ECHO.id(), 1_023, 0, &[1]));
        // Its reply, so that it is known to have been executed.
        stream.read_exact(&mut [0; 16]).unwrap();
    }
    Vec::new()
}

/// 100 of 16 MiB used to cost 1.7 GB.
fn one_way_bodies(victim: &Victim) -> Vec<TcpStream> {
    let body = vec![7; 4 * MIB];
    (0..100)
        .map(|_| {
            let mut stream = victim.open();
            say(&mut stream, &request(HOLD, 1, wire::FLAG_ONE_WAY, &body));
            stream
        })
        .collect()
}

/// Of each request all but the last bytes come.
fn bodies_that_never_end(victim: &Victim) -> Vec<TcpStream> {
    let mut frame = vec![0; wire::CONTROL_LEN_MAX + 4 * MIB];
    let body = vec![7; 4 * MIB];
    let len = wire::encode(&request(HOLD, 1, wire::FLAG_ONE_WAY, &body), &mut frame).unwrap();
    (0..100)
        .map(|_| {
            let mut stream = victim.open();
            let _closed = stream.write_all(&frame[..len - 10]);
            stream
        })
        .collect()
}

/// 50 of 1 MiB used to cost 52 MB in no budget.
fn acknowledged_and_not_read(victim: &Victim) -> Vec<TcpStream> {
    (0..40)
        .map(|_| {
            let mut stream = victim.open();
            say(&mut stream, &request(BIG, 1, 0, &[]));
            // The first bytes have come: it is leaving.
            stream.read_exact(&mut [0; 16]).unwrap();
            say(&mut stream, &Frame::Ack(Ack { acked: 1, last: 1, base: 0, settled: 0 }));
            stream
        })
        .collect()
}

/// 17 such used to reserve all there was, and every other client's call was refused.
fn slow_calls(victim: &Victim) -> Vec<TcpStream> {
    (0..17)
        .map(|_| {
            let mut stream = victim.open();
            for number in 1..=1_024 {
                say(&mut stream, &request(HOLD, number, 0, &[]));
            }
            stream
        })
        .collect()
}

type Attack = fn(&Victim) -> Vec<TcpStream>;

#[test]
fn c105_attacks_on_memory_cost_what_is_budgeted_and_others_are_served() {
    let attacks: [(&str, Attack, usize); 6] = [
        ("3,000 connections with one byte each", one_byte_each, 24 * MIB),
        ("1,000 sessions that used their last slot", last_slot, 16 * MIB),
        ("100 one-way bodies of 4 MiB", one_way_bodies, 128 * MIB),
        ("100 bodies of 4 MiB that never end", bodies_that_never_end, 128 * MIB),
        ("40 replies of 8 MiB, acknowledged and not read", acknowledged_and_not_read, 128 * MIB),
        ("17 connections with 1,024 slow calls", slow_calls, 64 * MIB),
    ];
    for (name, attack, max) in attacks {
        let victim = Victim::start();
        victim.serves_others(name);
        let before = victim.resident();
        let attackers = attack(&victim);
        victim.serves_others(name);
        let cost = victim.resident().saturating_sub(before);
        println!("{name}: {} MiB, {} allowed", cost / MIB, max / MIB);
        assert!(cost <= max, "{name}: {} MiB, {} allowed", cost / MIB, max / MIB);
        drop(attackers);
    }
}
