//! Client and server with their driver in one process and on one thread, over a pair of sockets: what callgrind counts for
//! a call through all of it.
//!
//! The clock is made here. It moves a little with each reading, so that what the driver bounds by time, such as a server's
//! turn, is bounded by the same work under callgrind as without it; and counts repeat.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use oncewire_core::{Instant, MethodId, MethodSpec};
use oncewire_driver::observe::{Event, Observer, Source};
use oncewire_driver::{
    Accept, BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Nonblocking, Outcome,
    Runtime, Server, Subject, Timer, schema::Signature,
};
use oncewire_observe::Counting;
use oncewire_recorder::FlightRecorder;
use serde::{Deserialize, Serialize};
use smol::{Async, Executor};

use crate::Result;
use crate::callgrind;
use crate::clock::Duration;
use crate::goals::Goal;
use crate::subject::Way;

const ECHO: MethodId = MethodId::of("bench/echo");
const TYPED_ECHO: Method<Bytes, Bytes> = Method::new("bench/echo").reply_len_max((1 << 20) + 64);

/// The same with a signature, as the attribute `service` gives one: each call looks up whether it was compared (S33).
const COMPARED_ECHO: Method<Bytes, Bytes> =
    TYPED_ECHO.with_signature(Some(Signature::of::<Vec<u8>, Vec<u8>>(&[])));

/// A flight recorder's ring.
const RING_LEN: usize = 64 << 10;
/// Bytes on the wire of a typed body of 32: its length goes before it.
const TYPED_LEN: usize = 33;

/// What a run is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    way: Way,
    typed: bool,
    /// Its method has a signature.
    compared: bool,
    outstanding: usize,
    body_len: usize,
    watched: Watched,
}

/// Who looks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Watched {
    /// No one.
    No,
    /// A flight recorder of this many bytes around each connection of the client.
    Client(usize),
    /// The same around each connection of the server.
    Server(usize),
    /// An observer at each end, which does nothing with what it gets.
    Ignored,
    /// One that says so.
    Unheard,
    /// `Counting` at each end.
    Counted,
}

/// What it gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BothRow {
    setup: Setup,
    instructions: f64,
}

impl Setup {
    fn method(&self) -> &'static Method<Bytes, Bytes> {
        if self.compared { &COMPARED_ECHO } else { &TYPED_ECHO }
    }
}

fn setups() -> Vec<Setup> {
    let setup = |way, typed, outstanding| Setup {
        way,
        typed,
        compared: false,
        outstanding,
        body_len: 32,
        watched: Watched::No,
    };
    let watched = |watched| Setup { watched, ..setup(Way::Loops, false, 64) };
    vec![
        setup(Way::Loops, false, 1),
        setup(Way::Loops, true, 1),
        setup(Way::Loops, false, 64),
        setup(Way::Loops, true, 64),
        Setup { compared: true, ..setup(Way::Loops, true, 64) },
        Setup { body_len: TYPED_LEN, ..setup(Way::Loops, false, 64) },
        setup(Way::Tasks, true, 64),
        setup(Way::Buffered, true, 64),
        setup(Way::Tasks, true, 1024),
        Setup { body_len: 1 << 20, ..setup(Way::Loops, false, 4) },
        Setup { body_len: 1 << 20, ..setup(Way::Loops, true, 4) },
        watched(Watched::Client(RING_LEN)),
        watched(Watched::Server(RING_LEN)),
        watched(Watched::Unheard),
        watched(Watched::Ignored),
        watched(Watched::Counted),
    ]
}

pub(crate) fn all() -> Result<Vec<BothRow>> {
    if !callgrind::is_there() {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for setup in setups() {
        crate::run::progress(&format!("both ends: {setup:?}"));
        let calls = ((8 << 20) / (2048 + setup.body_len)).clamp(16, 4096) as u64;
        let counted = |calls| callgrind::instructions("both-ends-calls", &setup, calls);
        let (less, more) = (counted(calls)?, counted(3 * calls)?);
        rows.push(BothRow { setup, instructions: (more - less) as f64 / (2 * calls) as f64 });
    }
    Ok(rows)
}

pub(crate) fn print(rows: &[BothRow]) {
    if rows.is_empty() {
        return;
    }
    output::show!("\nBoth ends with their driver, over a pair of sockets: instructions a call");
    output::show!(
        "  {:>9}{:>8}{:>10}{:>10}{:>12}  watched",
        "body",
        "flight",
        "way",
        "bodies",
        "instr."
    );
    for BothRow { setup, instructions } in rows {
        output::show!(
            "  {:>9}{:>8}{:>10}{:>8}{:>12.0}  {}",
            setup.body_len,
            setup.outstanding,
            format!("{:?}", setup.way),
            match (setup.typed, setup.compared) {
                (false, _) => "raw",
                (true, false) => "typed",
                (true, true) => "compared",
            },
            instructions,
            match setup.watched {
                Watched::No => String::new(),
                watched => format!("{watched:?}"),
            }
        );
    }
    for goal in goals(rows) {
        output::show!("  {}", goal.shown());
    }
}

/// What is promised of a call in W2.
pub(crate) fn goals(rows: &[BothRow]) -> Vec<Goal> {
    let counted = |typed, body_len, change: fn(&mut Setup)| {
        let (way, watched) = (Way::Loops, Watched::No);
        let mut setup = Setup { way, typed, compared: false, outstanding: 64, body_len, watched };
        change(&mut setup);
        rows.iter().find(|row| row.setup == setup).map(|row| row.instructions)
    };
    let w2 = |typed, body_len| counted(typed, body_len, |_| ());
    let (raw, typed) = (w2(false, 32), w2(true, 32));
    let most =
        |name, figure: f64, bound| Goal::most(&format!("both ends, W2 {name}"), figure, bound);
    let compared = counted(true, 32, |setup| setup.compared = true);
    let beside_raw = |typed: Option<f64>| Some(typed? / w2(false, TYPED_LEN)?);
    let recorded = |watch: fn(&mut Setup)| Some(counted(false, 32, watch)? / w2(false, 32)?);
    let unheard = counted(false, 32, |setup| setup.watched = Watched::Unheard);
    let unheard = unheard.zip(raw).map(|(with, raw)| with - raw);
    [
        raw.map(|raw| most("raw, instructions", raw, 3200.0)),
        typed.map(|typed| most("typed, instructions", typed, 3350.0)),
        beside_raw(typed).map(|ratio| most("typed × raw of the same bytes", ratio, 1.05)),
        beside_raw(compared).map(|ratio| most("compared × raw of the same bytes", ratio, 1.05)),
        recorded(|setup| setup.watched = Watched::Client(RING_LEN))
            .map(|ratio| most("with a client's flight recorder × without", ratio, 1.02)),
        recorded(|setup| setup.watched = Watched::Server(RING_LEN))
            .map(|ratio| most("with a server's flight recorder × without", ratio, 1.02)),
        unheard
            .map(|more| most("with observers that are not heard, instructions more", more, 32.0)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Makes calls: what callgrind counts.
pub(crate) fn make_calls(setup: Setup, calls: u64) -> Result<()> {
    let executor: Arc<Executor<'static>> = Arc::default();
    let runtime = Arc::new(CountedRuntime::new(executor.clone()));
    let mut builder = Server::builder("bench").runtime(runtime.clone());
    let mut options = ClientOptions::default();
    match setup.watched {
        Watched::Ignored => {
            (builder, options) = (builder.observe(ignore), options.with_observer(ignore));
        }
        Watched::Unheard => {
            (builder, options) = (builder.observe(Unheard), options.with_observer(Unheard));
        }
        Watched::Counted => {
            let counting = Arc::new(Counting::new());
            (builder, options) =
                (builder.observe(counting.clone()), options.with_observer(counting));
        }
        Watched::No | Watched::Client(_) | Watched::Server(_) => {}
    }
    let builder = if setup.typed {
        builder.method(setup.method(), |_, body| async move { body })
    } else {
        let mut spec = MethodSpec::new(ECHO);
        spec.reply_len_max = setup.body_len as u32;
        builder.method_raw(spec, |_, body: Bytes| std::future::ready(body))
    };
    let server = builder.build()?;
    let client = match setup.watched {
        Watched::Client(len) => {
            let dial = FlightRecorder::ring(len)?.connector(Dial { server, recorder: None });
            Client::with_runtime(dial, options, runtime)
        }
        Watched::Server(len) => {
            let recorder = Some(FlightRecorder::ring(len)?);
            Client::with_runtime(Dial { server, recorder }, options, runtime)
        }
        _ => Client::with_runtime(Dial { server, recorder: None }, options, runtime),
    };
    let caller = Caller { client, setup, body: Bytes::from(vec![7; setup.body_len]) };
    let each = calls / setup.outstanding as u64;
    smol::block_on(executor.run(async {
        match setup.way {
            Way::Loops => {
                let mut loops: FuturesUnordered<_> =
                    (0..setup.outstanding).map(|_| caller.clone().calls(each)).collect();
                while let Some(done) = loops.next().await {
                    done?;
                }
            }
            Way::Tasks => {
                let one = |_| executor.spawn(caller.clone().calls(each));
                for task in (0..setup.outstanding).map(one).collect::<Vec<_>>() {
                    task.await?;
                }
            }
            Way::Buffered => {
                let calls = stream::iter(0..calls).map(|_| caller.call());
                let mut calls = pin!(calls.buffer_unordered(setup.outstanding));
                while let Some(done) = calls.next().await {
                    done?;
                }
            }
        }
        Ok(())
    }))
}

#[derive(Clone)]
struct Caller {
    client: Client,
    setup: Setup,
    body: Bytes,
}

impl Caller {
    async fn call(&self) -> Result<()> {
        let call = match self.setup.typed {
            true => self.client.call(self.setup.method(), &self.body),
            false => self.client.call_raw(ECHO, self.body.clone()),
        };
        match call.await {
            Outcome::Reply(reply) if reply.len() == self.body.len() => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    }

    async fn calls(self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.call().await?;
        }
        Ok(())
    }
}

/// An observer that does nothing.
fn ignore(_: &Source, _: &Event) {}

/// An observer that does nothing with calls, and says so.
struct Unheard;

impl Observer for Unheard {
    fn observe(&self, _: &Source, _: &Event) {}

    fn is_heard(&self) -> bool {
        false
    }
}

/// Dials by making a pair of sockets.
pub(crate) struct Dial {
    pub(crate) server: Server,
    pub(crate) recorder: Option<FlightRecorder>,
}

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair()?;
            let mut theirs = stream(theirs)?;
            if let Some(recorder) = &self.recorder {
                let accepted = recorder.acceptor(One(Mutex::new(Some(theirs)))).accept().await?;
                theirs = accepted.0;
            }
            self.server.serve_stream(theirs, Subject::Anonymous);
            stream(ours)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

/// Accepts one connection.
struct One(Mutex<Option<BoxStream>>);

impl Accept for One {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let accepted = stream.ok_or_else(|| io::ErrorKind::BrokenPipe.into());
        Box::pin(std::future::ready(accepted.map(|stream| (stream, Subject::Anonymous))))
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

fn stream(socket: UnixStream) -> io::Result<BoxStream> {
    let close = |socket: &UnixStream| socket.shutdown(Shutdown::Write);
    Ok(Box::new(Nonblocking::new(Async::new(socket)?, close)))
}

/// How far the clock moves with each reading: the driver reads it about twice a call, and a call takes some 0.3 µs a side.
const READING: u64 = 150;

/// On one thread, with the clock that is made here.
pub(crate) struct CountedRuntime {
    executor: Arc<Executor<'static>>,
    now: AtomicU64,
}

impl CountedRuntime {
    pub(crate) fn new(executor: Arc<Executor<'static>>) -> CountedRuntime {
        CountedRuntime { executor, now: AtomicU64::new(1) }
    }
}

impl Runtime for CountedRuntime {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.fetch_add(READING, Ordering::Relaxed))
    }

    fn coarse_now(&self) -> (Instant, Duration) {
        let now = Instant::from_nanos(self.now.load(Ordering::Relaxed));
        (now, Duration::from_millis(10))
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Never)
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.executor.spawn(task).detach();
    }

    /// Both ends are on this thread: who spins keeps the other from answering.
    fn spin_budget(&self, _: usize) -> Option<Duration> {
        None
    }
}

/// A timer that does not fire: nothing here waits for time.
struct Never;

impl Timer for Never {
    fn set(&mut self, _: Instant) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
