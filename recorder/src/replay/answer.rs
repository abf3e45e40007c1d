//! What a server says that a recording can be compared with, and statuses in words.

use oncewire_core::Status;
use oncewire_core::wire::{self, Frame};

/// What the machine has sent and the recording was not compared with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Reply(u64, Status, Vec<u8>),
    Welcome(u64),
    Refuse(wire::Refuse),
}

impl Answer {
    pub(super) fn of(frame: &Frame<'_>) -> Option<Answer> {
        match frame {
            Frame::Reply(header, body) => {
                Some(Answer::Reply(header.xid.get(), header.status, body.to_vec()))
            }
            Frame::Welcome(welcome) => Some(Answer::Welcome(welcome.seen)),
            Frame::Refuse(why, _) => Some(Answer::Refuse(*why)),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Answer::Reply(xid, status, body) => {
                format!("Reply {xid}, {}, {} bytes", describe(*status), body.len())
            }
            Answer::Welcome(seen) => format!("Welcome, having seen {seen}"),
            Answer::Refuse(why) => format!("Refuse: {why}"),
        }
    }
}

/// A status in words.
pub(super) fn describe(status: Status) -> String {
    match status {
        Status::Done => "executed".to_owned(),
        Status::NoReply(why) => why.to_string(),
        Status::Refused(why) => why.to_string(),
        Status::NotSeen { .. } => "not seen: the server has not read this request".to_owned(),
        Status::Interrupted => {
            "unknown whether executed: the server crashed while it ran".to_owned()
        }
    }
}
