//! A fork of the client's process: its calls, its session and its socket are the parent's, and nothing drives the client there (C163).
//!
//! Bytes that the child wrote would be calls of the parent's session, and bytes that it read would be missing in the parent. So
//! the process is looked at before bytes move, once a poll, since no fork comes between two steps of one. That is a system call. When a
//! call begins it is made only if bytes have moved since the last one did: of many that begin together one pays.

use super::super::reader::Leader;
use super::State;

/// The process that made the client.
pub(in super::super) struct Process {
    id: u32,
    /// It was looked at in this poll.
    looked: bool,
    /// It was looked at when a call began, and no bytes have moved since.
    began: bool,
    is_forked: bool,
}

impl Process {
    /// The present one, whose id this is.
    pub(in super::super) fn new(id: u32) -> Process {
        Process { id, looked: false, began: false, is_forked: false }
    }

    /// A poll begins: it may be in another process than the last one.
    #[inline]
    pub(in super::super) fn begin_poll(&mut self) {
        self.looked = false;
    }

    /// It is still the poll that has looked.
    #[inline]
    pub(in super::super) fn continue_poll(&mut self) {
        self.looked = true;
    }

    fn look(&mut self) -> bool {
        if !self.looked {
            self.looked = true;
            self.is_forked |= std::process::id() != self.id;
        }
        self.is_forked
    }

    #[cfg(test)]
    pub(in super::super) fn pretend_forked(&mut self) {
        (self.id, self.looked, self.began) = (!self.id, false, false);
    }
}

impl State {
    /// Whether a call must not begin, because this process is a fork of the client's.
    #[inline]
    pub(in super::super) fn begins_in_fork(&mut self) -> bool {
        if !self.process.began {
            self.process.began = true;
            self.is_forked();
        }
        self.process.is_forked
    }

    /// Whether bytes must not move, for the same reason.
    #[inline]
    pub(super) fn moves_in_fork(&mut self) -> bool {
        self.process.began = false;
        self.is_forked()
    }

    /// Whether this process is a fork of the client's. If so, the stream is left to the parent, and calls here have ended.
    pub(in super::super) fn is_forked(&mut self) -> bool {
        let is_forked = self.process.look();
        if is_forked && !self.lifecycle.task_gone {
            self.leave_to_parent();
        }
        is_forked
    }

    #[cold]
    #[inline(never)]
    fn leave_to_parent(&mut self) {
        self.lifecycle.task_gone = true;
        self.link.forget();
        self.reader.stop(&mut self.pending);
        debug_assert_eq!(self.reader.leader, Leader::None);
        // The parent has begun them, or this process before it was looked at: what becomes of them is not known here.
        self.pending.end_all(&mut self.to_wake);
        self.lifecycle.wake_all(&mut self.to_wake);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io;
    use std::os::unix::net::UnixStream;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use oncewire_core::{MethodId, NEVER, NotBegun, NotExecuted, Unknown};

    use crate::buffer::Encoded;
    use crate::client::call::CalledMethod;
    use crate::client::description::Description;
    use crate::client::outcome::Decode;
    use crate::client::{CallFailure, Client, ClientOptions, Outcome, Retry, Servers, Ticket};
    use crate::transport::{BoxFuture, BoxStream, Connect, Nowhere, Subject};
    use crate::{Method, Server};

    const ADD: Method<u64, u64> = Method::new("test/add");
    const HANG: Method<(), ()> = Method::new("test/hang");
    const FORKED: NotExecuted = NotExecuted::NotBegun(NotBegun::Forked);

    /// Dials by making a pair of sockets.
    struct Dial(Server);

    impl Connect for Dial {
        fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
            Box::pin(async {
                let (ours, theirs) = UnixStream::pair()?;
                self.0.serve_stream(Box::new(smol::Async::new(theirs)?), Subject::Anonymous);
                Ok(Box::new(smol::Async::new(ours)?) as BoxStream)
            })
        }

        fn address(&self) -> String {
            "a pair of sockets".to_owned()
        }
    }

    /// A client that has a connection, and what its server has added up.
    async fn connected() -> (Client, Arc<AtomicU64>) {
        let sum = Arc::new(AtomicU64::new(0));
        let adds = sum.clone();
        let add = move |_, n| {
            let before = adds.fetch_add(n, Ordering::Relaxed);
            std::future::ready(before + n)
        };
        let server = Server::builder("test").method(&ADD, add);
        let server = server.method(&HANG, |_, ()| std::future::pending()).build().unwrap();
        let client = Client::new(Dial(server), ClientOptions::default());
        assert_eq!(client.call(&ADD, &1).await.ok(), Ok(1));
        (client, sum)
    }

    #[test]
    fn c345_an_async_call_in_a_fork_of_the_clients_process_ends_at_once() {
        smol::block_on(async {
            let (client, sum) = connected().await;
            client.handle.shared.pretend_forked();
            assert_eq!(client.call(&ADD, &1).await.ok(), Err(CallFailure::NotExecuted(FORKED)));
            let started = client.call(&ADD, &1).start();
            assert_eq!(started.await.ok(), Err(CallFailure::NotExecuted(FORKED)));
            assert_eq!(client.send(&ADD, &1), Err(NotBegun::Forked));
            assert!(!client.connected().await);
            assert_eq!(sum.load(Ordering::Relaxed), 1, "nothing was sent");
        });
    }

    #[test]
    fn c345_a_call_that_the_parent_has_begun_ends_as_unknown_in_a_fork_which_takes_no_byte() {
        smol::block_on(async {
            let (client, _) = connected().await;
            let mut call = pin!(client.call(&HANG, &()));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            client.handle.shared.pretend_forked();
            assert!(matches!(call.await, Outcome::Unknown(Unknown::Closed, None)));
        });
    }

    #[test]
    fn c345_a_client_without_a_connection_makes_none_in_a_fork() {
        let client = Client::new(Nowhere, ClientOptions::default());
        let mut begun = client.call(&ADD, &1).start();
        client.handle.shared.pretend_forked();
        smol::block_on(async {
            assert!(matches!((&mut begun).await, Outcome::Unknown(Unknown::Closed, None)));
            assert_eq!(client.call(&ADD, &1).await.ok(), Err(CallFailure::NotExecuted(FORKED)));
        });
    }

    #[test]
    fn c345_a_call_that_waits_for_one_of_several_servers_ends_in_a_fork() {
        let client = Servers::new([Nowhere, Nowhere]).client(ClientOptions::default()).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        for idempotent in [false, true] {
            let call = || match idempotent {
                false => client.call(&ADD, &1).timeout(NEVER),
                true => client.call(&ADD, &1).timeout(NEVER).idempotent(),
            };
            let [mut polled, started] = [call(), call().start()];
            assert!(Pin::new(&mut polled).poll(&mut cx).is_pending());
            client.handle.group.as_ref().unwrap().pretend_forked();
            let outcomes = [polled, started, call()].map(|mut call| {
                let Poll::Ready(outcome) = Pin::new(&mut call).poll(&mut cx) else {
                    panic!("nothing will end it");
                };
                outcome.ok()
            });
            let unknown = Err(CallFailure::Unknown(Unknown::Closed));
            assert_eq!(outcomes, [unknown, unknown, Err(CallFailure::NotExecuted(FORKED))]);
            // And back.
            client.handle.group.as_ref().unwrap().pretend_forked();
        }
    }

    #[test]
    fn c163_a_call_in_a_fork_of_the_clients_process_ends_at_once() {
        const CALL: Method<(), ()> = Method::new("test/call");
        let client = Client::new(Nowhere, ClientOptions::default());
        client.handle.shared.pretend_forked();
        let failure = CallFailure::NotExecuted(FORKED);
        assert_eq!(client.call(&CALL, &()).block().ok(), Err(failure));
        assert_eq!(client.call(&CALL, &()).result().block().unwrap_err().failure(), failure);
        let retry = Retry::within(Duration::from_secs(1000));
        assert_eq!(retry.block(|| client.call(&CALL, &())).unwrap_err().failure(), failure);
        assert!(!client.close_blocking().in_good_order);
    }

    #[test]
    fn c163_what_the_parent_has_begun_is_unknown_in_a_fork_and_its_session_stays() {
        let client = Client::new(Nowhere, ClientOptions::default());
        let shared = client.handle.shared.clone();
        let method = MethodId::of("test/call");
        let [call, result] = [(); 2].map(|()| client.call_raw(method, Vec::new()).start());
        let of_bytes = CalledMethod::of_bytes(method);
        let mut described = Description::new(&shared.options, false, None, Encoded::EMPTY);
        let ticket = shared.begin(&mut described, &of_bytes, |_, _| ()).unwrap();
        let mut ticket = Ticket::new(shared.clone(), ticket, Decode::raw());
        shared.pretend_forked();
        let unknown = Some(CallFailure::Unknown(Unknown::Closed));
        assert_eq!(call.block().ok().err(), unknown);
        assert_eq!(result.result().block().err().map(CallFailure::from), unknown);
        assert_eq!(ticket.block().ok().err(), unknown);
        drop((ticket, client));
        let (is_closing, pending) =
            shared.with(|state, _| (state.machine.is_closing(), state.machine.pending()));
        assert!(!is_closing && pending == 3, "the session, and its calls, are the parent's");
    }
}
