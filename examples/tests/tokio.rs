//! A client inside tokio's runtimes: its calls are futures like any other there, and its timeouts are kept.
#![allow(missing_docs)]

use std::time::Duration;

use oncewire::{Client, ClientOptions, Executed, Method, Server, memory};

const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
const HANG: Method<(), ()> = Method::new("toy/hang").drop_on_cancel();

async fn calls() {
    let builder = Server::builder("toy").method(&ADD_ONE, |_, n| async move { n + 1 });
    let server = builder.method(&HANG, |_, ()| std::future::pending()).build().unwrap();
    let (connector, acceptor) = memory::listener();
    tokio::spawn(async move { server.serve(acceptor).await });
    let client = Client::new(connector, ClientOptions::default());
    let spawned = tokio::spawn(client.call(&ADD_ONE, &1));
    let (one, other) = tokio::join!(client.call(&ADD_ONE, &2), client.call(&ADD_ONE, &3));
    assert_eq!(spawned.await.unwrap().ok(), Ok(2));
    assert_eq!((one.ok(), other.ok()), (Ok(3), Ok(4)));
    let hangs = client.call(&HANG, &()).timeout(Duration::from_millis(20)).await;
    assert_eq!(hangs.executed(), Executed::Unknown);
    drop(hangs);
    client.close().await;
}

#[test]
fn calls_are_made_on_one_thread_of_tokio() {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(calls());
}
