//! A call without the type of its reply: how it begins, is polled and is dropped.
//!
//! [`Call`](super::Call) is compiled for each type of reply, in the program that makes the calls. What is here is compiled once,
//! in this crate, so that the usual path of a call is one function, however many types of reply a program has.

use std::sync::Arc;
use std::task::Context;

use oncewire_core::{NotBegun, NotExecuted};

use super::call::CalledMethod;
use super::description::Description;
use super::pending::PendingId;
use super::shared::Shared;
use crate::reply::RawOutcome;

pub(super) struct UntypedCall {
    pub(super) shared: Arc<Shared>,
    pub(super) progress: Progress,
    /// Until it has begun.
    pub(super) description: Description,
    pub(super) method: CalledMethod,
}

/// How far a call has come.
pub(super) enum Progress {
    /// Begins when it is first polled.
    Fresh,
    /// Why it cannot begin.
    Refused(NotExecuted),
    Waiting(PendingId),
    /// Begun before this process was forked: only the parent can learn its outcome.
    Forked,
    /// Its outcome was taken, or each attempt of it is a call of its own.
    Done,
}

impl Progress {
    pub(super) fn take(&mut self) -> Progress {
        std::mem::replace(self, Progress::Done)
    }
}

/// What a poll has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polled {
    Pending,
    /// The outcome, which the caller has got in `outcome`.
    Ended,
    /// It has not begun: [`Progress::Refused`].
    Refused,
    /// Nothing: there is no call of this client to wait for.
    Other,
}

/// The error of a call that was never tried.
pub(super) const UNENCODABLE: NotExecuted = NotExecuted::NotBegun(NotBegun::Unencodable);

impl UntypedCall {
    /// Polls the call, which begins when it is first polled. Its outcome is put into `outcome`, which must be empty; the caller must
    /// then set [`Progress::Done`].
    ///
    /// Not inlined, on purpose: it is compiled here, where all that it consists of is known.
    #[inline(never)]
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) -> Polled {
        match self.progress {
            Progress::Waiting(id) => self.shared.poll_outcome(id, cx, outcome),
            Progress::Fresh | Progress::Refused(_) => {
                if let Err(why) = self.begin_and_poll(cx, outcome) {
                    self.progress = Progress::Refused(why);
                    return Polled::Refused;
                }
            }
            Progress::Forked | Progress::Done => return Polled::Other,
        }
        if outcome.is_some() { Polled::Ended } else { Polled::Pending }
    }

    /// Begins the call before it is polled.
    ///
    /// Whatever panics before it has begun, here and below: it will not begin later, when its arguments are gone.
    pub(super) fn begin(&mut self) -> Result<PendingId, NotExecuted> {
        let UntypedCall { shared, progress, description, method } = self;
        if let Progress::Refused(why) = progress {
            return Err(*why);
        }
        *progress = Progress::Refused(NotExecuted::Closed);
        let begun = shared.observe_start(method);
        let on_begun = |state: &mut _, id| shared.observe_begun(state, id, begun);
        let prepared = description.prepare(shared, method, begun.as_ref());
        let result = prepared.and_then(|()| shared.begin(description, method, on_begun));
        result.inspect_err(|why| shared.observe_not_begun(begun, *why))
    }

    /// Begins the call and polls it for the first time, where that is observed.
    #[cold]
    #[inline(never)]
    fn begin_and_poll_observed(
        &mut self,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) -> Result<(), NotExecuted> {
        let UntypedCall { shared, progress, description, method } = self;
        let refused = match progress {
            Progress::Refused(why) => Some(*why),
            _ => None,
        };
        let begun = match refused {
            None | Some(UNENCODABLE) => shared.observe_start(method),
            // It has failed in `start`, and was observed there.
            Some(_) => None,
        };
        *progress = Progress::Refused(NotExecuted::Closed);
        let on_begun = |client: &mut _, id| {
            *progress = Progress::Waiting(id);
            shared.observe_begun(client, id, begun);
        };
        let prepared = match refused {
            Some(why) => Err(why),
            None => description.prepare(shared, method, begun.as_ref()),
        };
        let result = prepared
            .and_then(|()| shared.begin_and_poll(description, method, cx, on_begun, outcome));
        result.inspect_err(|why| shared.observe_not_begun(begun, *why))
    }

    /// Begins the call and polls it for the first time. What comes of it at once is in `outcome`.
    #[inline]
    fn begin_and_poll(
        &mut self,
        cx: &mut Context<'_>,
        outcome: &mut Option<RawOutcome>,
    ) -> Result<(), NotExecuted> {
        if self.shared.is_heard() {
            return self.begin_and_poll_observed(cx, outcome);
        }
        let UntypedCall { shared, progress, description, method } = self;
        if let Progress::Refused(why) = progress {
            return Err(*why);
        }
        *progress = Progress::Refused(NotExecuted::Closed);
        description.prepare(shared, method, None)?;
        let on_begun = |_: &mut _, id| *progress = Progress::Waiting(id);
        shared.begin_and_poll(description, method, cx, on_begun, outcome)
    }
}

impl Drop for UntypedCall {
    fn drop(&mut self) {
        if let Progress::Waiting(id) = self.progress {
            self.shared.abandon(id);
        }
    }
}
