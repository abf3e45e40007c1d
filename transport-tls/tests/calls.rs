//! What a caller learns whose connection is refused, and one whose connection is not: C191, C360.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oncewire_pipe::memory::{self, MemoryAcceptor, MemoryConnector};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use oncewire_tls::{
    BoxFuture, BoxStream, Client, ClientOptions, ClientTls, Connect, Method, NotExecuted, Outcome,
    Server, ServerTls, TlsAcceptor, TlsConnector,
};
use util::{Authority, SERVER};

mod util;

const WHO: Method<(), String> = Method::new("test/who");

/// A client of a server with these configurations.
async fn client(tls: ClientTls, server: ServerTls) -> Client {
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpConnector::new(acceptor.local_addr());
    let builder = Server::builder("test").method(&WHO, |context, ()| {
        let caller = context.caller.to_string();
        async move { caller }
    });
    let offered = builder.build().unwrap();
    smol::spawn(async move { offered.serve(TlsAcceptor::new(acceptor, server)).await }).detach();
    Client::new(TlsConnector::new(tcp, tls, SERVER).unwrap(), ClientOptions::default())
}

#[test]
fn c191_a_call_ends_at_once_when_a_certificate_is_not_accepted() {
    smol::block_on(async {
        let (authority, other) = (Authority::new(), Authority::named("another"));
        let server = || authority.server().serves().client_authorities_file(authority.file());
        let trusting = || ClientTls::builder().authorities_file(authority.file());
        let foreign = other.client("alice");
        let cases = [
            (trusting().build().unwrap(), "asks for a certificate"),
            (
                trusting().identity_files(foreign.certificate, foreign.key).build().unwrap(),
                "its authority is not trusted there",
            ),
            (
                ClientTls::builder().authorities_file(other.file()).build().unwrap(),
                "is of an authority that is not trusted here",
            ),
        ];
        for (tls, why) in cases {
            let client = client(tls, server().build().unwrap()).await;
            // The deadline is half a minute away: the test would be seen to wait for it.
            let outcome = client.call(&WHO, &()).await;
            let expected = matches!(outcome, Outcome::NotExecuted(NotExecuted::NeverConnected));
            assert!(expected, "{outcome:?}");
            let said = client.status().last_error.unwrap();
            assert!(said.contains(why), "{said} / {why}");
        }
        let alice = authority.client("alice").asks().authorities_file(authority.file());
        let client = client(alice.build().unwrap(), server().build().unwrap()).await;
        assert_eq!(client.call(&WHO, &()).await.ok().unwrap(), "alice");
        client.close().await;
    });
}

#[test]
fn c360_a_server_that_never_answers_the_tls_handshake_is_left_for_the_next_address() {
    smol::block_on(async {
        let authority = Authority::new();
        let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpConnector::any_of([hung.local_addr().unwrap(), acceptor.local_addr()]);
        let tls = authority.server().serves().build().unwrap();
        let offered = Server::builder("test").method(&WHO, |_, ()| async { "here".to_owned() });
        let offered = offered.build().unwrap();
        smol::spawn(async move { offered.serve(TlsAcceptor::new(acceptor, tls)).await }).detach();
        let tls = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
        let options = ClientOptions::default().with_connect_timeout(Duration::from_secs(1));
        let client = Client::new(TlsConnector::new(tcp, tls, SERVER).unwrap(), options);
        let call = client.call(&WHO, &()).timeout(Duration::from_secs(60));
        assert_eq!(call.await.ok().unwrap(), "here");
        client.close().await;
    });
}

/// Gives its stream away only when a server has refused it.
struct Late {
    tls: TlsConnector<MemoryConnector>,
    acceptor: Arc<TlsAcceptor<MemoryAcceptor>>,
}

impl Connect for Late {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let stream = self.tls.connect().await?;
            while self.acceptor.counters().failed == 0 {
                smol::future::yield_now().await;
            }
            Ok(stream)
        })
    }

    fn address(&self) -> String {
        self.tls.address()
    }

    fn is_permanent(&self, error: &io::Error) -> bool {
        self.tls.is_permanent(error)
    }
}

/// The client's first write fails then, and the verdict is there to be read.
#[test]
fn c191_a_refusal_that_is_faster_than_the_first_write_is_read_all_the_same() {
    smol::block_on(async {
        let authority = Authority::new();
        let server = authority.server().serves().client_authorities_file(authority.file());
        let (memory, acceptor) = memory::listener();
        let acceptor = Arc::new(TlsAcceptor::new(acceptor, server.build().unwrap()));
        let offered = Server::builder("test").method(&WHO, |_, ()| async { String::new() });
        let (offered, accepts) = (offered.build().unwrap(), acceptor.clone());
        smol::spawn(async move { offered.serve(accepts).await }).detach();
        let tls = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
        let tls = TlsConnector::new(memory, tls, SERVER).unwrap();
        let client =
            Client::new(Late { tls, acceptor: acceptor.clone() }, ClientOptions::default());
        let outcome = client.call(&WHO, &()).await;
        let expected = matches!(outcome, Outcome::NotExecuted(NotExecuted::NeverConnected));
        assert!(expected, "{outcome:?}");
        let said = client.status().last_error.unwrap();
        assert!(said.contains("asks for a certificate"), "{said}");
        // It was not dialled again to find that out.
        assert_eq!(acceptor.counters().failed, 1);
    });
}
