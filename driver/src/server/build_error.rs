//! Why a server could not be built.

use std::fmt;

use oncewire_core::{MethodId, MethodSpec, ServerError, ServerId};

use super::handler::MethodEntry;
use crate::ledger::LedgerError;
use crate::observe::MethodName;

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
    /// Two methods have one number: a method is offered twice, or the hashes of two names are the same.
    DuplicateMethod {
        /// One of them.
        first: MethodName,
        /// The other one.
        second: MethodName,
    },
    /// The methods do not go together.
    Methods(ServerError),
    /// A transactional method is declared idempotent: what may run twice needs no record, and what has a record does not
    /// run twice.
    TransactionalIdempotent(MethodName),
    /// A transactional method has an option that would be without effect: its function runs in the ledger's transaction,
    /// one call at a time, and cannot be dropped half-way.
    TransactionalOption {
        /// Which method.
        method: MethodName,
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
        method: MethodName,
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
            BuildError::DuplicateMethod { first, second } if first == second => {
                write!(f, "the method {first} is offered twice")
            }
            BuildError::DuplicateMethod { first, second } => write!(
                f,
                "the methods {first} and {second} have the same number, {}: give one of them another name",
                first.id
            ),
            BuildError::Methods(error) => error.fmt(f),
            BuildError::TransactionalIdempotent(method) => write!(
                f,
                "the transactional method {method} is declared idempotent: what has a record does not run twice; leave out one of the two"
            ),
            BuildError::TransactionalOption { method, option } => write!(
                f,
                "the transactional method {method} cannot have `{option}`: it runs on the ledger's thread, one call at a time, and cannot be \
                 dropped half-way"
            ),
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

/// A method as a builder has it.
type OfferedMethod = (MethodSpec, MethodEntry);

/// Checks that no transactional method asks for what it cannot have.
pub(super) fn check_transactional(
    methods: &[OfferedMethod],
    transactional: &[MethodId],
) -> Result<(), BuildError> {
    let is_transactional = |id: MethodId| transactional.contains(&id);
    if let Some(method) =
        methods.iter().find(|(spec, _)| spec.idempotent && is_transactional(spec.id))
    {
        return Err(BuildError::TransactionalIdempotent(name_of(method)));
    }
    for method in methods.iter().filter(|(spec, _)| is_transactional(spec.id)) {
        if let Some(option) = method.1.options.not_transactional() {
            return Err(BuildError::TransactionalOption { method: name_of(method), option });
        }
    }
    Ok(())
}

/// Checks that the ledger can record the longest reply of each method that it records.
pub(super) fn check_recorded(methods: &[OfferedMethod], max: u32) -> Result<(), BuildError> {
    let is_too_long = |(spec, _): &&OfferedMethod| !spec.idempotent && spec.reply_len_max > max;
    let too_long = |method: &OfferedMethod| {
        let (method, len) = (name_of(method), method.0.reply_len_max);
        BuildError::ReplyTooLongForLedger { method, len, max }
    };
    methods.iter().find(is_too_long).map_or(Ok(()), |method| Err(too_long(method)))
}

fn name_of((spec, entry): &OfferedMethod) -> MethodName {
    MethodName::new(spec.id, entry.name)
}

/// Why the machine does not take these methods, with their names.
pub(super) fn not_made(error: ServerError, methods: &[OfferedMethod]) -> BuildError {
    let ServerError::DuplicateMethod(id) = error else { return BuildError::Methods(error) };
    let mut of_number = methods.iter().filter(|(spec, _)| spec.id == id).map(name_of);
    match (of_number.next(), of_number.next()) {
        (Some(first), Some(second)) => BuildError::DuplicateMethod { first, second },
        _ => BuildError::Methods(error),
    }
}
