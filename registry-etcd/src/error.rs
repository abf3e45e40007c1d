//! What can go wrong at etcd, and whether what was asked for may have happened.

use std::fmt;

use oncewire_driver::Executed;

/// Why etcd did not do what was asked, or why that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdError {
    kind: EtcdErrorKind,
    executed: Executed,
    message: String,
}

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EtcdErrorKind {
    /// No endpoint answered in time, or none could: there is no leader, say. It may pass.
    Unavailable,
    /// The user, the password or the rights do not suffice.
    Denied,
    /// The lease has ended, or never was.
    LeaseNotFound,
    /// The revisions that were asked for have been compacted.
    Compacted,
    /// etcd refuses the request: it is full, say (`mvcc: database space exceeded`), or does not know it.
    Refused,
    /// What answered is no etcd, or its answer is longer than [`ANSWER_LEN_MAX`](crate::ANSWER_LEN_MAX).
    Malformed,
    /// The request cannot be sent: a name, a limit or an address is wrong. Nothing was sent.
    InvalidInput,
}

impl EtcdError {
    /// What kind of error it is.
    pub fn kind(&self) -> EtcdErrorKind {
        self.kind
    }

    /// Whether etcd has done what was asked. [`Unknown`](Executed::Unknown) where a request that changes something was sent and has
    /// no answer: it was not sent again, and may still take effect later. Read what it would have changed before you decide.
    pub fn executed(&self) -> Executed {
        self.executed
    }

    pub(crate) fn new(kind: EtcdErrorKind, message: impl Into<String>) -> EtcdError {
        EtcdError { kind, executed: Executed::No, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> EtcdError {
        EtcdError::new(EtcdErrorKind::InvalidInput, message)
    }

    pub(crate) fn malformed(message: impl Into<String>) -> EtcdError {
        EtcdError::new(EtcdErrorKind::Malformed, message)
    }

    /// The same, of a request that was sent and may have taken effect.
    pub(crate) fn in_doubt(mut self) -> EtcdError {
        self.executed = Executed::Unknown;
        self
    }

    /// What an error of etcd's own means: by its gRPC status, and where several share one by its text.
    pub(crate) fn answered(code: i64, text: &str) -> EtcdError {
        use EtcdErrorKind::{Compacted, Denied, LeaseNotFound, Refused, Unavailable};
        let kind = match code {
            // Canceled, DeadlineExceeded, Unavailable: the member, not the request. So are Unknown and Internal, which etcd does not
            // choose: it has no status for the error, as for a proposal that was dropped while the leader changed.
            1 | 2 | 4 | 13 | 14 => Unavailable,
            5 if text.contains("lease") => LeaseNotFound,
            7 | 16 => Denied,
            3 if text.contains("user name is empty")
                || text.contains("authentication failed")
                || text.contains("auth store is old") =>
            {
                Denied
            }
            11 if text.contains("compacted") => Compacted,
            _ => Refused,
        };
        // It is shown to people, and is a stranger's.
        let mut text: String = text.chars().take(TEXT_LEN_MAX).collect();
        text.retain(|char| !char.is_control());
        EtcdError::new(kind, format!("etcd: {}", text.trim_start_matches("etcdserver: ")))
    }

    /// Whether the member says that the request went no further: the leader gives way to another one just now.
    pub(crate) fn was_dropped(&self) -> bool {
        self.message.contains("raft proposal dropped")
    }

    /// Whether a new token may help: that of before was forgotten by a member that restarted, or has run out.
    pub(crate) fn wants_new_token(&self) -> bool {
        self.kind == EtcdErrorKind::Denied
            && (self.message.contains("invalid auth token")
                || self.message.contains("auth store is old"))
    }
}

/// Characters of an error's text from etcd that are kept.
const TEXT_LEN_MAX: usize = 300;

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.executed {
            Executed::Unknown => f.write_str(" (it may have taken effect)"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for EtcdError {}

impl From<EtcdError> for std::io::Error {
    fn from(error: EtcdError) -> std::io::Error {
        use std::io::ErrorKind;
        let kind = match error.kind {
            EtcdErrorKind::Unavailable => ErrorKind::NotConnected,
            EtcdErrorKind::Denied => ErrorKind::PermissionDenied,
            EtcdErrorKind::Malformed => ErrorKind::InvalidData,
            EtcdErrorKind::InvalidInput => ErrorKind::InvalidInput,
            _ => ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}
