//! Why a server could not be built.

use std::fmt;

use oncewire_core::{MethodId, ServerError, ServerId};

use crate::ledger::LedgerError;

/// Why a server could not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The service's name has more than 64 bytes.
    ServiceNameTooLong {
        /// Its bytes.
        len: usize,
    },
    /// Who may call was said twice.
    GivenTwice {
        /// The function of the builder.
        option: &'static str,
    },
    /// The methods do not go together.
    Methods(ServerError),
    /// A transactional method is declared idempotent: what may run twice needs no record, and what has a record does not
    /// run twice.
    TransactionalIdempotent(MethodId),
    /// A transactional method has an option that would be without effect: its function runs in the ledger's transaction,
    /// one call at a time, and cannot be dropped half-way.
    TransactionalOption {
        /// Which method.
        method: MethodId,
        /// Which option.
        option: &'static str,
    },
    /// A method that takes an upload is declared [transactional](crate::stream::UploadMethod::transactional) and not offered so, or the
    /// other way round: its clients would never get it committed.
    #[cfg(feature = "stream")]
    UploadCommit {
        /// The method's name.
        method: &'static str,
        /// The function that offers it.
        offer: &'static str,
    },
    /// Hooks wrap handlers, and none of them is for this method: it would run without what they check.
    /// [`around`](crate::ServerBuilder::around) is not for transactional methods, and
    /// [`around_transactional`](crate::ServerBuilder::around_transactional) is for no others.
    WithoutHook {
        /// Which method.
        method: MethodId,
        /// Its name; empty if it has a number only.
        name: &'static str,
        /// The function that adds what is missing.
        missing: &'static str,
    },
    /// The configuration names a server id, and the ledger has another.
    OtherServerId {
        /// That of the configuration.
        configured: ServerId,
        /// The ledger's.
        ledger: ServerId,
    },
    /// A method may reply with more than the ledger can record.
    ReplyTooLongForLedger {
        /// Which method.
        method: MethodId,
        /// Bytes of its longest reply.
        len: u32,
        /// Bytes of the longest that the ledger can record.
        max: u32,
    },
    /// The ledger could not be read.
    Ledger(LedgerError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::ServiceNameTooLong { len } => {
                write!(f, "the service's name has {len} bytes, 64 are allowed")
            }
            BuildError::GivenTwice { option } => {
                write!(f, "`{option}` was given twice, and only one of the two can hold")
            }
            BuildError::Methods(error) => error.fmt(f),
            BuildError::TransactionalIdempotent(method) => {
                write!(f, "the transactional method {method} is declared idempotent")
            }
            BuildError::TransactionalOption { method, option } => {
                write!(f, "{option} cannot be had for the transactional method {method}")
            }
            #[cfg(feature = "stream")]
            BuildError::UploadCommit { method, offer } => {
                write!(f, "the upload {method} must be offered by `{offer}`, as it is declared")
            }
            BuildError::WithoutHook { method, name, missing } => {
                write!(
                    f,
                    "no hook is around the method {name}{}",
                    if name.is_empty() { "" } else { " " }
                )?;
                write!(f, "({method}), and others are wrapped: add one with `{missing}`")
            }
            BuildError::OtherServerId { configured, ledger } => write!(
                f,
                "the configuration names the server {configured}, the ledger belongs to {ledger}"
            ),
            BuildError::ReplyTooLongForLedger { method, len, max } => write!(
                f,
                "the method {method} declares replies of {len} bytes, and the ledger can record {max}: \
                 declare fewer (`Method::reply_len_max`), or make it idempotent"
            ),
            BuildError::Ledger(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BuildError {}
