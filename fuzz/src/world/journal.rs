//! Clients with a journal: calls are written before they are sent, outcomes before they are settled. Their processes die
//! between any two writes, and an old copy of the journal may be put back.

use std::collections::VecDeque;
use std::time::Duration;

use oncewire_core::wire;
use oncewire_core::{
    Call, CallId, Client, ClientSession, MethodId, Outcome, SessionId, Unknown, Xid,
};

use super::kinds::Kind;
use super::model::Stage;
use super::profile::{MS, session_number};
use super::trace::{Check, ensure};
use super::{World, body};

/// What a durable client keeps.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    disk: Disk,
    /// Given to the disk and not stable yet, oldest first, each with its time in the world.
    pending: VecDeque<(u64, Write)>,
    /// An old copy of the disk.
    copy: Option<Disk>,
    /// An old copy was put back: errors that say so are no fault of the client's.
    pub rolled_back: bool,
    /// A process of the client went on with a session that an earlier one had lost, at another server perhaps: what that
    /// settled as unknown, this server may never have seen (C145). It may also read late what that process sent, when the
    /// journal has another session.
    pub lost: bool,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    session: Option<ClientSession>,
    xid_last: u64,
    /// Calls whose outcome is not written.
    rows: Vec<Row>,
}

/// What the journal has of a call.
#[derive(Clone, Copy, Debug)]
struct Row {
    op: u32,
    session: SessionId,
    xid: Xid,
    method: MethodId,
    idempotent: bool,
    pad: u16,
}

#[derive(Clone, Debug)]
enum Write {
    Call(Box<ClientSession>, Row),
    Outcome(CallId, u32, Final),
}

/// A final outcome, to be written.
#[derive(Clone, Debug)]
pub(super) enum Final {
    Reply(Vec<u8>),
    Other(Outcome<'static>),
}

impl Write {
    fn op(&self) -> u32 {
        match self {
            Write::Call(_, row) => row.op,
            Write::Outcome(_, op, _) => *op,
        }
    }
}

impl Final {
    pub(super) fn of(outcome: &Outcome<'_>) -> Final {
        match *outcome {
            Outcome::Reply(bytes) => Final::Reply(bytes.to_vec()),
            Outcome::NoReply(why) => Final::Other(Outcome::NoReply(why)),
            Outcome::NotExecuted(why) => Final::Other(Outcome::NotExecuted(why)),
            Outcome::Unknown { why, ticket } => Final::Other(Outcome::Unknown { why, ticket }),
        }
    }

    fn outcome(&self) -> Outcome<'_> {
        match self {
            Final::Reply(bytes) => Outcome::Reply(bytes),
            Final::Other(outcome) => *outcome,
        }
    }
}

impl Journal {
    /// When the next of what is being written is stable.
    pub fn due(&self) -> Option<u64> {
        self.pending.front().map(|(due, _)| *due)
    }

    /// The highest number that is written in a session.
    pub fn last_in(&self, session: SessionId) -> u64 {
        match self.disk.session {
            Some(own) if own.id == session => self.disk.xid_last,
            _ => 0,
        }
    }

    fn knows(&self, op: u32) -> bool {
        self.disk.rows.iter().any(|row| row.op == op)
            || self
                .pending
                .iter()
                .any(|(_, write)| matches!(write, Write::Call(_, row) if row.op == op))
    }
}

impl World {
    /// Gives waiting calls of a durable client their numbers, and lets what was written be stable.
    pub(super) fn keep_journal(&mut self, p: usize) -> Check {
        if let Some(session) = self.peers[p].client.session().copied() {
            let now = self.peer_now(p);
            let peer = &mut self.peers[p];
            while let Some(numbered) = peer.client.poll_unjournaled(now) {
                let (call, xid, method) = (numbered.call, numbered.xid, numbered.method);
                let flags = if numbered.metadata { wire::FLAG_METADATA } else { 0 };
                let arguments = body::arguments(flags, numbered.body);
                let pad = (arguments.len() - body::REQUEST_HEAD) as u16;
                let idempotent = numbered.idempotent;
                let Some(op) = peer.op(call) else { continue };
                let row = Row { op, session: session.id, xid, method, idempotent, pad };
                let due = self.now + World::write_time(&mut self.rng, self.calm);
                // Writes are stable in their order.
                let due = peer.journal.pending.back().map_or(due, |(last, _)| due.max(*last));
                peer.journal.pending.push_back((due, Write::Call(Box::new(session), row)));
            }
        }
        while self.peers[p].journal.due().is_some_and(|due| due <= self.now) {
            if let Some((_, write)) = self.peers[p].journal.pending.pop_front() {
                self.written(p, write, true)?;
            }
        }
        Ok(())
    }

    /// How long a disk takes.
    fn write_time(rng: &mut crate::rng::Rng, calm: bool) -> u64 {
        if calm || !rng.one_in(4) { 0 } else { rng.delay(400 * MS) }
    }

    /// The oldest of what was being written is stable; the process may have died before it learns so.
    fn written(&mut self, p: usize, write: Write, alive: bool) -> Check {
        let peer = &mut self.peers[p];
        let disk = &mut peer.journal.disk;
        match write {
            Write::Call(session, row) => {
                self.kinds[Kind::Journaled as usize] += 1;
                self.trace
                    .note(|| format!("  the journal of c{p} has op {} as {}", row.op, row.xid));
                (disk.session, disk.xid_last) = (Some(*session), row.xid.get());
                disk.rows.retain(|old| old.op != row.op);
                disk.rows.push(row);
                if alive {
                    let now = peer.clock.read(self.now);
                    peer.client.journaled(now, session.id, row.xid);
                }
                Ok(())
            }
            Write::Outcome(call, op, end) => {
                disk.rows.retain(|old| old.op != op);
                if alive {
                    let now = peer.clock.read(self.now);
                    peer.client.settle(now, call);
                    peer.over(call);
                }
                self.learn(op, &end.outcome())
            }
        }
    }

    /// The machine of a durable client reports an outcome: its caller learns it when that is written.
    pub(super) fn note_outcome(&mut self, p: usize, call: CallId, op: u32, end: Final) -> Check {
        if !self.peers[p].journal.knows(op) {
            self.peers[p].over(call);
            return self.learn(op, &end.outcome());
        }
        let due = self.now + World::write_time(&mut self.rng, self.calm);
        let journal = &mut self.peers[p].journal;
        let due = journal.pending.back().map_or(due, |(last, _)| due.max(*last));
        journal.pending.push_back((due, Write::Outcome(call, op, end)));
        Ok(())
    }

    /// A caller learns an outcome, after an old copy perhaps once more.
    fn learn(&mut self, op: u32, outcome: &Outcome<'_>) -> Check {
        self.trace.note(|| format!("  op {op} ends as {outcome:?}"));
        match self.model.ops[op as usize].stage {
            Stage::Pending | Stage::Ticket => self.model.observe(op, outcome),
            _ => self.model.reported_again(op, outcome),
        }
    }

    /// The process of a durable client dies, and another one goes on from its journal, or from an old copy of it.
    pub(super) fn client_dies(&mut self, p: usize) -> Check {
        self.kinds[Kind::ClientCrash as usize] += 1;
        if let Some(l) = self.peers[p].link {
            self.links[l].held |= self.rng.one_in(2);
            self.leave(l);
        }
        let mut stable = self.rng.below(4);
        while stable > 0
            && let Some((_, write)) = self.peers[p].journal.pending.pop_front()
        {
            stable -= 1;
            self.written(p, write, false)?;
        }
        let peer = &mut self.peers[p];
        let (own, kept) = (peer.client.session(), peer.journal.disk.session);
        peer.journal.lost |= kept.is_some_and(|kept| own.is_none_or(|own| own.id != kept.id));
        let lost = std::mem::take(&mut self.peers[p].journal.pending);
        let has_copy = self.peers[p].journal.copy.is_some();
        let from_copy = has_copy && self.rng.one_in(3);
        self.trace.note(|| format!("c{p} dies; an old copy is put back: {from_copy}"));
        if from_copy {
            self.put_copy_back(p);
        } else if self.profile.old_journals && !self.profile.lossy && !has_copy {
            self.peers[p].journal.copy = Some(self.peers[p].journal.disk.clone());
        }
        let lost: Vec<u32> = lost.iter().map(|(_, write)| write.op()).collect();
        self.forget_unwritten(p, &lost, from_copy);
        self.restart_client(p)
    }

    /// What was not written was not sent; or, where an old copy was put back, it is not known any more.
    fn forget_unwritten(&mut self, p: usize, lost: &[u32], from_copy: bool) {
        let peer = &self.peers[p];
        let rows = &peer.journal.disk.rows;
        for op in peer.waits_for().chain(lost.iter().copied()) {
            let stage = &mut self.model.ops[op as usize].stage;
            let known = rows.iter().any(|row| row.op == op);
            if !known && matches!(stage, Stage::Pending | Stage::Ticket) {
                *stage = if from_copy { Stage::Ended } else { Stage::Never };
            }
        }
    }

    fn put_copy_back(&mut self, p: usize) {
        self.kinds[Kind::OldJournal as usize] += 1;
        let journal = &mut self.peers[p].journal;
        let Some(copy) = journal.copy.take() else { return };
        for row in std::mem::replace(&mut journal.disk, copy).rows {
            let stage = &mut self.model.ops[row.op as usize].stage;
            let known = journal.disk.rows.iter().any(|old| old.op == row.op);
            if !known && matches!(stage, Stage::Pending | Stage::Ticket) {
                *stage = Stage::Ended;
            }
        }
        journal.rolled_back = true;
        for session in journal.disk.session.iter().map(|session| session.id) {
            // What it had begun since is not known any more, and what has ended since may begin again.
            self.model.sessions[session_number(session) as usize].excused = true;
        }
        for row in &journal.disk.rows {
            let number = session_number(row.session) as usize;
            self.model.sessions[number].excused = true;
            let stage = &mut self.model.ops[row.op as usize].stage;
            if *stage == Stage::Never {
                *stage = Stage::Ended;
            }
        }
    }

    fn restart_client(&mut self, p: usize) -> Check {
        let mut config = self.profile.client;
        config.durable = true;
        // The new process has seen no newer time.
        self.peers[p].clock.latest.set(0);
        let now = self.peer_now(p);
        let peer = &mut self.peers[p];
        let disk = &peer.journal.disk;
        let client = match disk.session {
            None => Some(Client::new(config)),
            Some(session) => Client::restore(config, session, disk.xid_last),
        };
        let Some(client) = client else {
            ensure!(false, "c{p} cannot be restored from {disk:?}");
            return Ok(());
        };
        let mut rows = disk.rows.clone();
        rows.sort_unstable_by_key(|row| row.xid);
        let session = disk.session.map(|session| session.id);
        peer.start_again(client);
        peer.client.handle_timeout(now);
        peer.session = session.map(session_number);
        if let Some(number) = peer.session {
            self.model.sessions[number as usize].doubted = true;
        }
        for row in rows {
            if Some(row.session) != session {
                // Its session ended before, and the process before that was known.
                peer.journal.disk.rows.retain(|old| old.op != row.op);
                let unknown = Outcome::Unknown { why: Unknown::SessionEnded, ticket: false };
                match self.model.ops[row.op as usize].stage {
                    Stage::Pending | Stage::Ticket => self.model.observe(row.op, &unknown)?,
                    _ => self.model.reported_again(row.op, &unknown)?,
                }
                continue;
            }
            let (len, metadata) = body::write_call(row.op, usize::from(row.pad), &mut self.scratch);
            let mut call = Call::new(row.method, &self.scratch[..len]);
            (call.idempotent, call.metadata) = (row.idempotent, metadata);
            call.timeout = Duration::from_secs(30);
            let timeout = call.timeout.as_nanos() as u64;
            let id = peer.client.restore_call(now, row.xid, call);
            let Some(id) = id else {
                ensure!(false, "op {} of c{p} cannot be restored as {}", row.op, row.xid);
                continue;
            };
            let due = peer.clock.latest.get() + timeout;
            peer.made(id, row.op, false, due);
        }
        Ok(())
    }
}
