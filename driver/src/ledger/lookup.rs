//! What a ledger knows of one call: for an outcome that its client could not learn.

use std::fmt;

use oncewire_core::{NoReply, RecordState, Xid};

use super::entry::{CallEntry, SessionEntry};

/// What a ledger knows of one call. The tools of ledgers look it up by what a client's error says: session and xid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFound {
    /// It was executed, and its reply is kept.
    Done {
        /// Bytes of the reply.
        reply_len: usize,
    },
    /// It was executed, perhaps in part, and there is no reply to keep.
    NoReply(NoReply),
    /// It was started, and no end of it is recorded: it runs, if its server does, or was interrupted and may have been executed,
    /// wholly or in part. Only the data that it works on can tell.
    Started,
    /// There is no record of it, and no later call has taken its slot: it was not executed, if it is recorded or
    /// transactional and this is the ledger of the server that it was sent to; or its client has acknowledged its outcome, or it
    /// was refused, or it is idempotent.
    NoRecord,
    /// A later call has its slot: the client has learned its outcome.
    Settled {
        /// The later call.
        by: Xid,
    },
    /// The ledger has no such session: it has ended, by its client or by its lease, or was in another ledger.
    NoSession,
}

impl CallFound {
    /// What one record says of the call with this xid in `session`; `None` if the record is of another session, or of a call that
    /// says nothing of this one. If none of a ledger's records says anything, the call has [no record](CallFound::NoRecord).
    pub fn in_record(xid: Xid, session: &SessionEntry, entry: &CallEntry<'_>) -> Option<CallFound> {
        if entry.session != session.id {
            return None;
        }
        let there = entry.record.xid;
        if there == xid {
            return Some(match entry.record.state {
                RecordState::Started => CallFound::Started,
                RecordState::NoReply(why) => CallFound::NoReply(why),
                RecordState::Done(body) => CallFound::Done { reply_len: body.len() },
            });
        }
        let slots = u64::from(session.grants.slots.max(1));
        let has_its_slot = there > xid && there.get() % slots == xid.get() % slots;
        has_its_slot.then_some(CallFound::Settled { by: there })
    }
}

impl fmt::Display for CallFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFound::Done { reply_len } => {
                write!(f, "executed; a reply of {reply_len} bytes is kept")
            }
            CallFound::NoReply(why) => why.fmt(f),
            CallFound::Started => f.write_str(
                "started, without an end: it runs, if its server does, or was interrupted and may have been executed, wholly or in part; \
                 look at the data that it works on",
            ),
            CallFound::NoRecord => f.write_str(
                "no record: not executed, unless it is idempotent or its outcome was acknowledged",
            ),
            CallFound::Settled { by } => {
                write!(f, "settled: its client has learned its outcome, and call {by} has its place")
            }
            CallFound::NoSession => f.write_str(
                "no such session: it has ended, or was of another ledger; nothing is known of its calls",
            ),
        }
    }
}
