//! Whose turn it is among calls that wait, and who gets the places where they wait.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use oncewire_driver::protocol::NotExecuted;
use oncewire_driver::{
    BoxFuture, BoxStream, Call, CallFailure, Client, ClientOptions, Connect, Context, Method,
    Outcome, Server,
};
use smol::net::unix::UnixStream;

use crate::limits::{Gate, arrive, begin, with_add_one};
use crate::link::{Dialler, client, client_named, serve};

/// Lets one call end, and returns the one that begins in its place.
async fn next(gate: &Gate) -> u32 {
    gate.let_go(1);
    gate.begun().await
}

async fn all_end(gate: &Gate, calls: impl IntoIterator<Item = Call<u32>>) {
    let calls: Vec<_> = calls.into_iter().collect();
    gate.let_go(calls.len());
    for call in calls {
        assert!(call.await.ok().is_ok());
    }
}

fn overloaded() -> Result<u32, CallFailure> {
    Err(CallFailure::NotExecuted(NotExecuted::Overloaded))
}

/// The limits are those of the recipe in the cookbook.
#[test]
fn c339_a_principal_that_fills_a_queue_leaves_others_a_place_and_the_next_turn() {
    const RESIZE: Method<u32, u32> = Method::new("thumb/resize").concurrency(4).queue_max(64);
    let gate = Gate::new();
    let builder = Server::builder("thumb").concurrency(100).queue_max(1_000);
    smol::block_on(async {
        let (server, _) = serve(with_add_one(gate.offer(builder, &RESIZE)));
        // Four run, and 32 and 16 wait; the others are refused, and each further session has no more than a place.
        let greedy: Vec<_> = (0..20).map(|_| client_named(&server, "greedy")).collect();
        let mut kept = Vec::new();
        for (client, of) in greedy.iter().zip([36, 32].into_iter().chain([4; 18])) {
            kept.extend(begin(client, &RESIZE, 0..of).into_iter().map(|call| (call, false)));
            arrive(client).await;
        }
        let load = server.load();
        assert_eq!((load.running, load.waiting), (4, 49));
        for _ in 0..4 {
            assert!(gate.begun().await < 4);
        }
        let honest: Vec<_> =
            ["alice", "bob", "carol"].map(|name| client_named(&server, name)).into();
        for round in 0..10 {
            for (client, n) in honest.iter().zip([1_000, 2_000, 3_000]) {
                kept.push((client.call(&RESIZE, &(n + round)).start(), true));
                arrive(client).await;
                // The greedy one fills again what its calls have left.
                for client in &greedy {
                    kept.extend(begin(client, &RESIZE, 0..4).into_iter().map(|call| (call, false)));
                    arrive(client).await;
                }
            }
            let mut begun = Vec::new();
            for _ in 0..4 {
                begun.push(next(&gate).await);
            }
            begun.sort_unstable();
            assert!(begun[0] < 36, "of four turns the greedy one has one: {begun:?}");
            assert_eq!(begun[1..], [1_000 + round, 2_000 + round, 3_000 + round]);
        }
        assert!(server.load().overloaded > 0);
        gate.let_go(kept.len());
        for (call, is_honest) in kept {
            let end = call.await.ok();
            assert!(end.is_ok() || !is_honest && end == overloaded(), "{end:?}");
        }
        assert_eq!((server.load().running, server.load().waiting), (0, 0));
    });
}

/// A server's own bound is shared likewise: who waits for many methods has no more turns, and no more places, than who waits for one.
#[test]
fn c339_a_principal_that_waits_for_many_methods_has_no_more_turns() {
    const METHODS: [Method<u32, u32>; 4] = [
        Method::new("test/0"),
        Method::new("test/1"),
        Method::new("test/2"),
        Method::new("test/3"),
    ];
    let gate = Gate::new();
    let builder = Server::builder("test").concurrency(1).queue_max(64);
    let builder = METHODS.iter().fold(builder, |builder, method| gate.offer(builder, method));
    smol::block_on(async {
        let (server, _) = serve(builder);
        let greedy: Vec<_> = (0..8).map(|_| client_named(&server, "greedy")).collect();
        let mut kept = Vec::new();
        for client in &greedy {
            for method in &METHODS {
                kept.extend(begin(client, method, 0..16));
            }
            arrive_unserved(client).await;
        }
        assert_eq!((server.load().running, server.load().waiting), (1, 49));
        assert_eq!(gate.begun().await, 0);
        let alice = client_named(&server, "alice");
        let calls = begin(&alice, &METHODS[3], 1_000..1_005);
        arrive_unserved(&alice).await;
        for n in 1_000..1_005 {
            assert!(next(&gate).await < 16);
            assert_eq!(next(&gate).await, n);
        }
        gate.let_go(kept.len());
        for call in calls {
            assert!(call.await.ok().is_ok());
        }
        for call in kept {
            let end = call.await.ok();
            assert!(end.is_ok() || end == overloaded(), "{end:?}");
        }
    });
}

#[test]
fn c339_turns_in_a_queue_that_moves_fast_cost_none_in_another() {
    const FAST: Method<u32, u32> = Method::new("test/fast").concurrency(1);
    const SLOW: Method<u32, u32> = Method::new("test/slow").concurrency(1);
    let (fast, slow) = (Gate::new(), Gate::new());
    let builder = slow.offer(fast.offer(Server::builder("test"), &FAST), &SLOW);
    smol::block_on(async {
        let (server, _) = serve(builder);
        let (alice, bob) = (client_named(&server, "alice"), client_named(&server, "bob"));
        let of_fast = begin(&alice, &FAST, 0..10);
        arrive_unserved(&alice).await;
        let mut of_slow = begin(&bob, &SLOW, 20..25);
        arrive_unserved(&bob).await;
        of_slow.extend(begin(&alice, &SLOW, 10..12));
        arrive_unserved(&alice).await;
        assert_eq!((fast.begun().await, slow.begun().await), (0, 20));
        for (n, of_alice) in [21, 10, 22, 11, 23, 24].into_iter().zip(1..) {
            assert_eq!(next(&slow).await, n);
            assert_eq!(next(&fast).await, of_alice);
        }
        all_end(&slow, of_slow).await;
        all_end(&fast, of_fast).await;
    });
}

/// Waits for an answer that needs no turn: what was sent before has arrived.
async fn arrive_unserved(client: &Client) {
    const NOWHERE: Method<u32, u32> = Method::new("test/nowhere");
    let outcome = client.call(&NOWHERE, &0).await;
    assert!(matches!(outcome, Outcome::NotExecuted(NotExecuted::UnknownMethod)), "{outcome:?}");
}

#[test]
fn c359_two_sessions_of_one_principal_alternate_and_each_keeps_its_order() {
    const ONE: Method<u32, u32> = Method::new("test/one").concurrency(1);
    let gate = Gate::new();
    smol::block_on(async {
        let (server, _) = serve(with_add_one(gate.offer(Server::builder("test"), &ONE)));
        let (first, second) = (client_named(&server, "alice"), client_named(&server, "alice"));
        let mut calls = begin(&first, &ONE, 0..7);
        arrive(&first).await;
        calls.extend(begin(&second, &ONE, 10..13));
        arrive(&second).await;
        assert_eq!(gate.begun().await, 0);
        for n in [1, 10, 2, 11, 3, 12, 4, 5, 6] {
            assert_eq!(next(&gate).await, n);
        }
        gate.let_go(1);
        for call in calls {
            assert!(call.await.ok().is_ok());
        }
    });
}

#[test]
fn c359_the_calls_of_a_session_come_in_order_whatever_their_methods() {
    const METHODS: [Method<u32, u32>; 3] =
        [Method::new("test/0"), Method::new("test/1"), Method::new("test/2").concurrency(1)];
    let gate = Gate::new();
    let builder = Server::builder("test").concurrency(1);
    let builder = METHODS.iter().fold(builder, |builder, method| gate.offer(builder, method));
    smol::block_on(async {
        let (server, _) = serve(builder);
        let (first, second) = (client_named(&server, "alice"), client_named(&server, "bob"));
        let mut calls = Vec::new();
        for (at, n) in [0, 0, 0, 2, 1, 0, 2, 1].into_iter().zip(0..) {
            calls.extend(begin(&first, &METHODS[at], n..n + 1));
        }
        arrive_unserved(&first).await;
        for (at, n) in [1, 0, 2].into_iter().zip(10..) {
            calls.extend(begin(&second, &METHODS[at], n..n + 1));
        }
        arrive_unserved(&second).await;
        assert_eq!(gate.begun().await, 0);
        for n in [1, 10, 2, 11, 3, 12, 4, 5, 6, 7] {
            assert_eq!(next(&gate).await, n);
        }
        all_end(&gate, calls).await;
    });
}

/// A dialler that can cut what it has dialled.
#[derive(Clone)]
struct Cutter(Dialler, Arc<Mutex<Vec<UnixStream>>>);

impl Cutter {
    fn cut(&self) {
        for stream in self.1.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).unwrap();
        }
    }
}

impl Connect for Cutter {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let stream = self.0.dial().await?;
            self.1.lock().unwrap().push(stream.clone());
            Ok(Box::new(stream) as BoxStream)
        })
    }
    fn address(&self) -> String {
        self.0.address()
    }
}

#[test]
fn c367_anonymous_peers_have_one_turn_together_and_who_leaves_makes_no_gap() {
    const ONE: Method<u32, u32> = Method::new("test/one").concurrency(1);
    let gate = Gate::new();
    smol::block_on(async {
        let (server, dialler) = serve(with_add_one(gate.offer(Server::builder("test"), &ONE)));
        let cutter = Cutter(dialler.clone(), Arc::default());
        let broken = Client::new(cutter.clone(), ClientOptions::default());
        let (stranger, leaver) = (client(&dialler), client(&dialler));
        let alice = client_named(&server, "alice");
        let mut calls = Vec::new();
        for (client, of) in
            [(&stranger, 0..4), (&broken, 10..13), (&leaver, 20..23), (&alice, 90..96)]
        {
            calls.push(begin(client, &ONE, of));
            arrive(client).await;
        }
        assert_eq!(gate.begun().await, 0);
        // Peers without a name take turns for one turn of hers.
        for n in [1, 90, 10, 91] {
            assert_eq!(next(&gate).await, n);
        }
        // One call is cancelled, one client leaves, and one connection breaks: its session lives, and its calls wait.
        drop(calls[0].pop());
        arrive(&stranger).await;
        drop((calls.remove(2), leaver));
        while server.load().waiting > 7 {
            smol::future::yield_now().await;
        }
        cutter.cut();
        arrive(&broken).await;
        assert_eq!(server.load().waiting, 7);
        for n in [2, 92, 11, 93, 12, 94, 95] {
            assert_eq!(next(&gate).await, n);
        }
        gate.let_go(1);
        for call in calls.into_iter().flatten() {
            assert!(call.await.ok().is_ok());
        }
        assert_eq!((server.load().running, server.load().waiting), (0, 0));
    });
}

/// 500 calls of a function that blocks have a thread each; the others wait in the queue, where callers take turns.
#[test]
fn c339_calls_that_wait_for_a_thread_take_turns_as_all_others() {
    const BLOCKS: Method<u32, u32> = Method::new("test/blocks");
    let gate = Gate::new();
    let of_calls = gate.clone();
    let blocks = move |_: Context, n| smol::block_on(of_calls.clone().run(n));
    smol::block_on(async {
        let (server, _) = serve(with_add_one(Server::builder("test").blocking(&BLOCKS, blocks)));
        let (greedy, alice) = (client_named(&server, "greedy"), client_named(&server, "alice"));
        let calls = begin(&greedy, &BLOCKS, 0..510);
        arrive(&greedy).await;
        let honest = begin(&alice, &BLOCKS, 1_000..1_001);
        arrive(&alice).await;
        assert_eq!((server.load().running, server.load().waiting), (500, 11));
        for _ in 0..500 {
            assert!(gate.begun().await < 500);
        }
        assert!(next(&gate).await < 510);
        assert_eq!(next(&gate).await, 1_000);
        all_end(&gate, calls.into_iter().chain(honest)).await;
    });
}
