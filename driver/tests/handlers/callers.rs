//! What a client calls and drops of its user's: wakers and connectors.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Outcome, Server,
};

use crate::link::{Dialler, client, serve};

const ADD_ONE: Method<u32, u32> = Method::new("test/add_one");
const NEVER: Method<u32, u32> = Method::new("test/never");

fn offer() -> oncewire_driver::ServerBuilder {
    Server::builder("test")
        .method(&ADD_ONE, |_, n| std::future::ready(n + 1))
        .method(&NEVER, |_, _: u32| std::future::pending::<u32>())
}

/// The last waker of a task: it owns all that is left of it, which calls the client.
struct Nosy {
    client: Client,
    drops: Arc<AtomicUsize>,
}

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let _status = self.client.status();
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

async fn until_dropped(drops: &AtomicUsize, count: usize) {
    while drops.load(Ordering::SeqCst) < count {
        smol::future::yield_now().await;
    }
    assert_eq!(drops.load(Ordering::SeqCst), count);
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

#[test]
fn c115_the_last_waker_of_a_task_is_dropped_without_the_lock() {
    smol::block_on(async {
        let (_server, dialler) = serve(offer());
        let client = client(&dialler);
        assert!(client.connected().await);
        let drops = Arc::new(AtomicUsize::new(0));
        let nosy = || Waker::from(Arc::new(Nosy { client: client.clone(), drops: drops.clone() }));
        // It reads for all: the socket has no waker of the others.
        let mut leader = client.call(&NEVER, &0).start();
        assert!(poll(&mut leader, Waker::noop()).is_pending());
        let mut call = client.call(&NEVER, &1).start();
        assert!(poll(&mut call, &nosy()).is_pending());
        assert!(poll(&mut leader, Waker::noop()).is_pending());
        assert!(poll(&mut call, Waker::noop()).is_pending());
        // The client's task may have it, to wake it.
        until_dropped(&drops, 1).await;
        assert!(poll(&mut leader, Waker::noop()).is_pending());
        assert!(poll(&mut call, &nosy()).is_pending());
        drop(call);
        until_dropped(&drops, 2).await;
    });
}

/// Its executor is broken.
struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics")
    }
}

#[test]
fn c115_a_waker_that_panics_harms_no_other_caller() {
    smol::block_on(async {
        let (_server, dialler) = serve(offer());
        let client = client(&dialler);
        assert_eq!(client.call(&ADD_ONE, &0).await.ok(), Ok(1));
        let mut first = client.call(&ADD_ONE, &1).start();
        let broken = Waker::from(Arc::new(Broken));
        if let Poll::Ready(outcome) = poll(&mut first, &broken) {
            assert_eq!(outcome.ok(), Ok(2));
            return;
        }
        for n in 0..10 {
            assert_eq!(client.call(&ADD_ONE, &n).await.ok(), Ok(n + 1));
        }
        assert_eq!(first.await.ok(), Ok(2));
    });
}

/// Panics at the first two attempts.
struct Panicking {
    dialler: Dialler,
    attempts: Arc<AtomicUsize>,
}

impl Connect for Panicking {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
        assert_ne!(attempt, 0, "a connector that panics at once");
        Box::pin(async move {
            assert_ne!(attempt, 1, "a connector that panics later");
            Ok(Box::new(self.dialler.dial().await?) as BoxStream)
        })
    }

    fn address(&self) -> String {
        panic!("a connector that does not know where it connects to")
    }
}

#[test]
fn c115_a_connector_that_panics_has_failed_and_is_asked_again() {
    smol::block_on(async {
        let (_server, dialler) = serve(offer());
        let attempts = Arc::new(AtomicUsize::new(0));
        let connector = Panicking { dialler, attempts: attempts.clone() };
        let client = Client::new(connector, ClientOptions::default());
        assert!(matches!(client.call(&ADD_ONE, &1).await, Outcome::Reply(2)));
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
    });
}
