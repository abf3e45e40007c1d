//! The reference model: what must be true of every operation, every session and every kept byte.
//!
//! It records what servers execute and which outcomes clients report, and reads the frames that a server has taken, so
//! that it knows by itself what that server may keep. It shares no code with the machines but the frame decoder.

use std::hash::{Hash, Hasher};

use oncewire_core::wire::{self, Decoded, Frame, ReplyHeader, Role};
use oncewire_core::{NoReply, NotExecuted, Outcome, ServerCounters, SessionRecord, Status};

use super::body;
use super::trace::{Check, ensure};

/// Most slots of a session in the world.
pub const SLOTS_MAX: usize = 8;

/// How far an operation has come at its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No outcome yet.
    Pending,
    /// Unknown, with a ticket.
    Ticket,
    /// Nobody listens: one-way, or forgotten.
    Unheard,
    /// Never begun, or not executed: it must never run.
    Never,
    /// It has another final outcome.
    Ended,
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// Not yet.
    Running,
    /// With a reply of so many bytes.
    Replied(u16),
    /// Aborted.
    Aborted,
    /// With a reply that was too large.
    TooLarge,
}

/// One operation.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Op {
    /// Whose.
    pub peer: u8,
    /// May run more than once.
    pub idempotent: bool,
    /// Reports nothing.
    pub one_way: bool,
    /// At its client.
    pub stage: Stage,
    /// Executions.
    pub runs: u8,
    /// How the last one ended.
    pub how: How,
    /// Number of the last one.
    pub run: u32,
}

/// What stands on a slot at the server, as the model has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Held {
    /// Nothing.
    #[default]
    Nothing,
    /// A call admitted or running.
    Running,
    /// An answer.
    Kept,
    /// The answer of an idempotent call, whose body may go at any time.
    Soft,
}

#[derive(Clone, Copy, Debug, Default, Hash)]
struct Slot {
    xid: u64,
    /// The last xid executed on it, in any life of the server.
    executed: u64,
    bytes: u32,
    held: Held,
}

/// How far a recorded call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recorded {
    /// Started.
    Started,
    /// Done, by this execution of this operation, with so many bytes of reply.
    Done(u32, u32, u16),
    /// Finished without a reply to show.
    NoReply(NoReply),
}

/// What the ledger has of one slot.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Record {
    /// The call's number.
    pub xid: u64,
    /// Its request's digest.
    pub digest: u64,
    /// How far it had come.
    pub state: Recorded,
}

/// What the ledger has of one session.
#[derive(Clone, Debug, Hash)]
pub struct Page {
    /// The session.
    pub session: SessionRecord,
    /// The last record of each slot.
    pub records: [Option<Record>; SLOTS_MAX],
}

/// One session.
#[derive(Clone, Debug, Default, Hash)]
pub struct Session {
    /// Where it was opened.
    pub host: u8,
    /// Whether its server has it.
    pub alive: bool,
    /// The connection that it is bound to.
    pub link: Option<usize>,
    /// When it lost its connection, on its server's clock.
    pub alone_since: u64,
    /// Whether it carried a request, or is on a disk: its lease is the full one.
    pub used: bool,
    /// Its `Welcome` has left its server.
    pub told: bool,
    /// The `Hello` of its connection was read.
    greeted: bool,
    /// Its client said `Goodbye`.
    pub goodbye: bool,
    /// It came back from a ledger, where holes may be.
    pub restored: bool,
    /// Its client went on from a journal: what that has and this server has not may come behind later calls (S13).
    pub doubted: bool,
    /// Something has happened after which its client may not be able to learn what became of its calls.
    pub excused: bool,
    slots_granted: u64,
    acked: u64,
    admitted: u64,
    slots: [Slot; SLOTS_MAX],
    /// What the ledger has of it.
    pub page: Option<Box<Page>>,
}

/// What one server holds, as the model has it.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Holds {
    /// Bytes reserved or kept for calls that are not idempotent, or run.
    pub hard: u64,
    /// Bytes that may also be kept, for idempotent calls that are done.
    pub soft: u64,
    /// Calls admitted or running.
    pub running: u64,
    /// Sessions.
    pub sessions: usize,
}

/// Everything the model knows.
#[derive(Debug, Default, Clone)]
pub struct Model {
    /// All operations, by number.
    pub ops: Vec<Op>,
    /// All sessions, by number; a number stands in the session's id.
    pub sessions: Vec<Session>,
    /// By server.
    pub holds: [Holds; 2],
    /// Executions.
    pub runs: u32,
    /// Links lose frames: S13 does not hold there.
    pub lossy: bool,
    /// Session and xid of the last request read, if it was a new one.
    pub fresh: (u32, u64),
    /// Frames that servers have read.
    pub frames: u64,
    /// Outcomes by kind: reply, no reply, not executed, unknown with and without a ticket.
    pub outcomes: [u64; 5],
    /// Whether a restored server may hold more than its budget, and how much.
    pub kept_floor: [u64; 2],
}

impl Session {
    fn slot(&self, xid: u64) -> usize {
        (xid % self.slots_granted.max(1)) as usize % SLOTS_MAX
    }

    /// Whether nothing is kept for it.
    pub fn holds_nothing(&self) -> bool {
        self.slots.iter().all(|slot| slot.bytes == 0)
    }

    /// A ledger has it: from now on its lease is the full one (C81).
    pub fn record(&mut self, session: SessionRecord) {
        self.used = true;
        self.page.get_or_insert_with(|| Box::new(Page { session, records: [None; SLOTS_MAX] }));
    }

    /// Whether an answer is kept under this number.
    pub fn keeps(&self, xid: u64) -> bool {
        let slot = &self.slots[self.slot(xid)];
        slot.xid == xid && matches!(slot.held, Held::Kept)
    }

    /// Whether the call with this number was the last one executed on its slot.
    pub fn has_run(&self, xid: u64) -> bool {
        self.slots[self.slot(xid)].executed == xid
    }

    /// How many slots it was granted.
    pub fn grant(&mut self, slots: u32) {
        self.slots_granted = u64::from(slots);
    }

    /// Writes a record, unless one of a later xid stands there (S28).
    pub fn write(&mut self, session: SessionRecord, record: Record) {
        let at = self.slot(record.xid);
        let page =
            self.page.get_or_insert_with(|| Box::new(Page { session, records: [None; SLOTS_MAX] }));
        page.session = session;
        if page.records[at].is_none_or(|old| old.xid <= record.xid) {
            page.records[at] = Some(record);
        }
    }
}

impl Hash for Model {
    /// What decides what may happen from now on, not what has been counted.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.ops, &self.sessions, &self.holds, &self.kept_floor).hash(state);
    }
}

impl Model {
    /// Forgets everything, and keeps the memory.
    pub fn clear(&mut self) {
        let (mut ops, mut sessions) =
            (std::mem::take(&mut self.ops), std::mem::take(&mut self.sessions));
        ops.clear();
        sessions.clear();
        *self = Model { ops, sessions, ..Model::default() };
    }

    /// A new operation.
    #[inline]
    pub fn begin(&mut self, peer: usize, idempotent: bool, one_way: bool) -> u32 {
        let stage = if one_way { Stage::Unheard } else { Stage::Pending };
        self.ops.push(Op {
            peer: peer as u8,
            idempotent,
            one_way,
            stage,
            runs: 0,
            how: How::Running,
            run: 0,
        });
        (self.ops.len() - 1) as u32
    }

    /// Whether a server holds what it should, and no more than its budget; `exact` if nothing was damaged.
    pub fn check_held(&self, h: usize, held: &ServerCounters, kept_max: u64, exact: bool) -> Check {
        let holds = &self.holds[h];
        let budget = kept_max.max(self.kept_floor[h]);
        ensure!(held.kept_bytes <= budget, "S11: s{h} keeps {held:?}");
        if exact {
            let (hard, soft) = (holds.hard, holds.soft);
            ensure!(
                (hard..=hard + soft).contains(&(held.kept_bytes - held.half_sent_bytes)),
                "s{h} keeps {} bytes, {} of them half sent, the model {hard} to {}",
                held.kept_bytes,
                held.half_sent_bytes,
                hard + soft
            );
            ensure!(
                held.running == holds.running,
                "s{h} runs {} calls, the model {}",
                held.running,
                holds.running
            );
        }
        Ok(())
    }

    // What the server reads.

    fn drop_slot(holds: &mut Holds, slot: &mut Slot) {
        match slot.held {
            Held::Kept => holds.hard -= u64::from(slot.bytes),
            Held::Soft => holds.soft -= u64::from(slot.bytes),
            Held::Nothing | Held::Running => return,
        }
        slot.held = Held::Nothing;
        slot.bytes = 0;
    }

    fn acknowledge(holds: &mut Holds, session: &mut Session, acked: u64) {
        if acked > session.acked {
            session.acked = acked;
            for slot in &mut session.slots {
                if slot.xid <= acked {
                    Model::drop_slot(holds, slot);
                }
            }
        }
    }

    /// Reads along whole frames that a server has taken from a connection of a session.
    #[inline]
    pub fn read(&mut self, number: u32, mut bytes: &[u8]) {
        let session = &mut self.sessions[number as usize];
        let holds = &mut self.holds[usize::from(session.host)];
        while bytes.len() >= wire::REQUEST_HEADER_LEN && bytes[4] == 2 {
            let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8"));
            let (xid, acked) = (field(16), field(24));
            let len = u32::from_le_bytes(bytes[..4].try_into().expect("4")) as usize + 4;
            self.frames += 1;
            session.used = true;
            Model::acknowledge(holds, session, acked);
            let at = session.slot(xid);
            let slot = &mut session.slots[at];
            if xid > session.acked && xid > slot.xid {
                Model::drop_slot(holds, slot);
                slot.xid = xid;
                slot.held = Held::Kept;
                self.fresh = (number, xid);
            } else {
                self.fresh = (u32::MAX, 0);
            }
            bytes = &bytes[len.min(bytes.len())..];
        }
        if let Ok(Decoded::Frame(frame, len)) = wire::decode(bytes, Role::Client, u32::MAX / 2) {
            self.frames += 1;
            Model::read_control(holds, session, &frame);
            self.read(number, &bytes[len..]);
        }
    }

    fn read_control(holds: &mut Holds, session: &mut Session, frame: &Frame<'_>) {
        match frame {
            // W63: of a second one on its connection nothing comes.
            Frame::Hello(hello) if !session.greeted => {
                session.greeted = true;
                session.goodbye = false;
                Model::acknowledge(holds, session, hello.resume.map_or(0, |resume| resume.acked));
            }
            Frame::Ask(xid, _) => {
                let at = session.slot(xid.get());
                if xid.get() > session.acked && xid.get() > session.slots[at].xid {
                    Model::drop_slot(holds, &mut session.slots[at]);
                }
            }
            Frame::Ack(ack) => {
                Model::acknowledge(holds, session, ack.acked);
                for bit in 0..64usize {
                    let at = ack.base as usize + bit;
                    // A copy that came late says nothing of what was sent since (W25).
                    let older = session.slots.get(at).is_some_and(|slot| slot.xid <= ack.last);
                    if ack.settled & (1 << bit) != 0 && older {
                        Model::drop_slot(holds, &mut session.slots[at]);
                    }
                }
            }
            Frame::Goodbye(_) => session.goodbye = true,
            _ => {}
        }
    }

    // What the server does.

    /// A call was admitted, with so many bytes reserved.
    #[inline]
    pub fn admitted(&mut self, number: u32, xid: u64, idempotent: bool, bytes: u32) -> Check {
        let session = &mut self.sessions[number as usize];
        let holds = &mut self.holds[usize::from(session.host)];
        let at = session.slot(xid);
        let slot = &mut session.slots[at];
        ensure!(slot.xid == xid, "xid {xid} was admitted on the slot of {}", slot.xid);
        // S10, S12: what was answered, or refused, is never admitted again.
        let new = self.fresh == (number, xid) || idempotent;
        ensure!(new, "xid {xid} was admitted again: {slot:?}");
        ensure!(slot.held != Held::Running, "xid {xid} was admitted while it runs");
        ensure!(xid > session.acked, "xid {xid} was admitted, at or below X {}", session.acked);
        Model::drop_slot(holds, slot);
        slot.held = Held::Running;
        slot.bytes = bytes;
        holds.hard += u64::from(bytes);
        holds.running += 1;
        ensure!(session.told, "S2: xid {xid} was admitted before its session's Welcome had left");
        let in_order = xid > session.admitted
            || idempotent
            || session.restored
            || session.doubted
            || self.lossy;
        ensure!(in_order, "S13: xid {xid} was admitted after {}", session.admitted);
        session.admitted = session.admitted.max(xid);
        Ok(())
    }

    /// A call that was admitted has been answered or refused; `bytes` of its reply are kept.
    #[inline]
    pub fn finished(&mut self, number: u32, xid: u64, idempotent: bool, bytes: u32) -> Check {
        let session = &mut self.sessions[number as usize];
        let holds = &mut self.holds[usize::from(session.host)];
        let at = session.slot(xid);
        let slot = &mut session.slots[at];
        ensure!(
            slot.xid == xid && slot.held == Held::Running,
            "xid {xid} finished, but its slot has {slot:?}"
        );
        holds.hard -= u64::from(slot.bytes);
        holds.running -= 1;
        slot.bytes = bytes;
        if idempotent {
            slot.held = Held::Soft;
            holds.soft += u64::from(bytes);
        } else {
            slot.held = Held::Kept;
            holds.hard += u64::from(bytes);
        }
        Ok(())
    }

    /// An operation runs, or its effects become stable: returns the execution's number.
    #[inline]
    pub fn executed(&mut self, op: u32, number: u32, xid: u64) -> Result<u32, super::Violation> {
        let session = &mut self.sessions[number as usize];
        let at = session.slot(xid);
        let slot = &mut session.slots[at];
        let op_now = &mut self.ops[op as usize];
        self.runs += 1;
        let first = if op_now.idempotent { xid >= slot.executed } else { xid > slot.executed };
        ensure!(first, "xid {xid} ran after xid {} on its slot", slot.executed);
        slot.executed = xid;
        ensure!(op_now.stage != Stage::Never, "op {op} ran; its client knows that it never does");
        ensure!(op_now.runs == 0 || op_now.idempotent, "op {op} ran twice");
        op_now.runs = op_now.runs.saturating_add(1);
        // An operation's executions are numbered apart from others': their order among themselves means nothing.
        op_now.run = u32::from(op_now.runs);
        op_now.how = How::Running;
        Ok(op_now.run)
    }

    /// A server has a session, bound to this connection.
    pub fn bound(&mut self, number: u32, host: usize, link: usize, slots: u32) {
        let session = &mut self.sessions[number as usize];
        if !session.alive {
            session.alive = true;
            session.host = host as u8;
            session.grant(slots);
            self.holds[host].sessions += 1;
        }
        session.link = Some(link);
        (session.goodbye, session.greeted) = (false, false);
    }

    /// A server has written these bytes on a connection of a session. Returns for how many calls it says that its ledger
    /// has nothing of them.
    pub fn wrote(&mut self, number: u32, mut bytes: &[u8]) -> u64 {
        let session = &mut self.sessions[number as usize];
        let mut holes = 0;
        while let Ok(Decoded::Frame(frame, len)) = wire::decode(bytes, Role::Server, 1 << 20) {
            match frame {
                Frame::Welcome(_) => session.told = true,
                Frame::Reply(ReplyHeader { status: Status::NotSeen { .. }, .. }, _) => holes += 1,
                _ => {}
            }
            if !session.restored {
                break;
            }
            bytes = &bytes[len..];
        }
        holes * u64::from(session.restored)
    }

    /// A connection of a session has ended at its server.
    pub fn unbound(&mut self, number: u32, link: usize, now: u64) {
        let session = &mut self.sessions[number as usize];
        if session.link == Some(link) {
            session.link = None;
            session.alone_since = now;
        }
    }

    /// S6: a server has ended a session.
    pub fn session_ended(&mut self, number: u32, now: u64, lease: (u64, u64)) -> Check {
        let session = &mut self.sessions[number as usize];
        let holds = &mut self.holds[usize::from(session.host)];
        let lease = if session.used { lease.0 } else { lease.1 };
        let over = session.link.is_none() && now.saturating_sub(session.alone_since) >= lease;
        ensure!(session.alive, "session {number} ended twice");
        ensure!(
            session.goodbye || over || !session.told,
            "S6: session {number} ended early: {:?}, {} ns alone",
            session.link,
            now.saturating_sub(session.alone_since)
        );
        for slot in &mut session.slots {
            ensure!(slot.held != Held::Running, "S6: session {number} ended while {slot:?} runs");
            // S6: kept until acknowledged, or the lease.
            let lost = session.goodbye && !over && slot.held == Held::Kept;
            ensure!(!lost, "S6: session {number} ended with {slot:?} kept");
            Model::drop_slot(holds, slot);
        }
        session.excused |= over;
        session.alive = false;
        session.link = None;
        session.page = None;
        holds.sessions -= 1;
        Ok(())
    }

    /// A server's process has died; nothing of it is left but pages of its ledger.
    pub fn died(&mut self, host: usize) {
        self.holds[host] = Holds::default();
        for session in self.sessions.iter_mut().filter(|s| usize::from(s.host) == host) {
            session.alive = false;
            session.link = None;
            for slot in &mut session.slots {
                *slot = Slot { executed: slot.executed, ..Slot::default() };
            }
        }
    }

    /// A server has taken a session back from its ledger.
    pub fn restored(&mut self, number: u32, acked: u64, now: u64) {
        let session = &mut self.sessions[number as usize];
        self.holds[usize::from(session.host)].sessions += 1;
        (session.alive, session.restored, session.used) = (true, true, true);
        (session.acked, session.alone_since, session.goodbye) = (acked, now, false);
    }

    /// A server has taken a call back from its ledger.
    pub fn restored_call(&mut self, number: u32, xid: u64, bytes: u32) {
        let session = &mut self.sessions[number as usize];
        let holds = &mut self.holds[usize::from(session.host)];
        let at = session.slot(xid);
        let executed = session.slots[at].executed;
        session.slots[at] = Slot { xid, executed, bytes, held: Held::Kept };
        holds.hard += u64::from(bytes);
    }

    // What the client is told.

    /// An outcome has come.
    #[inline]
    pub fn told(&mut self, number: u32, outcome: &Outcome<'_>) -> Check {
        let op = &self.ops[number as usize];
        ensure!(
            matches!(op.stage, Stage::Pending | Stage::Ticket),
            "op {number} has {outcome:?}, though it is {:?}",
            op.stage
        );
        self.told_again(number, outcome)?;
        let op = &mut self.ops[number as usize];
        let kind = match outcome {
            Outcome::Reply(_) => 0,
            Outcome::NoReply(_) => 1,
            Outcome::NotExecuted(_) => 2,
            Outcome::Unknown { ticket, .. } => {
                ensure!(
                    !ticket || op.stage == Stage::Pending,
                    "op {number} has {outcome:?} for the second time"
                );
                3 + usize::from(!ticket)
            }
        };
        op.stage = [Stage::Ended, Stage::Ended, Stage::Never, Stage::Ticket, Stage::Ended][kind];
        self.outcomes[kind] += 1;
        Ok(())
    }

    /// Whether what a caller is told is true; it may have been told before.
    #[inline]
    pub fn told_again(&self, number: u32, outcome: &Outcome<'_>) -> Check {
        let op = &self.ops[number as usize];
        match outcome {
            Outcome::Reply(bytes) => {
                let (of, run) = body::read_reply(bytes).unwrap_or((u32::MAX, 0));
                let same = op.how == How::Replied(bytes.len() as u16) && op.run == run;
                ensure!(
                    op.runs > 0 && of == number && (same || op.idempotent),
                    "op {number} has the reply of op {of}, execution {run}: {op:?}"
                );
            }
            Outcome::NoReply(why) => {
                let true_why = match why {
                    NoReply::Aborted => op.how == How::Aborted || op.idempotent,
                    NoReply::ReplyTooLarge => op.how == How::TooLarge || op.idempotent,
                    NoReply::NotKept => op.idempotent,
                    _ => false,
                };
                ensure!(op.runs > 0 && true_why, "op {number} has {outcome:?}: {op:?}");
            }
            Outcome::NotExecuted(why) => {
                ensure!(op.runs == 0, "op {number} has {outcome:?}, and ran: {op:?}");
                ensure!(*why != NotExecuted::LedgerFailed, "no ledger failed");
            }
            Outcome::Unknown { .. } => {}
        }
        Ok(())
    }
}
