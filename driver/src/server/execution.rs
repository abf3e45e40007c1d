//! A call runs: started once, ended once.
//!
//! Whatever becomes of a handler, [`State::finish`] gets exactly one [`Ended`] for it: it returned, it panicked, its time
//! was over, or its task was dropped because the executor shuts down. A call whose end is lost keeps its slot, its permit
//! and its session for good, as once after a panic whose payload panicked when it was dropped (C115). Therefore
//! the futures here are [`Guarded`](crate::caught::Guarded), and the task reports an end in its `Drop` as well.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use oncewire_core::{Admission, CallKey, Instant, NoReply, NotExecuted, Request, Running};

use super::context::Context;
use super::handler::{Begun, Body, Failure, MethodEntry, Reply, ReplyFuture};
use super::limits::Permit;
use super::state::{Shared, State};
use crate::buffer::{Encoded, Spare, Spares};
use crate::caught::{Guarded, Panicked, caught};
use crate::metadata::Metadata;
use crate::method::MethodOptions;
use crate::observe::Event;
use crate::transport::Subject;

/// What a request says, apart from the right to start it.
pub(super) struct Call<'d> {
    pub(super) key: CallKey,
    pub(super) method_index: usize,
    pub(super) body: Body<'d>,
    pub(super) metadata: Option<Arc<Metadata>>,
    pub(super) deadline: Instant,
    pub(super) idempotent: bool,
    pub(super) one_way: bool,
}

impl<'d> Call<'d> {
    /// The right to start it, and the call. `large`: the buffer that the request is a part of, if it can be shared instead of copied.
    pub(super) fn split(request: Request<'d>, large: Option<&'d Bytes>) -> (Admission, Call<'d>) {
        let Request { admission, deadline, idempotent, one_way, body, method_index, .. } = request;
        let (key, metadata) = (admission.key(), Metadata::received(request.metadata));
        let body = Body { bytes: body, large };
        (admission, Call { key, method_index, body, metadata, deadline, idempotent, one_way })
    }
}

/// A call that runs.
pub(super) struct Execution {
    running: Running,
    permit: Permit,
    /// With a ledger: its end is recorded before it is reported. Whether it is a one-way call (S23).
    recorded: Option<OneWay>,
    future: ReplyFuture,
}

/// Whether a call has no reply (S23).
type OneWay = bool;

impl Execution {
    /// A call that was started.
    pub(super) fn new(running: Running, permit: Permit, future: ReplyFuture) -> Execution {
        Execution { running, permit, recorded: None, future }
    }

    /// The same, of a call whose started record is stable.
    pub(super) fn recorded(self, one_way: OneWay) -> Execution {
        Execution { recorded: Some(one_way), ..self }
    }

    /// Ends it before it was polled.
    pub(super) fn refuse(self, why: NotExecuted) -> Ended {
        self.ended(End::Refused(why))
    }

    /// Polls it once, and returns how it ended, if it did; otherwise it becomes a task.
    pub(super) fn run(mut self, shared: &Arc<Shared>, options: &MethodOptions) -> Option<Ended> {
        let mut cx = TaskContext::from_waker(Waker::noop());
        match self.poll(&mut cx) {
            Poll::Ready(end) => Some(self.ended(end)),
            Poll::Pending => {
                shared.run_apart(self, options);
                None
            }
        }
    }

    pub(super) fn key(&self) -> CallKey {
        self.running.key()
    }

    /// Polls it.
    #[inline]
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<End> {
        poll_caught(&mut self.future, cx)
    }

    /// It has ended: drops what is left of it.
    pub(super) fn ended(self, end: End) -> Ended {
        let Execution { running, permit, recorded, future } = self;
        drop(future);
        Ended { running, permit, recorded, end }
    }
}

/// A call that was started and has ended, which the machine must learn.
#[must_use = "a call whose end is not reported pins its slot"]
pub(super) struct Ended {
    running: Running,
    permit: Permit,
    recorded: Option<OneWay>,
    end: End,
}

impl Ended {
    /// It never reached its handler.
    pub(super) fn refused(running: Running, permit: Permit, why: NotExecuted) -> Ended {
        Ended { running, permit, recorded: None, end: End::Refused(why) }
    }

    /// Its handler panicked.
    pub(super) fn panicked(running: Running, permit: Permit) -> Ended {
        Ended { running, permit, recorded: None, end: End::Panicked }
    }
}

/// The last call that was executed at once and has a reply, until the machine has that. It is used again for the next one.
pub(super) struct Replied {
    /// While it is executed it has no reply yet.
    call: Option<(Running, Permit)>,
    reply: Encoded,
}

impl Replied {
    /// No call.
    pub(super) fn none() -> Replied {
        Replied { call: None, reply: Encoded::EMPTY }
    }
}

/// How a call that was started has ended.
pub(super) enum End {
    Replied(Encoded),
    /// Executed, perhaps in part (S14).
    Panicked,
    /// Likewise: it took too long, or its outcome was not needed any more, or its task was dropped.
    Dropped,
    /// Executed (S15).
    Unencodable(String),
    /// Not executed.
    Refused(NotExecuted),
}

impl End {
    #[inline]
    fn of(reply: Reply) -> End {
        match reply {
            Ok(body) => End::Replied(body),
            Err(failure) => End::failed(failure),
        }
    }

    #[cold]
    fn failed(failure: Failure) -> End {
        match failure {
            Failure::Unencodable(why) => End::Unencodable(why),
            Failure::Refused(why) => End::Refused(why),
            Failure::Panicked => End::Panicked,
            Failure::Dropped => End::Dropped,
        }
    }
}

impl Shared {
    /// Executes a call that was started, as far as it goes without waiting. If it has a reply, it is in `replied` then. `call` makes
    /// the call, which is large, where it is needed.
    ///
    /// # Errors
    /// How it has ended, if that is not with a reply.
    #[inline(always)]
    pub(super) fn execute<'d>(
        self: &Arc<Self>,
        (running, permit): (Running, Permit),
        call: impl FnOnce() -> Call<'d>,
        caller: &Subject,
        spares: &mut Spares,
        replied: &mut Replied,
    ) -> Result<(), Ended> {
        debug_assert!(self.ledger.is_none(), "S28: a call is recorded before it is started");
        let Some(method) = self.methods.get(permit.method()) else { return Ok(()) };
        if method.waits.is_likely()
            && let Some(idle) = self.idle_runner()
        {
            return self.execute_in(idle, method, (running, permit), call(), caller);
        }
        let spare = spares.of_method(permit.method());
        // Put there in advance: it is moved once.
        replied.call = Some((running, permit));
        let mut decoded = false;
        let begin = || {
            let Call { key, deadline, metadata, body, .. } = call();
            // Made where it is passed on: it is large, too.
            let context = Context::new(self.watch.clone(), key, deadline, caller.clone(), metadata);
            method.handler.begin(context, body, spare, &mut decoded, &mut replied.reply)
        };
        match caught(begin) {
            Ok(Ok(Begun::Ready(Ok(())))) => Ok(()),
            begun => self.continue_or_end(replied, method, begun, decoded, spare),
        }
    }

    /// A call that has begun, and has no reply: it continues apart, or has ended.
    #[inline(never)]
    fn continue_or_end(
        self: &Arc<Self>,
        replied: &mut Replied,
        method: &MethodEntry,
        begun: Result<Result<Begun, NotExecuted>, Panicked>,
        decoded: bool,
        spare: &mut Spare,
    ) -> Result<(), Ended> {
        let Some((running, permit)) = replied.call.take() else { return Ok(()) };
        match begun {
            Ok(Ok(Begun::Ready(Ok(())))) => {
                // `execute` has taken this one itself.
                replied.call = Some((running, permit));
                Ok(())
            }
            Ok(Ok(Begun::Ready(Err(failure)))) => {
                Err(Ended { running, permit, recorded: None, end: End::failed(failure) })
            }
            Ok(Ok(Begun::Pending(future))) => {
                method.waits.note(true);
                self.run_apart(Execution::new(running, permit, future), &method.options);
                Ok(())
            }
            Ok(Err(why)) => Err(Ended::refused(running, permit, why)),
            Err(_) if !decoded => Err(Ended::refused(running, permit, NotExecuted::BadArguments)),
            Err(_) => {
                // What has panicked may be in it.
                drop(Guarded::new(spare.take()));
                Err(Ended::panicked(running, permit))
            }
        }
    }
}

impl State {
    /// A call has ended, or will not run: others may.
    #[inline]
    pub(super) fn release(&mut self, permit: Permit) {
        if self.planted.loses_permit() {
            return;
        }
        self.limits.release(permit);
        if self.limits.has_waiting() {
            self.begin_next();
        }
    }

    /// Takes the end of a call that has a reply, without a ledger, if there is one.
    #[inline]
    pub(super) fn finish_replied(&mut self, at: Instant, replied: &mut Replied) {
        let Some((running, permit)) = replied.call.take() else { return };
        self.release(permit);
        // Clones of its context may still wait for its cancel.
        self.note_cancel(running.key());
        self.reply(at, running, replied.reply.take_payload());
    }

    /// A call has ended.
    pub(super) fn finish(&mut self, at: Instant, ended: Ended) {
        let Ended { running, permit, recorded, end } = ended;
        self.release(permit);
        self.note_cancel(running.key());
        let reply = match end {
            End::Replied(body) => Ok(body),
            End::Panicked => {
                self.panics += 1;
                self.observe_call(running.key(), |call| Event::HandlerPanicked { call });
                Err(NoReply::Aborted)
            }
            End::Dropped => Err(NoReply::Aborted),
            End::Unencodable(why) => {
                self.unencodable += 1;
                self.last_unencodable = Some(why);
                Err(NoReply::Unencodable)
            }
            End::Refused(why) => {
                let name = recorded.and_then(|_| self.name_of(running.key()));
                self.roll_back(at, running, why);
                // After a crash the client would learn that it was interrupted.
                name.into_iter().for_each(|(name, _)| self.record_withdrawal(name));
                return;
            }
        };
        match (recorded, reply) {
            (None, Ok(mut body)) => self.reply(at, running, body.take_payload()),
            (None, Err(why)) => self.no_reply(at, running, why),
            (Some(true), Ok(_)) => self.record_finish(at, running, Ok(Bytes::new())),
            (Some(_), reply) => self.record_finish(at, running, reply.map(Encoded::into_bytes)),
        }
    }
}

#[inline]
fn poll_caught(future: &mut ReplyFuture, cx: &mut TaskContext<'_>) -> Poll<End> {
    let Some(future) = future.get_mut() else { return Poll::Ready(End::Dropped) };
    match caught(|| future.as_mut().poll(cx)) {
        Ok(poll) => poll.map(End::of),
        Err(_) => Poll::Ready(End::Panicked),
    }
}
