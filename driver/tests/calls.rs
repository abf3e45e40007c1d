//! Calls as futures, from threads and as `Result`s; a state that is passed once.
#![allow(missing_docs)]

#[path = "util/longer.rs"]
mod longer;
#[path = "util/socket_pair.rs"]
mod socket_pair;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longer::longer;
use oncewire_driver::{
    CallFailure, Client, ClientOptions, Context, Executed, FailedCall, Method, NoReply,
    NotExecuted, Outcome, Server, ServiceName,
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

/// What a call comes to whose time is over while it runs. On a busy machine that may be before it is sent: then it is made again, with
/// twice the time.
fn in_doubt<R>(mut call: impl FnMut(Duration) -> Result<R, FailedCall<R>>) -> FailedCall<R> {
    let mut timeout = Duration::from_millis(20);
    loop {
        let Err(failed) = call(timeout) else { panic!("a reply") };
        if failed.executed() == Executed::Unknown {
            return failed;
        }
        timeout = longer(timeout);
    }
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
    let hang = |timeout| client.call(&HANG, &()).timeout(timeout).block().into_result();
    let mut ticket = in_doubt(hang).into_ticket().expect("it can be asked again");
    smol::block_on(client.close());
    assert_eq!(ticket.block().executed(), Executed::Unknown, "the session is over");
}

#[test]
fn c431_a_ticket_that_is_asked_again_says_at_once_what_it_has_said() {
    const WAIT: Method<(), u64> = Method::new("sum/wait");
    let (open, gate) = smol::channel::bounded::<()>(1);
    let (dialler, listener) = link();
    let builder = Server::builder("sum").method(&WAIT, move |_, ()| {
        let gate = gate.clone();
        async move { gate.recv().await.map_or(0, |()| 7) }
    });
    let server = builder.build().unwrap();
    smol::spawn(async move { server.serve(listener).await }).detach();
    let options = ClientOptions::default().with_close_timeout(Duration::from_millis(10));
    let client = Client::new(dialler, options);
    let ticket = || {
        let call = |timeout| client.call(&WAIT, &()).timeout(timeout).block().into_result();
        in_doubt(call).into_ticket().expect("it can be asked again")
    };
    let (mut answered, mut lost) = (ticket(), ticket());
    open.send_blocking(()).unwrap();
    assert_eq!(answered.block().ok(), Ok(7));
    let given = CallFailure::NoReply(NoReply::AlreadyGiven);
    assert_eq!(answered.block().failure(), Some(given), "executed, as it has said");
    assert_eq!(smol::block_on(answered.wait()).failure(), Some(given));
    assert_eq!(answered.resolve(Duration::MAX).block().failure(), Some(given));
    // One that is in doubt for good.
    smol::block_on(client.close());
    let in_doubt = lost.block().failure();
    assert!(matches!(in_doubt, Some(CallFailure::Unknown(_))), "{in_doubt:?}");
    assert_eq!(lost.block().failure(), in_doubt);
    assert_eq!(lost.resolve(Duration::MAX).block().failure(), in_doubt);
}

#[test]
fn an_outcome_is_a_result_of_three_kinds() {
    let client = client(ClientOptions::default());
    let absent = || client.call(&ABSENT, &()).block();
    assert_eq!(absent().or_not_executed(), Ok(Err(NotExecuted::UnknownMethod)));
    let failed = absent().into_result().unwrap_err();
    assert_eq!(failed.to_string(), NotExecuted::UnknownMethod.to_string());
    assert!(failed.report().is_none());
    assert_eq!(CallFailure::from(failed), CallFailure::NotExecuted(NotExecuted::UnknownMethod));
    assert_eq!(client.call(&ADD, &1).block().into_result().ok(), Some(1));
    assert_eq!(Outcome::Reply(7).or_not_executed(), Ok(Ok(7)));
}

#[test]
fn c161_an_error_says_which_method_of_which_server_and_what_the_call_is_known_by() {
    let client = client(ClientOptions::default());
    let failed = client.call(&ABSENT, &()).result().block().unwrap_err();
    assert_eq!(failed.failure(), CallFailure::NotExecuted(NotExecuted::UnknownMethod));
    let report = failed.report().unwrap();
    assert_eq!((report.method_name, report.method), ("sum/absent", ABSENT.id()));
    assert_eq!((report.connections, report.failed_attempts), (1, 0));
    let server = report.server.unwrap();
    let instance = report.instance.unwrap();
    let (session, xid) = (report.session.unwrap(), report.xid.unwrap());
    assert_eq!(
        failed.to_string(),
        format!(
            "sum/absent of \"sum\" at a socket pair: not executed: the server has no such method \
             (server {server}, instance {instance}, session {session}, xid {xid})"
        )
    );
    // Of an unknown outcome, first with a ticket; and of what the ticket brings, the same call.
    let failed = in_doubt(|timeout| client.call(&HANG, &()).timeout(timeout).result().block());
    assert!(failed.report().unwrap().xid > Some(xid));
    assert!(failed.into_ticket().is_some());
    assert_eq!(client.call(&ADD, &5).result().block().unwrap(), 5);
    let raw = client.call_raw(ABSENT.id(), Vec::new()).result().block().unwrap_err();
    assert!(raw.to_string().starts_with(&format!("method {} of \"sum\" at", ABSENT.id())), "{raw}");
}

#[test]
fn c163_a_close_says_what_was_not_delivered() {
    const NOTE: Method<u64, ()> = Method::new("sum/note");
    const REFUSED: Method<(), ()> = Method::new("sum/refused");
    let client = client(ClientOptions::default());
    client.send(&ADD, &1).unwrap();
    assert_eq!(client.call(&ADD, &1).block().ok(), Ok(2));
    let closed = client.close_blocking();
    assert!(closed.in_good_order, "{closed:?}");
    assert_eq!((closed.unfinished, closed.one_way_unconfirmed), (0, 0));
    assert_eq!(client.status().counters.one_way_executed, 1);
    // Nothing listens: two one-way calls and one call never leave.
    let (dialler, listener) = link();
    drop(listener);
    let options = ClientOptions::default().with_close_timeout(Duration::from_millis(10));
    let client = Client::new(dialler, options);
    client.send(&NOTE, &1).unwrap();
    client.send(&NOTE, &2).unwrap();
    let call = client.call(&REFUSED, &()).start();
    let closed = client.close_blocking();
    assert!(!closed.in_good_order);
    assert_eq!((closed.unfinished, closed.one_way_unconfirmed), (1, 2));
    assert_eq!(call.block().ok(), Err(CallFailure::NotExecuted(NotExecuted::Closed)));
}

#[test]
fn c158_reports_name_the_process_that_was_heard_last_and_the_session() {
    let client = client(ClientOptions::default());
    assert_eq!(client.call(&ADD, &1).block().ok(), Ok(1));
    let closed = client.close_blocking();
    assert_eq!(closed.instance, client.status().instance);
    let (server, instance) = (closed.server.unwrap(), closed.instance.unwrap());
    let session = closed.session.unwrap();
    let known_by = format!("(server {server}, instance {instance}, session {session})");
    let said = "closed in good order: 0 calls unfinished, 0 one-way calls unconfirmed";
    assert_eq!(closed.to_string(), format!("{said} {known_by}"));
    // Of a call of which no byte was sent.
    let failed = client.call(&ADD, &1).result().block().unwrap_err();
    let report = failed.report().unwrap();
    assert_eq!(
        (report.instance, report.session, report.xid),
        (Some(instance), Some(session), None)
    );
    assert!(failed.to_string().ends_with(&known_by), "{failed}");
}

#[test]
fn c158_reports_name_the_process_that_refused_the_client() {
    let (dialler, listener) = link();
    let server = Server::builder("sum").build().unwrap();
    let instance = server.instance();
    smol::spawn(async move { server.serve(listener).await }).detach();
    let service = ServiceName::new("shop").unwrap();
    let client = Client::new(dialler, ClientOptions::default().with_service(service));
    let failed = client.call(&ADD, &1).result().block().unwrap_err();
    assert_eq!(failed.failure(), CallFailure::NotExecuted(NotExecuted::SessionRefused), "{failed}");
    let report = failed.report().unwrap();
    assert_eq!((report.instance, report.session, report.xid), (Some(instance), None, None));
    assert_eq!(failed.to_string().matches(&instance.to_string()).count(), 1, "{failed}");
    let closed = client.close_blocking();
    assert_eq!((closed.instance, closed.session), (Some(instance), None));
}
