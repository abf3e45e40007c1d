//! Processes that are stopped, as a debugger stops them, and keep their connection: C96.
//!
//! The test is one process, the peer another one: this program again, whose role a variable gives.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use oncewire_tcp::{
    Client, ClientOptions, Method, NEVER, Outcome, Server, TcpAcceptor, TcpConnector,
};
use rustix::process::{Pid, Signal, kill_process};

const ADD_ONE: Method<u32, u32> = Method::new("stopped/add_one");
/// What a peer is borne by default, here.
const KEEPALIVE: Duration = Duration::from_millis(400);
/// Many times as long: a connection that lives on by then is not given up.
const STOP: Duration = Duration::from_secs(2);
/// Pauses of a tenth of a keepalive, for a connection that should be given up: two minutes.
const LOOKS: u32 = 3_000;

/// The variable, and what it says: a peer's role, whether it says never, and an address.
const ROLE: &str = "ONCEWIRE_STOPPED_ROLE";

fn server(never: bool) -> Server {
    Server::builder("stopped")
        .configure(|config| config.keepalive = if never { NEVER } else { KEEPALIVE })
        .method(&ADD_ONE, |_, n: u32| async move { n + 1 })
        .build()
        .unwrap()
}

fn client(address: SocketAddr, never: bool) -> Client {
    let mut options = ClientOptions::default();
    options.keepalive = if never { NEVER } else { options.keepalive };
    options.timeout = Duration::from_secs(600);
    Client::new(TcpConnector::new(address), options)
}

async fn call(client: &Client, n: u32) {
    let outcome = client.call(&ADD_ONE, &n).await;
    assert!(matches!(outcome, Outcome::Reply(sum) if sum == n + 1), "{outcome:?}");
}

#[allow(clippy::disallowed_methods, reason = "a stop lasts as long as it lasts")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The other process.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn play(role: &str, never: bool, address: &str) -> Peer {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_peer", "--ignored", "--nocapture"])
            .env(ROLE, format!("{role} {never} {address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Peer { child, input, output }
    }

    /// What it says next, behind what the test harness says.
    fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the peer has ended");
            if let Some((_, said)) = line.trim_end().split_once("> ") {
                return said.to_owned();
            }
        }
    }

    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// Stops it while this runs.
    fn stop(&self, meanwhile: impl FnOnce()) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        meanwhile();
        kill_process(pid, Signal::CONT).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Waits until a connection that should be given up is, or for long enough to see that it is not.
fn wait(is_given_up: impl Fn() -> bool, should_be: bool) {
    if !should_be {
        return pause(STOP);
    }
    for _ in 0..LOOKS {
        if is_given_up() {
            return;
        }
        pause(KEEPALIVE / 10);
    }
    panic!("the connection to a stopped peer is not given up");
}

/// Not a test by itself: what the other process does.
#[test]
#[ignore = "played by the other tests"]
fn the_peer() {
    let Ok(role) = env::var(ROLE) else { return };
    let parts: Vec<&str> = role.split(' ').collect();
    let [role, never, address] = parts[..] else { panic!("{role:?}") };
    let never = never == "true";
    let mut lines = std::io::stdin().lines();
    smol::block_on(async {
        if role == "server" {
            let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
            println!("> {}", acceptor.local_addr());
            server(never).serve(acceptor).await.unwrap();
            return;
        }
        let client = client(address.parse().unwrap(), never);
        call(&client, 1).await;
        println!("> called");
        lines.next();
        call(&client, 2).await;
        println!("> {}", client.status().reconnects);
        lines.next();
    });
}

/// The server is stopped; its connection survives where either says never.
fn stop_a_server(server_never: bool, client_never: bool) {
    let survives = server_never || client_never;
    let mut peer = Peer::play("server", server_never, "-");
    let client = client(peer.says().parse().unwrap(), client_never);
    smol::block_on(call(&client, 1));
    let mut pending = None;
    peer.stop(|| {
        pending = Some(client.call(&ADD_ONE, &2).start());
        wait(|| !client.status().connected, !survives);
    });
    let outcome = smol::block_on(pending.unwrap());
    assert!(matches!(outcome, Outcome::Reply(3)), "{outcome:?}");
    // A connection that was given up may still have brought the reply, before there is another.
    assert!(!survives || client.status().reconnects == 0);
}

/// The client is stopped; its connection survives where either says never.
fn stop_a_client(server_never: bool, client_never: bool) {
    let survives = server_never || client_never;
    let server = server(server_never);
    let acceptor = smol::block_on(TcpAcceptor::bind("127.0.0.1:0")).unwrap();
    let address = acceptor.local_addr().to_string();
    let serves = server.clone();
    let _serving = smol::spawn(async move { serves.serve(acceptor).await });
    let mut peer = Peer::play("client", client_never, &address);
    assert_eq!(peer.says(), "called");
    peer.stop(|| wait(|| server.counters().conns == 0, !survives));
    peer.go_on();
    let reconnects = peer.says();
    assert_eq!((reconnects == "0", server.counters().resumes == 0), (survives, survives));
}

#[test]
fn c96_a_stopped_server_keeps_its_connection_where_it_says_never() {
    stop_a_server(true, false);
}

#[test]
fn c96_a_stopped_server_keeps_its_connection_where_its_client_says_never() {
    stop_a_server(false, true);
}

#[test]
fn c96_a_stopped_client_keeps_its_connection_where_its_server_says_never() {
    stop_a_client(true, false);
}

#[test]
fn c96_a_stopped_client_keeps_its_connection_where_it_says_never() {
    stop_a_client(false, true);
}

#[test]
fn c96_stopped_peers_lose_their_connection_where_neither_says_never() {
    stop_a_server(false, false);
    stop_a_client(false, false);
}
