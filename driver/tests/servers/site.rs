//! Servers that can be lost, and the methods that they offer.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use oncewire_driver::{BoxFuture, BoxStream, Connect, Context, Method, Server, Subject};
use smol::net::unix::UnixStream;

/// Which server answers: may run at any.
pub const WHO: Method<(), u32> = Method::new("test/who").idempotent();
/// The same, once the gate of its server is open.
pub const HOLD: Method<(), u32> = Method::new("test/hold").idempotent();
/// Which server answers, and counts: at most once.
pub const COUNT: Method<(), u32> = Method::new("test/count");
/// The same, once the gate of its server is open.
pub const SLOW: Method<(), u32> = Method::new("test/slow");
pub const NOTE: Method<(), ()> = Method::new("test/note");
/// At most one at a time, and none waits: may run at any.
pub const NARROW: Method<(), u32> =
    Method::new("test/narrow").idempotent().concurrency(1).queue_max(0);

/// Are counted by their argument: at most once, and as often as it must be.
pub const ONCE: Method<u64, u64> = Method::new("test/once");
pub const AGAIN: Method<u64, u64> = Method::new("test/again").idempotent();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Serves,
    Refuses,
    /// Accepts, and never says anything.
    IsSilent,
}

/// A server at an address, as its clients find it.
#[derive(Clone)]
pub struct Site(pub Arc<Inner>);

pub struct Inner {
    pub number: u32,
    pub server: Mutex<Server>,
    mode: Mutex<Mode>,
    streams: Mutex<Vec<UnixStream>>,
    pub counts: Arc<Counts>,
}

#[derive(Default)]
pub struct Counts {
    runs: AtomicU32,
    waiting: AtomicU32,
    pub gate: AtomicBool,
    /// How often each call of ONCE and AGAIN ran.
    pub executed: Mutex<BTreeMap<u64, u32>>,
}

pub async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        smol::future::yield_now().await;
    }
}

impl Counts {
    async fn execute(&self, id: u64) -> u64 {
        *self.executed.lock().unwrap().entry(id).or_default() += 1;
        for _ in 0..id % 7 {
            smol::future::yield_now().await;
        }
        id
    }

    async fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        until(|| self.gate.load(Ordering::SeqCst)).await;
    }
}

fn server(number: u32, counts: &Arc<Counts>) -> Server {
    let [hold, count, slow, narrow, once, again] = [(); 6].map(|()| counts.clone());
    let server = Server::builder("test")
        .method(&WHO, move |_: Context, ()| async move { number })
        .method(&HOLD, move |_, ()| {
            let counts = hold.clone();
            async move {
                counts.pass().await;
                number
            }
        })
        .method(&COUNT, move |_, ()| {
            count.runs.fetch_add(1, Ordering::SeqCst);
            async move { number }
        })
        .method(&SLOW, move |_, ()| {
            let counts = slow.clone();
            async move {
                counts.runs.fetch_add(1, Ordering::SeqCst);
                counts.pass().await;
                number
            }
        })
        .method(&NARROW, move |_, ()| {
            let counts = narrow.clone();
            async move {
                counts.pass().await;
                number
            }
        })
        .method(&ONCE, move |_, id| {
            let counts = once.clone();
            async move { counts.execute(id).await }
        })
        .method(&AGAIN, move |_, id| {
            let counts = again.clone();
            async move { counts.execute(id).await }
        })
        .method(&NOTE, |_, ()| async {});
    #[cfg(feature = "stream")]
    let server = super::parts::offer(server, number);
    server.build().unwrap()
}

impl Site {
    pub fn new(number: u32) -> Site {
        let counts = Arc::default();
        Site(Arc::new(Inner {
            number,
            server: Mutex::new(server(number, &counts)),
            mode: Mutex::new(Mode::Serves),
            streams: Mutex::default(),
            counts,
        }))
    }

    pub fn set(&self, mode: Mode) {
        *self.0.mode.lock().unwrap() = mode;
    }

    /// Breaks its connections.
    pub fn cut(&self) {
        for stream in self.0.streams.lock().unwrap().drain(..) {
            let _gone = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Cannot be reached any more.
    pub fn lose(&self) {
        self.set(Mode::Refuses);
        self.cut();
    }

    /// As after a crash: it knows nothing of what it did.
    pub fn restart(&self) {
        *self.0.server.lock().unwrap() = server(self.0.number, &self.0.counts);
        self.set(Mode::Serves);
    }

    pub fn runs(&self) -> u32 {
        self.0.counts.runs.load(Ordering::SeqCst)
    }

    pub fn waiting(&self) -> u32 {
        self.0.counts.waiting.load(Ordering::SeqCst)
    }

    pub fn open_gate(&self) {
        self.0.counts.gate.store(true, Ordering::SeqCst);
    }
}

impl Connect for Site {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let mode = *self.0.mode.lock().unwrap();
            if mode == Mode::Refuses {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = UnixStream::pair()?;
            let mut streams = self.0.streams.lock().unwrap();
            streams.push(ours.clone());
            match mode {
                Mode::Serves => {
                    let server = self.0.server.lock().unwrap().clone();
                    server.serve_stream(Box::new(theirs), Subject::Anonymous);
                }
                _ => streams.push(theirs),
            }
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        format!("test:{}", self.0.number)
    }
}
