//! The cases that every transport must show, in TLS with certificates on both sides, over TCP on the loopback.

use std::io;

use oncewire_tcp::{TcpAcceptor, TcpConnector};
use oncewire_tls::conformance::{Endpoint, Fixture};
use oncewire_tls::{BoxFuture, TlsAcceptor, TlsConnector};
use util::{Authority, SERVER};

mod util;

struct Loopback;

impl Fixture for Loopback {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        Box::pin(async {
            let authority = Authority::new();
            let server = authority.server().serves().client_authorities_file(authority.file());
            let client = authority.client("alice").asks().authorities_file(authority.file());
            let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
            let connector = TcpConnector::new(acceptor.local_addr());
            let connector = TlsConnector::new(connector, client.build()?, SERVER)?;
            Ok(Endpoint::new(connector, TlsAcceptor::new(acceptor, server.build()?)))
        })
    }
}

oncewire_tls::conformance_tests!(Loopback);
