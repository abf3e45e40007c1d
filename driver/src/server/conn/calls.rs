//! From what a connection brings to calls that run.

use bytes::Bytes;
use oncewire_core::{Admission, Incoming, Instant, Received, Request, Running};

use super::super::execution::{Call, Replied};
use super::super::limits::{Permit, Waiting};
use super::super::state::State;
use super::ConnTask;
use crate::buffer::Spares;

/// What to do with what was received.
pub(super) enum Next<'d> {
    /// A new call, if its caller may make it.
    Authorize(Request<'d>),
    /// A call was admitted and started.
    Run(Option<(Running, Permit)>, Call<'d>),
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
    /// Gives the machine what follows the bytes that were consumed, up to the next call among them.
    #[inline(always)]
    pub(super) fn find<'d>(
        &self,
        state: &mut State,
        now: Instant,
        data: &'d [u8],
        consumed: &mut usize,
        large: Option<&'d Bytes>,
    ) -> Next<'d> {
        match state.machine.handle_data(now, self.id, &data[*consumed..]) {
            // As nearly always.
            Ok(Received { consumed: taken, item: Some(Incoming::Request(request)), .. })
                if self.shared.authorization.is_none() =>
            {
                *consumed += taken;
                self.admitted(state, now, request, large)
            }
            Ok(received) => {
                *consumed += received.consumed;
                self.next(state, now, received)
            }
            // The machine closes the connection when its last frame has left.
            Err(_) => Next::Lost,
        }
    }

    /// Runs a call that was started, as far as it goes without waiting.
    #[inline(always)]
    pub(super) fn run(
        &self,
        now: Instant,
        started: (Running, Permit),
        call: &mut Call<'_>,
        spares: &mut Spares,
        replied: &mut Replied,
    ) {
        let shared = &self.shared;
        let is_heard = shared.is_heard();
        if is_heard {
            // Its start is seen before it runs.
            shared.report();
        }
        if let Err(ended) = shared.execute(started, call, &self.subject, spares, replied) {
            shared.with_quietly(|state| state.finish(now, ended));
        }
        if is_heard {
            // Its end is seen before the next one's start.
            shared.with_at(now, |state, now| state.finish_replied(now, replied));
        }
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

    /// Asks whether the caller may make a new call: without the lock, since it is the program that is asked.
    #[cold]
    pub(super) fn authorize<'d>(
        &self,
        now: Instant,
        request: Request<'d>,
        large: Option<&'d Bytes>,
    ) -> Next<'d> {
        let method = request.method_index;
        let authorization = self.shared.authorization.as_ref();
        let allowed = authorization.is_none_or(|it| it.allows(&self.subject, method));
        self.shared.with_quietly(|state| {
            let len = request.counted_len();
            let Request { admission, .. } = request;
            match state.authorize(now, admission, method, len, allowed) {
                Ok(admission) => self.admitted(state, now, Request { admission, ..request }, large),
                // The machine has refused it.
                Err(_) => Next::Nothing,
            }
        })
    }

    /// What to do with a call that its caller may make. Without a ledger it is admitted and started under one lock.
    #[inline]
    fn admitted<'d>(
        &self,
        state: &mut State,
        now: Instant,
        request: Request<'d>,
        large: Option<&'d Bytes>,
    ) -> Next<'d> {
        let Some(permit) = state.limits.enter(request.method_index) else {
            state.enqueue(now, Waiting::new(request, large, self.subject.clone()));
            return Next::Nothing;
        };
        let (method, deadline) = (request.method_index, request.deadline);
        let (admission, call) = Call::split(request, large);
        if self.shared.ledger.is_some() {
            return Next::Record(admission, permit, call());
        }
        match state.start(self.shared.time_near(deadline), admission, method) {
            Ok(running) => Next::Run(Some((running, permit)), call()),
            // The machine has refused it (S17).
            Err(_) => {
                state.release(permit);
                Next::Nothing
            }
        }
    }
}
