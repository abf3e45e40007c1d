//! Hooks around handlers and calls, and what calls take over from their client and their method: C270 to C272, C274, C275, C459.
//! With a ledger: `ledger/around.rs`.
#![cfg(unix)]
#![allow(missing_docs)]

#[path = "util/served.rs"]
mod served;

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::observe::{Event, Source};
use oncewire_driver::*;
use served::{Dialler, serve};
use smol::channel::{Receiver, Sender, unbounded};
use smol::net::unix::UnixStream;

const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
const REQUEST: MetadataKey<u64> = MetadataKey::new("request");
const ADD: Method<u64, u64> = Method::new("sum/add");
const SLEEP: Method<u64, u64> = Method::new("sum/sleep").time_limit(Duration::from_millis(30));
const BLOCK: Method<u64, u64> = Method::new("sum/block");

type Notes = Arc<Mutex<Vec<String>>>;

fn note(notes: &Notes, line: impl Into<String>) {
    notes.lock().unwrap().push(line.into());
}

fn take(notes: &Notes) -> Vec<String> {
    std::mem::take(&mut *notes.lock().unwrap())
}

fn client(builder: ServerBuilder) -> Client {
    Client::new(serve(builder).1, ClientOptions::default())
}

/// Dials over lines that the test can cut.
struct Cut(Dialler, Arc<Mutex<Vec<UnixStream>>>);

impl Connect for Cut {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let stream = self.0.dial().await?;
            self.1.lock().unwrap().push(stream.clone());
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a line that is cut".to_owned()
    }
}

/// A handler that waits until the test lets it go on.
fn gated(runs: &Arc<AtomicUsize>) -> (ServerBuilder, Sender<()>, Receiver<()>) {
    let (go_on, gate) = unbounded::<()>();
    let (begun, begins) = unbounded::<()>();
    let runs = runs.clone();
    let builder = Server::builder("sum").method(&ADD, move |_, n: u64| {
        let (gate, begun, runs) = (gate.clone(), begun.clone(), runs.clone());
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            begun.send(()).await.unwrap();
            gate.recv().await.unwrap();
            n + 1
        }
    });
    (builder, go_on, begins)
}

#[test]
fn c270_a_hook_wraps_each_run_of_a_handler_and_no_duplicate() {
    smol::block_on(async {
        let notes = Notes::default();
        let runs = Arc::default();
        let (builder, go_on, begins) = gated(&runs);
        let (outer, inner) = (notes.clone(), notes.clone());
        let builder = builder
            .around(move |context, next| {
                let notes = outer.clone();
                async move {
                    let tenant = context.metadata(&TENANT);
                    let (caller, name) = (context.caller.clone(), next.method().name);
                    assert!(context.remaining() <= Duration::from_secs(25));
                    note(&notes, format!("{name} for {tenant:?} by {caller:?}"));
                    let handled = next.run().await;
                    note(&notes, format!("outer: {}", handled.end()));
                    handled
                }
            })
            .around(move |_, next| {
                note(&inner, "inner begins");
                let notes = inner.clone();
                async move {
                    let handled = next.run().await;
                    note(&notes, format!("inner: {}", handled.end().status()));
                    handled
                }
            });
        let lines: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let connector = Cut(serve(builder).1, lines.clone());
        let options = ClientOptions::default().with_backoff_min(Duration::from_millis(1));
        let client = Client::new(connector, options);
        let call = client.call(&ADD, &1).metadata(&TENANT, "acme").timeout(Duration::from_secs(20));
        let call = smol::spawn(call);
        begins.recv().await.unwrap();
        // Sent, and now asked for, over a second connection.
        lines.lock().unwrap()[0].shutdown(Shutdown::Both).unwrap();
        assert!(client.connected().await);
        while client.status().reconnects == 0 {
            smol::future::yield_now().await;
        }
        go_on.send(()).await.unwrap();
        assert_eq!(call.await.ok(), Ok(2));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let seen = take(&notes);
        let first = "sum/add for Some(\"acme\") by Anonymous";
        assert_eq!(seen, [first, "inner begins", "inner: OK", "outer: executed"]);
    });
}

#[test]
fn c270_a_hook_sees_every_kind_of_end_that_a_handler_has() {
    const PANIC: Method<(), ()> = Method::new("sum/panic");
    const UNENCODABLE: Method<(), Unencodable> = Method::new("sum/unencodable");
    struct Unencodable;
    impl serde::Serialize for Unencodable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("not this one"))
        }
    }
    impl<'de> serde::Deserialize<'de> for Unencodable {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Unencodable)
        }
    }
    let notes = Notes::default();
    let seen = notes.clone();
    let builder = Server::builder("sum")
        .around(move |_, next| {
            let (notes, name) = (seen.clone(), next.method().name);
            async move {
                let handled = next.run().await;
                note(&notes, format!("{name} {}", handled.end().status()));
                handled
            }
        })
        .method(&PANIC, |_, ()| async { panic!("a handler that panics") })
        .method(&UNENCODABLE, |_, ()| async { Unencodable })
        .blocking(&BLOCK, |context: Context, n| n + context.metadata(&REQUEST).unwrap_or_default());
    let (server, dialler) = serve(builder);
    let client = Client::new(dialler, ClientOptions::default());
    let failure = |call: Outcome<()>| call.ok().unwrap_err();
    let aborted = CallFailure::NoReply(NoReply::Aborted);
    assert_eq!(failure(client.call(&PANIC, &()).block()), aborted);
    let unencodable = client.call(&UNENCODABLE, &()).block().ok().err();
    assert_eq!(unencodable, Some(CallFailure::NoReply(NoReply::Unencodable)));
    assert_eq!(client.call(&BLOCK, &3).metadata(&REQUEST, 4_u64).block().ok(), Ok(7));
    client.send(&BLOCK, &5).unwrap();
    assert!(client.close_blocking().in_good_order);
    let all = ["sum/panic ABORTED", "sum/unencodable UNENCODABLE", "sum/block OK", "sum/block OK"];
    assert_eq!(take(&notes), all);
    assert_eq!(server.handler_faults().panics, 1);
    assert_eq!(server.handler_faults().unencodable, 1);
}

#[test]
fn c271_a_hook_cannot_turn_what_was_executed_into_what_was_not() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let ends: Arc<Mutex<Option<Handled>>> = Arc::default();
    let builder = Server::builder("sum")
        .method(&ADD, move |_, n: u64| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { n + 1 }
        })
        .method(&SLEEP, |_, n: u64| async move { n })
        .around(move |context, next| {
            let ends = ends.clone();
            async move {
                match context.metadata(&REQUEST) {
                    Some(1) => next.refuse(Refusal::PermissionDenied),
                    Some(2) => next.refuse(Refusal::Overloaded),
                    Some(3) => next.refuse(Refusal::BadMetadata),
                    Some(4) => panic!("a hook that panics before the handler"),
                    Some(5) => {
                        let _handled = next.run().await;
                        panic!("a hook that panics after the handler")
                    }
                    // The end of this call is returned for that of the next one.
                    Some(6) => {
                        let mine = next.run().await;
                        let other = ends.lock().unwrap().replace(mine);
                        match other {
                            Some(other) => other,
                            None => std::future::pending().await,
                        }
                    }
                    Some(7) => {
                        let handled = next.run().await;
                        std::future::pending::<()>().await;
                        handled
                    }
                    _ => next.run().await,
                }
            }
        });
    let (server, dialler) = serve(builder);
    let client = Client::new(dialler, ClientOptions::default());
    let with = |n: u64| client.call(&ADD, &10).metadata(&REQUEST, n).block().ok();
    let not_executed = |why| Err(CallFailure::NotExecuted(why));
    assert_eq!(with(1), not_executed(NotExecuted::PermissionDenied));
    assert_eq!(with(2), not_executed(NotExecuted::Overloaded));
    assert_eq!(with(3), not_executed(NotExecuted::BadMetadata));
    let aborted = Err(CallFailure::NoReply(NoReply::Aborted));
    assert_eq!(with(4), aborted);
    assert_eq!(runs.load(Ordering::SeqCst), 0, "none of them was run");
    assert_eq!(with(5), aborted, "it was executed");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(server.handler_faults().panics, 2);
    let held = client.call(&ADD, &20).metadata(&REQUEST, 6_u64).start();
    assert_eq!(with(6), aborted, "not the reply of another call");
    drop(held);
    let slept = client.call(&SLEEP, &1).metadata(&REQUEST, 7_u64).block().ok();
    assert_eq!(slept, aborted, "its time is over while the hook waits");
    assert_eq!(with(8), Ok(11));
}

#[test]
fn c272_a_method_that_no_hook_is_around_is_not_offered_beside_others() {
    let sum = || Server::builder("sum").method(&ADD, |_, n: u64| async move { n + 1 });
    let wrong = sum().around_transactional(|_, next| next.run()).build().unwrap_err();
    let (method, name) = (ADD.id(), "sum/add");
    assert_eq!(wrong, BuildError::WithoutHook { method, name, missing: "around" });
    assert!(wrong.to_string().contains("sum/add") && wrong.to_string().contains("`around`"));
    // What a server offers by itself is not wrapped: a strict hook does not hide it.
    let strict =
        sum().status().around(|_, next| std::future::ready(next.refuse(Refusal::PermissionDenied)));
    let client = client(strict);
    let denied = Err(CallFailure::NotExecuted(NotExecuted::PermissionDenied));
    assert_eq!(client.call(&ADD, &1).block().ok(), denied);
    assert!(client.status_of_server().block().ok().is_ok());
}

#[test]
fn c274_a_clients_hook_sees_each_call_once_before_it_begins() {
    smol::block_on(async {
        let runs = Arc::default();
        let (builder, go_on, begins) = gated(&runs);
        let at_server = Notes::default();
        let seen = at_server.clone();
        let builder = builder.around(move |context, next| {
            let (request, tenant) = (context.metadata(&REQUEST), context.metadata(&TENANT));
            let short = context.remaining() <= Duration::from_secs(10);
            note(&seen, format!("{request:?} {tenant:?} {short}"));
            next.run()
        });
        let lines: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let connector = Cut(serve(builder).1, lines.clone());
        let at_client = Notes::default();
        let (seen, numbers) = (at_client.clone(), AtomicUsize::new(0));
        let started = at_client.clone();
        let options = ClientOptions::default()
            .with_backoff_min(Duration::from_millis(1))
            .with_observer(move |_: &Source, event: &Event| {
                if let Event::CallStarted { call, .. } = event {
                    note(&started, format!("{} starts", call.number));
                }
            })
            .with_around(move |call: &mut NewCall| {
                let number = numbers.fetch_add(1, Ordering::SeqCst) as u64;
                assert!(call.timeout() <= Duration::from_secs(30));
                call.timeout_at_most(Duration::from_secs(7));
                call.timeout_at_most(Duration::from_secs(70));
                call.set_metadata(&REQUEST, number);
                let observed = call.observed().map(|(_, number)| number);
                let (name, tenant) = (call.method().name, call.metadata().get(&TENANT));
                note(&seen, format!("{name} {observed:?} {tenant:?} {}", call.is_one_way()));
            });
        let client = Client::new(connector, options);
        let call = smol::spawn(client.call(&ADD, &1).metadata(&TENANT, "acme"));
        begins.recv().await.unwrap();
        lines.lock().unwrap()[0].shutdown(Shutdown::Both).unwrap();
        while client.status().reconnects == 0 {
            smol::future::yield_now().await;
        }
        go_on.send(()).await.unwrap();
        assert_eq!(call.await.ok(), Ok(2));
        client.send(&ADD, &2).unwrap();
        begins.recv().await.unwrap();
        go_on.send(()).await.unwrap();
        let once = "sum/add Some(1) Some(\"acme\") false";
        assert_eq!(take(&at_client), ["1 starts", once, "sum/add None None true"]);
        assert_eq!(take(&at_server), ["Some(0) Some(\"acme\") true", "Some(1) None true"]);
    });
}

#[test]
fn c274_a_hook_that_panics_has_its_call_not_begun() {
    let (_server, dialler) =
        serve(Server::builder("sum").method(&ADD, |_, n: u64| async move { n + 1 }));
    let ends = Notes::default();
    let seen = ends.clone();
    let long: MetadataKey<Bytes> = MetadataKey::new("long");
    let options = ClientOptions::default()
        .with_observer(move |_: &Source, event: &Event| {
            if let Event::CallEnded { end, .. } = event {
                note(&seen, end.status());
            }
        })
        .with_around(move |call| match call.metadata().get(&REQUEST) {
            Some(1) => panic!("a hook that panics"),
            Some(2) => call.set_metadata(&long, vec![0; 2_000]),
            _ => (),
        });
    let client = Client::new(dialler, options);
    let with = |n: u64| client.call(&ADD, &10).metadata(&REQUEST, n);
    let not_begun = |why| Err(CallFailure::NotExecuted(NotExecuted::NotBegun(why)));
    let panicked = NotBegun::HookPanicked;
    assert_eq!(with(1).block().ok(), not_begun(panicked));
    assert_eq!(with(1).start().block().ok(), not_begun(panicked));
    let metadata = Metadata::new().with(&REQUEST, 1_u64);
    assert_eq!(client.send_with_metadata(&ADD, &1, &metadata), Err(panicked));
    let too_long = NotBegun::BadMetadata(MetadataError::TooLong);
    assert_eq!(with(2).block().ok(), not_begun(too_long));
    assert_eq!(with(3).block().ok(), Ok(11));
    assert_eq!(take(&ends), ["NOT_BEGUN", "NOT_BEGUN", "NOT_BEGUN", "OK"]);
}

#[test]
fn c275_a_clone_of_a_client_gives_its_metadata_and_its_timeout_to_its_calls() {
    let (seen, sees) = unbounded();
    let handler = move |context: Context, n: u64| {
        let (tenant, request) = (context.metadata(&TENANT), context.metadata(&REQUEST));
        let short = context.remaining() <= Duration::from_secs(10);
        seen.send_blocking((tenant, request, short)).unwrap();
        async move { n }
    };
    let plain = client(Server::builder("sum").method(&ADD, handler));
    let acme = plain.with_metadata(Metadata::new().with(&TENANT, "acme"));
    let short = acme.with_timeout(Duration::from_secs(7));
    let tenant = || Some("acme".to_owned());
    let seen = || sees.recv_blocking().unwrap();
    assert_eq!(plain.call(&ADD, &1).block().ok(), Ok(1));
    assert_eq!(seen(), (None, None, false));
    assert_eq!(acme.call(&ADD, &1).metadata(&REQUEST, 3_u64).block().ok(), Ok(1));
    assert_eq!(seen(), (tenant(), Some(3), false));
    short.send(&ADD, &1).unwrap();
    assert_eq!(seen(), (tenant(), None, true));
    let other = Metadata::new().with(&REQUEST, 4_u64);
    short.send_with_metadata(&ADD, &1, &other).unwrap();
    assert_eq!(seen(), (None, Some(4), true));
    assert_eq!(short.with_metadata(other).call(&ADD, &1).block().ok(), Ok(1));
    assert_eq!(seen(), (None, Some(4), true));
    // All are handles of one client.
    drop((plain, acme));
    assert!(short.close_blocking().in_good_order);
}

#[test]
fn c459_a_timeout_is_that_of_the_call_else_of_its_handle_its_method_its_client() {
    let of = |seconds| Duration::from_secs(seconds);
    let slow = ADD.timeout(of(10_000));
    let (seen, sees) = unbounded();
    let builder = Server::builder("sum").method(&ADD, move |context: Context, n: u64| {
        seen.send_blocking(context.remaining()).unwrap();
        async move { n }
    });
    let options = ClientOptions::default().with_timeout(of(100_000));
    let client = Client::new(serve(builder).1, options);
    let handle = client.with_timeout(of(1_000));
    // Each is ten times the one before, so that it does not matter how long the test takes, nor that clocks are read coarsely.
    let seen = || match sees.recv_blocking().unwrap().as_secs() {
        ..50 => "less",
        50..500 => "call",
        500..5_000 => "handle",
        5_000..50_000 => "method",
        _ => "client",
    };
    let replied = |call: Call<u64>| assert_eq!(call.block().ok(), Ok(1));
    replied(client.call(&ADD, &1));
    assert_eq!(seen(), "client");
    replied(client.call(&slow, &1));
    assert_eq!(seen(), "method");
    replied(handle.call(&slow, &1));
    assert_eq!(seen(), "handle");
    replied(handle.call(&slow, &1).timeout(of(100)));
    assert_eq!(seen(), "call");
    replied(client.call(&slow, &1).timeout_at_most(of(100)));
    assert_eq!(seen(), "call");
    // No longer than the method says, by a caller that has more time.
    replied(client.call(&slow, &1).timeout_at_most(of(50_000)));
    assert_eq!(seen(), "method");
    let metadata = Metadata::new().with(&REQUEST, 1_u64);
    for (one_way, from) in [(&ADD, "client"), (&slow, "method")] {
        client.send(one_way, &1).unwrap();
        assert_eq!(seen(), from);
        client.send_with_metadata(one_way, &1, &metadata).unwrap();
        assert_eq!(seen(), from);
        handle.send(one_way, &1).unwrap();
        assert_eq!(seen(), "handle");
    }
}

#[cfg(feature = "stream")]
#[test]
fn c275_a_stream_is_seen_where_it_is_opened_and_not_chunk_by_chunk() {
    use oncewire_driver::stream::{Incoming, StreamMethod, UploadMethod};
    const COUNT: StreamMethod<u64, u64> = StreamMethod::new("sum/count").chunk_len(32);
    const TOTAL: UploadMethod<(), u64, u64> = UploadMethod::new("sum/total").chunk_len(32);
    let notes = Notes::default();
    let (seen, called) = (notes.clone(), Notes::default());
    let builder = Server::builder("sum")
        .stream(&COUNT, |_: Context, below: u64, from: u64| async move {
            smol::stream::iter(from..below)
        })
        .upload(&TOTAL, |_: Context, (), mut numbers: Incoming<u64>| async move {
            let mut total = 0;
            while let Some(number) = numbers.next().await {
                total += number;
            }
            total
        })
        .around(move |context, next| {
            let (name, tenant) = (next.method().name, context.metadata(&TENANT));
            note(&seen, format!("{name} {tenant:?}"));
            next.run()
        });
    let seen = called.clone();
    let options = ClientOptions::default().with_around(move |call| {
        note(&seen, "call");
        call.set_metadata(&REQUEST, 1_u64);
    });
    let client = Client::new(serve(builder).1, options);
    let client = client.with_metadata(Metadata::new().with(&TENANT, "acme"));
    smol::block_on(async {
        let mut numbers = client.stream(&COUNT, &1_000);
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number.unwrap();
        }
        assert_eq!(sum, 499_500);
        assert_eq!(take(&notes), ["sum/count Some(\"acme\")"]);
        assert_eq!(take(&called), ["call"]);
        let mut upload = client.upload(&TOTAL, &());
        for number in 0..1_000 {
            upload.send(number).await.unwrap();
        }
        assert_eq!(upload.commit().await.unwrap(), 499_500);
        assert_eq!(take(&notes), ["sum/total Some(\"acme\")"; 2], "opened, committed");
        assert_eq!(take(&called), ["call"; 2]);
    });
}
