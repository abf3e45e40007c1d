//! What observers learn: C251 to C254, C365.
#![allow(missing_docs)]
#![cfg(unix)]

#[path = "util/served.rs"]
mod served;

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::observe::{CallEnd, Event, Observer, Source, Verdict};
use oncewire_driver::{
    BoxFuture, BoxStream, CallFailure, Client, ClientOptions, Connect, Executed, Method,
    NotExecuted, Outcome, Server, ServerBuilder, ServiceName,
};
use served::{Dialler, serve};
use smol::channel::{Receiver, Sender, unbounded};
use smol::net::unix::UnixStream;

const ADD: Method<u64, u64> = Method::new("sum/add");
const HANG: Method<(), ()> = Method::new("sum/hang");
const PANIC: Method<(), ()> = Method::new("sum/panic");
const ABSENT: Method<(), ()> = Method::new("sum/absent");
const DENIED: Method<(), ()> = Method::new("sum/denied");
const UNENCODABLE: Method<Unencodable, ()> = Method::new("sum/unencodable");

struct Unencodable;

impl serde::Serialize for Unencodable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not this one"))
    }
}

/// Events as they came.
#[derive(Clone)]
struct Seen {
    events: Arc<Mutex<Vec<Event>>>,
    came: (Sender<()>, Receiver<()>),
}

impl Seen {
    fn new() -> Seen {
        Seen { events: Arc::default(), came: unbounded() }
    }

    fn observer(&self) -> impl Fn(&Source, &Event) + Send + Sync + use<> {
        let seen = self.clone();
        move |_: &Source, event: &Event| {
            seen.events.lock().unwrap().push(event.clone());
            let _ = seen.came.0.try_send(());
        }
    }

    fn find<T>(&self, which: impl Fn(&Event) -> Option<T>) -> Option<T> {
        self.events.lock().unwrap().iter().find_map(which)
    }

    /// Waits until there is such an event.
    async fn wait<T>(&self, which: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.find(&which) {
                return found;
            }
            let _ = self.came.1.recv().await;
        }
    }

    fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| which(event)).count()
    }

    /// How the calls of a method ended.
    fn ends(&self, name: &str) -> Vec<CallEnd> {
        let end = |event: &Event| match event {
            Event::CallEnded { call, end, .. } if call.method.name == name => Some(*end),
            _ => None,
        };
        self.events.lock().unwrap().iter().filter_map(end).collect()
    }
}

fn sum() -> ServerBuilder {
    Server::builder("sum")
        .method(&ADD, |_, n: u64| async move { n + 1 })
        .method(&HANG, |context, ()| async move { context.cancelled().await })
        .method(&PANIC, |_, ()| async { panic!("a handler that panics") })
        .method(&DENIED, |_, ()| async {})
        .authorize(|_, method| method != "sum/denied")
}

fn is<T>(found: T) -> Option<T> {
    Some(found)
}

#[test]
fn c251_every_call_is_seen_to_start_and_to_end_at_both_sides() {
    smol::block_on(async {
        let (at_server, at_client) = (Seen::new(), Seen::new());
        let (server, dialler) = serve(sum().observe(at_server.observer()));
        let options = ClientOptions::default().with_observer(at_client.observer());
        let client = Client::new(dialler, options);
        assert_eq!(client.call(&ADD, &1).await.ok(), Ok(2));
        let panicked = client.call(&PANIC, &()).await.ok().unwrap_err();
        let absent = client.call(&ABSENT, &()).await.ok().unwrap_err();
        let denied = client.call(&DENIED, &()).await.ok().unwrap_err();
        // It does not begin, and is seen when its outcome is taken.
        let unencodable = client.call(&UNENCODABLE, &Unencodable).start().await;
        let unencodable = unencodable.ok().unwrap_err();
        let dropped = client.call(&HANG, &()).start();
        let running = |event: &Event| match event {
            Event::CallStarted { call, .. } if call.method.name == HANG.name() => is(*call),
            _ => None,
        };
        let call = at_server.wait(running).await;
        drop(dropped);
        at_server
            .wait(|event| match event {
                Event::CallEnded { call: ended, .. } if *ended == call => is(()),
                _ => None,
            })
            .await;

        assert_eq!(at_client.ends(ADD.name()), [CallEnd::Replied]);
        assert_eq!(at_client.ends(PANIC.name()), [CallEnd::Failed(panicked)]);
        assert_eq!(at_client.ends(ABSENT.name()), [CallEnd::Failed(absent)]);
        assert_eq!(at_client.ends(DENIED.name()), [CallEnd::Failed(denied)]);
        assert_eq!(at_client.ends(UNENCODABLE.name()), [CallEnd::Failed(unencodable)]);
        assert_eq!(at_client.ends(HANG.name()), [CallEnd::Dropped]);
        let number = |event: &Event| match event {
            Event::CallStarted { call, .. } => Some((call.number, call.method)),
            _ => None,
        };
        let started: Vec<_> = at_client.events.lock().unwrap().iter().filter_map(number).collect();
        let names: Vec<_> = started.iter().map(|(_, method)| method.to_string()).collect();
        let methods = ["add", "panic", "absent", "denied", "unencodable", "hang"];
        assert_eq!(names, methods.map(|method| format!("sum/{method}")));

        assert_eq!(at_server.ends(ADD.name()), [CallEnd::Replied]);
        assert_eq!(at_server.ends(PANIC.name()), [CallEnd::Failed(panicked)]);
        assert_eq!(at_server.ends(HANG.name()), [CallEnd::Replied]);
        let refused = |event: &Event| match event {
            Event::CallRefused { call, why, .. } => Some((call.method.to_string(), *why)),
            _ => None,
        };
        let refused: Vec<_> = at_server.events.lock().unwrap().iter().filter_map(refused).collect();
        // The name of a method that is not offered is not known: its number is.
        let absent = (ABSENT.id().to_string(), NotExecuted::UnknownMethod);
        let denied = (DENIED.name().to_owned(), NotExecuted::PermissionDenied);
        assert_eq!(refused, [absent, denied]);
        assert_eq!(at_server.count(|event| matches!(event, Event::HandlerPanicked { .. })), 1);

        check_names(&at_client, &at_server);
        client.close().await;
        server.drain(Duration::from_secs(10)).await;
        at_server.wait(|event| matches!(event, Event::Drained).then_some(())).await;
        check_order(&at_server);
    });
}

/// The same call is known by the same names at both ends.
fn check_names(at_client: &Seen, at_server: &Seen) {
    let names = |event: &Event| match event {
        Event::CallEnded { call, .. } => is((call.session, call.xid)),
        _ => None,
    };
    let of_client = at_client.find(names);
    assert_eq!(of_client, at_server.find(names));
    assert!(of_client.unwrap().0.is_some());
}

/// A server's events come in the order in which things happen.
fn check_order(at_server: &Seen) {
    let line = |event: &Event| match event {
        Event::ConnectionOpened { .. } => Some("connection"),
        Event::SessionOpened { .. } => Some("session"),
        Event::CallStarted { call, .. } if call.method.name == ADD.name() => Some("start"),
        Event::CallEnded { call, .. } if call.method.name == ADD.name() => Some("end"),
        Event::SessionEnded { .. } => Some("session over"),
        Event::ConnectionClosed { .. } => Some("closed"),
        Event::DrainBegan => Some("drain"),
        Event::Drained => Some("drained"),
        _ => None,
    };
    let lines: Vec<_> = at_server.events.lock().unwrap().iter().filter_map(line).collect();
    let at = |name: &str| {
        let at = lines.iter().position(|line| *line == name);
        at.unwrap_or_else(|| panic!("{name}: {lines:?}"))
    };
    let order = ["connection", "session", "start", "end", "session over", "drain", "drained"];
    assert!(order.map(at).is_sorted(), "{lines:?}");
    assert!(at("closed") < at("drained"), "{lines:?}");
}

#[test]
fn c252_an_observer_that_panics_harms_nothing_and_one_that_asks_its_server_is_answered() {
    smol::block_on(async {
        let seen = Seen::new();
        let of_server: Arc<Mutex<Option<Server>>> = Arc::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (asks, its_server) = (asked.clone(), of_server.clone());
        let builder = sum()
            .observe(|_: &Source, event: &Event| panic!("an observer that panics at {event}"))
            .observe(move |_: &Source, _: &Event| {
                // No lock is held: each of these takes it.
                if let Some(server) = &*its_server.lock().unwrap() {
                    let counters = server.counters();
                    assert!(counters.conns <= 1 && server.ledger_error().is_none());
                    asks.fetch_add(1, Ordering::Relaxed);
                }
            })
            .observe(seen.observer());
        let (server, dialler) = serve(builder);
        *of_server.lock().unwrap() = Some(server.clone());
        let options = ClientOptions::default()
            .with_observer(|_: &Source, _: &Event| panic!("an observer that panics"))
            .with_observer(seen.observer());
        let client = Client::new(dialler, options);
        for n in 0..10 {
            assert_eq!(client.call(&ADD, &n).await.ok(), Ok(n + 1));
        }
        // At the client, and at the server.
        assert_eq!(seen.ends(ADD.name()), [CallEnd::Replied; 20]);
        assert!(asked.load(Ordering::Relaxed) >= 20);
        assert!(client.close().await.in_good_order);
        assert_eq!(server.handler_faults().panics, 0);
        // It holds its server.
        of_server.lock().unwrap().take();
    });
}

/// Dials over a line that the test can cut.
struct Cut {
    dialler: Dialler,
    lines: Arc<Mutex<Vec<UnixStream>>>,
    refuse: Arc<AtomicUsize>,
}

impl Connect for Cut {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            if self.refuse.load(Ordering::Relaxed) > 0 {
                self.refuse.fetch_sub(1, Ordering::Relaxed);
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let stream = self.dialler.dial().await?;
            self.lines.lock().unwrap().push(stream.clone());
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a line that is cut".to_owned()
    }
}

#[test]
fn c253_one_call_over_two_connections_is_one_start_and_one_end_and_its_question_is_seen() {
    smol::block_on(async {
        let (at_server, at_client) = (Seen::new(), Seen::new());
        let (go_on, gate) = unbounded::<()>();
        let builder = Server::builder("sum").method(&ADD, move |_, n: u64| {
            let gate = gate.clone();
            async move {
                gate.recv().await.unwrap();
                n + 1
            }
        });
        let (_server, dialler) = serve(builder.observe(at_server.observer()));
        let lines: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let refuse = Arc::new(AtomicUsize::new(0));
        let cut = Cut { dialler, lines: lines.clone(), refuse: refuse.clone() };
        let options = ClientOptions::default()
            .with_backoff_min(Duration::from_millis(1))
            .with_backoff_max(Duration::from_millis(1))
            .with_observer(at_client.observer());
        let client = Client::new(cut, options);
        let call = smol::spawn(client.call(&ADD, &1));
        at_server.wait(|event| matches!(event, Event::CallStarted { .. }).then_some(())).await;
        refuse.store(2, Ordering::Relaxed);
        lines.lock().unwrap()[0].shutdown(Shutdown::Both).unwrap();
        let verdict = at_server.wait(|event| match event {
            Event::Duplicate { verdict, method: None, .. } => is(*verdict),
            _ => None,
        });
        assert_eq!(verdict.await, Verdict::WhenDone);
        go_on.send(()).await.unwrap();
        assert_eq!(call.await.ok(), Ok(2));

        assert_eq!(at_client.count(|event| matches!(event, Event::CallStarted { .. })), 1);
        let reconnects = at_client.find(|event| match event {
            Event::CallEnded { reconnects, end: CallEnd::Replied, .. } => is(*reconnects),
            _ => None,
        });
        assert_eq!(reconnects, Some(1));
        assert_eq!(at_server.ends(ADD.name()), [CallEnd::Replied]);
        let resumed = |event: &Event| match event {
            Event::SessionResumed { session, connection: 2, .. } => is(*session),
            _ => None,
        };
        let session = at_server.find(resumed);
        assert!(session.is_some() && session == at_client.find(resumed));
        let closed = |event: &Event| match event {
            Event::ConnectionClosed { session, connection: 1, .. } => is(*session),
            _ => None,
        };
        assert_eq!(at_client.find(closed), Some(session));
        assert_eq!(at_server.find(closed), Some(session));
        let failed = at_client.find(|event| match event {
            Event::DialFailed { address, attempts: 2, permanent: false, .. } => is(address.clone()),
            _ => None,
        });
        assert_eq!(failed.as_deref(), Some("a line that is cut"));
        client.close().await;
        at_client.wait(|event| matches!(event, Event::ClientClosed { .. }).then_some(())).await;
    });
}

#[test]
fn c253_a_late_outcome_follows_a_call_that_ended_as_unknown() {
    smol::block_on(async {
        let at_client = Seen::new();
        let (go_on, gate) = unbounded::<()>();
        let builder = Server::builder("sum").method(&ADD, move |_, n: u64| {
            let gate = gate.clone();
            async move {
                gate.recv().await.unwrap();
                n + 1
            }
        });
        let at_server = Seen::new();
        let (_server, dialler) = serve(builder.observe(at_server.observer()));
        let lines: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let cut = Cut { dialler, lines: lines.clone(), refuse: Arc::default() };
        let options = ClientOptions::default().with_observer(at_client.observer());
        let client = Client::new(cut, options);
        let call = smol::spawn(client.call(&ADD, &1).fail_fast(true));
        at_server.wait(|event| matches!(event, Event::CallStarted { .. }).then_some(())).await;
        lines.lock().unwrap()[0].shutdown(Shutdown::Both).unwrap();
        let outcome = call.await;
        let Outcome::Unknown(_, Some(mut ticket)) = outcome else { panic!("{outcome:?}") };
        let [CallEnd::Failed(failure)] = at_client.ends(ADD.name())[..] else { panic!() };
        assert_eq!(failure.executed(), Executed::Unknown);
        let report = at_client.find(|event| match event {
            Event::CallEnded { report: Some(report), .. } => is(report.clone()),
            _ => None,
        });
        assert_eq!(report.unwrap().method_name, ADD.name());
        go_on.send(()).await.unwrap();
        assert_eq!(ticket.wait().await.ok(), Ok(2));
        let late = at_client.find(|event| match event {
            Event::LateOutcome { end, .. } => is(*end),
            _ => None,
        });
        assert_eq!(late, Some(CallEnd::Replied));
    });
}

#[test]
fn c253_a_session_that_is_refused_is_seen_at_both_sides() {
    smol::block_on(async {
        let (at_server, at_client) = (Seen::new(), Seen::new());
        let (_server, dialler) = serve(sum().observe(at_server.observer()));
        let options = ClientOptions::default()
            .with_service(ServiceName::new("other").unwrap())
            .with_observer(at_client.observer());
        let client = Client::new(dialler, options);
        let failure = client.call(&ADD, &1).await.ok().unwrap_err();
        assert_eq!(failure, CallFailure::NotExecuted(NotExecuted::SessionRefused));
        let refused = |event: &Event| match event {
            Event::SessionRefused { connection: 1, why, .. } => is(why.to_string()),
            _ => None,
        };
        let said = at_server.wait(refused).await;
        assert_eq!(said, "service \"other\" was demanded, but \"sum\" answered");
        // The call may have its outcome before its client's observer has the event.
        assert_eq!(at_client.wait(refused).await, said);
    });
}

/// Does nothing with calls while it is off; counts their starts and ends at clients and at servers.
#[derive(Clone, Default)]
struct Switched {
    on: Arc<AtomicBool>,
    client: Arc<[AtomicUsize; 2]>,
    server: Arc<[AtomicUsize; 2]>,
}

impl Switched {
    fn counts(&self) -> [[usize; 2]; 2] {
        [&self.client, &self.server].map(|side| [0, 1].map(|at| side[at].load(Ordering::SeqCst)))
    }
}

impl Observer for Switched {
    fn observe(&self, source: &Source, event: &Event) {
        let side = if source.is_server() { &self.server } else { &self.client };
        match event {
            Event::CallStarted { .. } => side[0].fetch_add(1, Ordering::SeqCst),
            Event::CallEnded { .. } => side[1].fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
    }

    fn is_heard(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }
}

#[test]
fn c365_calls_that_start_while_no_observer_is_heard_are_not_observed() {
    let switched = Switched::default();
    let builder = Server::builder("sum").method(&ADD, |_, n: u64| async move { n + 1 });
    let (server, dialler) = serve(builder.observe(switched.clone()));
    let options = ClientOptions::default().with_observer(switched.clone());
    let client = Client::new(dialler, options);
    smol::block_on(async {
        let call = async |n: u64| assert_eq!(client.call(&ADD, &n).await.ok(), Ok(n + 1));
        call(1).await;
        assert_eq!(switched.counts(), [[0; 2]; 2]);
        switched.on.store(true, Ordering::SeqCst);
        call(2).await;
        call(3).await;
        // Off again in the middle of a call: what was seen to start is seen to end.
        let mut begun = Box::pin(client.call(&ADD, &4));
        let polled = smol::future::poll_once(begun.as_mut()).await;
        switched.on.store(false, Ordering::SeqCst);
        match polled {
            Some(outcome) => assert_eq!(outcome.ok(), Ok(5)),
            None => assert_eq!(begun.await.ok(), Ok(5)),
        }
        call(5).await;
        client.close().await;
        server.drain(Duration::from_secs(10)).await;
    });
    let [client, [starts, ends]] = switched.counts();
    assert_eq!(client, [3, 3]);
    // A server asks when its turn begins, which may have been before the switch.
    assert!(starts == ends && (1..=4).contains(&starts), "{starts} {ends}");
}

/// One that is not heard, and counts how often it is asked.
struct Asked(Arc<AtomicUsize>);

impl Observer for Asked {
    fn observe(&self, _: &Source, _: &Event) {}

    fn is_heard(&self) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst);
        false
    }
}

#[test]
fn calls_that_leave_together_share_a_question_to_the_observers() {
    let builder = Server::builder("sum")
        .method(&HANG, |context, ()| async move { context.cancelled().await })
        .method(&ADD, |_, n: u64| async move { n + 1 });
    let (_server, dialler) = serve(builder);
    let asked = Arc::<AtomicUsize>::default();
    let options = ClientOptions::default().with_observer(Asked(asked.clone()));
    let client = Client::new(dialler, options);
    smol::block_on(async {
        for n in 0..5 {
            let before = asked.load(Ordering::SeqCst);
            assert_eq!(client.call(&ADD, &n).await.ok(), Ok(n + 1));
            assert_eq!(asked.load(Ordering::SeqCst), before + 1, "one that leaves alone");
        }
        let mut calls: Vec<_> = (0..256).map(|_| Box::pin(client.call(&HANG, &()))).collect();
        let before = asked.load(Ordering::SeqCst);
        for call in &mut calls {
            assert!(smol::future::poll_once(call.as_mut()).await.is_none(), "it hangs");
        }
        let questions = asked.load(Ordering::SeqCst) - before;
        assert!((1..64).contains(&questions), "{questions} for 256 calls");
    });
}
