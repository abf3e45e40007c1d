//! What a handler can learn and do with its context (C164).

use std::sync::Mutex;
use std::time::Duration;

use oncewire_driver::{Client, Context, Method, NotExecuted, Outcome, Server, SessionTag, Xid};
use smol::channel::bounded;

use crate::link::{client, serve};
use crate::longer::longer;

const WHO: Method<(), (u64, u64)> = Method::new("test/who");
const LATER: Method<(), ()> = Method::new("test/later");
/// Whether the call behind it was given up; nothing if it was not even begun in time.
const RELAY: Method<(), Option<bool>> = Method::new("test/relay");
const HANG: Method<(), ()> = Method::new("test/hang");

#[test]
fn c164_a_session_and_an_xid_name_a_call_and_the_client_knows_the_same() {
    let (_server, dialler) = serve(Server::builder("test").method(&WHO, |context: Context, ()| {
        let known = (context.session().unwrap().number(), context.xid.get());
        async move { known }
    }));
    smol::block_on(async {
        let (one, other) = (client(&dialler), client(&dialler));
        let [first, second] = [one.call(&WHO, &()).await.ok(), one.call(&WHO, &()).await.ok()];
        let third = other.call(&WHO, &()).await.ok().unwrap();
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.0, second.0, "one session");
        assert!(second.1 > first.1 && third.0 != first.0);
        let failed = one.call(&HANG, &()).result().await.unwrap_err();
        let report = failed.report().unwrap();
        assert_eq!(report.session, Some(SessionTag::from_number(first.0)));
        assert!(report.xid > Xid::new(second.1));
    });
}

#[test]
fn c164_work_that_is_spawned_outlives_its_call_and_may_panic() {
    let (say, said) = bounded(1);
    let (go, wait) = bounded::<()>(1);
    let (_server, dialler) =
        serve(Server::builder("test").method(&LATER, move |context: Context, ()| {
            let (say, wait) = (say.clone(), wait.clone());
            async move {
                let session = context.clone();
                context.spawn(async { panic!("work that panics") });
                context.spawn(async move {
                    wait.recv().await.unwrap();
                    say.send(session.session()).await.unwrap();
                });
            }
        }));
    smol::block_on(async {
        let client = client(&dialler);
        assert!(matches!(client.call(&LATER, &()).await, Outcome::Reply(())));
        go.send(()).await.unwrap();
        assert!(said.recv().await.unwrap().is_some(), "the session is still there");
    });
}

#[test]
fn c164_a_call_to_another_service_takes_no_longer_than_the_caller_waits() {
    let (_other, hangs) =
        serve(Server::builder("other").method(&HANG, |_, ()| std::future::pending()));
    let there = client(&hangs);
    let known = Mutex::new(None::<Client>);
    *known.lock().unwrap() = Some(there);
    let (_server, dialler) =
        serve(Server::builder("test").method(&RELAY, move |context: Context, ()| {
            let there = known.lock().unwrap().clone().unwrap();
            async move {
                let call = there.call(&HANG, &()).timeout_at_most(context.remaining());
                match call.await {
                    Outcome::NotExecuted(NotExecuted::DeadlinePassed) => None,
                    outcome => Some(matches!(outcome, Outcome::Unknown(..))),
                }
            }
        }));
    let here = client(&dialler);
    let mut timeout = Duration::from_millis(50);
    loop {
        let outcome = match here.call(&RELAY, &()).timeout(timeout).block() {
            // The caller has given up, and so does the handler: 30 s would have been the default.
            Outcome::Unknown(_, Some(mut ticket)) => ticket.block(),
            outcome => outcome,
        };
        match outcome {
            Outcome::Reply(Some(gave_up)) => return assert!(gave_up),
            // The machine is busy, and one of the two was not started in time.
            Outcome::Reply(None) | Outcome::NotExecuted(NotExecuted::DeadlinePassed) => {}
            other => panic!("{other:?}"),
        }
        timeout = longer(timeout);
    }
}
