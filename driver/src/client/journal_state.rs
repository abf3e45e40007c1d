//! Between a durable client's machine and its journal: which call is journaled, and what waits for which write.
//!
//! | file | what it does |
//! |---|---|
//! | `journal_state.rs` | calls, batches, and what a batch makes possible |
//! | `journal_state/recovery.rs` | what a journal holds when it is opened |
//! | `journal_state/codec.rs` | the rows of a journal, and their bytes |

mod codec;
mod recovery;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use oncewire_core::{
    Call, CallId, Client as Machine, Heap, Instant, MethodId, NotExecuted, SessionId, Unknown, Xid,
};

use super::comparisons::Compared;
use codec::{CallRow, SessionRow};

use crate::journal::{Journal, JournalError, JournalKey, JournalWrite};
use crate::reply::RawOutcome;

/// The calls of a durable client, and what must be written of them.
///
/// Invariants: one batch is in flight at most. A call is sent only after its row is durable (its xid is in a batch that
/// was concluded), and settled only after its outcome is. After an error nothing is written any more.
pub(super) struct JournalState {
    journal: Arc<dyn Journal>,
    /// By the number that is their key in the journal.
    calls: BTreeMap<u64, JournaledCall>,
    /// The numbers of the calls that the machine has, by [`CallId::index`].
    by_call: Vec<Option<u64>>,
    next_number: u64,
    /// Calls that the journal holds when all is written: the next run is given them.
    left: u64,
    /// The row of the session that was last written, or is being written.
    session: Option<SessionRow>,
    next: Batch,
    in_flight: Option<Vec<Effect>>,
    error: Option<JournalError>,
    idle_wakers: Vec<Waker>,
}

#[derive(Default)]
struct Batch {
    writes: Vec<JournalWrite>,
    effects: Vec<Effect>,
}

/// What follows when a batch is durable.
enum Effect {
    /// The calls of this session up to this xid may be sent.
    Journaled { session: SessionId, up_to: Xid },
    /// This call is settled, and its outcome delivered.
    Settled { number: u64, outcome: RawOutcome },
}

/// One call.
struct JournaledCall {
    tag: Bytes,
    method: MethodId,
    body: Bytes,
    /// What it is compared by, if its method has a signature.
    compared: Option<Arc<Compared>>,
    /// While the machine has it.
    call: Option<CallId>,
    stage: Stage,
    /// Its future was dropped: only the next run of the program can learn its outcome.
    caller_gone: bool,
    waker: Option<Waker>,
}

/// How far a call has come.
enum Stage {
    /// Nothing of it is in the journal, so it was not sent. When the client has a session, `Written`.
    Unwritten,
    /// It is in the journal, or in a batch on the way there: it may have been sent. Its outcome makes it `OutcomePending`.
    /// `Written` again, in a new session, if the old one was lost before it was sent.
    Written,
    /// Its outcome is known, and not yet durable. When it is, `Ready`.
    OutcomePending,
    /// Its outcome can be taken. `written`: the call is in the journal.
    Ready { delivered: Delivered, written: bool },
}

/// An outcome for a call's caller.
#[derive(Clone)]
pub(super) struct Delivered {
    pub(super) outcome: RawOutcome,
    /// It is in the journal, and delivered again after a restart unless its caller confirms it.
    pub(super) stable: bool,
}

/// A call that an earlier run of the client left behind.
pub(super) struct Recovered {
    pub(super) number: u64,
    pub(super) tag: Bytes,
    pub(super) method: MethodId,
}

impl JournalState {
    pub(super) fn journal(&self) -> Arc<dyn Journal> {
        self.journal.clone()
    }

    pub(super) fn error(&self) -> Option<&JournalError> {
        self.error.as_ref()
    }

    /// Begins a call; returns its number.
    pub(super) fn begin(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        tag: Bytes,
        call: Call<'static>,
        body: Bytes,
        compared: Option<Arc<Compared>>,
    ) -> Result<u64, NotExecuted> {
        if self.error.is_some() {
            return Err(NotExecuted::JournalFailed);
        }
        let method = call.method;
        let call = machine.call(now, call).map_err(NotExecuted::NotBegun)?;
        let number = self.next_number;
        self.next_number += 1;
        let entry = JournaledCall::new(tag, method, body, compared, Stage::Unwritten);
        self.calls.insert(number, entry);
        self.number_call(call, number);
        Ok(number)
    }

    fn number_call(&mut self, call: CallId, number: u64) {
        if self.by_call.len() <= call.index() {
            self.by_call.resize(call.index() + 1, None);
        }
        self.by_call[call.index()] = Some(number);
        if let Some(entry) = self.calls.get_mut(&number) {
            entry.call = Some(call);
        }
    }

    /// A call has an outcome: it is delivered once it is durable, or at once if nothing of the call is in the journal.
    ///
    /// `refused`: the server that answers will never be the right one (S7). The session may live on at the right one, so
    /// what is in doubt here is left for the next run to learn.
    pub(super) fn complete(
        &mut self,
        call: CallId,
        outcome: RawOutcome,
        refused: bool,
        wake: &mut Vec<Waker>,
    ) {
        if matches!(outcome, RawOutcome::Unknown(_, true)) {
            // The answer may still come, and is waited for.
            return;
        }
        let Some(of_call) = self.by_call.get_mut(call.index()) else { return };
        let Some(number) = *of_call else { return };
        let Some(entry) = self.calls.get_mut(&number).filter(|entry| entry.call == Some(call))
        else {
            return;
        };
        *of_call = None;
        entry.body = Bytes::new();
        let in_doubt = matches!(outcome, RawOutcome::Unknown(Unknown::SessionEnded, _));
        if !entry.stage.is_written() || refused && in_doubt {
            return self.deliver(number, Delivered { outcome, stable: false }, wake);
        }
        if self.error.is_some() {
            return;
        }
        debug_assert!(
            !matches!(entry.stage, Stage::OutcomePending),
            "the machine reports one final outcome"
        );
        if matches!(entry.stage, Stage::Written) {
            entry.stage = Stage::OutcomePending;
        }
        let (outcome, bytes) = match codec::encode_outcome(&outcome) {
            Some(bytes) => (outcome, Some(bytes)),
            None => (codec::NO_CLAIM, codec::encode_outcome(&codec::NO_CLAIM)),
        };
        self.next.writes.push(JournalWrite { key: JournalKey::Outcome(number), value: bytes });
        self.next.effects.push(Effect::Settled { number, outcome });
    }

    /// Lets a call's caller take its outcome. The first one counts.
    fn deliver(&mut self, number: u64, delivered: Delivered, wake: &mut Vec<Waker>) {
        let Some(entry) = self.calls.get_mut(&number) else { return };
        wake.extend(entry.waker.take());
        if entry.caller_gone {
            // The journal has it for the next run.
            self.calls.remove(&number);
        } else if !matches!(entry.stage, Stage::Ready { .. }) {
            let written = entry.stage.is_written();
            entry.stage = Stage::Ready { delivered, written };
        }
    }

    /// The next batch, if there is something to write and nothing is being written. `question`: a call of the client's own.
    pub(super) fn take_batch(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        question: Option<CallId>,
    ) -> Option<Vec<JournalWrite>> {
        if self.in_flight.is_some() || self.error.is_some() {
            return None;
        }
        self.stage_calls(machine, now, question);
        if self.next.writes.is_empty() {
            return None;
        }
        let Batch { writes, effects } = std::mem::take(&mut self.next);
        self.in_flight = Some(effects);
        Some(writes)
    }

    /// Gives calls that can be sent their xids, and stages their rows and the session's.
    ///
    /// The session's row is written again without a call where a resume has shown a later commit of the server (S32): the next
    /// run would else take an old copy of its ledger for the one that this run has seen. No answer of the new connection is
    /// durable before that row.
    ///
    /// The client's own question of what the server means by its methods has no row. It takes a number as they do, which the
    /// session's row covers, so that the next run does not give it again; and that run has no use for the answer.
    fn stage_calls(&mut self, machine: &mut Machine<Heap>, now: Instant, question: Option<CallId>) {
        let Some(session) = machine.session().copied() else { return };
        let mut xid_last = None;
        while let Some(numbered) = machine.poll_unjournaled(now) {
            let (call, xid, metadata) = (numbered.call, numbered.xid, numbered.metadata);
            xid_last = Some(xid);
            if question == Some(call) {
                continue;
            }
            let number = self.by_call.get(call.index()).copied().flatten();
            let entry = number.and_then(|number| Some((number, self.calls.get_mut(&number)?)));
            // A call that was written and never sent is written again when its session was lost.
            let open = |stage: &Stage| matches!(stage, Stage::Unwritten | Stage::Written);
            let Some((number, entry)) = entry.filter(|(_, entry)| open(&entry.stage)) else {
                // Its caller has an outcome, or it has none: it does not leave without a row.
                machine.forget(now, call);
                continue;
            };
            self.left += u64::from(matches!(entry.stage, Stage::Unwritten));
            entry.stage = Stage::Written;
            let (tag, body) = (entry.tag.clone(), entry.body.clone());
            let (session, method) = (session.id, entry.method);
            let compared = entry.compared.clone();
            let row = CallRow { session, xid, method, metadata, tag, body, compared };
            let value = Some(row.encode());
            self.next.writes.push(JournalWrite { key: JournalKey::Call(number), value });
        }
        let before = self.session.filter(|row| row.session.id == session.id);
        let numbered = xid_last.map(Xid::get).or(before.map(|row| row.xid_last));
        let row = SessionRow { session, xid_last: numbered.unwrap_or(0) };
        if self.session == Some(row) {
            return;
        }
        self.session = Some(row);
        self.next.writes.push(JournalWrite { key: JournalKey::Session, value: Some(row.encode()) });
        if let Some(up_to) = xid_last {
            self.next.effects.push(Effect::Journaled { session: session.id, up_to });
        }
    }

    /// A batch is durable, or may not be.
    pub(super) fn conclude(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        result: Result<(), JournalError>,
        wake: &mut Vec<Waker>,
    ) {
        debug_assert!(self.in_flight.is_some(), "a batch is concluded once");
        let effects = self.in_flight.take().unwrap_or_default();
        if let Err(error) = result {
            return self.fail(machine, now, error, wake);
        }
        for effect in effects {
            match effect {
                Effect::Journaled { session, up_to } => machine.journaled(now, session, up_to),
                Effect::Settled { number, outcome } => {
                    if let Some(call) = self.calls.get(&number).and_then(|entry| entry.call) {
                        machine.settle(now, call);
                    }
                    self.deliver(number, Delivered { outcome, stable: true }, wake);
                }
            }
        }
        if self.is_idle() {
            wake.append(&mut self.idle_wakers);
        }
    }

    /// Nothing is written any more. The next run learns what the journal holds.
    fn fail(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        error: JournalError,
        wake: &mut Vec<Waker>,
    ) {
        self.error.get_or_insert(error);
        self.next = Batch::default();
        for entry in self.calls.values().filter(|entry| !entry.stage.is_written()) {
            // It must not get an xid any more.
            entry.call.into_iter().for_each(|call| machine.forget(now, call));
        }
        let not_executed = RawOutcome::NotExecuted(NotExecuted::JournalFailed);
        self.deliver_all(not_executed, Unknown::JournalFailed, |_| true, wake);
        wake.append(&mut self.idle_wakers);
    }

    /// The client's task is gone: nothing is sent any more, and no answer comes. What is being written still is. Says how many
    /// calls ended by that.
    pub(super) fn end(&mut self, wake: &mut Vec<Waker>) -> u64 {
        let not_executed = RawOutcome::NotExecuted(NotExecuted::Closed);
        let unanswered = |stage: &Stage| !matches!(stage, Stage::OutcomePending);
        let ended = self.deliver_all(not_executed, Unknown::Closed, unanswered, wake);
        wake.append(&mut self.idle_wakers);
        ended
    }

    /// Calls that the next run is given; with an error, at most.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Gives all calls without an outcome one: those that are not in the journal were never sent, and of the others the
    /// next run learns their outcomes. Says how many they were.
    fn deliver_all(
        &mut self,
        unwritten: RawOutcome,
        written: Unknown,
        which: impl Fn(&Stage) -> bool,
        wake: &mut Vec<Waker>,
    ) -> u64 {
        let open = self.calls.iter().filter(|(_, entry)| {
            !matches!(entry.stage, Stage::Ready { .. }) && which(&entry.stage)
        });
        let open: Vec<_> =
            open.map(|(number, entry)| (*number, entry.stage.is_written())).collect();
        let count = open.len() as u64;
        for (number, is_written) in open {
            let outcome = match is_written {
                true => RawOutcome::Unknown(written, false),
                false => unwritten.clone(),
            };
            self.deliver(number, Delivered { outcome, stable: false }, wake);
        }
        count
    }

    /// The outcome of a call, once there is one; then it is the taker's.
    pub(super) fn poll(
        &mut self,
        number: u64,
        cx: &mut Context<'_>,
        dropped: &mut Vec<Waker>,
    ) -> Poll<Delivered> {
        let Some(entry) = self.calls.get_mut(&number) else { return Poll::Pending };
        if let Stage::Ready { delivered, .. } = &entry.stage {
            let delivered = delivered.clone();
            self.calls.remove(&number);
            return Poll::Ready(delivered);
        }
        crate::caught::register(&mut entry.waker, cx, dropped);
        Poll::Pending
    }

    /// A call's future was dropped.
    pub(super) fn leave(&mut self, number: u64, dropped: &mut Vec<Waker>) {
        let Some(entry) = self.calls.get_mut(&number) else { return };
        entry.caller_gone = true;
        dropped.extend(entry.waker.take());
        if matches!(entry.stage, Stage::Ready { .. }) {
            self.calls.remove(&number);
        }
    }

    /// The machine's name for a call that has no outcome.
    pub(super) fn call(&self, number: u64) -> Option<CallId> {
        self.calls.get(&number)?.call
    }

    /// A call's caller has acted on its outcome: the journal may forget it.
    pub(super) fn confirm(&mut self, number: u64) {
        if self.error.is_none() {
            debug_assert!(self.left > 0, "what is confirmed was written");
            self.left = self.left.saturating_sub(1);
            for key in [JournalKey::Call(number), JournalKey::Outcome(number)] {
                self.next.writes.push(JournalWrite { key, value: None });
            }
        }
    }

    /// Whether everything is written that can be.
    pub(super) fn is_idle(&self) -> bool {
        self.error.is_some() || (self.in_flight.is_none() && self.next.writes.is_empty())
    }

    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_idle() {
            return Poll::Ready(());
        }
        crate::caught::add_waker(&mut self.idle_wakers, cx);
        Poll::Pending
    }
}

impl JournaledCall {
    fn new(
        tag: Bytes,
        method: MethodId,
        body: Bytes,
        compared: Option<Arc<Compared>>,
        stage: Stage,
    ) -> JournaledCall {
        let (call, caller_gone, waker) = (None, false, None);
        JournaledCall { tag, method, body, compared, call, stage, caller_gone, waker }
    }
}

impl Stage {
    /// Whether the call is in the journal, or may be.
    fn is_written(&self) -> bool {
        match self {
            Stage::Unwritten => false,
            Stage::Written | Stage::OutcomePending => true,
            Stage::Ready { written, .. } => *written,
        }
    }
}

/// A call for the machine.
pub(super) fn call_of(
    method: MethodId,
    body: Bytes,
    metadata: bool,
    timeout: std::time::Duration,
) -> Call<'static> {
    let mut call = Call::new(method, body);
    (call.timeout, call.metadata) = (timeout, metadata);
    call
}
