//! What happens at a server or a client, as it happens: for logs, metrics and traces.
//!
//! An [`Observer`] is given to [`ServerBuilder::observe`](crate::ServerBuilder::observe) or to
//! [`ClientOptions::with_observer`](crate::ClientOptions::with_observer); there may be several. A closure is one:
//!
//! ```
//! use oncewire_driver::observe::{Event, Source};
//! use oncewire_driver::{Method, Server};
//!
//! const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
//!
//! let server = Server::builder("toy")
//!     .method(&ADD_ONE, |_context, n: i32| async move { n + 1 })
//!     .observe(|source: &Source, event: &Event| match event {
//!         Event::CallEnded { call, end, elapsed, .. } => {
//!             println!("{source}: {} {end} after {elapsed:?}", call.method);
//!         }
//!         event => println!("{source}: {event}"),
//!     })
//!     .build();
//! # server.unwrap();
//! ```
//!
//! # What it may rely on
//!
//! - It is called without any lock: it may call the server or the client that it observes. It is called by the task or thread
//!   in which the thing happened, or in which the one before it did, and should be quick. If it panics, that ends there.
//! - A client's [`CallStarted`](Event::CallStarted) comes in the thread that begins the call, before anything of it leaves, and
//!   its [`CallEnded`](Event::CallEnded) in the one that takes the outcome.
//! - All other events of one server, or of one client, come one after the other, in the order in which things happened. While
//!   an observer is slow they wait: 65,536 of them, then [`EventsLost`](Event::EventsLost) says how many were dropped.
//! - Nothing in an event is a secret: a session goes by the name that clients' errors and a ledger's tool show, and bodies and
//!   metadata are not there. What your own code says (why it rolled back) is there as it said it.
//!
//! Without an observer nothing of this is made, and no clock is read for it.
//!
//! | file | what it has |
//! |---|---|
//! | `observe.rs` | observers, and what they observe |
//! | `observe/event.rs` | the events |
//! | `observe/queue.rs` | events that wait until the lock is free |

mod event;
mod queue;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oncewire_core::{Instance, ServerId, ServiceName};

use crate::caught::caught;
pub use event::{
    CallEnd, CallInfo, ConnectionEnd, Event, MethodName, SessionEnd, SessionLoss, Verdict,
};
pub(crate) use queue::{Queue, ROUNDS_MAX, Round};

/// Learns what happens at servers and clients.
pub trait Observer: Send + Sync + 'static {
    /// Something has happened at `source`.
    fn observe(&self, source: &Source, event: &Event);
    /// Whether it would do anything now with the start of a call. While no observer of a server or client would, calls that start
    /// there are not observed, neither then nor when they end, and cost next to nothing.
    ///
    /// It is asked often, and must be quick: by a server once in each turn of a connection, by a client once for the calls that leave
    /// together. So one that begins to be heard sees no call that begins in the same turn, and every call behind that.
    fn is_heard(&self) -> bool {
        true
    }
}

impl<F: Fn(&Source, &Event) + Send + Sync + 'static> Observer for F {
    fn observe(&self, source: &Source, event: &Event) {
        self(source, event);
    }
}

/// Several places may share it.
impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn observe(&self, source: &Source, event: &Event) {
        (**self).observe(source, event);
    }

    fn is_heard(&self) -> bool {
        (**self).is_heard()
    }
}

/// Where something happens: which server, or which client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// At a server.
    #[non_exhaustive]
    Server {
        /// What it calls its service.
        service: ServiceName,
        /// Its set of records.
        server: ServerId,
        /// This start of it.
        instance: Instance,
    },
    /// At a client.
    #[non_exhaustive]
    Client {
        /// What it dials, as its connector names it.
        address: String,
    },
}

impl Source {
    /// Whether it is a server.
    pub fn is_server(&self) -> bool {
        matches!(self, Source::Server { .. })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Server { service, instance, .. } => write!(f, "server {service} {instance}"),
            Source::Client { address } => write!(f, "client of {address}"),
        }
    }
}

/// The observers that were given to one server or client.
#[derive(Clone, Default)]
pub(crate) struct ObserverList(Vec<Arc<dyn Observer>>);

impl ObserverList {
    pub(crate) fn add(&mut self, observer: impl Observer) {
        self.0.push(Arc::new(observer));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    fn are_heard(&self) -> bool {
        // One that panics is not silenced by that.
        caught(|| self.0.iter().any(|observer| observer.is_heard())).unwrap_or(true)
    }
}

impl fmt::Debug for ObserverList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.0.len())
    }
}

/// They, and what they observe.
#[derive(Debug)]
pub(crate) struct Observers {
    source: Arc<Source>,
    list: ObserverList,
    heard: Arc<AtomicBool>,
}

impl Observers {
    pub(crate) fn new(source: Source, list: ObserverList) -> Observers {
        Observers { source: Arc::new(source), list, heard: Arc::new(AtomicBool::new(true)) }
    }

    /// Asks whether calls that start from now on are to be observed. Not under a lock: it calls the user's code.
    #[inline]
    pub(crate) fn ask(&self) -> bool {
        let heard = self.list.are_heard();
        self.heard.store(heard, Ordering::Relaxed);
        heard
    }

    /// What was answered last, for those who hold a lock.
    pub(crate) fn heard(&self) -> &Arc<AtomicBool> {
        &self.heard
    }

    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Calls each of them. Not under a lock: they are the user's code.
    pub(crate) fn tell(&self, event: &Event) {
        for observer in &self.list.0 {
            // The panic hook has said so.
            let _panicked = caught(|| observer.observe(&self.source, event));
        }
    }
}
