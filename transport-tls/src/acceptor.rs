//! Accepts connections, and makes their handshakes.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use oncewire_driver::{Accept, BoxFuture, BoxStream, Runtime, SmolRuntime, Subject, Timer};

use crate::handshakes::{Accepted, Failure, Handshakes};
use crate::server::ServerTls;

/// Accepts by another acceptor, and speaks TLS on what that accepts.
///
/// Handshakes are made beside each other, so that a slow client holds up no other, and belong to the acceptor: a future of
/// `accept` that is dropped loses none. They advance only while an `accept` is awaited, as a server does. A client that
/// fails its handshake is counted, and not reported otherwise.
///
/// Who is calling is the [name](crate::certificate_name) of the client's certificate. Without one it is who the acceptor
/// beneath says.
pub struct TlsAcceptor<A> {
    inner: Arc<A>,
    tls: ServerTls,
    handshakes_max: usize,
    handshake_timeout: Duration,
    state: Mutex<State>,
    seen: Mutex<Seen>,
    waiters: Arc<Waiters>,
}

struct State {
    /// The next connection. It is kept here, and not in the future of an `accept`, so that it cannot be lost.
    accepting: Option<BoxFuture<'static, io::Result<Accepted>>>,
    /// It has come, and there is no place for its handshake.
    newcomer: Option<Accepted>,
    handshakes: Handshakes,
    /// Fires when the oldest handshake may be displaced by the newcomer.
    stalled: Box<dyn Timer>,
    /// There will be no other connection: reported when the last handshake has ended.
    ended: Option<io::Error>,
}

/// What came of handshakes. Not a part of [`State`], which is locked while handshakes are made: they call the program's
/// `admit`, which may ask for this.
#[derive(Default)]
struct Seen {
    counters: HandshakeCounters,
    last_failure: Option<String>,
}

/// How handshakes have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandshakeCounters {
    /// In a connection that was accepted.
    pub completed: u64,
    /// In an error: see [`TlsAcceptor::last_failure`].
    pub failed: u64,
    /// With the end of their time.
    pub timed_out: u64,
    /// With their place given to a newcomer, because all were taken and this one had made no end for a second.
    pub displaced: u64,
}

impl<A: Accept> TlsAcceptor<A> {
    /// At most 256 handshakes at once, each for at most 10 seconds. `tls` may be an `Arc<ServerConfig>` of the program's
    /// own.
    pub fn new(inner: A, tls: impl Into<ServerTls>) -> TlsAcceptor<A> {
        TlsAcceptor {
            inner: Arc::new(inner),
            tls: tls.into(),
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(10),
            state: Mutex::new(State {
                accepting: None,
                newcomer: None,
                handshakes: Handshakes::new(),
                stalled: SmolRuntime::global().timer(),
                ended: None,
            }),
            seen: Mutex::default(),
            waiters: Arc::default(),
        }
    }

    /// So many handshakes at once, at least one. A newcomer beyond that takes the place of the oldest, once that is a second
    /// old; until then it waits.
    pub fn handshakes_max(mut self, handshakes: usize) -> Self {
        self.handshakes_max = handshakes.max(1);
        self
    }

    /// So long for each handshake.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// The acceptor beneath.
    pub fn get_ref(&self) -> &A {
        &self.inner
    }

    /// How handshakes have ended.
    pub fn counters(&self) -> HandshakeCounters {
        self.seen().counters
    }

    /// Why the last handshake that failed has failed.
    pub fn last_failure(&self) -> Option<String> {
        self.seen().last_failure.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let state = &mut *lock(&self.state);
        loop {
            match state.handshakes.poll_next(cx) {
                Poll::Ready(Ok(accepted)) => {
                    self.seen().counters.completed += 1;
                    return Poll::Ready(Ok(accepted));
                }
                Poll::Ready(Err(failure)) => {
                    self.seen().note(failure);
                    continue;
                }
                Poll::Pending => {}
            }
            if state.handshakes.is_empty()
                && let Some(error) = state.ended.take()
            {
                return Poll::Ready(Err(error));
            }
            std::task::ready!(self.poll_newcomer(state, cx))?;
        }
    }

    /// Ready when another handshake has begun, or there will be none.
    fn poll_newcomer(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if state.newcomer.is_none() && state.ended.is_none() {
            let accepting = state.accepting.get_or_insert_with(|| {
                let inner = self.inner.clone();
                Box::pin(async move { inner.accept_protected().await })
            });
            let accepted = std::task::ready!(accepting.as_mut().poll(cx));
            state.accepting = None;
            match accepted {
                Ok(accepted) => state.newcomer = Some(accepted),
                Err(error) if is_final(&error) => {
                    state.ended = Some(error);
                    // If there are no handshakes, that is reported now.
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if state.newcomer.is_some() && state.handshakes.len() >= self.handshakes_max {
            let Some(stalled_at) = state.handshakes.stalled_at() else { return Poll::Pending };
            if let Some(displaced) = state.handshakes.displace() {
                self.seen().note(displaced);
            } else {
                state.stalled.set(stalled_at);
                std::task::ready!(state.stalled.poll(cx));
                return Poll::Ready(Ok(()));
            }
        }
        let Some((stream, subject)) = state.newcomer.take() else { return Poll::Pending };
        let limit = self.handshake_timeout;
        state.handshakes.begin(self.tls.current(), stream, subject, limit);
        Poll::Ready(Ok(()))
    }
}

impl Seen {
    fn note(&mut self, failure: Failure) {
        match failure {
            Failure::TimedOut => self.counters.timed_out += 1,
            Failure::Displaced => self.counters.displaced += 1,
            Failure::Failed(error) => {
                self.counters.failed += 1;
                self.last_failure = Some(error.to_string());
            }
        }
    }
}

/// Whether there will be no other connection: see [`Accept::accept`].
fn is_final(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, InvalidInput, NotFound, Unsupported};
    matches!(error.kind(), BrokenPipe | InvalidInput | NotFound | Unsupported)
}

impl<A: Accept> Accept for TlsAcceptor<A> {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        let waiter = Waiter::new(&self.waiters);
        Box::pin(std::future::poll_fn(move |cx| {
            let waker = waiter.register(cx);
            self.poll_accept(&mut Context::from_waker(&waker))
        }))
    }

    fn address(&self) -> String {
        format!("tls:{}", self.inner.address())
    }
}

impl<A: Accept> fmt::Debug for TlsAcceptor<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("address", &self.address())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// The futures of `accept` that wait. What they wait for is shared, so an event wakes all: the one that polled last may have
/// been dropped.
#[derive(Default)]
struct Waiters {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By the number of their future, which takes its own with it when it is dropped: a program that gives up waiting again
    /// and again leaves none.
    wakers: Vec<(u64, Waker)>,
    next_id: u64,
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut lock(&self.waiting).wakers);
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}

/// One future of `accept`, as a waiter.
struct Waiter {
    waiters: Arc<Waiters>,
    id: u64,
}

impl Waiter {
    fn new(waiters: &Arc<Waiters>) -> Waiter {
        let mut waiting = lock(&waiters.waiting);
        waiting.next_id += 1;
        Waiter { waiters: waiters.clone(), id: waiting.next_id }
    }

    /// A waker that wakes this one too, once.
    fn register(&self, cx: &Context<'_>) -> Waker {
        let _old = self.replace(Some(cx.waker().clone()));
        Waker::from(self.waiters.clone())
    }

    /// Returns the waker before, to be dropped by the caller: that may drop what it wakes, and a waiter in it, which locks.
    fn replace(&self, new: Option<Waker>) -> Option<Waker> {
        let wakers = &mut lock(&self.waiters.waiting).wakers;
        let at = wakers.iter().position(|(id, _)| *id == self.id);
        let old = at.map(|at| wakers.swap_remove(at).1);
        wakers.extend(new.map(|waker| (self.id, waker)));
        old
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _old = self.replace(None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
