//! Durable clients: the content of their journals, and the death of their processes.

use oncewire_core::{Call, CallId, Client, ClientSession, NotExecuted, Outcome, Unknown, Xid};

use super::world::{Caller, FOREVER, World};
use crate::world::body::{self, REQUEST_HEAD};
use crate::world::model::Stage;
use crate::world::trace::{Check, ensure};

/// A client's journal: its disk, and what is being written.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Journal {
    disk: Disk,
    /// Given to the disk and not stable yet, oldest first.
    pub(super) pending: Vec<Write>,
    /// An old copy of the disk.
    pub(super) copy: Option<Disk>,
    /// By the place of a call: a copy put back has it unfinished though its outcome was known before.
    again: [bool; 4],
}

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Disk {
    session: Option<ClientSession>,
    xid_last: u64,
    rows: [Row; 4],
}

/// What the disk has of the call at a place in its client's script.
#[derive(Clone, Copy, Debug, Default, Hash)]
enum Row {
    #[default]
    Nothing,
    Unfinished(ClientSession, Xid),
    Finished,
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Write {
    Call(usize, ClientSession, Xid),
    Reply(usize, Vec<u8>),
    /// Another outcome.
    Ended(usize, Outcome<'static>),
}

impl Write {
    fn place(&self) -> usize {
        match self {
            Write::Call(k, ..) | Write::Reply(k, _) | Write::Ended(k, _) => *k,
        }
    }
}

impl World {
    /// A durable client gives its waiting calls their numbers, which must be written next.
    pub(super) fn number_calls(&mut self, p: usize) {
        let now = self.peer_now(p);
        let peer = &mut *self.peers[p];
        let Some(session) = peer.client.session().copied() else { return };
        while let Some(numbered) = peer.client.poll_unjournaled(now) {
            let (call, xid) = (numbered.call, numbered.xid);
            if let Some(k) = peer.calls.iter().position(|known| *known == Some(call)) {
                peer.journal.pending.push(Write::Call(k, session, xid));
            }
        }
    }

    /// A durable client's machine reports an outcome. Its caller gets it once it is written.
    pub(super) fn note_outcome(&mut self, p: usize, k: usize, outcome: &Outcome<'_>) -> Check {
        let peer = &mut *self.peers[p];
        let journal = &mut peer.journal;
        let written = !matches!(journal.disk.rows[k], Row::Nothing)
            || journal.pending.iter().any(|write| write.place() == k);
        let write = match *outcome {
            // A ticket: the answer may still come.
            Outcome::Unknown { ticket: true, .. } => return Ok(()),
            Outcome::Reply(bytes) => Write::Reply(k, bytes.to_vec()),
            Outcome::NoReply(why) => Write::Ended(k, Outcome::NoReply(why)),
            Outcome::NotExecuted(why) => Write::Ended(k, Outcome::NotExecuted(why)),
            Outcome::Unknown { why, ticket } => Write::Ended(k, Outcome::Unknown { why, ticket }),
        };
        if written {
            journal.pending.push(write);
            return Ok(());
        }
        peer.calls[k] = None;
        self.learn(p, k, outcome)
    }

    /// The oldest of what a client has given to its disk is stable.
    pub(super) fn write_journal(&mut self, p: usize) -> Check {
        let now = self.peer_now(p);
        let write = self.peers[p].journal.pending.remove(0);
        self.tell(|_| format!("    the journal of c{p} has {write:?}"));
        let peer = &mut *self.peers[p];
        match &write {
            Write::Call(k, session, xid) => {
                let disk = &mut peer.journal.disk;
                (disk.session, disk.xid_last) = (Some(*session), xid.get());
                disk.rows[*k] = Row::Unfinished(*session, *xid);
                peer.client.journaled(now, session.id, *xid);
            }
            Write::Reply(k, _) | Write::Ended(k, _) => {
                peer.journal.disk.rows[*k] = Row::Finished;
                if let Some(call) = peer.calls[*k].take() {
                    peer.client.settle(now, call);
                }
            }
        }
        match &write {
            Write::Call(..) => {}
            Write::Reply(k, bytes) => self.learn(p, *k, &Outcome::Reply(bytes))?,
            Write::Ended(k, outcome) => self.learn(p, *k, outcome)?,
        }
        self.flush_peer(p)
    }

    /// A caller learns an outcome, perhaps once more.
    pub(super) fn learn(&mut self, p: usize, k: usize, outcome: &Outcome<'_>) -> Check {
        let op = self.op(p, k);
        self.tell(|_| format!("    op {op} ends as {outcome:?}"));
        if let Outcome::Unknown { why: Unknown::SessionEnded, .. } = outcome {
            ensure!(self.excused, "op {op} is unknown, and could be known: {outcome:?}");
        }
        if *outcome == Outcome::NotExecuted(NotExecuted::LedgerFailed)
            && self.scene.budget.disks > 0
        {
            // The model knows no failing ledgers; to it, one refusal is as good as another.
            return self.model.observe(op, &Outcome::NotExecuted(NotExecuted::Overloaded));
        }
        if std::mem::take(&mut self.peers[p].journal.again[k]) {
            return self.model.reported_again(op, outcome);
        }
        self.model.observe(op, outcome)
    }

    /// A client's process dies, and another one goes on from its journal, or from an old copy of it.
    pub(super) fn die(&mut self, p: usize, from_copy: bool) -> Check {
        self.leave(p);
        let peer = &mut *self.peers[p];
        if from_copy && let Some(copy) = peer.journal.copy.take() {
            peer.journal.disk = copy;
        }
        peer.journal.pending.clear();
        peer.calls = [None; 4];
        let disk = peer.journal.disk.clone();
        let config = World::client_config(self.scene);
        let client = match disk.session {
            None => Some(Client::new(config)),
            Some(session) => Client::restore(config, session, disk.xid_last),
        };
        let Some(client) = client else {
            ensure!(false, "c{p} cannot be restored from {disk:?}");
            return Ok(());
        };
        peer.client = client;
        let mut lost = Vec::new();
        let mut unfinished = Vec::new();
        for (k, row) in disk.rows.iter().enumerate().take(self.peers[p].made) {
            match row {
                Row::Nothing => self.forget_unwritten(p, k, from_copy),
                Row::Finished => {}
                Row::Unfinished(session, xid) => {
                    self.doubt_again(p, k);
                    if disk.session.is_some_and(|last| last.id == session.id) {
                        unfinished.push((*xid, k));
                    } else {
                        lost.push(k);
                    }
                }
            }
        }
        unfinished.sort_unstable();
        for (xid, k) in unfinished {
            let call = self.restore_call(p, k, xid);
            ensure!(call.is_some(), "op {} of c{p} cannot be restored", self.op(p, k));
            self.peers[p].calls[k] = call;
        }
        for k in lost {
            let unknown = Outcome::Unknown { why: Unknown::SessionEnded, ticket: false };
            self.peers[p].journal.disk.rows[k] = Row::Finished;
            self.learn(p, k, &unknown)?;
        }
        self.flush_peer(p)
    }

    fn restore_call(&mut self, p: usize, k: usize, xid: Xid) -> Option<CallId> {
        let (kind, op, now) = (self.scene.calls[p][k], self.op(p, k), self.peer_now(p));
        let mut request = [0; REQUEST_HEAD];
        body::write_request(op, 0, &mut request);
        let mut call = Call::new(kind.method, &request);
        call.timeout = FOREVER;
        let client: &mut Caller = &mut self.peers[p].client;
        client.restore_call(now, xid, call)
    }

    /// Nothing of a call was written: nothing of it was sent, or it was, and an old copy was put back since.
    fn forget_unwritten(&mut self, p: usize, k: usize, from_copy: bool) {
        let op = self.op(p, k) as usize;
        let stage = &mut self.model.ops[op].stage;
        if matches!(stage, Stage::Pending | Stage::Ticket) {
            *stage = if from_copy { Stage::Ended } else { Stage::Never };
        }
    }

    /// An old copy has a call unfinished whose outcome was known.
    fn doubt_again(&mut self, p: usize, k: usize) {
        let op = self.op(p, k) as usize;
        let known = !matches!(self.model.ops[op].stage, Stage::Pending | Stage::Ticket);
        self.peers[p].journal.again[k] = known;
    }

    /// Whether every outcome that a client's journal still owes has come.
    pub(super) fn knows_all(&self, p: usize) -> bool {
        !self.peers[p].journal.again.contains(&true)
    }

    /// Puts a copy of a client's disk aside.
    pub(super) fn copy_journal(&mut self, p: usize) {
        let journal = &mut self.peers[p].journal;
        journal.copy = Some(journal.disk.clone());
    }
}
