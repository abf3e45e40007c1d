//! A service over this crate alone.
#![allow(missing_docs, unreachable_pub)]

use oncewire_tcp::{Client, ClientOptions, Context, Server, TcpAcceptor, TcpConnector};

#[oncewire_tcp::service(name = "toy", crate = oncewire_tcp)]
pub trait Toy {
    async fn add_one(&self, context: Context, n: i32) -> i32;
}

struct Adder;

impl Toy for Adder {
    async fn add_one(&self, _: Context, n: i32) -> i32 {
        n + 1
    }
}

#[test]
fn a_service_needs_no_crate_but_its_transports() {
    smol::block_on(async {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let address = acceptor.local_addr();
        let server = Server::builder("toy").service(ToyServer(Adder)).build().unwrap();
        smol::spawn(async move { server.serve(acceptor).await }).detach();
        let client = Client::new(TcpConnector::new(address), ClientOptions::default());
        assert_eq!(ToyClient(client.clone()).add_one(100).await.ok(), Ok(101));
        client.close().await;
    });
}
