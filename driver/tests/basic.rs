//! Calls over a socket pair: the driver by itself, before any transport crate.
#![allow(missing_docs)]

#[path = "util/socket_pair.rs"]
mod socket_pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oncewire_driver::tokens::Tokens;
use oncewire_driver::{
    BuildError, Client, ClientOptions, Method, Outcome, Server, ServerBuilder, SmolRuntime,
};
use socket_pair::{Listener, link};

const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
const SLOW: Method<(), u32> = Method::new("toy/slow");

fn serve(listener: Listener) -> (Server, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let server = Server::builder("toy")
        .method(&ADD_ONE, move |_, n: i32| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { n + 1 }
        })
        .method(&SLOW, |_, ()| async {
            smol::future::yield_now().await;
            smol::future::yield_now().await;
            7
        })
        .build()
        .unwrap();
    let serving = server.clone();
    smol::spawn(async move { serving.serve(listener).await }).detach();
    (server, runs)
}

#[test]
fn a_call_is_executed_and_answered() {
    smol::block_on(async {
        let (dialler, listener) = link();
        let (_server, runs) = serve(listener);
        let client = Client::new(dialler, ClientOptions::default());
        assert!(matches!(client.call(&ADD_ONE, &100).await, Outcome::Reply(101)));
        assert!(matches!(client.call(&SLOW, &()).await, Outcome::Reply(7)));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        client.close().await;
    });
}

#[test]
fn many_calls_from_many_tasks_are_each_executed_once() {
    smol::block_on(async {
        let (dialler, listener) = link();
        let (server, runs) = serve(listener);
        let client = Client::new(dialler, ClientOptions::default());
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let client = client.clone();
                smol::spawn(async move {
                    for n in 0..100 {
                        let sum = client.call(&ADD_ONE, &(task * 1000 + n)).await;
                        assert_eq!(sum.ok(), Ok(task * 1000 + n + 1));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(runs.load(Ordering::SeqCst), 6400);
        client.close().await;
        drop(client);
        server.drain(std::time::Duration::from_secs(5)).await;
        assert_eq!(server.counters().kept_bytes, 0);
    });
}

#[test]
fn c432_who_may_call_is_said_once_and_not_replaced_silently() {
    type Given = fn(ServerBuilder) -> ServerBuilder;
    let given: [(&str, Given); 2] = [
        ("authorize", |builder| builder.authorize(|_, _| true)),
        ("tokens", |builder| builder.tokens(&Tokens::parse("").unwrap())),
    ];
    for (option, give) in given {
        assert!(give(Server::builder("toy")).build().is_ok(), "{option}");
        let error = give(give(Server::builder("toy"))).build().unwrap_err();
        assert_eq!(error, BuildError::GivenTwice { option });
        assert!(error.to_string().contains(&format!("`{option}`")), "{error}");
    }
    // All else may be given again.
    let preset = Server::builder("toy").instance("a").runtime(SmolRuntime::global()).concurrency(1);
    let builder = preset.instance("b").runtime(SmolRuntime::global()).concurrency(2);
    assert_eq!(builder.build().unwrap().instance().name(), "b");
    // The first mistake is the one that is reported.
    let [(_, authorize), (_, tokens)] = given;
    let builder = tokens(tokens(authorize(authorize(Server::builder("toy")))));
    assert_eq!(builder.build().err(), Some(BuildError::GivenTwice { option: "authorize" }));
}
