//! What a server says of itself: C256, C257.
#![allow(missing_docs)]
#![cfg(unix)]

#[path = "util/served.rs"]
mod served;

use std::time::Duration;

use oncewire_driver::{
    CallFailure, Client, ClientOptions, Health, Method, NotExecuted, Server, ServerBuilder,
};

const ADD: Method<(u64, u64), u64> = Method::new("sum/add").parameters(&["one", "other"]);
const HANG: Method<(), ()> = Method::new("sum/hang").idempotent();

fn sum() -> ServerBuilder {
    Server::builder("sum")
        .method(&ADD, |_, (one, other)| async move { one + other })
        .method(&HANG, |context, ()| async move { context.cancelled().await })
}

fn serve(builder: ServerBuilder) -> (Server, Client) {
    let (server, dialler) = served::serve(builder);
    (server, Client::new(dialler, ClientOptions::default()))
}

#[test]
fn c256_a_server_says_who_it_is_what_it_offers_and_what_it_does_if_it_is_meant_to() {
    smol::block_on(async {
        let (server, client) = serve(sum().status().instance("web-3"));
        assert_eq!(client.call(&ADD, &(1, 2)).await.ok(), Ok(3));
        let status = client.status_of_server().await.ok().unwrap().unwrap();
        assert_eq!((&*status.service, status.health), ("sum", Health::Serving));
        assert_eq!(status.server, server.id().to_string());
        assert!(status.instance.starts_with("web-3"), "{}", status.instance);
        assert_eq!(status.pid, std::process::id());
        assert!(!status.version.is_empty() && status.uptime_ms < 1_000_000);
        let method = |name: &str| status.methods.iter().find(|method| method.name == name).unwrap();
        assert_eq!(method("sum/add").signature, "(one: u64, other: u64) -> u64");
        assert!(!method("sum/add").idempotent && method("sum/hang").idempotent);
        assert!(method("oncewire/status").signature.is_empty());
        let number = |list: &[(String, u64)], name: &str| {
            list.iter().find(|(known, _)| known == name).map(|(_, number)| *number)
        };
        assert!(number(&status.counters, "admitted") >= Some(2), "and this one: {status:?}");
        assert_eq!(number(&status.limits, "slots"), Some(1024));
        let [session] = &status.sessions[..] else { panic!("{status:?}") };
        assert!(session.connected && session.running == 1, "this one: {session:?}");
        let of_client = client.call(&Method::<(), ()>::new("sum/absent"), &()).result().await;
        let report = of_client.unwrap_err();
        let tag = report.report().unwrap().session.unwrap().to_string();
        assert_eq!(session.session, tag);
        assert_eq!(server.status().sessions.len(), 1);

        let (server, client) = serve(sum());
        let unknown = CallFailure::NotExecuted(NotExecuted::UnknownMethod);
        assert_eq!(client.status_of_server().await.ok(), Err(unknown));
        assert_eq!(client.health().await, Err(unknown));
        // The program itself may ask.
        assert_eq!(server.status().service, "sum");
    });
}

#[test]
fn c257_a_probe_learns_whether_a_server_takes_calls() {
    smol::block_on(async {
        let (server, client) = serve(sum().status());
        assert_eq!(
            (client.health().await, server.health()),
            (Ok(Health::Serving), Health::Serving)
        );
        let hangs = client.call(&HANG, &()).start();
        let probe = client.call(&ADD, &(1, 2));
        assert_eq!(probe.await.ok(), Ok(3), "that it hangs was sent before");
        let drained = smol::spawn({
            let server = server.clone();
            async move { server.drain(Duration::from_secs(60)).await }
        });
        while server.health() == Health::Serving {
            smol::future::yield_now().await;
        }
        assert_eq!(server.health(), Health::Draining);
        assert_eq!(server.status().health, Health::Draining);
        drop(hangs);
        client.close().await;
        drained.await;
    });
}
