//! What stands between a client's machine and its journal: which call is recorded, what waits for which write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use oncewire_core::{
    Call, CallId, Client as Machine, ClientConfig, Heap, Instant, MethodId, NotExecuted, SessionId,
    Unknown, Xid,
};

use super::codec::{self, CallRow, SessionRow};
use crate::journal::{Journal, JournalError, JournalKey, JournalWrite};
use crate::outcome::RawOutcome;

/// The calls of a durable client, and what is to be written of them.
pub(crate) struct JournalState {
    journal: Arc<dyn Journal>,
    /// By the number that is their key in the journal.
    calls: BTreeMap<u64, JournaledCall>,
    /// The numbers of the calls that the machine has, by [`CallId::index`].
    by_call: Vec<Option<u64>>,
    next_number: u64,
    /// The session that was last written, or is about to be.
    session: Option<SessionId>,
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

/// What is done once a batch is stable.
enum Effect {
    /// The calls of this session up to this xid may be handed.
    Recorded { session: SessionId, up_to: Xid },
    /// This call's caller may be told.
    Answered { number: u64, outcome: RawOutcome },
}

/// One call.
struct JournaledCall {
    tag: Bytes,
    method: MethodId,
    body: Bytes,
    /// While the machine has it.
    call: Option<CallId>,
    /// It stands in the journal, or may.
    written: bool,
    /// Its outcome is known and not stable yet.
    answered: bool,
    told: Option<Delivered>,
    /// Somebody can still take its outcome.
    wanted: bool,
    waker: Option<Waker>,
}

/// An outcome that may be told.
#[derive(Clone)]
pub(super) struct Delivered {
    pub(super) outcome: RawOutcome,
    /// It is in the journal, and told again after a restart unless its caller confirms it.
    pub(super) stable: bool,
}

/// A call that an earlier run of the client left behind.
pub(super) struct Recovered {
    pub(super) number: u64,
    pub(super) tag: Bytes,
    pub(super) method: MethodId,
}

impl JournalState {
    /// Reads a journal, and makes the machine that goes on where the one before was.
    pub(super) fn open(
        journal: Arc<dyn Journal>,
        mut config: ClientConfig,
        now: Instant,
        timeout: std::time::Duration,
    ) -> Result<(JournalState, Machine<Heap>, Vec<Recovered>), JournalError> {
        config.durable = true;
        let found = Found::read(&*journal)?;
        let mut machine = match found.session {
            None => Machine::new(config),
            Some(row) => Machine::restore(config, row.session, row.xid_last)
                .ok_or_else(|| broken("the session"))?,
        };
        let session = found.session.map(|row| row.session.id);
        let mut journal = JournalState {
            journal,
            calls: BTreeMap::new(),
            by_call: Vec::new(),
            next_number: found.calls.keys().next_back().map_or(1, |last| last + 1),
            session,
            next: Batch::default(),
            in_flight: None,
            error: None,
            idle_wakers: Vec::new(),
        };
        let mut unfinished = Vec::new();
        let mut left = Vec::new();
        for (number, (row, outcome)) in found.calls {
            let CallRow { tag, method, .. } = row.clone();
            left.push(Recovered { number, tag: tag.clone(), method });
            let mut kept = JournaledCall::new(tag, method, Bytes::new());
            kept.written = true;
            let tell = |outcome| Some(Delivered { outcome, stable: true });
            match outcome {
                Some(outcome) => kept.told = tell(outcome),
                None if Some(row.session) == session => unfinished.push((row.xid, number, row)),
                // It belongs to a session that was over: whether a byte of it was handed is not written anywhere.
                None => kept.told = tell(RawOutcome::Unknown(Unknown::SessionEnded, false)),
            }
            journal.calls.insert(number, kept);
        }
        unfinished.sort_by_key(|(xid, ..)| *xid);
        for (xid, number, row) in unfinished {
            let call = call_of(row.method, row.body.clone(), timeout);
            let call = machine.restore_call(now, xid, call).ok_or_else(|| broken("a call"))?;
            journal.number_call(call, number);
            if let Some(kept) = journal.calls.get_mut(&number) {
                kept.body = row.body;
            }
        }
        Ok((journal, machine, left))
    }

    pub(super) fn journal(&self) -> Arc<dyn Journal> {
        self.journal.clone()
    }

    pub(super) fn error(&self) -> Option<&JournalError> {
        self.error.as_ref()
    }

    /// Takes a call in; returns its number.
    pub(super) fn begin(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        tag: Bytes,
        call: Call<'static>,
        body: Bytes,
    ) -> Result<u64, NotExecuted> {
        if self.error.is_some() {
            return Err(NotExecuted::JournalFailed);
        }
        let method = call.method;
        let call = machine.call(now, call).map_err(NotExecuted::NotBegun)?;
        let number = self.next_number;
        self.next_number += 1;
        self.calls.insert(number, JournaledCall::new(tag, method, body));
        self.number_call(call, number);
        Ok(number)
    }

    fn number_call(&mut self, call: CallId, number: u64) {
        if self.by_call.len() <= call.index() {
            self.by_call.resize(call.index() + 1, None);
        }
        self.by_call[call.index()] = Some(number);
        if let Some(kept) = self.calls.get_mut(&number) {
            kept.call = Some(call);
        }
    }

    /// A call has an outcome: it is told once it is stable, or at once if nothing of the call is in the journal.
    ///
    /// `refused`: the server that answers will never be the right one (S7). The session may live on at the right one, so
    /// what is not known here is for the next run to learn.
    pub(crate) fn answer(
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
        let Some(entry) = self.by_call.get_mut(call.index()) else { return };
        let Some(number) = *entry else { return };
        let Some(kept) = self.calls.get_mut(&number).filter(|kept| kept.call == Some(call)) else {
            return;
        };
        *entry = None;
        kept.body = Bytes::new();
        let in_doubt = matches!(outcome, RawOutcome::Unknown(Unknown::SessionEnded, _));
        if !kept.written || refused && in_doubt {
            return self.tell(number, Delivered { outcome, stable: false }, wake);
        }
        if self.error.is_some() {
            return;
        }
        kept.answered = true;
        let (outcome, bytes) = match codec::encode_outcome(&outcome) {
            Some(bytes) => (outcome, Some(bytes)),
            None => (codec::NO_CLAIM, codec::encode_outcome(&codec::NO_CLAIM)),
        };
        self.next.writes.push(JournalWrite { key: JournalKey::Outcome(number), value: bytes });
        self.next.effects.push(Effect::Answered { number, outcome });
    }

    fn tell(&mut self, number: u64, told: Delivered, wake: &mut Vec<Waker>) {
        let Some(kept) = self.calls.get_mut(&number) else { return };
        wake.extend(kept.waker.take());
        if kept.wanted {
            kept.told.get_or_insert(told);
        } else {
            // Nobody holds it in this run; the journal tells it in the next one.
            self.calls.remove(&number);
        }
    }

    /// The next batch, if there is something to write and nothing is being written.
    pub(super) fn take_batch(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
    ) -> Option<Vec<JournalWrite>> {
        if self.in_flight.is_some() || self.error.is_some() {
            return None;
        }
        self.note_calls(machine, now);
        if self.next.writes.is_empty() {
            return None;
        }
        let Batch { writes, effects } = std::mem::take(&mut self.next);
        self.in_flight = Some(effects);
        Some(writes)
    }

    /// Calls that can be handed get their xids, and are noted with them.
    fn note_calls(&mut self, machine: &mut Machine<Heap>, now: Instant) {
        let Some(session) = machine.session().copied() else { return };
        let mut xid_last = None;
        while let Some(numbered) = machine.poll_unjournaled(now) {
            let (call, xid) = (numbered.call, numbered.xid);
            xid_last = Some(xid);
            let number = self.by_call.get(call.index()).copied().flatten();
            let kept = number.and_then(|number| Some((number, self.calls.get_mut(&number)?)));
            let Some((number, kept)) = kept else {
                // Nobody's: it does not leave unrecorded.
                machine.forget(now, call);
                continue;
            };
            kept.written = true;
            let (tag, body) = (kept.tag.clone(), kept.body.clone());
            let row = CallRow { session: session.id, xid, method: kept.method, tag, body };
            let value = Some(row.encode());
            self.next.writes.push(JournalWrite { key: JournalKey::Call(number), value });
        }
        if xid_last.is_none() && self.session == Some(session.id) {
            return;
        }
        self.session = Some(session.id);
        let row = SessionRow { session, xid_last: xid_last.map_or(0, Xid::get) };
        self.next.writes.push(JournalWrite { key: JournalKey::Session, value: Some(row.encode()) });
        if let Some(up_to) = xid_last {
            self.next.effects.push(Effect::Recorded { session: session.id, up_to });
        }
    }

    /// A batch is stable, or will never be.
    pub(super) fn conclude(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        result: Result<(), JournalError>,
        wake: &mut Vec<Waker>,
    ) {
        let effects = self.in_flight.take().unwrap_or_default();
        if let Err(error) = result {
            return self.fail(machine, now, error, wake);
        }
        for effect in effects {
            match effect {
                Effect::Recorded { session, up_to } => machine.journaled(now, session, up_to),
                Effect::Answered { number, outcome } => {
                    if let Some(call) = self.calls.get(&number).and_then(|kept| kept.call) {
                        machine.settle(now, call);
                    }
                    self.tell(number, Delivered { outcome, stable: true }, wake);
                }
            }
        }
        if self.is_idle() {
            wake.append(&mut self.idle_wakers);
        }
    }

    /// Nothing is written any more. What may stand in the journal is learned in the next run.
    fn fail(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        error: JournalError,
        wake: &mut Vec<Waker>,
    ) {
        self.error.get_or_insert(error);
        self.next = Batch::default();
        for kept in self.calls.values().filter(|kept| !kept.written) {
            // No xid will be given to it any more.
            kept.call.into_iter().for_each(|call| machine.forget(now, call));
        }
        let not_executed = RawOutcome::NotExecuted(NotExecuted::JournalFailed);
        self.tell_all(not_executed, Unknown::JournalFailed, |_| true, wake);
        wake.append(&mut self.idle_wakers);
    }

    /// The client's task is gone: nothing is handed any more, and no answer comes. What is being written still is.
    pub(crate) fn end(&mut self, wake: &mut Vec<Waker>) {
        let not_executed = RawOutcome::NotExecuted(NotExecuted::Closed);
        self.tell_all(not_executed, Unknown::Closed, |kept| !kept.answered, wake);
        wake.append(&mut self.idle_wakers);
    }

    /// Tells all that have no outcome: those that are not in the journal were never handed, and of the others the next
    /// run of the client will tell.
    fn tell_all(
        &mut self,
        unwritten: RawOutcome,
        written: Unknown,
        which: impl Fn(&JournaledCall) -> bool,
        wake: &mut Vec<Waker>,
    ) {
        let open = self.calls.iter().filter(|(_, kept)| kept.told.is_none() && which(kept));
        let open: Vec<(u64, bool)> = open.map(|(number, kept)| (*number, kept.written)).collect();
        for (number, is_written) in open {
            let outcome = match is_written {
                true => RawOutcome::Unknown(written, false),
                false => unwritten.clone(),
            };
            self.tell(number, Delivered { outcome, stable: false }, wake);
        }
    }

    /// The outcome of a call, once it may be told; then it is the taker's.
    pub(super) fn poll(
        &mut self,
        number: u64,
        cx: &mut Context<'_>,
        dropped: &mut Vec<Waker>,
    ) -> Poll<Delivered> {
        let Some(kept) = self.calls.get_mut(&number) else { return Poll::Pending };
        if let Some(told) = kept.told.take() {
            self.calls.remove(&number);
            return Poll::Ready(told);
        }
        crate::caught::register(&mut kept.waker, cx, dropped);
        Poll::Pending
    }

    /// Nobody waits for a call any more in this run.
    pub(super) fn leave(&mut self, number: u64, dropped: &mut Vec<Waker>) {
        let Some(kept) = self.calls.get_mut(&number) else { return };
        kept.wanted = false;
        dropped.extend(kept.waker.take());
        if kept.told.is_some() {
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
        crate::buffer::add_waker(&mut self.idle_wakers, cx);
        Poll::Pending
    }
}

impl JournaledCall {
    fn new(tag: Bytes, method: MethodId, body: Bytes) -> JournaledCall {
        JournaledCall {
            tag,
            method,
            body,
            call: None,
            written: false,
            answered: false,
            told: None,
            wanted: true,
            waker: None,
        }
    }
}

/// A call for the machine.
pub(super) fn call_of(
    method: MethodId,
    body: Bytes,
    timeout: std::time::Duration,
) -> Call<'static> {
    let mut call = Call::new(method, body);
    call.timeout = timeout;
    call
}

/// What a journal holds.
#[derive(Default)]
struct Found {
    session: Option<SessionRow>,
    calls: BTreeMap<u64, (CallRow, Option<RawOutcome>)>,
}

impl Found {
    fn read(journal: &dyn Journal) -> Result<Found, JournalError> {
        let mut found = Found::default();
        let mut outcomes = BTreeMap::new();
        let mut wrong = None;
        journal.recover(&mut |key, bytes| {
            let kept = match key {
                JournalKey::Session => {
                    found.session = SessionRow::decode(bytes);
                    found.session.map(drop).ok_or("the session")
                }
                JournalKey::Call(number) => CallRow::decode(bytes)
                    .map(|row| drop(found.calls.insert(number, (row, None))))
                    .ok_or("a call"),
                JournalKey::Outcome(number) => codec::decode_outcome(bytes)
                    .map(|outcome| drop(outcomes.insert(number, outcome)))
                    .ok_or("an outcome"),
            };
            wrong = wrong.or(kept.err());
        })?;
        for (number, outcome) in outcomes {
            match found.calls.get_mut(&number) {
                Some((_, kept)) => *kept = Some(outcome),
                None => wrong = wrong.or(Some("an outcome")),
            }
        }
        match wrong {
            Some(what) => Err(broken(what)),
            None => Ok(found),
        }
    }
}

fn broken(what: &str) -> JournalError {
    JournalError::new(format!(
        "the journal is corrupt: {what} in it cannot be decoded or does not fit the rest; what it held cannot be \
         learned from it"
    ))
}
