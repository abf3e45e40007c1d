//! A client inside tokio's runtimes: its calls are futures like any other there, and its timeouts are kept. `docs/PROGRAMS.md`
//! says how.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use oncewire::{
    CallFailure, Client, ClientOptions, Context, Executed, Runtime, Server, SmolRuntime, Unknown,
    memory,
};
use tokio::runtime::Builder;

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
    SmolRuntime::with_spawner(|task| drop(tokio::spawn(task)))
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
    let hangs = toy.hang().timeout(TIMEOUT).await;
    assert_eq!(hangs.executed(), Executed::Unknown);
    drop(hangs);
    assert!(toy.0.close().await.in_good_order);
}

#[test]
fn calls_are_made_on_one_thread_of_tokio() {
    let tokio = Builder::new_current_thread().build().unwrap();
    tokio.block_on(calls(beside()));
    tokio.block_on(calls(inside()));
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
            let hangs = toy.hang().timeout(TIMEOUT).start();
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
        let unreplied = started.result().block().unwrap_err();
        let passed = CallFailure::Unknown(Unknown::DeadlinePassed);
        assert_eq!(unreplied.failure(), passed);
        drop(unreplied);
        free.send(()).unwrap();
        assert!(toy.0.close_blocking().in_good_order);
    }
}
