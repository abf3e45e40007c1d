//! How a plugin ended, in words.

use std::fmt::{self, Write};
use std::process::ExitStatus;
use std::sync::Arc;

use oncewire_driver::{CallFailure, Executed};

/// Bytes of what came in place of the protocol that are quoted.
pub(super) const QUOTED_LEN_MAX: usize = 80;

/// How a run of a plugin ended, or why there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginEnd {
    /// What happened.
    pub why: EndReason,
    /// The program's exit status, or the signal that ended it; `None` if it could not be started.
    pub status: Option<ExitStatus>,
    /// Its last lines on stderr, five at most.
    pub stderr: Vec<String>,
}

/// Why a run of a plugin ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The program ended by itself, or something else killed it.
    Ended,
    /// It wrote something else than the protocol to its stdout, which began with these bytes, and was killed.
    Garbage(Vec<u8>),
    /// It closed its stdin or stdout, lived on, and was killed.
    ClosedPipe,
    /// Its connection had ended: it broke the protocol later, or was given up. It did not end by itself, and was killed.
    Disconnected,
    /// Its host stopped it, or asked for a restart.
    Stopped,
    /// The program could not be started.
    NotStarted(String),
}

impl fmt::Display for PluginEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            EndReason::Ended => match (self.status, self.status.and_then(|status| status.code())) {
                (_, Some(code)) => write!(f, "the program ended with status {code}")?,
                (Some(status), None) => write!(f, "the program was killed by {status}")?,
                (None, None) => f.write_str("the program ended")?,
            },
            EndReason::Garbage(bytes) => {
                f.write_str("the program wrote something else than Oncewire to its stdout: ")?;
                quote(bytes, f)?;
            }
            EndReason::ClosedPipe => {
                f.write_str("the program closed its stdin or stdout, and was killed")?;
            }
            EndReason::Disconnected => {
                f.write_str("the program did not end with its connection, and was killed")?;
            }
            EndReason::Stopped => return f.write_str("its host stopped it"),
            EndReason::NotStarted(error) => return f.write_str(error),
        }
        if self.stderr.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.stderr.join(" | "))
    }
}

/// Text as it is, all else escaped.
fn quote(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for byte in &bytes[..bytes.len().min(QUOTED_LEN_MAX)] {
        write!(f, "{}", byte.escape_ascii())?;
    }
    f.write_str(if bytes.len() > QUOTED_LEN_MAX { "…\"" } else { "\"" })
}

/// A failed call, with what became of its plugin: see [`Plugin::explain`](super::Plugin::explain).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginFailure {
    /// What became of the call.
    pub call: CallFailure,
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// How the plugin last ended, if that can be why the call failed.
    pub end: Option<PluginEnd>,
}

impl PluginFailure {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        self.call.executed()
    }
}

impl fmt::Display for PluginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)?;
        match &self.end {
            Some(end) => write!(f, "; plugin {}: {end}", self.plugin),
            None => write!(f, "; plugin {}", self.plugin),
        }
    }
}

impl std::error::Error for PluginFailure {}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn an_end_is_a_sentence() {
        let end = |why, wait_status| PluginEnd {
            why,
            status: Some(ExitStatus::from_raw(wait_status)),
            stderr: Vec::new(),
        };
        let with_stderr = PluginEnd {
            stderr: vec!["no config".to_owned(), "bye".to_owned()],
            ..end(EndReason::Ended, 1 << 8)
        };
        let banner = b"Welcome to \x1b[1mthumb\n".to_vec();
        for (end, text) in [
            (with_stderr, "the program ended with status 1: no config | bye"),
            (end(EndReason::Ended, 11), "the program was killed by signal: 11 (SIGSEGV)"),
            (
                end(EndReason::Garbage(banner), 9),
                "the program wrote something else than Oncewire to its stdout: \"Welcome to \\x1b[1mthumb\\n\"",
            ),
            (end(EndReason::Stopped, 9), "its host stopped it"),
        ] {
            assert_eq!(end.to_string(), text);
        }
    }
}
