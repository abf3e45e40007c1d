//! Handlers that wait, and the tasks in which they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use oncewire_driver::{BoxFuture, Call, Client, Method, Outcome, Server, SmolRuntime};
use smol::Executor;
use smol::channel::{Receiver, Sender, bounded, unbounded};
use smol::future;

use crate::link::{client, serve};

const WAIT: Method<u32, u32> = Method::new("test/wait");
const LIMITED: Method<u32, u32> = Method::new("test/limited").time_limit(Duration::from_millis(5));
const DROPPED: Method<u32, u32> = Method::new("test/dropped").drop_on_cancel();

/// A runtime on smol's global executor, and how many tasks it has spawned.
fn counted() -> (Arc<SmolRuntime>, impl Fn() -> usize) {
    let spawned = Arc::new(AtomicUsize::new(0));
    let count = spawned.clone();
    let runtime = SmolRuntime::with_spawner(move |task| {
        count.fetch_add(1, Ordering::SeqCst);
        smol::spawn(task).detach();
    });
    (runtime, move || spawned.load(Ordering::SeqCst))
}

/// What lets handlers end, one message each, and what says that one has begun.
type Gate = ((Sender<()>, Receiver<()>), (Sender<u32>, Receiver<u32>));

/// Handlers of [`WAIT`] begin, and wait until one of them may end; argument 13 panics then. Those of 100 do not wait.
fn offer(runtime: Arc<SmolRuntime>) -> (Server, crate::link::socket_pair::Dialler, Gate) {
    let gate: Gate = (unbounded(), unbounded());
    let (go, begun) = (gate.0.1.clone(), gate.1.0.clone());
    let builder = Server::builder("test")
        .runtime(runtime)
        .method(&WAIT, move |_, n| {
            let (go, begun) = (go.clone(), begun.clone());
            async move {
                if n == 100 {
                    return n;
                }
                // So that it always waits, however soon it may end.
                future::yield_now().await;
                begun.send(n).await.unwrap();
                go.recv().await.unwrap();
                assert_ne!(n, 13, "on purpose");
                n
            }
        })
        .method(&LIMITED, |_, _| std::future::pending())
        .method(
            &DROPPED,
            |_, n| async move { if n == 0 { 0 } else { std::future::pending().await } },
        );
    let (server, dialler) = serve(builder);
    (server, dialler, gate)
}

/// So many calls at once.
async fn round(client: &Client, gate: &Gate, calls: u32) {
    let begun: Vec<Call<u32>> = (0..calls).map(|n| client.call(&WAIT, &n).start()).collect();
    for _ in 0..calls {
        gate.1.1.recv().await.unwrap();
    }
    for _ in 0..calls {
        gate.0.0.send(()).await.unwrap();
    }
    for (n, call) in begun.into_iter().enumerate() {
        assert_eq!(call.await.ok(), Ok(n as u32));
    }
}

#[test]
fn handlers_that_wait_run_in_the_tasks_of_those_before_them() {
    smol::block_on(async {
        let (runtime, spawned) = counted();
        let (server, dialler, gate) = offer(runtime);
        let client = client(&dialler);
        round(&client, &gate, 8).await;
        let before = spawned();
        for calls in [1, 8, 3, 8] {
            round(&client, &gate, calls).await;
        }
        assert_eq!(spawned(), before);
        round(&client, &gate, 9).await;
        assert_eq!(spawned(), before + 1);
        assert_eq!((server.load().running, server.counters().running), (0, 0));
    });
}

#[test]
fn handlers_that_wait_now_and_then_use_tasks_again_too() {
    smol::block_on(async {
        let (runtime, spawned) = counted();
        let (_server, dialler, gate) = offer(runtime);
        let client = client(&dialler);
        round(&client, &gate, 1).await;
        let before = spawned();
        for _ in 0..10 {
            assert_eq!(client.call(&WAIT, &100).await.ok(), Ok(100));
            round(&client, &gate, 1).await;
        }
        assert_eq!(spawned(), before);
    });
}

#[test]
fn a_handler_in_the_task_of_another_panics_for_itself_alone() {
    smol::block_on(async {
        let (server, dialler, gate) = offer(SmolRuntime::global());
        let client = client(&dialler);
        round(&client, &gate, 2).await;
        let [panics, waits] = [13, 7].map(|n| client.call(&WAIT, &n).start());
        for _ in 0..2 {
            gate.1.1.recv().await.unwrap();
            gate.0.0.send(()).await.unwrap();
        }
        assert!(matches!(panics.await, Outcome::NoReply(_)));
        assert_eq!(waits.await.ok(), Ok(7));
        round(&client, &gate, 2).await;
        assert_eq!((server.load().running, server.handler_faults().panics), (0, 1));
    });
}

#[test]
fn time_limits_and_cancels_end_handlers_in_the_tasks_of_others() {
    smol::block_on(async {
        let (server, dialler, gate) = offer(SmolRuntime::global());
        let client = client(&dialler);
        round(&client, &gate, 1).await;
        // The first call of a method is not known to wait.
        for _ in 0..4 {
            assert!(matches!(client.call(&LIMITED, &1).await, Outcome::NoReply(_)));
        }
        for n in [1, 2, 3] {
            let call = client.call(&DROPPED, &n).start();
            // Behind it, so it has begun.
            assert!(matches!(client.call(&LIMITED, &1).await, Outcome::NoReply(_)));
            assert_eq!(server.load().running, 1);
            drop(call);
            while server.load().running > 0 {
                future::yield_now().await;
            }
        }
        // One that does not wait after all.
        for _ in 0..3 {
            assert_eq!(client.call(&DROPPED, &0).await.ok(), Ok(0));
        }
        assert_eq!(server.counters().running, 0);
    });
}

#[test]
fn handlers_that_other_threads_wake_at_once_are_not_forgotten() {
    const ASK: Method<u32, u32> = Method::new("test/ask");
    let (ask, asked) = unbounded::<(u32, Sender<u32>)>();
    let answers = move || {
        while let Ok((n, answer)) = asked.recv_blocking() {
            answer.send_blocking(n + 1).unwrap();
        }
    };
    let answering = [answers.clone(), answers].map(std::thread::spawn);
    let builder = Server::builder("test").method(&ASK, move |_, n| {
        let ask = ask.clone();
        async move {
            let (answer, answered) = bounded(1);
            ask.send((n, answer)).await.unwrap();
            answered.recv().await.unwrap()
        }
    });
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        for from in (0..4_000).step_by(8) {
            let calls: Vec<_> = (from..from + 8).map(|n| client.call(&ASK, &n).start()).collect();
            for (n, call) in (from..).zip(calls) {
                assert_eq!(call.await.ok(), Ok(n + 1));
            }
        }
        client.close().await;
        server.drain(Duration::ZERO).await;
    });
    drop(answering);
}

#[test]
fn the_tasks_end_with_the_last_connection_and_with_the_server() {
    let executor = Arc::new(Executor::new());
    let spawner = executor.clone();
    let runtime = SmolRuntime::with_spawner(move |task| spawner.spawn(task).detach());
    let ends = async {
        let (server, dialler, gate) = offer(runtime);
        let client = client(&dialler);
        round(&client, &gate, 8).await;
        client.close().await;
        server.drain(Duration::from_secs(10)).await;
        drop((server, client));
        while !executor.is_empty() {
            future::yield_now().await;
        }
    };
    smol::block_on(executor.run(ends));
}

/// One of the wakers that a task was polled with, of which only the last one wakes: on more a future must not rely.
struct OneOf {
    number: usize,
    last: Arc<AtomicUsize>,
    waker: Waker,
}

impl Wake for OneOf {
    fn wake(self: Arc<Self>) {
        if self.last.load(Ordering::SeqCst) == self.number {
            self.waker.wake_by_ref();
        }
    }
}

/// The task, polled with another waker each time.
async fn with_changing_wakers(mut task: BoxFuture<'static, ()>) {
    let last = Arc::new(AtomicUsize::new(0));
    future::poll_fn(|cx| {
        let number = last.fetch_add(1, Ordering::SeqCst) + 1;
        let one = OneOf { number, last: last.clone(), waker: cx.waker().clone() };
        task.as_mut().poll(&mut Context::from_waker(&Arc::new(one).into()))
    })
    .await;
}

/// A handler that waits for its cancel, too, has its task polled once more when it has ended, before the next handler comes.
#[test]
fn only_the_last_waker_of_a_task_has_to_wake_it() {
    let executor = Arc::new(Executor::new());
    let spawner = executor.clone();
    let runtime =
        SmolRuntime::with_spawner(move |task| spawner.spawn(with_changing_wakers(task)).detach());
    let (go, went) = unbounded::<()>();
    let builder = Server::builder("test").runtime(runtime).method(
        &WAIT,
        move |context: oncewire_driver::Context, n| {
            let went = went.clone();
            async move {
                let ended = async { went.recv().await.unwrap() };
                future::or(context.cancelled(), ended).await;
                n
            }
        },
    );
    let calls = async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        for n in 0..20 {
            let call = client.call(&WAIT, &n).timeout(Duration::from_secs(5)).start();
            while server.load().running == 0 {
                future::yield_now().await;
            }
            go.send(()).await.unwrap();
            assert_eq!(call.await.ok(), Ok(n), "call {n}");
            // The executor runs whatever is ready.
            while executor.try_tick() {}
        }
    };
    smol::block_on(executor.run(calls));
}
