//! Sessions that other servers with the same ledger may claim, and that this one claims (S34).
//!
//! | what happens | what follows |
//! |---|---|
//! | a client resumes a session | the ledger is asked whose it is, also of one that is here |
//! | another server had it meanwhile | what is here of it is given up, and what the ledger has is restored |
//! | a batch comes back with a session taken | what is here of it is given up |
//!
//! The ledger has a few claims at a time; the others wait, the oldest first, and are forgotten when their connections go.
//!
//! What a claim finds is answered to the connections that were there when the ledger got it, and not to one that has come
//! since: its client may have been at another server in between. Where it was answered alike, the client lost its session,
//! and could not learn any more what had become of a call that had run.
//!
//! While a session is claimed, nothing of it is in a batch: a claim waits for what is in flight or queued before it, and
//! what is queued after it waits for the claim. So nothing that this server had in mind before another one had the session
//! is written under its new claim: a withdrawal from before removed a record from after, and the call ran twice.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use oncewire_core::{
    CallKey, Claimed, ConnId, Instant, NotExecuted, Principal, Running, SessionId, SessionRecord,
    Xid,
};

use super::ledger_queue::{Item, LedgerQueue, Watch};
use super::recording::UNANSWERED;
use super::state::{Shared, State};
use crate::faults::ServerFault;
use crate::ledger::claim::{Answer, Claim, ClaimOwner};
use crate::ledger::entry::{CallEntry, SessionEntry};
use crate::transport::Subject;

type Id = [u8; 16];

/// How many claims the ledger has at most. Batches wait behind them where a ledger has one thread, and a stranger can ask for as many
/// sessions as there are ids.
const CLAIMS_MAX: usize = 8;

/// Claims, and what waits for them.
#[derive(Default)]
pub(super) struct Sharing {
    /// By session.
    wanted: BTreeMap<Id, Wanted>,
    /// Those of them that the ledger does not have yet, the oldest first.
    waiting: VecDeque<Id>,
    /// How many the ledger has.
    asked: usize,
    /// Some may be given to the ledger.
    pub(super) has_due: bool,
    /// Connections that have come since those that had gone were last dropped, and those that stayed then.
    came: usize,
    stayed: usize,
    /// Sessions of which something is in a batch that is in flight.
    flying: HashSet<Id>,
}

/// A session that clients resume.
#[derive(Default)]
struct Wanted {
    /// Connections that wait, the newest last.
    conns: Vec<ConnId>,
    /// The ledger has the claim, for this caller, and for these connections.
    asked_for: Option<Principal>,
    asking: Vec<ConnId>,
    /// What happened in it since it is wanted.
    held_back: Vec<Item>,
}

impl Sharing {
    /// Keeps back what belongs to a session that is claimed; returns what does not.
    pub(super) fn hold_back(&mut self, item: Item) -> Option<Item> {
        match self.wanted.get_mut(&item.session().to_bytes()) {
            Some(wanted) => {
                wanted.held_back.push(item);
                None
            }
            None => Some(item),
        }
    }

    pub(super) fn is_wanted(&self, session: &Id) -> bool {
        self.wanted.contains_key(session)
    }

    pub(super) fn takes_off(&mut self, items: &[Item]) {
        self.flying.extend(items.iter().map(|item| item.session().to_bytes()));
    }

    pub(super) fn has_landed(&mut self, items: &[Item]) {
        for item in items {
            self.flying.remove(&item.session().to_bytes());
        }
        self.has_due = !self.waiting.is_empty();
    }

    fn want(&mut self, session: SessionId, conn: ConnId) {
        let id = session.to_bytes();
        let waiting = &mut self.waiting;
        let wanted = self.wanted.entry(id).or_insert_with(|| {
            waiting.push_back(id);
            Wanted::default()
        });
        wanted.conns.push(conn);
        self.came += 1;
        self.has_due = true;
    }

    /// Forgets connections that have gone, and sessions for which none waits any more. Returns what was held back of those.
    fn drop_gone(&mut self, is_there: impl Fn(ConnId) -> bool) -> Vec<Item> {
        let mut released = Vec::new();
        (self.came, self.stayed) = (0, 0);
        self.wanted.retain(|_, wanted| {
            wanted.conns.retain(|conn| is_there(*conn));
            self.stayed += wanted.conns.len();
            let stays = !wanted.conns.is_empty() || wanted.asked_for.is_some();
            if !stays {
                released.append(&mut wanted.held_back);
            }
            stays
        });
        self.waiting.retain(|id| self.wanted.contains_key(id));
        released
    }

    /// After an error nothing is written any more.
    pub(super) fn release_all(&mut self) -> Vec<Item> {
        let wanted = self.wanted.values_mut();
        wanted.flat_map(|wanted| std::mem::take(&mut wanted.held_back)).collect()
    }
}

impl LedgerQueue {
    /// Parts what belongs to sessions that were taken from what does not, in a batch that has come back and in what is queued.
    pub(super) fn part_taken(&mut self, items: &mut Vec<Item>, taken: &HashSet<Id>) -> Vec<Item> {
        let is_lost = |item: &mut Item| taken.contains(&item.session().to_bytes());
        let mut lost: Vec<Item> = items.extract_if(.., is_lost).collect();
        lost.extend(self.lanes.remove(taken));
        lost.extend(self.items.extract_if(.., is_lost));
        if let Some(sharing) = self.sharing.as_deref_mut() {
            let wanted = sharing.wanted.iter_mut().filter(|(id, _)| taken.contains(*id));
            wanted.for_each(|(_, wanted)| lost.append(&mut wanted.held_back));
        }
        lost
    }
}

impl State {
    /// Whether what is left of a call belongs to what this server had of its session before it was taken.
    pub(super) fn is_lost(&self, key: CallKey, session: SessionId) -> bool {
        let shares = self.ledger_queue.as_deref().is_some_and(|queue| queue.sharing.is_some());
        shares && self.machine.find_session(session) != Some(key.session())
    }

    /// A client resumes a session.
    pub(super) fn want_session(&mut self, now: Instant, conn: ConnId) {
        let Some(session) = self.machine.wanted_session(conn) else { return };
        if self.planted.is(ServerFault::TrustedSessions)
            && self.machine.find_session(session).is_some()
        {
            return self.machine.answer_wanted(now, conn, Claimed::Found);
        }
        let queue = self.ledger_queue.as_deref_mut().filter(|queue| queue.error.is_none());
        match queue.and_then(|queue| queue.sharing.as_deref_mut()) {
            Some(sharing) => sharing.want(session, conn),
            // S31: another server may be able to.
            None => self.machine.answer_wanted(now, conn, Claimed::Unavailable),
        }
    }

    /// Claims that the ledger may be given now: nothing of their sessions is on its way to it.
    fn take_claims(&mut self) -> Vec<(SessionId, Subject, bool)> {
        let Some(queue) = self.ledger_queue.as_deref_mut() else { return Vec::new() };
        let Some(sharing) = queue.sharing.as_deref_mut().filter(|sharing| sharing.has_due) else {
            return Vec::new();
        };
        sharing.has_due = false;
        let machine = &self.machine;
        let is_there = |conn: ConnId| machine.wanted_session(conn).is_some();
        // Not each time: thousands may wait.
        if sharing.came > sharing.stayed + CLAIMS_MAX {
            queue.items.extend(sharing.drop_gone(is_there));
        }
        let (mut due, mut rest) = (Vec::new(), Vec::new());
        let queued: HashSet<Id> = match sharing.waiting.is_empty() {
            true => HashSet::new(),
            false => {
                let since = queue.items.iter().map(|item| item.session().to_bytes());
                since.chain(queue.lanes.sessions()).collect()
            }
        };
        while sharing.asked < CLAIMS_MAX
            && let Some(id) = sharing.waiting.pop_front()
        {
            let Some(wanted) = sharing.wanted.get_mut(&id) else { continue };
            wanted.conns.retain(|conn| is_there(*conn));
            // The oldest one's caller: another one who knows the id, and comes again and again, is not asked for each time.
            let caller = wanted.conns.first().and_then(|conn| machine.principal_of(*conn));
            let Some(caller) = caller else {
                // All have gone; what was held back goes its way.
                queue.items.append(&mut wanted.held_back);
                sharing.wanted.remove(&id);
                continue;
            };
            let overtakes = self.planted.is(ServerFault::OvertakingClaims);
            if !overtakes && (queued.contains(&id) || sharing.flying.contains(&id)) {
                rest.push(id);
                continue;
            }
            wanted.asked_for = Some(caller);
            wanted.asking = std::mem::take(&mut wanted.conns);
            sharing.asked += 1;
            let session = SessionId::from_bytes(id);
            let is_held = machine.find_session(session).is_some();
            due.push((session, self.principals.subject(caller), is_held));
        }
        rest.into_iter().rev().for_each(|id| sharing.waiting.push_front(id));
        due
    }

    /// The ledger has answered.
    fn take_answer(&mut self, now: Instant, session: SessionId, answer: Answer) {
        let Some(queue) = self.ledger_queue.as_deref_mut() else { return };
        let failed = queue.error.is_some();
        let Some(sharing) = queue.sharing.as_deref_mut() else { return };
        let Some(mut wanted) = sharing.wanted.remove(&session.to_bytes()) else { return };
        sharing.asked -= 1;
        sharing.has_due = !sharing.waiting.is_empty();
        let claimed = match answer {
            _ if failed => Claimed::Unavailable,
            Answer::Unchanged { commit } => {
                self.machine.set_commit(commit);
                Claimed::Found
            }
            Answer::Found { entry, calls, commit } => {
                self.machine.set_commit(commit);
                let lost = std::mem::take(&mut wanted.held_back);
                self.lose(now, session, lost);
                self.restore_claimed(now, &entry, &calls)
            }
            Answer::Unknown => {
                let lost = std::mem::take(&mut wanted.held_back);
                self.lose(now, session, lost);
                Claimed::Unknown
            }
            Answer::NotTheirs => Claimed::WrongPrincipal,
            Answer::Unavailable | Answer::Failed(_) => Claimed::Unavailable,
        };
        let mut others = self.answer_all(now, claimed, wanted.asked_for, wanted.asking);
        others.append(&mut wanted.conns);
        let Some(queue) = self.ledger_queue.as_deref_mut() else { return };
        if queue.error.is_none() {
            queue.items.append(&mut wanted.held_back);
        } else {
            wanted.held_back.into_iter().for_each(|item| self.give_up(now, item));
        }
        others.into_iter().for_each(|conn| self.want_session(now, conn));
    }

    /// Answers the connections that wait for a session, the newest first: it has it (S4). Returns those of other
    /// callers than the one who asked for what is not theirs.
    fn answer_all(
        &mut self,
        now: Instant,
        claimed: Claimed,
        asked_for: Option<Principal>,
        mut conns: Vec<ConnId>,
    ) -> Vec<ConnId> {
        let mut others = Vec::new();
        while let Some(conn) = conns.pop() {
            let is_other = self.machine.principal_of(conn) != asked_for;
            if claimed == Claimed::WrongPrincipal && is_other {
                others.insert(0, conn);
                continue;
            }
            self.machine.answer_wanted(now, conn, claimed);
            self.observe_notice(conn);
        }
        others
    }

    fn restore_claimed(
        &mut self,
        now: Instant,
        entry: &SessionEntry,
        calls: &[(u16, Vec<u8>)],
    ) -> Claimed {
        let machine = &self.machine;
        let principal = self.principals.principal(&entry.subject, |of| machine.knows(of));
        let SessionEntry { id, tag, grants, seen, .. } = *entry;
        let record = SessionRecord { id, principal, grants, seen, acked: 0 };
        let Some(key) = self.machine.restore_session(now, record) else {
            // There is no room: perhaps there is elsewhere, or later.
            return Claimed::Unavailable;
        };
        for (slot, bytes) in calls {
            if let Some(call) = CallEntry::decode(id, *slot, bytes) {
                let _stale = self.machine.restore_call(key, call.record);
            }
        }
        let held: Vec<Xid> = self.machine.held_calls(key).collect();
        if let Some(queue) = self.ledger_queue.as_deref_mut() {
            queue.tags.note(id, tag);
            if !held.is_empty() {
                queue.watched.insert(id.to_bytes(), Watch { key, held, fresh: false });
            }
        }
        Claimed::Found
    }

    /// Another server has a session, or none has: gives up what is here of it.
    pub(super) fn lose(&mut self, now: Instant, session: SessionId, lost: Vec<Item>) {
        if let Some(key) = self.machine.find_session(session) {
            self.machine.yield_session(now, key);
        }
        if let Some(queue) = self.ledger_queue.as_deref_mut() {
            queue.watched.remove(&session.to_bytes());
            queue.tags.forget(session);
        }
        lost.into_iter().for_each(|item| self.give_up_lost(now, item));
    }

    /// An entry of a session that another server has: its record is that server's. Nothing of it is answered here.
    pub(super) fn give_up_lost(&mut self, now: Instant, item: Item) {
        match item {
            Item::Started(started) => {
                let method = started.call.permit.method();
                self.refuse(now, started.admission, method, NotExecuted::Cancelled);
                self.drop_later(started.call.future);
                self.release(started.call.permit);
            }
            Item::Transaction(mut call) => {
                if let Some(admission) = call.admission.take() {
                    self.refuse(now, admission, call.method, NotExecuted::Cancelled);
                }
                if let Some(running) = call.running.take() {
                    self.end_lost(now, running);
                }
                self.release_transaction(&mut call);
                self.drop_later(call);
            }
            Item::Finished(finished) => self.end_lost(now, finished.running),
            Item::Opened { .. } | Item::Ended(_) | Item::Withdrawn(_) | Item::Settled { .. } => {}
        }
    }

    /// What became of the call, its client learns from the other server.
    fn end_lost(&mut self, now: Instant, running: Running) {
        let key = running.key();
        self.observe_end(key, UNANSWERED);
        self.machine.abort(now, running);
        self.note_cancel(key);
    }
}

impl Shared {
    /// Gives the ledger the claims that are due.
    pub(super) fn submit_claims(self: &Arc<Self>) {
        let Some(ledger) = &self.ledger else { return };
        for (session, subject, is_held) in self.with(|state, _| state.take_claims()) {
            let claim = Claim::new(session, subject, is_held, self.clone());
            // One that is dropped in a panic was not reached.
            let _panicked = crate::caught::caught(|| ledger.claim(claim));
        }
    }
}

impl ClaimOwner for Shared {
    fn claimed(self: Arc<Self>, session: SessionId, answer: Answer) {
        self.with(|state, now| {
            if let Answer::Failed(error) = &answer {
                state.fail_ledger(now, error);
            }
            state.take_answer(now, session, answer);
        });
    }
}
