//! Whether it pays to look for another connection right behind one that was accepted.

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use async_io::Async;

/// When a listener is asked for another connection at once, and when it is waited for first.
///
/// Connections that come together are accepted one after another, with no wait between them. Where they come one by one, the question
/// whether there is another costs a system call, and one that makes a socket in vain. So a listener that has said a few times that
/// there is no other one is waited for at once, and asked first now and then.
#[derive(Debug, Default)]
pub struct AcceptPolicy {
    /// Accepts since another connection was there at once.
    alone: AtomicU32,
}

/// Times that there must have been no other connection before the question is left out.
const ALONE_MIN: u32 = 4;
/// It is asked all the same once in so many times: of connections that come together again, at most so many are waited for.
const ASK_EVERY: u32 = 8;

impl AcceptPolicy {
    /// The next connection, which `accept` takes from the listener, or "would block".
    ///
    /// # Errors
    /// What `accept` says otherwise.
    pub async fn accept<L, T>(
        &self,
        listener: &Async<L>,
        mut accept: impl FnMut(&L) -> io::Result<T>,
    ) -> io::Result<T> {
        let alone = self.alone.load(Ordering::Relaxed);
        let asks = alone < ALONE_MIN || alone.is_multiple_of(ASK_EVERY);
        let mut is_at_once = asks;
        if !asks {
            // A future that is dropped and made again, as in a loop over several events, must find a connection that waits (C440).
            self.alone.store(alone.wrapping_add(1).max(1), Ordering::Relaxed);
            first_event(listener).await?;
        }
        let accepted = listener
            .read_with(|listener| {
                let accepted = accept(listener);
                let is_none =
                    matches!(&accepted, Err(error) if error.kind() == ErrorKind::WouldBlock);
                is_at_once &= !is_none;
                accepted
            })
            .await?;
        if asks {
            let alone = if is_at_once { 0 } else { alone.wrapping_add(1).max(1) };
            self.alone.store(alone, Ordering::Relaxed);
        }
        Ok(accepted)
    }
}

/// Ready with the next event of the listener, or when the task is polled again: it may be for that, and asking does no harm.
async fn first_event<L>(listener: &Async<L>) -> io::Result<()> {
    let mut readable = pin!(listener.readable());
    let mut was_polled = false;
    poll_fn(|cx| match std::mem::replace(&mut was_polled, true) {
        true => Poll::Ready(Ok(())),
        false => readable.as_mut().poll(cx),
    })
    .await
}

#[cfg(all(test, unix))]
mod tests {
    use std::cell::Cell;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn c440_a_listener_is_not_asked_again_where_connections_come_one_by_one() {
        let path = std::env::temp_dir().join(format!("oncewire-accept-{}", std::process::id()));
        let listener = Async::new(UnixListener::bind(&path).unwrap()).unwrap();
        let (policy, asked) = (AcceptPolicy::default(), Cell::new(0));
        let next = || {
            policy.accept(&listener, |listener| {
                asked.set(asked.get() + 1);
                listener.accept()
            })
        };
        let dial = || UnixStream::connect(&path).unwrap();
        let mut streams = Vec::new();
        for _ in 0..64 {
            let mut accepts = pin!(next());
            assert!(accepts.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            streams.push(dial());
            smol::block_on(accepts).unwrap();
        }
        assert!((64..80).contains(&asked.get()), "{} times for 64", asked.get());
        // Of those that come together none is missed, and soon none is waited for.
        asked.set(0);
        streams.extend([(); 64].map(|()| dial()));
        for _ in 0..64 {
            smol::block_on(next()).unwrap();
        }
        assert_eq!(asked.get(), 64);
        for _ in 0..64 {
            streams.push(dial());
            let mut accepts = pin!(next());
            let accepted = accepts.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(
                matches!(accepted, Poll::Ready(Ok(_))),
                "it was there, and is asked for at once"
            );
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn c440_one_that_is_polled_once_and_made_again_finds_what_waits() {
        let path = std::env::temp_dir().join(format!("oncewire-once-{}", std::process::id()));
        let listener = Async::new(UnixListener::bind(&path).unwrap()).unwrap();
        let policy = AcceptPolicy::default();
        let next = || policy.accept(&listener, UnixListener::accept);
        let mut streams = Vec::new();
        for _ in 0..5 {
            let mut accepts = pin!(next());
            assert!(accepts.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            streams.push(UnixStream::connect(&path).unwrap());
            smol::block_on(accepts).unwrap();
        }
        streams.push(UnixStream::connect(&path).unwrap());
        let polls = (1..100).find(|_| smol::block_on(smol::future::poll_once(next())).is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(polls.is_some_and(|polls| polls <= 8), "{polls:?}");
    }
}
