//! From what a connection brings to calls that run.

use bytes::Bytes;
use oncewire_core::{Admission, Incoming, Instant, Received, Request};

use super::super::execution::{Call, Replied};
use super::super::handler::Body;
use super::super::limits::{Permit, Waiting};
use super::super::state::State;
use super::ConnTask;
use crate::buffer::Spares;
use crate::metadata::Metadata;
use crate::sync::MutexGuard;

/// What to do with what was received, if that is no call that was started at once.
pub(super) enum Next<'d> {
    /// A new call, if its caller may make it.
    Authorize(Request<'d>),
    /// A call was admitted, and waits for its record.
    Record(Admission, Permit, Call<'d>),
    /// There may be more.
    Nothing,
    /// The frame at the front needs this many bytes.
    Wait(usize),
    /// The machine closes the connection.
    Lost,
}

impl ConnTask {
    /// Gives the machine what follows the bytes that were consumed, up to the next call among them, and runs that, as far as it goes
    /// without waiting.
    #[inline(always)]
    pub(super) fn take_next<'d>(
        &self,
        now: Instant,
        data: &'d [u8],
        consumed: &mut usize,
        large: Option<&'d Bytes>,
        spares: &mut Spares,
        replied: &mut Replied,
    ) -> Next<'d> {
        // Events wait for the end of the turn.
        let mut state = self.shared.lock();
        state.finish_replied(now, replied);
        match state.machine.handle_data(now, self.id, &data[*consumed..]) {
            // As nearly always.
            Ok(Received { consumed: taken, item: Some(Incoming::Request(request)), .. })
                if self.shared.authorization.is_none() =>
            {
                *consumed += taken;
                self.run(state, now, request, large, spares, replied)
            }
            Ok(received) => {
                *consumed += received.consumed;
                self.next(&mut state, now, received)
            }
            // The machine closes the connection when its last frame has left.
            Err(_) => Next::Lost,
        }
    }

    /// Starts a call that its caller may make, and runs it, as far as it goes without waiting. With a ledger its record comes first.
    ///
    /// A request is large, so its parts stay where they are until they are needed.
    #[inline(never)]
    fn run<'d>(
        &self,
        mut state: MutexGuard<'_, State>,
        now: Instant,
        request: Request<'d>,
        large: Option<&'d Bytes>,
        spares: &mut Spares,
        replied: &mut Replied,
    ) -> Next<'d> {
        let shared = &self.shared;
        let method = request.method_index;
        let Some(permit) = state.limits.enter(method) else {
            state.enqueue(now, Waiting::new(request, large, self.subject.clone()));
            return Next::Nothing;
        };
        if shared.ledger.is_some() {
            let (admission, call) = Call::split(request, large);
            return Next::Record(admission, permit, call);
        }
        let at = shared.time_near(request.deadline);
        let Ok(running) = state.start(at, request.admission, method) else {
            // The machine has refused it (S17).
            state.release(permit);
            return Next::Nothing;
        };
        drop(state);
        let is_heard = shared.is_heard();
        if is_heard {
            // Its start is seen before it runs.
            shared.report();
        }
        let key = running.key();
        let call = || Call {
            key,
            method_index: method,
            body: Body { bytes: request.body, large },
            metadata: Metadata::received(request.metadata),
            deadline: request.deadline,
            idempotent: request.idempotent,
            one_way: request.one_way,
        };
        let started = (running, permit);
        if let Err(ended) = shared.execute(started, call, &self.subject, spares, replied) {
            shared.with_quietly(|state| state.finish(now, ended));
        }
        if is_heard {
            // Its end is seen before the next one's start.
            shared.with_at(now, |state, now| state.finish_replied(now, replied));
        }
        Next::Nothing
    }

    /// What to do with what the machine has found, if that is no call that may run.
    fn next<'d>(
        &self,
        state: &mut State,
        now: Instant,
        received: Received<Incoming<'d>>,
    ) -> Next<'d> {
        match received.item {
            Some(Incoming::Request(request)) => return Next::Authorize(request),
            Some(Incoming::Cancel(call)) => state.cancel(call),
            Some(Incoming::Withdrawn(call)) => state.withdraw(now, call),
            Some(Incoming::Notice) => state.observe_notice(self.id),
            Some(_) => {}
            None => return Next::Wait(received.wanted),
        }
        Next::Nothing
    }

    /// Asks whether the caller may make a new call: without the lock, since it is the program that is asked. If it may, the call
    /// is run.
    #[cold]
    pub(super) fn authorize<'d>(
        &self,
        now: Instant,
        request: Request<'d>,
        large: Option<&'d Bytes>,
        spares: &mut Spares,
        replied: &mut Replied,
    ) -> Next<'d> {
        let method = request.method_index;
        let authorization = self.shared.authorization.as_ref();
        let allowed = authorization.is_none_or(|it| it.allows(&self.subject, method));
        let mut state = self.shared.lock();
        let len = request.counted_len();
        let Request { admission, .. } = request;
        match state.authorize(now, admission, method, len, allowed) {
            Ok(admission) => {
                let request = Request { admission, ..request };
                self.run(state, now, request, large, spares, replied)
            }
            // The machine has refused it.
            Err(_) => Next::Nothing,
        }
    }
}
