//! Calls as futures, from threads and as `Result`s; a state that is passed once.
#![allow(missing_docs)]

#[path = "util/socket_pair.rs"]
mod socket_pair;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire_driver::{
    CallFailure, Client, ClientOptions, Context, Executed, Method, NotExecuted, Outcome, Server,
    Unreplied,
};
use socket_pair::link;

const ADD: Method<u64, u64> = Method::new("sum/add");
const READ: Method<(), u64> = Method::new("sum/read").idempotent();
const HANG: Method<(), ()> = Method::new("sum/hang");
const ABSENT: Method<(), ()> = Method::new("sum/absent");

#[derive(Default)]
struct Sum(AtomicU64);

impl Sum {
    async fn add(&self, _: Context, n: u64) -> u64 {
        smol::future::yield_now().await;
        self.0.fetch_add(n, Ordering::SeqCst) + n
    }

    fn read(&self, _: Context, (): ()) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn client(options: ClientOptions) -> Client {
    let (dialler, listener) = link();
    let builder = Server::builder("sum").state(Sum::default());
    let builder = builder.method(&ADD, Sum::add).blocking(&READ, Sum::read).stateless();
    let server = builder.method(&HANG, |_, ()| std::future::pending()).build().unwrap();
    smol::spawn(async move { server.serve(listener).await }).detach();
    Client::new(dialler, options)
}

#[test]
fn a_call_is_a_future_that_can_be_spawned_and_joined() {
    let client = client(ClientOptions::default());
    smol::block_on(async {
        let spawned = smol::spawn(client.call(&ADD, &1));
        let (one, other) = smol::future::zip(client.call(&ADD, &2), client.call(&ADD, &3)).await;
        assert!(spawned.await.ok().is_ok() && one.ok().is_ok() && other.ok().is_ok());
        let begun = client.call(&ADD, &4).start().start();
        assert_eq!(begun.await.ok(), Ok(10), "begun once");
        client.close().await;
    });
}

#[test]
fn a_thread_blocks_on_calls_and_tickets_and_timeouts_are_kept() {
    let client = client(ClientOptions::default().with_close_timeout(Duration::from_millis(10)));
    assert_eq!(client.call(&ADD, &5).block().ok(), Ok(5));
    assert_eq!(client.call(&READ, &()).block().ok(), Ok(5));
    let timeout = Duration::from_millis(20);
    let unreplied = client.call(&HANG, &()).timeout(timeout).block().into_result().unwrap_err();
    assert_eq!(unreplied.executed(), Executed::Unknown);
    let mut ticket = unreplied.into_ticket().expect("it can be asked again");
    smol::block_on(client.close());
    assert_eq!(ticket.block().executed(), Executed::Unknown, "the session is over");
}

#[test]
fn an_outcome_is_a_result_of_three_kinds() {
    let client = client(ClientOptions::default());
    let absent = || client.call(&ABSENT, &()).block();
    assert_eq!(absent().or_not_executed(), Ok(Err(NotExecuted::UnknownMethod)));
    let unreplied = absent().into_result().unwrap_err();
    assert!(matches!(unreplied, Unreplied::NotExecuted(NotExecuted::UnknownMethod)));
    assert_eq!(unreplied.to_string(), NotExecuted::UnknownMethod.to_string());
    assert_eq!(CallFailure::from(unreplied), CallFailure::NotExecuted(NotExecuted::UnknownMethod));
    assert_eq!(client.call(&ADD, &1).block().into_result().ok(), Some(1));
    assert_eq!(Outcome::Reply(7).or_not_executed(), Ok(Ok(7)));
}
