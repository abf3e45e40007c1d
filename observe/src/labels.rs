//! Names that all observers of this crate use.

use oncewire_driver::Executed;
use oncewire_driver::observe::{MethodName, Verdict};

/// Method of a call whose name is not known: as many numbers as a stranger likes are one label.
pub(crate) const OTHER: &str = "_OTHER";

pub(crate) fn method(method: MethodName) -> &'static str {
    if method.name.is_empty() { OTHER } else { method.name }
}

pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Dropped => "dropped",
        Verdict::WhenDone => "when_done",
        Verdict::Kept => "kept",
        Verdict::NotSeen => "not_seen",
        _ => "other",
    }
}

#[cfg_attr(
    not(any(feature = "tracing", feature = "trace-context")),
    expect(dead_code, reason = "a field of spans")
)]
pub(crate) fn executed(executed: Executed) -> &'static str {
    match executed {
        Executed::Yes => "yes",
        Executed::No => "no",
        Executed::Unknown => "unknown",
    }
}
