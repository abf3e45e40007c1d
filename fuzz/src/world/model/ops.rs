//! Operations: what has become of each, and whether what its client learns is true.

use oncewire_core::{NoReply, NotExecuted, Outcome};

use super::Model;
use crate::world::body;
use crate::world::trace::{Check, ensure};

/// How far an operation has come at its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No outcome yet.
    Pending,
    /// Unknown, with a ticket.
    Ticket,
    /// Its caller does not wait: one-way, or forgotten.
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

impl Model {
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

    /// An outcome has come.
    #[inline]
    pub fn observe(&mut self, number: u32, outcome: &Outcome<'_>) -> Check {
        let op = &self.ops[number as usize];
        ensure!(
            matches!(op.stage, Stage::Pending | Stage::Ticket),
            "op {number} has {outcome:?}, though it is {:?}",
            op.stage
        );
        self.reported_again(number, outcome)?;
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

    /// Whether what a caller learns is true; it may have learned it before.
    #[inline]
    pub fn reported_again(&self, number: u32, outcome: &Outcome<'_>) -> Check {
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
