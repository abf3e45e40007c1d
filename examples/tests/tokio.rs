//! Clients and servers inside tokio's runtimes: calls are futures like any other there, timeouts are kept, and handlers may use
//! tokio. `docs/PROGRAMS.md` says how.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use oncewire::{
    CallFailure, Client, ClientOptions, Context, Executed, NoReply, Runtime, Server, SmolRuntime,
    Unknown, memory,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

#[oncewire::service(name = "toy")]
trait Toy {
    async fn add_one(&self, _: Context, n: i32) -> i32 {
        n + 1
    }
    #[rpc(drop_on_cancel)]
    async fn hang(&self, _: Context) {
        std::future::pending().await
    }
}

struct Tokio;

impl Toy for Tokio {}

const TIMEOUT: Duration = Duration::from_millis(20);

/// The client's own task beside tokio, on smol's executor.
fn beside() -> Arc<dyn Runtime> {
    SmolRuntime::global()
}

/// The client's own task on the runtime that it is made in.
fn inside() -> Arc<dyn Runtime> {
    let tokio = Handle::current();
    SmolRuntime::with_spawner(move |task| drop(tokio.spawn(task)))
}

fn connect(runtime: Arc<dyn Runtime>) -> ToyClient {
    let server = Server::builder("toy").service(ToyServer(Tokio)).build().unwrap();
    let (connector, acceptor) = memory::listener();
    tokio::spawn(async move { server.serve(acceptor).await });
    ToyClient(Client::with_runtime(connector, ClientOptions::default(), runtime))
}

async fn calls(runtime: Arc<dyn Runtime>) {
    let toy = connect(runtime);
    let spawned = tokio::spawn(toy.add_one(1));
    let (one, other) = tokio::join!(toy.add_one(2), toy.add_one(3));
    assert_eq!(spawned.await.unwrap().ok(), Ok(2));
    assert_eq!((one.ok(), other.ok()), (Ok(3), Ok(4)));
    let mut timeout = TIMEOUT;
    // Where a busy machine has not sent it before, it is made again with twice the time.
    while toy.hang().timeout(timeout).await.executed() != Executed::Unknown {
        assert!(timeout < Duration::from_secs(20), "it was not sent within {timeout:?}");
        timeout *= 2;
    }
    assert!(toy.0.close().await.in_good_order);
}

#[test]
fn calls_are_made_on_one_thread_of_tokio() {
    let tokio = Builder::new_current_thread().build().unwrap();
    tokio.block_on(calls(beside()));
    tokio.block_on(async { calls(inside()).await });
}

#[test]
fn calls_are_made_on_several_threads_of_tokio() {
    let tokio = Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for runtime in [beside, inside] {
        tokio.block_on(async { tokio::spawn(calls(runtime())).await.unwrap() });
    }
}

#[test]
fn deadlines_are_kept_though_every_thread_of_tokio_is_blocked() {
    for runtime in [beside, inside] {
        let tokio = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (toy, started) = tokio.block_on(async {
            let toy = connect(runtime());
            assert_eq!(toy.add_one(1).await.ok(), Ok(2));
            let mut hangs = toy.hang().timeout(TIMEOUT);
            // Sent by this, however late the client's task comes.
            assert!(smol::future::poll_once(&mut hangs).await.is_none());
            (toy, hangs)
        });
        let (blocked, is_blocked) = std::sync::mpsc::channel();
        let (free, wait) = std::sync::mpsc::channel::<()>();
        tokio.spawn(async move {
            blocked.send(()).unwrap();
            wait.recv().unwrap();
        });
        is_blocked.recv().unwrap();
        // The call's deadline passes while tokio's only worker can poll nothing.
        let failed = started.result().block().unwrap_err();
        let passed = CallFailure::Unknown(Unknown::DeadlinePassed);
        assert_eq!(failed.failure(), passed);
        drop(failed);
        free.send(()).unwrap();
        assert!(toy.0.close_blocking().in_good_order);
    }
}

/// A service whose handlers use tokio.
#[oncewire::service(name = "nap")]
trait Nap {
    async fn nap(&self, _: Context);
    /// Leaves a task behind, from a thread of the pool.
    #[rpc(blocking)]
    fn nap_later(&self, context: Context);
}

struct Naps(UnboundedSender<()>);

impl Nap for Naps {
    async fn nap(&self, _: Context) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn nap_later(&self, context: Context) {
        let ended = self.0.clone();
        context.spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = ended.send(());
        });
    }
}

#[test]
fn c429_handlers_that_need_tokio_run_at_a_server_that_runs_on_it() {
    let one = Builder::new_current_thread().enable_time().build().unwrap();
    let several = Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    for tokio in [one, several] {
        tokio.block_on(async {
            for (runtime, on_tokio) in [(inside(), true), (beside(), false)] {
                let (ended, mut naps) = unbounded_channel();
                let builder = Server::builder("nap").service(NapServer(Naps(ended)));
                let server = builder.runtime(runtime).build().unwrap();
                let (connector, acceptor) = memory::listener();
                let serving = server.clone();
                tokio::spawn(async move { serving.serve(acceptor).await });
                let nap = NapClient(Client::new(connector, ClientOptions::default()));
                if on_tokio {
                    assert_eq!(nap.nap().await.ok(), Ok(()));
                    assert_eq!(nap.nap_later().await.ok(), Ok(()));
                    assert_eq!(naps.recv().await, Some(()));
                } else {
                    let aborted = CallFailure::NoReply(NoReply::Aborted);
                    assert_eq!(nap.nap().await.ok(), Err(aborted));
                    assert_eq!(nap.nap().await.ok(), Err(aborted), "the server lives on");
                    assert_eq!(server.handler_faults().panics, 2);
                }
                assert!(nap.0.close().await.in_good_order);
            }
        });
    }
}
