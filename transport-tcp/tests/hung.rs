//! Servers that accept connections and say nothing, at one of several addresses: C360.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use oncewire_tcp::{Client, ClientOptions, Connect, Method, Server, TcpAcceptor, TcpConnector};
use smol::io::AsyncWriteExt;

const PING: Method<u32, u32> = Method::new("test/ping");

/// Its queue takes connections, and no program ever looks at it.
fn hung() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Those that have come since the last time.
fn connections(listener: &TcpListener) -> Vec<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| Some(listener.accept().ok()?.0)).collect()
}

/// Those of them over which something comes; the others were given up.
fn used(listener: &TcpListener) -> usize {
    let is_used = |stream: &mut TcpStream| matches!(stream.read(&mut [0]), Ok(1));
    connections(listener).iter_mut().map(is_used).filter(|used| *used).count()
}

async fn serving() -> SocketAddr {
    let server = Server::builder("test").method(&PING, |_, n: u32| async move { n + 1 });
    let server = server.build().unwrap();
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let address = acceptor.local_addr();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    address
}

fn options() -> ClientOptions {
    // The handshake's time: the call has a hundred times as much.
    ClientOptions::default().with_connect_timeout(Duration::from_millis(300))
}

#[test]
fn c360_a_server_that_accepts_and_says_nothing_is_left_for_the_next_address() {
    smol::block_on(async {
        let (first, second, good) = (hung(), hung(), serving().await);
        let connector = TcpConnector::any_of([first.1, second.1, good]);
        let client = Client::new(connector, options());
        assert_eq!(client.call(&PING, &1).timeout(Duration::from_secs(30)).await.ok(), Ok(2));
        // More than once, where the good one had no time for the handshake either.
        let tried = [&first, &second].map(|(listener, _)| connections(listener).len());
        assert!(tried.iter().all(|times| *times >= 1), "{tried:?}");
        client.close().await;
    });
}

#[test]
fn c360_where_no_address_answers_each_is_dialled_again_in_turn() {
    smol::block_on(async {
        let (first, second) = (hung(), hung());
        let connector = TcpConnector::any_of([first.1, second.1]);
        let mut ports = Vec::new();
        for _ in 0..4 {
            let mut connection = connector.connect().await.unwrap();
            connection.write_all(b"x").await.unwrap();
            ports.push([&first, &second].map(|(listener, _)| used(listener)));
            connector.handshake_failed();
            drop(connection);
        }
        let (one, other) = ([1, 0], [0, 1]);
        assert_eq!(ports, [one, other, one, other]);
    });
}
