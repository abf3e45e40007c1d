//! The cases that every transport must show, over TCP on the loopback.

use std::io;

use oncewire_tcp::conformance::{Endpoint, Fixture};
use oncewire_tcp::{BoxFuture, TcpAcceptor, TcpConnector};

struct Loopback;

impl Fixture for Loopback {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        Box::pin(async {
            let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
            Ok(Endpoint::new(TcpConnector::new(acceptor.local_addr()), acceptor))
        })
    }
}

oncewire_tcp::conformance_tests!(Loopback);
