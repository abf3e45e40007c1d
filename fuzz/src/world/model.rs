//! The reference model: what must be true of every operation, every session and every kept byte.
//!
//! It records what servers execute and which outcomes clients report, and reads the frames that a server has taken, so
//! that it knows by itself what that server may keep. It shares no code with the machines but the frame decoder.

mod ops;
mod session;

use std::hash::{Hash, Hasher};

use oncewire_core::wire::{self, Decoded, Frame, ReplyHeader, Role};
use oncewire_core::{ServerCounters, Status};

use super::Violation;
use super::trace::{Check, ensure};
pub use ops::{How, Op, Stage};
use session::Slot;
pub use session::{Held, Page, Record, Recorded, SLOTS_MAX, Session};

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
    /// All sessions, by number; the session's id contains its number.
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
        ensure!(
            session.welcomed,
            "S2: xid {xid} was admitted before its session's Welcome had left"
        );
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
    pub fn executed(&mut self, op: u32, number: u32, xid: u64) -> Result<u32, Violation> {
        let session = &mut self.sessions[number as usize];
        let at = session.slot(xid);
        let slot = &mut session.slots[at];
        let op_now = &mut self.ops[op as usize];
        self.runs += 1;
        // An old journal gives a number again, and a server that was restarted may know nothing of it (S32).
        let given_again = slot.unrecorded && session.restored && session.excused;
        let may_repeat = op_now.idempotent || given_again;
        let first = if may_repeat { xid >= slot.executed } else { xid > slot.executed };
        ensure!(first, "xid {xid} ran after xid {} on its slot", slot.executed);
        (slot.executed, slot.unrecorded) = (xid, op_now.idempotent);
        ensure!(op_now.stage != Stage::Never, "op {op} ran; its client knows that it never does");
        ensure!(op_now.runs == 0 || op_now.idempotent, "op {op} ran twice");
        op_now.runs = op_now.runs.saturating_add(1);
        // An operation's executions are numbered apart from others': their order among themselves means nothing.
        op_now.run = u32::from(op_now.runs);
        op_now.how = How::Running;
        Ok(op_now.run)
    }

    /// The same at a server that has lost the session (S34), and continues with what it has started.
    pub fn executed_elsewhere(&mut self, op: u32) -> Result<u32, Violation> {
        let op_now = &mut self.ops[op as usize];
        self.runs += 1;
        ensure!(op_now.stage != Stage::Never, "op {op} ran; its client knows that it never does");
        ensure!(op_now.runs == 0 || op_now.idempotent, "op {op} ran twice");
        op_now.runs = op_now.runs.saturating_add(1);
        op_now.run = u32::from(op_now.runs);
        op_now.how = How::Running;
        Ok(op_now.run)
    }

    /// Another server has claimed a session (S34): what the one before has of it does not count any more.
    pub fn moved(&mut self, number: u32, to: usize) {
        let session = &mut self.sessions[number as usize];
        let holds = &mut self.holds[usize::from(session.host)];
        for slot in &mut session.slots {
            if slot.held == Held::Running {
                holds.hard -= u64::from(slot.bytes);
                holds.running -= 1;
            }
            Model::drop_slot(holds, slot);
            *slot = slot.emptied();
        }
        holds.sessions -= usize::from(session.alive);
        (session.alive, session.link, session.host) = (false, None, to as u8);
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
                Frame::Welcome(_) => session.welcomed = true,
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
            session.goodbye || over || session.faulty || !session.welcomed,
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
                *slot = slot.emptied();
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
        let emptied = session.slots[at].emptied();
        session.slots[at] = Slot { xid, bytes, held: Held::Kept, ..emptied };
        holds.hard += u64::from(bytes);
    }
}
