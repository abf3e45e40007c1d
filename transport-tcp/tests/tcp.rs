//! Real sockets on the loopback.

use std::future::Future;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::time::Duration;

use oncewire_driver::conformance::exchange;
use oncewire_tcp::{
    Accept, BoxStream, ClientOptions, Connect, Runtime, Server, SmolRuntime, Subject, TcpAcceptor,
    TcpConnector,
};
use rustix::fd::OwnedFd;
use rustix::net;
use smol::future::{poll_once, zip};
use smol::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    smol::block_on(future)
}

/// Waits, but not for ever.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + limit);
    let too_late = async {
        smol::future::poll_fn(|cx| timer.poll(cx)).await;
        panic!("not there after {limit:?}");
    };
    smol::future::or(future, too_late).await
}

/// An address that refuses: its port is taken, but no socket listens there.
struct Refusing {
    address: SocketAddr,
    _held: OwnedFd,
}

fn refusing() -> Refusing {
    let (held, address) = bound();
    Refusing { address, _held: held }
}

fn bound() -> (OwnedFd, SocketAddr) {
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
    net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = net::getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

/// An address that neither accepts nor refuses connections: its queue of them is full.
struct Silent {
    address: SocketAddr,
    _held: (OwnedFd, TcpStream),
}

fn silent() -> Silent {
    let (listener, address) = bound();
    // The kernel lets one in beyond the backlog of 0.
    net::listen(&listener, 0).unwrap();
    Silent { address, _held: (listener, TcpStream::connect(address).unwrap()) }
}

async fn connected() -> (BoxStream, BoxStream) {
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let client = TcpConnector::new(acceptor.local_addr()).connect().await.unwrap();
    let (server, subject) = acceptor.accept().await.unwrap();
    assert_eq!(subject, Subject::Anonymous);
    (client, server)
}

/// A connection of ours whose other end is a plain socket.
async fn beside_a_plain_socket() -> (BoxStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpConnector::new(listener.local_addr().unwrap()).connect().await.unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn both_ends_send_64_mib_at_once_and_then_end() {
    block_on(async {
        let (client, server) = connected().await;
        let server = smol::spawn(exchange(server, 64 << 20));
        exchange(client, 64 << 20).await;
        server.await;
    });
}

#[test]
fn a_vectored_write_arrives_in_order() {
    block_on(async {
        let (mut client, mut server) = connected().await;
        let parts = [std::io::IoSlice::new(b"one "), std::io::IoSlice::new(b"two")];
        assert_eq!(client.write_vectored(&parts).await.unwrap(), 7);
        let mut got = [0; 7];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two");
    });
}

#[test]
fn a_refused_dial_names_the_address() {
    block_on(async {
        let refusing = refusing();
        let error = TcpConnector::new(refusing.address).connect().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&refusing.address.to_string()), "{error}");
    });
}

#[test]
fn the_second_address_is_tried_when_the_first_refuses() {
    block_on(async {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let refusing = refusing();
        let connector = TcpConnector::any_of([refusing.address, acceptor.local_addr()]);
        for _ in 0..3 {
            connector.connect().await.unwrap();
            acceptor.accept().await.unwrap();
        }
    });
}

#[test]
fn a_dial_that_fails_everywhere_names_every_address() {
    block_on(async {
        let tried = [refusing(), refusing(), refusing()];
        let connector = TcpConnector::any_of(tried.iter().map(|refusing| refusing.address));
        let error = connector.connect().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        for refusing in &tried {
            assert!(error.to_string().contains(&refusing.address.to_string()), "{error}");
        }
    });
}

#[test]
fn a_name_is_dialled_at_all_its_addresses() {
    block_on(async {
        // Where localhost is ::1 too, that one refuses.
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let connector = TcpConnector::new(format!("localhost:{}", acceptor.local_addr().port()));
        connector.connect().await.unwrap();
        acceptor.accept().await.unwrap();
    });
}

#[test]
fn c119_silent_addresses_delay_the_ones_behind_them_by_a_moment_only() {
    block_on(async {
        let silent: Vec<Silent> = (0..4).map(|_| silent()).collect();
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let addresses = silent.iter().map(|silent| silent.address);
        let connector = TcpConnector::any_of(addresses.chain([acceptor.local_addr()]));
        // One dial reaches it, within the time that the driver gives each.
        let limit = ClientOptions::default().connect_timeout;
        within(limit, connector.connect()).await.unwrap();
        acceptor.accept().await.unwrap();
    });
}

#[test]
fn c119_an_address_that_fails_is_not_waited_for_beside_a_silent_one() {
    block_on(async {
        let (silent, refusing) = (silent(), refusing());
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let addresses = [refusing.address, silent.address, acceptor.local_addr()];
        within(ClientOptions::default().connect_timeout, async {
            TcpConnector::any_of(addresses).connect().await.unwrap();
        })
        .await;
        acceptor.accept().await.unwrap();
    });
}

#[test]
fn the_addresses_that_lose_are_given_up() {
    block_on(async {
        let (held, address) = bound();
        net::listen(&held, 0).unwrap();
        let filler = TcpStream::connect(address).unwrap();
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let connector = TcpConnector::any_of([address, acceptor.local_addr()]);
        let stream = connector.connect().await.unwrap();
        // The silent one gets room, and finds that it is not dialled any more.
        let listener = TcpListener::from(held);
        drop((listener.accept().unwrap(), filler));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(stream);
    });
}

#[test]
fn c119_as_many_connections_wait_to_be_accepted_as_the_system_allows() {
    let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let Some(allowed) = allowed.ok().and_then(|text| text.trim().parse::<usize>().ok()) else {
        eprintln!("skipped: the system does not say how many may wait");
        return;
    };
    block_on(async {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let connector = TcpConnector::new(acceptor.local_addr());
        let mut waiting = Vec::new();
        for _ in 0..allowed.min(400) {
            waiting.push(within(Duration::from_secs(20), connector.connect()).await.unwrap());
        }
        // They were all admitted, not only begun.
        for _ in 0..waiting.len() {
            acceptor.accept().await.unwrap();
        }
    });
}

#[test]
fn callers_that_reset_before_they_are_accepted_do_not_make_accepting_fail() {
    block_on(async {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..20 {
            let stream = TcpStream::connect(acceptor.local_addr()).unwrap();
            let at_once = Some(Duration::ZERO);
            net::sockopt::set_socket_linger(&stream, at_once).unwrap();
        }
        for _ in 0..20 {
            acceptor.accept().await.unwrap();
        }
    });
}

#[test]
fn names_that_make_no_sense_are_errors_of_the_dial() {
    block_on(async {
        for name in ["", "no port", "127.0.0.1", "127.0.0.1:99999", "[::1"] {
            assert!(TcpConnector::new(name).connect().await.is_err(), "{name}");
            assert!(TcpAcceptor::bind(name).await.is_err(), "{name}");
        }
        let error = TcpConnector::new("localhost").connect().await.err().unwrap();
        assert!(error.to_string().starts_with("\"localhost\" has no port"), "{error}");
        let error = TcpConnector::any_of([]).connect().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_second_acceptor_on_one_port_is_refused() {
    block_on(async {
        let first = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let error = TcpAcceptor::bind(first.local_addr()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        // Once.
        assert_eq!(
            error.to_string().matches(&first.local_addr().to_string()).count(),
            1,
            "{error}"
        );
    });
}

#[test]
fn addresses_are_reported() {
    block_on(async {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let told = format!("tcp:{}", acceptor.local_addr());
        assert_eq!(acceptor.address(), told);
        assert_eq!(TcpConnector::new(acceptor.local_addr()).address(), told);
    });
}

#[test]
fn the_end_of_the_peer_wakes_a_reader_that_waits() {
    block_on(async {
        let (mut client, server) = connected().await;
        let mut buf = [0; 1];
        let mut read = pin!(client.read(&mut buf));
        assert!(poll_once(read.as_mut()).await.is_none());
        drop(server);
        assert_eq!(read.await.unwrap(), 0);
    });
}

#[test]
fn a_reset_wakes_a_reader_that_waits() {
    block_on(async {
        let (mut client, peer) = beside_a_plain_socket().await;
        client.write_all(b"never read").await.unwrap();
        peer.peek(&mut [0]).unwrap();
        let mut buf = [0; 1];
        let mut read = pin!(client.read(&mut buf));
        assert!(poll_once(read.as_mut()).await.is_none());
        // What is closed with unread bytes is reset.
        drop(peer);
        assert_eq!(read.await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn closing_ends_our_direction_only() {
    block_on(async {
        let (mut client, mut peer) = beside_a_plain_socket().await;
        client.close().await.unwrap();
        assert_eq!(std::io::Read::read(&mut peer, &mut [0; 8]).unwrap(), 0);
        peer.write_all(b"late").unwrap();
        let mut got = [0; 4];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"late");
        drop(peer);
        assert_eq!(client.read(&mut got).await.unwrap(), 0);
        client.close().await.unwrap();
    });
}

#[test]
fn a_writer_waits_until_the_peer_reads() {
    block_on(async {
        let (mut client, mut server) = connected().await;
        let block = vec![7; 1 << 20];
        let mut written = 0;
        while let Some(n) = poll_once(client.write(&block)).await {
            written += n.unwrap();
        }
        let mut got = vec![0; written];
        let (more, ()) = zip(client.write(&block), async {
            server.read_exact(&mut got).await.unwrap();
        })
        .await;
        assert!(more.unwrap() > 0);
    });
}

/// The traits ask for it; said here so that a failure names this crate.
#[test]
fn streams_and_ends_move_between_threads() {
    fn moves<T: Send + 'static>() {}
    fn shared<T: Send + Sync + 'static>() {}
    fn reads<T: AsyncRead>() {}
    moves::<BoxStream>();
    reads::<BoxStream>();
    shared::<TcpConnector>();
    shared::<TcpAcceptor>();
}

#[test]
fn c194_what_other_machines_can_reach_is_not_served_without_tls_unless_its_owner_says_so() {
    block_on(async {
        let server = Server::builder("open").build().unwrap();
        for address in ["0.0.0.0:0", "[::]:0"] {
            let Ok(acceptor) = TcpAcceptor::bind_for_tls(address).await else {
                eprintln!("skipped: {address} cannot be had here");
                continue;
            };
            // Where it is not meant for TLS, nothing is listened on; where it is, there is no serving without.
            let bound = TcpAcceptor::bind(address).await.map(|_| ()).unwrap_err();
            let served = server.serve(acceptor).await.unwrap_err();
            for error in [bound, served] {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                let error = error.to_string();
                assert!(error.contains("oncewire-tls") && error.contains("insecure"), "{error}");
                assert!(error.starts_with("tcp:"), "{error}");
            }
        }
        let acceptor = TcpAcceptor::bind_insecure("0.0.0.0:0").await.unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], acceptor.local_addr().port()));
        let connector = TcpConnector::new(address);
        let (client, accepted) = zip(connector.connect(), acceptor.accept()).await;
        assert!(client.is_ok() && accepted.is_ok());
    });
}
