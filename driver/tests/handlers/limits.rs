//! How many handlers run at once, and what waits for them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use oncewire_driver::protocol::{MethodSpec, NotExecuted, Unknown};
use oncewire_driver::{Bytes, Call, CallFailure, Method, Outcome, Server, ServerBuilder};
use smol::channel::{Receiver, Sender, unbounded};

use crate::link::{client, serve};
use crate::longer::longer;

/// Handlers that run until they are released.
#[derive(Clone)]
pub(crate) struct Gate {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    begun: (Sender<u32>, Receiver<u32>),
    go: (Sender<()>, Receiver<()>),
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate { running: Arc::default(), most: Arc::default(), begun: unbounded(), go: unbounded() }
    }

    pub(crate) async fn run(self, n: u32) -> u32 {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.begun.0.send(n).await.unwrap();
        self.go.1.recv().await.unwrap();
        self.running.fetch_sub(1, Ordering::SeqCst);
        n
    }

    /// What has begun next.
    pub(crate) async fn begun(&self) -> u32 {
        self.begun.1.recv().await.unwrap()
    }

    pub(crate) fn let_go(&self, calls: usize) {
        (0..calls).for_each(|_| self.go.0.try_send(()).unwrap());
    }

    pub(crate) fn offer(&self, builder: ServerBuilder, method: &Method<u32, u32>) -> ServerBuilder {
        let gate = self.clone();
        builder.method(method, move |_, n| gate.clone().run(n))
    }
}

pub(crate) const ADD_ONE: Method<u32, u32> = Method::new("test/add_one");
const TWO: Method<u32, u32> = Method::new("test/two").concurrency(2);

/// Waits for the answer of a call that is answered without the gate: those before it have arrived.
pub(crate) async fn arrive(client: &oncewire_driver::Client) {
    assert_eq!(client.call(&ADD_ONE, &1).await.ok(), Ok(2));
}

pub(crate) fn with_add_one(builder: ServerBuilder) -> ServerBuilder {
    builder.method(&ADD_ONE, |_, n| std::future::ready(n + 1))
}

pub(crate) fn begin(
    client: &oncewire_driver::Client,
    method: &Method<u32, u32>,
    of: std::ops::Range<u32>,
) -> Vec<Call<u32>> {
    of.map(|n| client.call(method, &n).start()).collect()
}

#[test]
fn c117_a_method_runs_no_more_calls_at_once_than_it_says_and_the_others_in_order() {
    let gate = Gate::new();
    let builder = with_add_one(gate.offer(Server::builder("test"), &TWO));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let calls = begin(&client, &TWO, 0..20);
        arrive(&client).await;
        assert_eq!((server.load().running, server.load().waiting), (2, 18));
        for n in 0..20 {
            assert_eq!(gate.begun().await, n);
            if n > 0 {
                gate.let_go(1);
            }
        }
        gate.let_go(1);
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.ok(), Ok(n as u32));
        }
        assert_eq!(gate.most.load(Ordering::SeqCst), 2);
        assert_eq!((server.load().running, server.load().waiting), (0, 0));
        assert_eq!(server.counters().running, 0);
    });
}

#[test]
fn c117_a_server_runs_no_more_calls_at_once_than_it_says_whatever_their_methods() {
    const OTHER: Method<u32, u32> = Method::new("test/other");
    let gate = Gate::new();
    let builder = gate.offer(gate.offer(Server::builder("test"), &TWO), &OTHER).concurrency(3);
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let mut calls = begin(&client, &TWO, 0..3);
        calls.extend(begin(&client, &OTHER, 3..6));
        // The third of the first method waits for its own, and the second of the other one for the server.
        for n in [0, 1, 3] {
            assert_eq!(gate.begun().await, n);
        }
        gate.let_go(6);
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.ok(), Ok(n as u32));
        }
        assert_eq!(gate.most.load(Ordering::SeqCst), 3);
        assert_eq!((server.load().running, server.load().waiting), (0, 0));
    });
}

#[test]
fn c117_behind_a_full_queue_calls_are_refused_and_no_session_has_all_of_it() {
    const ONE: Method<u32, u32> = Method::new("test/one").concurrency(1).queue_max(4);
    let gate = Gate::new();
    let builder = with_add_one(gate.offer(Server::builder("test"), &ONE));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let (first, second, third) = (client(&dialler), client(&dialler), client(&dialler));
        let mut calls = Vec::new();
        let mut refused = 0;
        // The first one's running call and half of the places; half of what that leaves; and the last is no place of this principal.
        for (client, of, waits) in [(&first, 0..6, 3), (&second, 6..10, 1), (&third, 10..12, 0)] {
            let mut begun = begin(client, &ONE, of);
            arrive(client).await;
            for call in begun.split_off(waits) {
                let overloaded = Err(CallFailure::NotExecuted(NotExecuted::Overloaded));
                assert_eq!(call.await.ok(), overloaded);
                refused += 1;
            }
            calls.extend(begun);
        }
        assert_eq!(server.load().overloaded, refused);
        gate.let_go(4);
        for call in calls {
            assert!(call.await.ok().is_ok());
        }
    });
}

#[test]
fn c117_a_call_whose_deadline_passes_while_it_waits_is_not_started_and_makes_room() {
    const ONE: Method<u32, u32> = Method::new("test/one").concurrency(1).queue_max(2);
    let gate = Gate::new();
    let builder = with_add_one(gate.offer(Server::builder("test"), &ONE));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let (client, other) = (client(&dialler), client(&dialler));
        let running = client.call(&ONE, &0).start();
        assert_eq!(gate.begun().await, 0);
        // On a busy machine that may happen before it is sent: then it is made again, with twice the time.
        let mut timeout = Duration::from_millis(20);
        let mut ticket = loop {
            match client.call(&ONE, &1).timeout(timeout).await {
                Outcome::Unknown(Unknown::DeadlinePassed, Some(ticket)) => break ticket,
                Outcome::NotExecuted(NotExecuted::DeadlinePassed) => {
                    timeout = longer(timeout);
                }
                other => panic!("{other:?}"),
            }
        };
        // Nothing has ended, and no newcomer needs its room.
        assert_eq!(ticket.wait().await.ok(), passed());
        assert_eq!(server.load().waiting, 0);
        // Its session has no more room, unless the late one has gone.
        let next = client.call(&ONE, &2).start();
        arrive(&client).await;
        assert_eq!((server.load().waiting, server.load().overloaded), (1, 0));
        // One that was cancelled is not started either.
        let mut cancelled = other.call(&ONE, &3).start();
        let _polled = std::pin::pin!(&mut cancelled)
            .poll(&mut TaskContext::from_waker(Waker::noop()))
            .is_ready();
        arrive(&other).await;
        drop(cancelled);
        arrive(&other).await;
        gate.let_go(3);
        assert_eq!(running.await.ok(), Ok(0));
        assert_eq!(next.await.ok(), Ok(2));
        assert_eq!(gate.begun().await, 2);
        arrive(&other).await;
        assert_eq!(gate.begun.1.len(), 0, "neither of the two has begun");
        assert_eq!((server.load().running, server.load().waiting), (0, 0));
    });
}

fn passed() -> Result<u32, CallFailure> {
    Err(CallFailure::NotExecuted(NotExecuted::DeadlinePassed))
}

#[test]
fn c117_a_drain_refuses_what_waits_and_finishes_what_runs() {
    const ONE: Method<u32, u32> = Method::new("test/one").concurrency(1);
    let gate = Gate::new();
    let builder = with_add_one(gate.offer(Server::builder("test"), &ONE));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let mut calls = begin(&client, &ONE, 0..4).into_iter();
        arrive(&client).await;
        let drain = smol::spawn({
            let server = server.clone();
            async move { server.drain(Duration::from_secs(60)).await }
        });
        let running = calls.next().unwrap();
        for waited in calls {
            let refused = Err(CallFailure::NotExecuted(NotExecuted::ShuttingDown));
            assert_eq!(waited.await.ok(), refused);
        }
        gate.let_go(1);
        assert_eq!(running.await.ok(), Ok(0));
        drop(client);
        drain.await;
    });
}

#[test]
fn c117_bytes_have_the_same_options_and_a_time_limit_that_cannot_be_kept_is_refused() {
    const SLOW: Method<Bytes, Bytes> =
        Method::new("test/slow").time_limit(Duration::from_millis(5)).concurrency(1);
    let builder = Server::builder("test")
        .method_raw(&SLOW, |_, _| std::future::pending())
        .method_raw(MethodSpec::new(ADD_ONE.id()), |_, body| std::future::ready(body));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        for _ in 0..2 {
            let outcome = client.call_raw(SLOW.id(), Bytes::new()).await;
            assert!(matches!(outcome, Outcome::NoReply(_)), "{outcome:?}");
        }
        assert_eq!(server.load().running, 0);
    });
}

#[test]
fn c176_a_function_that_blocks_counts_until_it_returns_though_its_call_has_ended() {
    const LIMITED: Method<u32, u32> =
        Method::new("test/limited").concurrency(1).time_limit(Duration::from_millis(5));
    const DROPPED: Method<u32, u32> = Method::new("test/dropped").concurrency(1).drop_on_cancel();
    let (limited, dropped) = (Gate::new(), Gate::new());
    let builder = [(&LIMITED, &limited), (&DROPPED, &dropped)].into_iter().fold(
        with_add_one(Server::builder("test")),
        |builder, (method, gate)| {
            let gate = gate.clone();
            builder.blocking(method, move |_, n| smol::block_on(gate.clone().run(n)))
        },
    );
    smol::block_on(async {
        let (_server, dialler) = serve(builder);
        let client = client(&dialler);
        for n in 0..4 {
            let outcome = client.call(&LIMITED, &n).await;
            assert!(matches!(outcome, Outcome::NoReply(_)), "{outcome:?}");
        }
        limited.let_go(4);
        assert!(limited.most.load(Ordering::SeqCst) <= 1);
        let left = client.call(&DROPPED, &0).start();
        assert_eq!(dropped.begun().await, 0);
        drop(left);
        for n in 1..5 {
            let left = client.call(&DROPPED, &n).start();
            arrive(&client).await;
            drop(left);
            arrive(&client).await;
        }
        let last = client.call(&DROPPED, &5).start();
        arrive(&client).await;
        assert_eq!(dropped.begun.1.len(), 0, "the first one has not returned");
        dropped.let_go(2);
        assert_eq!(last.await.ok(), Ok(5));
        assert_eq!(dropped.begun().await, 5, "of the others none was begun");
        assert_eq!(dropped.most.load(Ordering::SeqCst), 1);
    });
}

/// The mutant `leak`: what is said to run does not agree with what does.
#[cfg(feature = "_faults")]
#[test]
fn c135_a_permit_that_leaks_shows_in_the_load() {
    let builder = with_add_one(Server::builder("test"));
    let builder = builder.fault(oncewire_driver::faults::ServerFault::LeakedPermits);
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        for _ in 0..4 {
            arrive(&client).await;
        }
        assert_eq!((server.load().running, server.counters().running), (1, 0));
    });
}
