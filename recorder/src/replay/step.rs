//! What a replay tells: one step for each thing that happened.

use oncewire_core::Executed;
use oncewire_core::wire::Role;

use crate::format::{Delivery, EndedBy};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Nanoseconds since the recording began.
    pub at: u64,
    /// The connection's number.
    pub conn: Option<u64>,
    /// The client, by its place in [`Story::clients`](super::Story::clients).
    pub client: Option<usize>,
    /// The call, by its number in its session.
    pub xid: Option<u64>,
    /// What happened.
    pub kind: StepKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepKind {
    /// A connection was made.
    Connected {
        /// Who it is.
        peer: String,
    },
    /// A connection is gone.
    Disconnected {
        /// Who ended it.
        by: EndedBy,
        /// Bytes of unfinished frames, from the client and from the server.
        rests: (u64, u64),
    },
    /// A frame left.
    Frame(FrameStep),
    /// Bytes that are no frames.
    Garbage {
        /// Who sent them.
        from: Role,
        /// How many.
        len: u64,
        /// What is wrong with them.
        why: String,
    },
    /// The server's machine has let a call run.
    Started,
    /// What the server's machine has decided of a request that came again, or of a question.
    Verdict {
        /// Whether it was a question.
        asked: bool,
        /// What it is.
        verdict: Decision,
        /// The same in words.
        text: String,
    },
    /// The server's machine has refused a call by itself.
    Refused(String),
    /// The server finished a call; its answer is kept.
    Finished(String),
    /// A call has an outcome at its client's machine.
    Outcome {
        /// Whether it was executed.
        executed: Executed,
        /// The outcome, in words.
        text: String,
    },
    /// A session was opened, resumed or is over; a connection was given up; in words.
    Event(Role, String),
    /// The recording and the machine that was run do not agree.
    Differs(String),
    /// Something that the recorder noted.
    Note(String),
    /// The server was started again.
    Restarted,
}

/// What a server's machine has decided of something that came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Dropped: its client has long had the answer.
    Dropped,
    /// Answered when the call is done.
    WhenDone,
    /// Answered with what is kept.
    Kept,
    /// Answered that no such request was read.
    NotSeen,
}

/// A frame that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameStep {
    /// Who sent it.
    pub from: Role,
    /// When it arrived, or was lost.
    pub arrives_at: u64,
    /// Whether it arrived.
    pub delivery: Delivery,
    /// Its kind.
    pub kind: FrameKind,
    /// Its kind and fields, in words.
    pub text: String,
    /// Its bytes.
    pub len: usize,
    /// A request's remaining time in milliseconds.
    pub remaining_ms: Option<u32>,
    /// The same request was sent before.
    pub again: bool,
    /// Bytes of its body, where bodies were recorded as they were.
    pub body: Option<Vec<u8>>,
}

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the protocol")]
pub enum FrameKind {
    Hello,
    Welcome,
    Refuse,
    Request,
    Reply,
    Ask,
    Ack,
    Cancel,
    Ping,
    Pong,
    Goodbye,
}

impl FrameKind {
    /// Whether it only keeps the connection, or the server's memory, in order.
    pub fn is_upkeep(self) -> bool {
        matches!(self, FrameKind::Ack | FrameKind::Ping | FrameKind::Pong)
    }
}
