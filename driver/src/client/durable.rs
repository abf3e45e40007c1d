//! Durable clients: their session and their calls outlive their process. The handle, its calls, their outcomes and
//! receipts.
//!
//! | file | what it does |
//! |---|---|
//! | `durable.rs` | what a program uses |
//! | `durable/calls.rs` | the same on the shared state |

mod calls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{MethodId, NotBegun, NotExecuted, Token};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Handle;
use super::around::{CallDefaults, Surroundings};
use super::call::CalledMethod;
use super::comparisons::Comparisons;
use super::connected::Connected;
use super::journal_state::{Delivered, JournalState, Recovered};
use super::options::{ClientOptions, ClientStatus, CloseReport};
use super::outcome::{Decode, Outcome};
use super::shared::{Restored, Shared};
use super::task::ClientTask;
use crate::buffer::Encoded;
use crate::journal::{Journal, JournalError};
use crate::metadata::Metadata;
use crate::method::Method;
use crate::reply::RawOutcome;
use crate::runtime::{Runtime, SmolRuntime};
use crate::transport::Connect;

/// A client whose session and calls are kept in a [journal](crate::journal): when its process dies, the next one resumes
/// the session and learns the outcome of each call.
///
/// Every call is journaled before its first byte is sent, and its outcome before it is delivered. So a call costs two
/// durable commits, which calls that are ready together share. Make calls that need no journal (idempotent and one-way
/// ones, and those that are of no use after a crash) with a plain [`Client`](crate::Client) beside it.
///
/// Cheap to clone; works from many tasks and threads.
///
/// ```no_run
/// use oncewire_driver::{ClientOptions, Connect, DurableClient, Method, Outcome, journal::Journal};
///
/// const DEPOSIT: Method<(u32, i64), i64> = Method::new("bank/deposit");
///
/// async fn pay(connector: impl Connect, journal: impl Journal) {
///     // The calls that were pending when the last run died, and the outcomes that it had not confirmed.
///     let (client, left) = DurableClient::open(connector, ClientOptions::default(), journal).unwrap();
///     for call in left {
///         let order = String::from_utf8_lossy(call.tag()).into_owned();
///         let delivery = call.typed(&DEPOSIT).unwrap().await;
///         println!("{order}: {:?}", delivery.outcome);
///         delivery.receipt.confirm();
///     }
///     // After a crash, the tag says what the call was for.
///     let delivery = client.call("order 17", &DEPOSIT, &(1, 100)).await;
///     match delivery.outcome {
///         Outcome::Reply(balance) => println!("{balance}"),
///         other => println!("{other:?}"),
///     }
///     // Record the outcome where it belongs, then let the journal forget the call.
///     delivery.receipt.confirm();
/// }
/// ```
///
/// # What it promises, and what it does not
///
/// - A call that is in the journal ends with one outcome, which is delivered again after every restart until it is
///   confirmed. A call that is not in the journal was never sent: it was not executed.
/// - With a server that has a ledger, and a transactional method, such a call is executed exactly once, whichever side
///   dies when, as long as the client is back within the session's lease. If it is not, or the server has no ledger and
///   was restarted, its calls in doubt end as `Unknown`: it is not known whether they were executed, and they are never
///   sent again. If the client died, that includes journaled calls of which no byte was sent.
/// - Outcomes are final: a call is waited for until the server answers, or its session is over. A deadline that passes
///   means that the server must not start it any more. After a restart, timeouts start again.
/// - After an error of the journal nothing more is written. Calls of which nothing is in it end as `NotExecuted(JournalFailed)`, the
///   others as `Unknown(JournalFailed)`: the next run of the program learns their outcomes. No call is
///   sent that is not in the journal.
#[derive(Clone)]
pub struct DurableClient {
    handle: Arc<Handle>,
    /// What calls through this clone have.
    defaults: Option<Arc<CallDefaults>>,
}

impl fmt::Debug for DurableClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableClient").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl DurableClient {
    /// A client on the default runtime, and what the last one with this journal left behind, oldest first. Connects in
    /// the background, and continues those calls at once. Blocks while the journal is read.
    ///
    /// [`ClientOptions::fail_fast`] is without effect.
    ///
    /// # Errors
    /// Why the journal cannot be read.
    pub fn open(
        connector: impl Connect,
        options: ClientOptions,
        journal: impl Journal,
    ) -> Result<(DurableClient, Vec<RecoveredCall>), JournalError> {
        DurableClient::with_runtime(connector, options, journal, SmolRuntime::global())
    }

    /// The same on a runtime of your own.
    ///
    /// # Errors
    /// Why the journal cannot be read.
    pub fn with_runtime(
        connector: impl Connect,
        options: ClientOptions,
        journal: impl Journal,
        runtime: Arc<dyn Runtime>,
    ) -> Result<(DurableClient, Vec<RecoveredCall>), JournalError> {
        let config = options.machine_config();
        let mut comparisons = Comparisons::default();
        let (now, timeout) = (runtime.now(), options.timeout);
        let (journal, machine, left) =
            JournalState::open(Arc::new(journal), config, now, timeout, &mut comparisons)?;
        let restored = Restored { machine, journal: Some(Box::new(journal)), comparisons };
        let shared = Shared::restored(Box::new(connector), options, runtime.clone(), restored);
        runtime.spawn(Box::pin(ClientTask::new(shared.clone())));
        let left = left.into_iter().map(|left| RecoveredCall::new(&shared, left)).collect();
        Ok((
            DurableClient {
                handle: Arc::new(Handle { shared, group: None, member: None }),
                defaults: None,
            },
            left,
        ))
    }

    /// A clone whose calls carry this metadata, which the journal keeps with the arguments: see [`Client::with_metadata`](crate::Client::with_metadata).
    #[must_use = "it is another handle of the client that carries the metadata"]
    pub fn with_metadata(&self, metadata: Metadata) -> DurableClient {
        let defaults = CallDefaults::with_metadata(self.defaults.as_ref(), metadata);
        DurableClient { handle: self.handle.clone(), defaults }
    }

    /// A clone whose calls have this timeout. It overrides [`ClientOptions::timeout`] and [`Method::timeout`].
    #[must_use = "it is another handle of the client that has the timeout"]
    pub fn with_timeout(&self, timeout: Duration) -> DurableClient {
        let defaults = CallDefaults::with_timeout(self.defaults.as_ref(), timeout);
        DurableClient { handle: self.handle.clone(), defaults }
    }

    /// Begins a call of a typed method, with the timeout of this [clone](DurableClient::with_timeout), or else of the method, or else of
    /// the client. `tag` is what the caller will know the call by after a restart: an order's number, say.
    pub fn call<A: Serialize, R: DeserializeOwned + 'static>(
        &self,
        tag: impl Into<Bytes>,
        method: &Method<A, R>,
        arguments: &A,
    ) -> DurableCall<R> {
        self.call_typed(tag.into(), method, arguments, None)
    }

    /// The same with metadata, which the journal keeps with the arguments: see [`Call::metadata`](crate::Call::metadata). It is sent
    /// instead of that of this [clone](DurableClient::with_metadata).
    pub fn call_with_metadata<A: Serialize, R: DeserializeOwned + 'static>(
        &self,
        tag: impl Into<Bytes>,
        method: &Method<A, R>,
        arguments: &A,
        metadata: &Metadata,
    ) -> DurableCall<R> {
        self.call_typed(tag.into(), method, arguments, Some(metadata))
    }

    fn call_typed<A: Serialize, R: DeserializeOwned + 'static>(
        &self,
        tag: Bytes,
        method: &Method<A, R>,
        arguments: &A,
        metadata: Option<&Metadata>,
    ) -> DurableCall<R> {
        let body = crate::buffer::encode(arguments).map_err(|_| NotBegun::Unencodable);
        let timeout = self.defaults.as_ref().and_then(|defaults| defaults.timeout);
        let timeout = timeout.or(method.own_timeout());
        let timeout = timeout.unwrap_or(self.handle.shared.options.timeout);
        let decode = Decode::postcard(method.values());
        self.begin(tag, CalledMethod::of(method), body, self.around(timeout, metadata), decode)
    }

    fn around(&self, timeout: Duration, metadata: Option<&Metadata>) -> Surroundings {
        let own = self.defaults.as_ref().and_then(|defaults| defaults.metadata.as_ref());
        let metadata = metadata.or(own).cloned().map(Box::new);
        Surroundings { timeout, one_way: false, metadata }
    }

    /// Begins a call with bytes for arguments and bytes for a reply, and its own timeout (S17).
    pub fn call_raw(
        &self,
        tag: impl Into<Bytes>,
        method: MethodId,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> DurableCall<Bytes> {
        let method = CalledMethod::of_bytes(method);
        let body: Bytes = body.into();
        let body = Ok(Encoded::from(body));
        self.begin(tag.into(), method, body, self.around(timeout, None), Decode::raw())
    }

    fn begin<R>(
        &self,
        tag: Bytes,
        method: CalledMethod,
        body: Result<Encoded, NotBegun>,
        around: Surroundings,
        decode: Decode<R>,
    ) -> DurableCall<R> {
        let shared = self.handle.shared.clone();
        let seen = shared.observe_start(&method);
        let join = |arguments| around.join(&shared, &method, seen.as_ref(), arguments);
        let joined = body.and_then(join).map_err(NotExecuted::NotBegun);
        let begun = joined.and_then(|(timeout, (body, metadata))| {
            shared.begin_durable(tag, &method, (body.into_bytes(), metadata), timeout)
        });
        let state = match begun {
            Ok(number) => {
                shared.observe_durable(number, seen);
                CallState::Waiting(number)
            }
            Err(why) => {
                shared.observe_not_begun(seen, why);
                CallState::NotBegun(why)
            }
        };
        DurableCall { shared, state, decode }
    }

    /// Takes no more calls, waits for those pending, ends the session cleanly, and waits until all that was
    /// confirmed is written; at most [`ClientOptions::close_timeout`], and the journal's time. Says what could not be delivered, and
    /// how many calls the next run is given.
    pub async fn close(&self) -> CloseReport {
        let shared = &self.handle.shared;
        shared.close(true);
        let report = std::future::poll_fn(|cx| shared.poll_closed(cx)).await;
        if shared.is_forked() {
            return report;
        }
        std::future::poll_fn(|cx| shared.poll_written(cx, report)).await
    }

    /// The same for a thread that runs nothing else: see [`Call::block`](crate::Call::block).
    pub fn close_blocking(&self) -> CloseReport {
        smol::block_on(self.close())
    }

    /// What the client is doing.
    pub fn status(&self) -> ClientStatus {
        self.handle.shared.status()
    }

    /// Changes the token by which the client says who it is: [`Client::set_token`](crate::Client::set_token).
    pub fn set_token(&self, token: Token) {
        self.handle.shared.with(|state, _| state.lifecycle.next_token = Some(token));
    }

    /// Why the journal cannot write, if it cannot: no call is taken any more.
    pub fn journal_error(&self) -> Option<JournalError> {
        self.handle.shared.journal_error()
    }

    /// Waits until the session is open, or the server has refused it for good, or the client is closed; says whether
    /// it is open. Calls do not need it: they wait by themselves.
    pub async fn connected(&self) -> bool {
        Connected::new(&self.handle.shared).await
    }
}

/// A call that an earlier run of the program left behind: it continues, or its outcome waits to be confirmed.
#[derive(Debug)]
pub struct RecoveredCall {
    tag: Bytes,
    method: MethodId,
    call: DurableCall<Bytes>,
}

impl RecoveredCall {
    fn new(shared: &Arc<Shared>, left: Recovered) -> RecoveredCall {
        let Recovered { number, tag, method } = left;
        let state = CallState::Waiting(number);
        let call = DurableCall { shared: shared.clone(), state, decode: Decode::raw() };
        RecoveredCall { tag, method, call }
    }

    /// What its caller called it.
    pub fn tag(&self) -> &Bytes {
        &self.tag
    }

    /// Which procedure.
    pub fn method(&self) -> MethodId {
        self.method
    }

    /// The call, if it is one of this method.
    ///
    /// # Errors
    /// The same again, if it is not.
    pub fn typed<A, R: DeserializeOwned + 'static>(
        self,
        method: &Method<A, R>,
    ) -> Result<DurableCall<R>, RecoveredCall> {
        if self.method != method.id() {
            return Err(self);
        }
        Ok(self.call.decoded(Decode::postcard(method.values())))
    }

    /// The call, with bytes for a reply.
    pub fn raw(self) -> DurableCall<Bytes> {
        self.call
    }
}

/// A call of a [`DurableClient`] on its way: await its outcome.
///
/// It continues whether it is awaited or not, and dropping it cancels nothing: its outcome is then delivered in the next
/// run of the program.
#[must_use = "an outcome that is not awaited is delivered in the next run of the program"]
pub struct DurableCall<R> {
    shared: Arc<Shared>,
    state: CallState,
    decode: Decode<R>,
}

#[derive(Clone, Copy)]
enum CallState {
    NotBegun(NotExecuted),
    Waiting(u64),
    Done,
}

impl<R> DurableCall<R> {
    /// Asks the server not to start the call. It still ends with an outcome: the true one (S19).
    pub fn cancel(&self) {
        if let CallState::Waiting(number) = self.state {
            self.shared.cancel_durable(number);
        }
    }

    /// Blocks this thread until the call has its outcome: see [`Call::block`](crate::Call::block). In a fork of the process that made
    /// the client it ends as `Unknown` if the parent has begun it: the parent, or the next run, learns its outcome.
    pub fn block(self) -> Delivery<R> {
        smol::block_on(self)
    }

    fn decoded<T>(mut self, decode: Decode<T>) -> DurableCall<T> {
        let state = std::mem::replace(&mut self.state, CallState::Done);
        DurableCall { shared: self.shared.clone(), state, decode }
    }

    fn delivery(&self, delivered: Delivered, number: u64) -> Delivery<R> {
        let number = delivered.stable.then_some(number);
        let receipt = Receipt { shared: self.shared.clone(), number };
        let mut outcome = delivered.outcome;
        Delivery { outcome: self.decode.outcome(&mut outcome, None), receipt }
    }
}

impl<R> Future for DurableCall<R> {
    type Output = Delivery<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Delivery<R>> {
        let (delivered, number) = match self.state {
            CallState::Done => return Poll::Pending,
            CallState::NotBegun(why) => {
                let outcome = RawOutcome::NotExecuted(why);
                (Delivered { outcome, stable: false }, 0)
            }
            CallState::Waiting(number) => match self.shared.poll_durable(number, cx) {
                Poll::Ready(delivered) => (delivered, number),
                Poll::Pending => return Poll::Pending,
            },
        };
        self.state = CallState::Done;
        let delivery = self.delivery(delivered, number);
        self.shared.observe_outcome(number, &delivery.outcome, None, None);
        Poll::Ready(delivery)
    }
}

impl<R> Drop for DurableCall<R> {
    fn drop(&mut self) {
        if let CallState::Waiting(number) = self.state {
            self.shared.observe_drop(number);
            self.shared.leave_durable(number);
        }
    }
}

impl<R> fmt::Debug for DurableCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableCall").finish_non_exhaustive()
    }
}

/// The outcome of a durable call, and the receipt for it.
#[derive(Debug)]
#[must_use = "the call may not have been executed: this says whether it was"]
pub struct Delivery<R> {
    /// The call's outcome. Final: an `Unknown` has no ticket.
    pub outcome: Outcome<R>,
    /// Confirm it once you have acted on the outcome.
    pub receipt: Receipt,
}

/// The right to have a call forgotten, once its outcome was acted on. If it is dropped instead, the outcome is
/// delivered again in the next run of the program.
#[must_use = "an outcome that is not confirmed is delivered again in the next run of the program"]
pub struct Receipt {
    shared: Arc<Shared>,
    /// `None` if nothing of the call is in the journal, or only the next run can learn its outcome.
    number: Option<u64>,
}

impl Receipt {
    /// Lets the journal forget the call, some time soon. If the program crashes before, the outcome is delivered once more. An `Unknown`
    /// that only says that this run cannot learn it is not forgotten: the client was closed, its journal cannot write, or
    /// the server is another one than was demanded (S7).
    pub fn confirm(self) {
        if let Some(number) = self.number {
            self.shared.confirm_durable(number);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("kept", &self.number.is_some()).finish_non_exhaustive()
    }
}

const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<DurableClient>();
    assert_send_sync::<DurableCall<Vec<u8>>>();
    assert_send_sync::<Receipt>();
};

#[cfg(test)]
mod tests {
    use oncewire_core::Unknown;

    use super::*;
    use crate::journal::{JournalBatch, JournalKey};
    use crate::transport::Nowhere;

    /// Holds nothing: no call here gets that far.
    struct Empty;

    impl Journal for Empty {
        fn recover(&self, _: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
            Ok(())
        }

        fn commit(&self, batch: JournalBatch) {
            batch.finish(Ok(()));
        }
    }

    #[test]
    fn c163_durable_calls_in_a_fork_of_the_clients_process_end_at_once() {
        const CALL: Method<(), ()> = Method::new("test/call");
        let options = ClientOptions::default();
        let (client, _) = DurableClient::open(Nowhere, options, Empty).unwrap();
        let begun = client.call("begun", &CALL, &());
        client.handle.shared.pretend_forked();
        let in_fork = client.call("not begun", &CALL, &()).block();
        let forked = NotExecuted::NotBegun(NotBegun::Forked);
        assert!(matches!(in_fork.outcome, Outcome::NotExecuted(why) if why == forked));
        let delivery = begun.block();
        assert!(matches!(delivery.outcome, Outcome::Unknown(Unknown::Closed, None)));
        delivery.receipt.confirm();
        let closed = client.close_blocking();
        assert_eq!((closed.in_good_order, closed.left_in_journal), (false, 0));
    }
}
