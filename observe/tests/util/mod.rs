//! A service and calls of it that are observed on both sides.

use oncewire_driver::observe::Observer;
use oncewire_driver::{Client, ClientOptions, Method, Server};
use oncewire_pipe::memory;

const ADD: Method<u64, u64> = Method::new("sum/add");
const PANIC: Method<(), ()> = Method::new("sum/panic");
const ABSENT: Method<(), ()> = Method::new("sum/absent");

/// Makes two calls that are answered, one that panics and one of a method that is not there, and ends both sides.
pub(crate) async fn calls(observer: impl Observer + Clone) {
    let (connector, acceptor) = memory::listener();
    let server = Server::builder("sum")
        .method(&ADD, |_, n: u64| async move { n + 1 })
        .method(&PANIC, |_, ()| async { panic!("a handler that panics") })
        .observe(observer.clone())
        .build()
        .unwrap();
    let serving = server.clone();
    smol::spawn(async move { serving.serve(acceptor).await }).detach();
    let client = Client::new(connector, ClientOptions::default().with_observer(observer));
    for n in 0..2 {
        assert_eq!(client.call(&ADD, &n).await.ok(), Ok(n + 1));
    }
    assert!(client.call(&PANIC, &()).await.ok().is_err());
    assert!(client.call(&ABSENT, &()).await.ok().is_err());
    client.close().await;
    server.drain(std::time::Duration::from_secs(10)).await;
}
