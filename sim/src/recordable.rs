//! What a recorded call ends with.

use oncewire_driver::stream::UploadError;
use oncewire_driver::{CallFailure, Executed, Outcome};

/// How a recorded call has ended, as its caller knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedEnd {
    /// It was executed, and there is a reply.
    Replied,
    /// It was executed, perhaps in part, and there is no reply.
    NoReply,
    /// It was not executed.
    NotExecuted,
    /// It may have been executed.
    Unknown,
}

/// What [`Sim::record`](crate::Sim::record) can record: the outcome of a call, the result of an upload's commit, or a type of
/// yours that says the same.
pub trait Recordable {
    /// How it has ended.
    fn end(&self) -> RecordedEnd;

    /// The same for the trace, with the reason.
    fn text(&self) -> String;
}

impl<R> Recordable for Outcome<R> {
    fn end(&self) -> RecordedEnd {
        match self {
            Outcome::Reply(_) => RecordedEnd::Replied,
            Outcome::NoReply(_) => RecordedEnd::NoReply,
            Outcome::NotExecuted(_) => RecordedEnd::NotExecuted,
            Outcome::Unknown(..) => RecordedEnd::Unknown,
        }
    }

    fn text(&self) -> String {
        match self {
            Outcome::Reply(_) => "a reply".to_owned(),
            Outcome::NoReply(why) => format!("no reply: {why:?}"),
            Outcome::NotExecuted(why) => format!("not executed: {why:?}"),
            Outcome::Unknown(why, _) => format!("unknown: {why:?}"),
        }
    }
}

fn end_of(executed: Executed) -> RecordedEnd {
    match executed {
        Executed::Yes => RecordedEnd::NoReply,
        Executed::No => RecordedEnd::NotExecuted,
        Executed::Unknown => RecordedEnd::Unknown,
    }
}

impl<R> Recordable for Result<R, CallFailure> {
    fn end(&self) -> RecordedEnd {
        self.as_ref().map_or_else(|why| end_of(why.executed()), |_| RecordedEnd::Replied)
    }

    fn text(&self) -> String {
        self.as_ref().map_or_else(ToString::to_string, |_| "a reply".to_owned())
    }
}

/// Of [`Upload::commit`](oncewire_driver::stream::Upload::commit).
impl<R> Recordable for Result<R, UploadError> {
    fn end(&self) -> RecordedEnd {
        self.as_ref().map_or_else(|why| end_of(why.executed()), |_| RecordedEnd::Replied)
    }

    fn text(&self) -> String {
        self.as_ref().map_or_else(ToString::to_string, |_| "a reply".to_owned())
    }
}
