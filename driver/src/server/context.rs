//! What a handler can know of its call.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use oncewire_core::{CallKey, Instant, SessionTag, Xid};

use super::provided::Provided;
use super::state::Shared;
use crate::caught::{Guarded, caught};
use crate::metadata::{Metadata, MetadataKey, MetadataType};
use crate::status::Status;
use crate::transport::{BoxFuture, Subject};
use crate::waiters::Place;

/// What a call's context asks of its server.
pub(super) trait CallWatch: Send + Sync {
    /// Whether the call's outcome is needed.
    fn is_wanted(self: Arc<Self>, call: CallKey) -> bool;
    /// The time, on the clock of the calls' deadlines.
    fn now(&self) -> Instant;
    /// The session of the call, until that has ended.
    fn session(&self, call: CallKey) -> Option<SessionTag>;
    /// What the server says of itself.
    fn status(&self) -> Status;
    /// Runs a task beside the server's own.
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// A timer on the clock of the calls' deadlines.
    #[cfg(feature = "stream")]
    fn timer(&self) -> Box<dyn crate::runtime::Timer>;
    /// Ready when the call's outcome is not needed any more.
    fn poll_unwanted(
        self: Arc<Self>,
        call: CallKey,
        place: &mut Place,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()>;
    /// The task that waited for that in this place has stopped.
    fn leave_unwanted(&self, call: CallKey, place: &mut Place);
}

impl CallWatch for Shared {
    fn is_wanted(self: Arc<Self>, call: CallKey) -> bool {
        self.with(|state, _| state.is_wanted(call))
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn session(&self, call: CallKey) -> Option<SessionTag> {
        self.with_quietly(|state| {
            let record = state.machine.session_record(call.session())?;
            Some(state.tag_of(record.id))
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(task);
    }

    fn status(&self) -> Status {
        self.status()
    }

    #[cfg(feature = "stream")]
    fn timer(&self) -> Box<dyn crate::runtime::Timer> {
        self.runtime.timer()
    }

    fn poll_unwanted(
        self: Arc<Self>,
        call: CallKey,
        place: &mut Place,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let (poll, before) = self.with(|state, _| match state.is_wanted(call) {
            false => (Poll::Ready(()), None),
            true => (Poll::Pending, state.cancels.wait(call, place, cx)),
        });
        drop(before);
        poll
    }

    fn leave_unwanted(&self, call: CallKey, place: &mut Place) {
        let waker = self.with_quietly(|state| state.cancels.leave(call, place));
        drop(waker);
    }
}

/// What a handler can know of its call.
///
/// It does not say whether the request was sent more than once. A handler begins with the first copy that its server reads, later
/// ones only have the answer sent again, and the copies are alike: whether an earlier one was lost, with a connection or with a
/// server that has crashed, is not on the wire. A handler that must run once needs a ledger, not a flag.
#[derive(Clone)]
pub struct Context {
    /// Who is calling, as far as the transport can say.
    pub caller: Subject,
    /// The call's number in its session.
    pub xid: Xid,
    /// When the caller gives up, on the server's clock.
    pub deadline: Instant,
    /// Weak, because calls that wait for their records are part of the server's shared state.
    server: Weak<dyn CallWatch>,
    key: CallKey,
    metadata: Option<Arc<Metadata>>,
    /// `None` where no hooks are around the handler.
    provided: Option<Arc<Provided>>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("caller", &self.caller)
            .field("xid", &self.xid)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn new(
        server: Weak<dyn CallWatch>,
        key: CallKey,
        deadline: Instant,
        caller: Subject,
        metadata: Option<Arc<Metadata>>,
    ) -> Context {
        Context { caller, xid: key.xid(), deadline, server, key, metadata, provided: None }
    }

    /// One that hooks can give values to; so can its clones from now on.
    pub(super) fn with_provided(mut self) -> Context {
        self.provided = Some(Arc::default());
        self
    }

    pub(super) fn provide<T: Any + Send + Sync>(&self, value: T) {
        if let Some(provided) = &self.provided {
            provided.put(value);
        }
    }

    /// What a hook around the handler has given it ([`Next::provide`](crate::Next::provide)): a request's principal in the program's own
    /// terms, or a leader's fencing token. `None` if no hook has given one of this type.
    pub fn provided<T: Any + Clone + Send + Sync>(&self) -> Option<T> {
        self.provided.as_ref()?.get()
    }

    /// Time until the caller gives up, for the timeout of a call to another service, say. Zero when it has, or the server is
    /// gone; centuries for a call without a timeout. It may be some milliseconds too long.
    pub fn remaining(&self) -> Duration {
        self.server.upgrade().map_or(Duration::ZERO, |server| self.deadline.since(server.now()))
    }

    /// What the caller has sent under this key beside the arguments ([`Call::metadata`](crate::Call::metadata)); `None` too if it
    /// is of another type. The caller says it: it proves nothing that [`caller`](Context::caller) does not.
    pub fn metadata<T: MetadataType>(&self, key: &MetadataKey<T>) -> Option<T> {
        self.metadata.as_ref()?.get(key)
    }

    /// All of it, to be passed on with [`Call::with_metadata`](crate::Call::with_metadata), say. `None` if there is none.
    pub fn all_metadata(&self) -> Option<&Metadata> {
        self.metadata.as_deref()
    }

    /// The session that the call belongs to, by a name that is no secret. It is the same for all calls of a client's session,
    /// also after its connection has broken and, with a ledger, after the server has started again; with [`xid`](Context::xid)
    /// it names this call and no other, in a log or in a table of one's own. `None` if the session has ended, which it does not
    /// while the call runs.
    pub fn session(&self) -> Option<SessionTag> {
        self.server.upgrade()?.session(self.key)
    }

    /// What the server says of itself; `None` if it is gone.
    pub(crate) fn server_status(&self) -> Option<Status> {
        Some(self.server.upgrade()?.status())
    }

    /// The server's clock and a timer on it; `None` if the server is gone.
    #[cfg(feature = "stream")]
    pub(crate) fn timer(&self) -> Option<(Instant, Box<dyn crate::runtime::Timer>)> {
        let server = self.server.upgrade()?;
        Some((server.now(), server.timer()))
    }

    /// Runs work that outlives the call: a handler's own future is dropped when it has returned, or passed its time limit. The
    /// call's outcome does not say how the work ends, a panic in it ends only that, and neither a cancel nor
    /// [`Server::drain`](crate::Server::drain) waits for it. It is dropped if the server is gone.
    ///
    /// ```
    /// use oncewire_driver::{Context, Method, Server};
    ///
    /// const ORDER: Method<u64, ()> = Method::new("shop/order");
    ///
    /// async fn send_mail(order: u64) {
    ///     println!("order {order} has arrived");
    /// }
    ///
    /// let order = |context: Context, order: u64| async move { context.spawn(send_mail(order)) };
    /// let server = Server::builder("shop").method(&ORDER, order).build();
    /// # server.unwrap();
    /// ```
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Some(server) = self.server.upgrade() else { return };
        let mut work = Guarded::new(Box::pin(work));
        // The panic hook has said so.
        server.spawn(Box::pin(std::future::poll_fn(move |cx| {
            let poll = caught(|| work.get_mut().map(|work| work.as_mut().poll(cx)));
            poll.ok().flatten().unwrap_or(Poll::Ready(()))
        })));
    }

    /// Whether the call's outcome is not needed any more: its caller has cancelled it or has gone for good, or a drain's
    /// grace is over. A handler may stop then, or not: what it returns is the outcome (S19).
    ///
    /// A caller has gone for good when its session was without a connection for the length of its lease, not at the
    /// moment at which its connection breaks.
    pub fn is_cancelled(&self) -> bool {
        self.server.upgrade().is_none_or(|server| !server.is_wanted(self.key))
    }

    /// Waits until the call's outcome is not needed any more, or it has ended.
    ///
    /// A handler that waits for long, a long poll say, waits for this too: otherwise it, its session and what it holds
    /// stay after its caller has died. [`Method::drop_on_cancel`](crate::Method::drop_on_cancel) does it for the whole
    /// handler.
    pub async fn cancelled(&self) {
        Cancelled { context: self, place: None }.await;
    }
}

/// A wait for a cancel, which leaves nothing behind when it is dropped.
struct Cancelled<'a> {
    context: &'a Context,
    place: Place,
}

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Cancelled { context, place } = &mut *self;
        match context.server.upgrade() {
            Some(server) => server.poll_unwanted(context.key, place, cx),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if self.place.is_some()
            && let Some(server) = self.context.server.upgrade()
        {
            server.leave_unwanted(self.context.key, &mut self.place);
        }
    }
}
