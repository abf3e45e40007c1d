//! Handshakes that are under way: a bounded set, each with a time limit.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::{FuturesUnordered, Stream as _};
use oncewire_driver::{BoxFuture, BoxStream, Instant, Runtime, SmolRuntime, Subject, Timer};
use rustls::ServerConfig;

use crate::certificate::certificate_name;
use crate::error::{Side, explain};
use crate::tls_stream::{Paced, Stream};

/// A stream, and who is at its other end.
pub(crate) type Accepted = (BoxStream, Subject);

/// A handshake that is this old gives its place to a newcomer, if there is no other.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// How a handshake ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It had no more time.
    TimedOut,
    /// Its place was given to a newcomer.
    Displaced,
    Failed(io::Error),
}

type Result<T> = std::result::Result<T, Failure>;

type Handshake = BoxFuture<'static, (u64, Result<Accepted>)>;

pub(crate) struct Handshakes {
    running: FuturesUnordered<Abortable<Handshake>>,
    /// The same, oldest first.
    order: VecDeque<Place>,
    next_id: u64,
    runtime: Arc<SmolRuntime>,
}

struct Place {
    id: u64,
    since: Instant,
    handle: AbortHandle,
}

impl Handshakes {
    pub(crate) fn new() -> Handshakes {
        Handshakes {
            running: FuturesUnordered::new(),
            order: VecDeque::new(),
            next_id: 0,
            runtime: SmolRuntime::global(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Begins one on a new connection. `subject` is who the transport beneath says is calling.
    pub(crate) fn begin(
        &mut self,
        config: Arc<ServerConfig>,
        stream: BoxStream,
        subject: Subject,
        limit: Duration,
    ) {
        let (id, since) = (self.next_id, self.runtime.now());
        self.next_id += 1;
        let mut timer = self.runtime.timer();
        timer.set(since + limit);
        let (handle, registration) = AbortHandle::new_pair();
        let handshake: Handshake =
            Box::pin(async move { (id, limited(handshake(config, stream, subject), timer).await) });
        self.running.push(Abortable::new(handshake, registration));
        self.order.push_back(Place { id, since, handle });
    }

    /// The next one that has ended; pending also if there is none.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Accepted>> {
        loop {
            match Pin::new(&mut self.running).poll_next(cx) {
                Poll::Ready(Some(Ok((id, result)))) => {
                    if let Some(at) = self.order.iter().position(|place| place.id == id) {
                        self.order.remove(at);
                    }
                    return Poll::Ready(result);
                }
                // It was displaced, and has been reported.
                Poll::Ready(Some(Err(_))) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// When the oldest may be displaced.
    pub(crate) fn stalled_at(&self) -> Option<Instant> {
        Some(self.order.front()?.since + STALLED_AFTER)
    }

    /// Ends the oldest, if it has stalled.
    pub(crate) fn displace(&mut self) -> Option<Failure> {
        if self.stalled_at()? > self.runtime.now() {
            return None;
        }
        self.order.pop_front()?.handle.abort();
        Some(Failure::Displaced)
    }
}

/// Polls until the time is over.
async fn limited<T>(
    handshake: impl Future<Output = io::Result<T>>,
    mut timer: Box<dyn Timer>,
) -> Result<T> {
    let mut handshake = std::pin::pin!(handshake);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = handshake.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(Failure::Failed));
        }
        timer.poll(cx).map(|()| Err(Failure::TimedOut))
    })
    .await
}

async fn handshake(
    config: Arc<ServerConfig>,
    stream: BoxStream,
    subject: Subject,
) -> io::Result<Accepted> {
    let tls = futures_rustls::TlsAcceptor::from(config);
    let stream = tls.accept(Paced::new(stream)).await;
    let stream = stream.map_err(|error| explain(Side::Server, true, error))?;
    let subject = match stream.get_ref().1.peer_certificates() {
        Some([certificate, ..]) => Subject::Name(certificate_name(certificate)?.into()),
        Some([]) | None => subject,
    };
    Ok((Box::new(Stream::new(stream.into(), Side::Server)) as BoxStream, subject))
}
