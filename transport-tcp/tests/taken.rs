//! The server that comes second at an address learns which one was first: C188.
#![allow(missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};

use oncewire_tcp::probe::{Listener, who_listens};
use oncewire_tcp::tokens::Tokens;
use oncewire_tcp::{BoxStream, Connect, Server, TcpAcceptor, TcpConnector};
use rustix::net;

/// Times that a listener is asked, which has a second each time: on a busy machine it may need more than one.
const TRIES: usize = 60;

/// The error of a second server there, when the first one was quick enough to say what it is.
async fn second_at(address: SocketAddr) -> String {
    for _ in 1..TRIES {
        let error = second_at_once(address).await;
        if !error.contains("does not answer within") {
            return error;
        }
    }
    second_at_once(address).await
}

/// The error of a second server there, whatever the first one has time to say.
async fn second_at_once(address: SocketAddr) -> String {
    let error = TcpAcceptor::bind(address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    let error = error.to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    error
}

/// Serves, and says where and as which instance.
async fn serve(server: Server) -> (SocketAddr, String) {
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let (address, instance) = (acceptor.local_addr(), server.instance().to_string());
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    (address, instance)
}

/// A server of another protocol, that says this on each connection and then waits for the other end to leave.
fn other(says: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Who asks may have left.
            let _ = stream.read_exact(&mut [0; 9]).and_then(|()| stream.write_all(says));
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    address
}

#[test]
fn c188_the_second_server_at_a_port_names_the_first() {
    smol::block_on(async {
        let server = Server::builder("bank").instance("web-3").build().unwrap();
        let (address, instance) = serve(server.clone()).await;
        let error = second_at(address).await;
        let named = format!("an Oncewire server has it: service \"bank\", instance {instance}");
        assert!(error.contains(&named), "{error}");
        assert_eq!(server.counters().sessions, 0, "the question opens none");
        assert!(server.counters().hellos_mismatched >= 1);

        let tokens = Tokens::parse("").unwrap();
        let (address, instance) =
            serve(Server::builder("vault").tokens(&tokens).build().unwrap()).await;
        let error = second_at(address).await;
        assert!(error.contains(&format!("server has it: instance {instance}")), "{error}");
    });
}

#[test]
fn c188_what_speaks_no_oncewire_at_a_port_is_said_to_and_silence_is_not_waited_for() {
    smol::block_on(async {
        for (says, named) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "something that does not speak Oncewire"),
            (&[0x15, 3, 3, 0, 2, 2, 10], "something that speaks TLS"),
        ] {
            let error = second_at(other(says)).await;
            assert!(error.contains(named), "{error}");
        }
        let silent = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let error = second_at_once(silent.local_addr()).await;
        assert!(error.contains("does not answer within 1s"), "{error}");
    });
}

#[test]
fn c188_an_address_that_cannot_be_dialled_is_said_to_be_so() {
    smol::block_on(async {
        // Its port is taken, so that no one else gets it, and no socket listens there.
        let held = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
        net::bind(&held, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address: SocketAddr = net::getsockname(&held).unwrap().try_into().unwrap();
        let connector = TcpConnector::new(address);
        let listener = who_listens(async { connector.connect().await }).await;
        assert!(matches!(listener, Listener::Unreachable(_)), "{listener:?}");
        let ends = who_listens(async {
            let (ours, theirs) = smol::net::unix::UnixStream::pair()?;
            drop(theirs);
            Ok(Box::new(ours) as BoxStream)
        });
        assert_eq!(ends.await, Listener::Closes);
    });
}
