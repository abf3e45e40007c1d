//! C109 on real threads: deadlines are reported while every thread of the executor is blocked. Nothing here is judged by the
//! clock: a blocked thread stays blocked until the call has ended, so a deadline that is not reported hangs the test.
#![allow(missing_docs)]

use std::future::IntoFuture;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Outcome, Runtime, Server,
    SmolRuntime, Subject,
};
use smol::Executor;
use smol::net::unix::UnixStream;

const ECHO: Method<u32, u32> = Method::new("blocked/echo");
const NESTED: Method<u32, u32> = Method::new("blocked/nested");
const TIMEOUT: Duration = Duration::from_millis(100);
/// For how long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(20);

/// An executor of one thread, and a runtime on it. The thread lasts as long as the process.
fn runtime() -> (Arc<Executor<'static>>, Arc<dyn Runtime>) {
    let executor = Arc::new(Executor::new());
    let (runs, spawner) = (executor.clone(), executor.clone());
    std::thread::spawn(move || smol::block_on(runs.run(std::future::pending::<()>())));
    (executor, SmolRuntime::with_spawner(move |task| spawner.spawn(task).detach()))
}

/// Dials a server of this process, or one that says nothing.
struct Dial(Option<Server>);

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair()?;
            match &self.0 {
                Some(server) => server.serve_stream(Box::new(theirs), Subject::Anonymous),
                None => std::mem::forget(theirs),
            }
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

fn server(runtime: Arc<dyn Runtime>) -> Server {
    Server::builder("blocked")
        .runtime(runtime)
        .method(&ECHO, |_, n| async move { n })
        .build()
        .unwrap()
}

/// Blocks the executor's only thread until the sender is dropped.
fn block(executor: &Executor<'static>) -> Sender<()> {
    let (release, released): (Sender<()>, Receiver<()>) = channel();
    let (blocks, blocked) = channel();
    let task = executor.spawn(async move {
        blocks.send(()).unwrap();
        let _released = released.recv();
    });
    task.detach();
    blocked.recv_timeout(LIMIT).expect("the executor runs");
    release
}

/// Blocks on a call, on a thread of its own.
fn outcome(client: &Client) -> Outcome<u32> {
    let (sender, receiver) = channel();
    let call = client.call(&ECHO, &7).timeout(TIMEOUT).into_future();
    std::thread::spawn(move || {
        let clock = SmolRuntime::global();
        let begun = clock.now();
        let outcome = smol::block_on(call);
        println!("reported {:?} after its deadline", clock.now().since(begun + TIMEOUT));
        let _ = sender.send(outcome);
    });
    receiver.recv_timeout(LIMIT).expect("the deadline is reported")
}

#[test]
fn c109_a_call_that_waits_for_a_dial_times_out_though_the_executor_is_blocked() {
    let (executor, runtime) = runtime();
    let blocked = block(&executor);
    let client = Client::with_runtime(Dial(None), ClientOptions::default(), runtime);
    let outcome = outcome(&client);
    assert!(matches!(outcome, Outcome::NotExecuted(_)), "{outcome:?}");
    drop(blocked);
}

#[test]
fn c109_a_call_in_flight_times_out_though_the_executor_is_blocked() {
    let (executor, own) = runtime();
    // The server is on the blocked executor, too: no answer comes.
    let client =
        Client::with_runtime(Dial(Some(server(own.clone()))), ClientOptions::default(), own);
    assert!(smol::block_on(client.connected()));
    let blocked = block(&executor);
    let outcome = outcome(&client);
    assert!(matches!(outcome, Outcome::Unknown(..)), "{outcome:?}");
    drop(blocked);
}

#[test]
fn c109_blocking_on_a_call_in_a_handler_ends_with_its_deadline() {
    let (_executor, own) = runtime();
    let inner = Client::with_runtime(
        Dial(Some(server(own.clone()))),
        ClientOptions::default(),
        own.clone(),
    );
    let outer = Server::builder("outer")
        .runtime(own)
        .method(&NESTED, move |_, n| {
            let outcome = smol::block_on(inner.call(&ECHO, &n).timeout(TIMEOUT).into_future());
            async move { if matches!(outcome, Outcome::Reply(_)) { 0 } else { n } }
        })
        .build()
        .unwrap();
    let client = Client::new(Dial(Some(outer)), ClientOptions::default());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let _ = sender.send(smol::block_on(client.call(&NESTED, &5).into_future()));
    });
    let outcome = receiver.recv_timeout(LIMIT).expect("the handler ends");
    assert!(matches!(outcome, Outcome::Reply(5)), "{outcome:?}");
}

#[test]
fn a_call_leaves_though_those_that_were_answered_with_it_are_blocked_with_the_executor() {
    let (executor, own) = runtime();
    let (_servers, servers) = runtime();
    let client = Client::with_runtime(Dial(Some(server(servers))), ClientOptions::default(), own);
    assert!(smol::block_on(client.connected()));
    // They are answered in order, and only the last of them takes its outcome.
    let mut others: Vec<_> = (0..9).map(|n| client.call(&ECHO, &n).start()).collect();
    let last = smol::block_on(others.remove(8).into_future());
    assert!(matches!(last, Outcome::Reply(8)), "{last:?}");
    let blocked = block(&executor);
    // It is polled by this thread, and the server answers.
    let outcome = smol::block_on(client.call(&ECHO, &7).timeout(LIMIT).into_future());
    assert!(matches!(outcome, Outcome::Reply(7)), "{outcome:?}");
    drop((blocked, others));
}
