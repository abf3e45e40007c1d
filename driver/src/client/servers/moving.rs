//! A call that may be made at one server after another.
//!
//! Each attempt is a call of the client of one server, and ends by the rules of that. Here is decided what follows: the outcome, or
//! another attempt. A call that is not idempotent has another one only if the last was not executed and never will be.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use oncewire_core::{Instant, NotBegun, NotExecuted, Unknown};

use super::group::{Arrival, Group};
use crate::client::call::{Call, CalledMethod};
use crate::client::description::Description;
use crate::client::outcome::{CallFailure, Decode, Outcome};
use crate::client::pending::Trace;
use crate::client::report::{CallReport, EarlierAttempt};
use crate::runtime::Timer;

/// Attempts and looks in one poll: then other tasks get their turn.
const TURNS_MAX: u32 = 16;

/// Attempts in a report, the last ones.
const EARLIER_MAX: usize = 16;

pub(in crate::client) struct Moving<R> {
    group: Arc<Group>,
    /// The member that it may be made at, if it may be at no other.
    only: Option<usize>,
    method: CalledMethod,
    decode: Decode<R>,
    /// What each attempt is a copy of.
    description: Description,
    /// When its caller gives up; `None` before it has begun.
    until: Option<Instant>,
    /// The attempt under way.
    attempt: Option<Attempt<R>>,
    /// Where the last attempt was made.
    member: Option<usize>,
    /// The last one that has ended, for the report.
    last: Option<Call<R>>,
    /// Attempts that a server may have seen, without the one under way.
    attempts: u32,
    earlier: Vec<EarlierAttempt>,
    /// Members that have refused it.
    tried: Vec<usize>,
    /// An attempt of it may have been executed.
    may_have_run: bool,
    arrival: Option<Arrival>,
    /// Ends the wait for a server. It is never shared: the lock is for its type.
    timer: Option<Mutex<Box<dyn Timer>>>,
    is_over: bool,
}

struct Attempt<R> {
    member: usize,
    call: Call<R>,
    /// It was given less than all the time that was left.
    was_cut: bool,
}

/// What follows an attempt that brought no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// Its outcome is the call's.
    End,
    /// Another attempt, where a server is healthy or will be.
    Again,
    /// Another attempt, if there is another healthy server now.
    Elsewhere,
}

impl<R> Moving<R> {
    pub(in crate::client) fn new(
        group: Arc<Group>,
        only: Option<usize>,
        method: CalledMethod,
        decode: Decode<R>,
        description: Description,
    ) -> Moving<R> {
        Moving {
            group,
            only,
            method,
            decode,
            description,
            until: None,
            attempt: None,
            member: None,
            last: None,
            attempts: 0,
            earlier: Vec::new(),
            tried: Vec::new(),
            may_have_run: false,
            arrival: None,
            timer: None,
            is_over: false,
        }
    }

    /// What may still be changed of it.
    pub(in crate::client) fn description(&mut self) -> Option<&mut Description> {
        self.until.is_none().then_some(&mut self.description)
    }

    pub(in crate::client) fn has_begun(&self) -> bool {
        self.until.is_some()
    }

    /// Where the last attempt was made.
    pub(in crate::client) fn member(&self) -> Option<usize> {
        self.member
    }

    /// Begins it before it is polled, if a server is healthy. Its time runs in any case.
    pub(in crate::client) fn start(&mut self) {
        if self.until.is_some() {
            return;
        }
        let now = self.begin(self.now());
        if let Some(member) = self.choose(now) {
            self.attempt_at(member, now, true);
        }
    }

    pub(in crate::client) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        trace: &mut Option<Trace>,
    ) -> Poll<Outcome<R>> {
        for _ in 0..TURNS_MAX {
            if self.is_over {
                return Poll::Pending;
            }
            if let Some(attempt) = &mut self.attempt {
                let outcome = ready!(attempt.call.poll_traced(cx, trace));
                if let Some(outcome) = self.judge(outcome, trace) {
                    return self.end(outcome);
                }
                continue;
            }
            let had_begun = self.has_begun();
            let now = self.begin(self.now());
            let member = self.choose(now);
            // An attempt of one that has just begun looks for itself.
            if (had_begun || member.is_none()) && self.group.first().is_forked() {
                return self.end(in_fork(had_begun));
            }
            if let Some(member) = member {
                self.attempt_at(member, now, false);
                continue;
            }
            if let Some(outcome) = ready!(self.poll_wait(cx, now)) {
                return self.end(outcome);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What is known of it after it has failed.
    pub(in crate::client) fn report(
        &self,
        failure: CallFailure,
        trace: Option<Trace>,
    ) -> CallReport {
        let report = match &self.last {
            Some(call) => call.report(failure, trace),
            None => self.group.report(self.method, failure),
        };
        CallReport { earlier: self.earlier.clone(), ..report }
    }

    fn now(&self) -> Instant {
        self.group.first().runtime.now()
    }

    /// Its time runs from here on, if it does not yet.
    fn begin(&mut self, now: Instant) -> Instant {
        self.until.get_or_insert(now + self.description.timeout);
        now
    }

    fn choose(&self, now: Instant) -> Option<usize> {
        if let Some(only) = self.only {
            return Some(only).filter(|it| !self.tried.contains(it) && self.group.is_healthy(*it));
        }
        match self.description.idempotent {
            true => self.group.pick(now, &self.tried),
            false => self.group.pick_home(now, &self.tried),
        }
    }

    fn attempt_at(&mut self, member: usize, now: Instant, starts: bool) {
        self.arrival = None;
        self.timer = None;
        let plan = self.group.plan();
        let left = self.until.map(|until| until.since(now)).unwrap_or_default();
        let has_others = self.only.is_none() && self.group.has_others();
        let is_last = self.attempts + 1 >= plan.attempts_max || !has_others;
        let may_move = self.description.idempotent && !is_last;
        let has_next = || may_move && self.group.pick(now, &[member]).is_some();
        let cut = plan.try_next_after.filter(|time| *time < left && has_next());
        let fail_fast = self.description.fail_fast || may_move;
        let description = self.description.attempt(cut.unwrap_or(left), fail_fast);
        let call = Call::of(self.group.shared(member), self.method, description, self.decode);
        let call = if starts { call.start() } else { call };
        self.member = Some(member);
        self.attempt = Some(Attempt { member, call, was_cut: cut.is_some() });
    }

    /// The outcome, if the attempt's is the call's.
    fn judge(&mut self, outcome: Outcome<R>, trace: &mut Option<Trace>) -> Option<Outcome<R>> {
        let Attempt { member, call, was_cut } = self.attempt.take()?;
        let failure = match &outcome {
            Outcome::Reply(_) => {
                self.group.budget().earn();
                return Some(outcome);
            }
            Outcome::NoReply(why) => CallFailure::NoReply(*why),
            Outcome::NotExecuted(why) => CallFailure::NotExecuted(*why),
            Outcome::Unknown(why, _) => CallFailure::Unknown(*why),
        };
        let follows = follows(failure, self.description.idempotent, was_cut);
        // One that had no connection to leave on has cost no server anything.
        let was_seen = !matches!(
            failure,
            CallFailure::NotExecuted(NotExecuted::Disconnected | NotExecuted::NeverConnected)
        );
        if follows == Follows::End
            || was_seen && self.attempts + 1 >= self.group.plan().attempts_max
        {
            self.last = Some(call);
            return Some(outcome);
        }
        let now = self.now();
        self.group.avoid(member, now);
        if follows == Follows::Elsewhere {
            self.tried.push(member);
            let is_overloaded = failure == CallFailure::NotExecuted(NotExecuted::Overloaded);
            if self.choose(now).is_none() || is_overloaded && !self.group.budget().spend() {
                self.last = Some(call);
                return Some(outcome);
            }
        }
        self.may_have_run |= matches!(failure, CallFailure::Unknown(_));
        if was_seen {
            self.attempts += 1;
            let CallReport { address, instance, .. } = call.report(failure, trace.take());
            if self.earlier.len() == EARLIER_MAX {
                self.earlier.remove(0);
            }
            self.earlier.push(EarlierAttempt { address, instance, failure });
        }
        *trace = None;
        self.last = Some(call);
        None
    }

    /// Waits until a server is healthy. Ready with the outcome if there is no point in that, or no time.
    fn poll_wait(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Option<Outcome<R>>> {
        self.arrival.get_or_insert_with(|| self.group.arrival()).wait(cx);
        if self.choose(now).is_some() {
            return Poll::Ready(None);
        }
        let fail_fast = self.description.fail_fast;
        if let Some(why) = self.group.verdict(self.only, fail_fast, self.may_have_run) {
            return Poll::Ready(Some(Outcome::NotExecuted(why)));
        }
        let until = self.until.unwrap_or(now);
        let timer = self.timer.get_or_insert_with(|| {
            let mut timer = self.group.first().runtime.timer();
            timer.set(until);
            Mutex::new(timer)
        });
        let timer = timer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if now >= until || timer.poll(cx).is_ready() {
            return Poll::Ready(Some(Outcome::NotExecuted(NotExecuted::DeadlinePassed)));
        }
        Poll::Pending
    }

    /// What its caller gets: after an attempt that may have run, nothing says that the call was not executed (S22).
    fn end(&mut self, outcome: Outcome<R>) -> Poll<Outcome<R>> {
        self.is_over = true;
        self.arrival = None;
        self.timer = None;
        if let (Outcome::NotExecuted(why), None) = (&outcome, &self.last) {
            // No attempt was observed.
            let first = self.group.first();
            first.observe_not_begun(first.observe_start(&self.method), *why);
        }
        Poll::Ready(match outcome {
            Outcome::NotExecuted(NotExecuted::DeadlinePassed) if self.may_have_run => {
                Outcome::Unknown(Unknown::DeadlinePassed, None)
            }
            Outcome::NotExecuted(_) if self.may_have_run => {
                Outcome::Unknown(Unknown::Repeated, None)
            }
            Outcome::Unknown(why, Some(ticket)) if self.may_have_run => {
                Outcome::Unknown(why, Some(ticket.of_last_attempt()))
            }
            outcome => outcome,
        })
    }
}

/// The outcome in a fork of the client's process, which learns of no server. `had_begun`: maybe in the parent, which continues it.
fn in_fork<R>(had_begun: bool) -> Outcome<R> {
    match had_begun {
        true => Outcome::Unknown(Unknown::Closed, None),
        false => Outcome::NotExecuted(NotExecuted::NotBegun(NotBegun::Forked)),
    }
}

/// What follows an attempt that ended so. `was_cut`: the call has more time than the attempt had.
fn follows(failure: CallFailure, is_idempotent: bool, was_cut: bool) -> Follows {
    let why = match failure {
        CallFailure::NoReply(_) => return Follows::End,
        CallFailure::Unknown(_) if !is_idempotent => return Follows::End,
        CallFailure::Unknown(Unknown::DeadlinePassed) if was_cut => return Follows::Again,
        CallFailure::Unknown(Unknown::Disconnected | Unknown::SessionEnded) => {
            return Follows::Again;
        }
        CallFailure::Unknown(_) => return Follows::End,
        CallFailure::NotExecuted(why) => why,
    };
    match why {
        // It was to fail fast, at the server that has its session.
        NotExecuted::Disconnected if !is_idempotent => Follows::End,
        NotExecuted::Disconnected | NotExecuted::NeverConnected => Follows::Again,
        NotExecuted::DeadlinePassed if was_cut => Follows::Again,
        NotExecuted::ShuttingDown | NotExecuted::LedgerFailed | NotExecuted::SessionRefused => {
            Follows::Elsewhere
        }
        NotExecuted::Overloaded
        | NotExecuted::NotCompared
        | NotExecuted::NotBegun(NotBegun::TooManyCalls { .. } | NotBegun::TooManyBytes { .. })
            if is_idempotent =>
        {
            Follows::Elsewhere
        }
        _ => Follows::End,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::Waker;

    use oncewire_core::{MethodId, NoReply};

    use super::*;
    use crate::client::servers::Servers;
    use crate::client::{Client, ClientOptions};
    use crate::transport::Nowhere;

    #[test]
    fn calls_that_wait_for_a_server_leave_nothing_when_they_are_dropped() {
        let client: Client =
            Servers::new([Nowhere, Nowhere]).client(ClientOptions::default()).unwrap();
        let group = client.handle.group.clone().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut calls: Vec<_> = (0..1_000)
            .map(|_| client.call_raw(MethodId::of("test/call"), Vec::new()).idempotent())
            .collect();
        for call in &mut calls {
            assert!(Pin::new(call).poll(&mut cx).is_pending());
        }
        assert_eq!(group.waiting(), 1_000);
        drop(calls);
        assert_eq!(group.waiting(), 0);
    }

    #[test]
    fn only_what_was_not_executed_or_may_run_twice_is_made_again() {
        for idempotent in [false, true] {
            for cut in [false, true] {
                let follows = |failure| follows(failure, idempotent, cut);
                let unknown = [
                    Unknown::Disconnected,
                    Unknown::DeadlinePassed,
                    Unknown::SessionEnded,
                    Unknown::Interrupted,
                    Unknown::Repeated,
                    Unknown::Closed,
                    Unknown::JournalFailed,
                ];
                for why in unknown {
                    let again = follows(CallFailure::Unknown(why)) != Follows::End;
                    assert!(!again || idempotent, "{why}");
                }
                for why in [NoReply::Aborted, NoReply::ReplyTooLarge] {
                    assert_eq!(follows(CallFailure::NoReply(why)), Follows::End);
                }
                let for_good = [
                    NotExecuted::UnknownMethod,
                    NotExecuted::BadArguments,
                    NotExecuted::Cancelled,
                    NotExecuted::Aborted,
                    NotExecuted::PermissionDenied,
                    NotExecuted::SignatureMismatch,
                    NotExecuted::NotBegun(NotBegun::Closed),
                    NotExecuted::Closed,
                ];
                for why in for_good {
                    assert_eq!(follows(CallFailure::NotExecuted(why)), Follows::End, "{why}");
                }
                let elsewhere = follows(CallFailure::NotExecuted(NotExecuted::ShuttingDown));
                assert_eq!(elsewhere, Follows::Elsewhere);
                let overloaded = follows(CallFailure::NotExecuted(NotExecuted::Overloaded));
                assert_eq!(overloaded == Follows::Elsewhere, idempotent);
            }
        }
    }
}
