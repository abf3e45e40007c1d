//! Exit statuses, and the line on stderr that goes with each.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oncewire::{CallFailure, Executed};

use crate::address::Address;
use crate::tls::Problem;

/// What each exit status means, for `--help` and the manual. The README has the same table.
pub(crate) const STATUSES: &str = "\
Exit status:
   0  done; of a call: its reply is on stdout
   2  the command line is wrong, or a file that it names for an identity
  10  not executed: the arguments are no JSON
  11  not executed: they are no arguments of this method
  12  not executed: the server has no such method
  13  not executed: nothing answers there, or no relay can listen there
  14  not executed: what answers refuses the session, or is no Oncewire server
  15  not executed: the server does not offer what the command needs
  16  a file cannot be read or written, is in use, or is not what it should be
  17  not executed: the file of --durable holds another call
  20  not executed
  21  UNKNOWN whether executed: look before you call again
  22  executed, but there is no reply to show, or it could not be written
  23  stdout cannot be written
  24  not known yet: run the same command line with --durable again to learn it
  30  not executed: no TLS there, or no version of it and protocol in it that both ends speak
  31  not executed: the server's certificate is of an authority that is not trusted
  32  not executed: the server's certificate has expired, or is not valid yet
  33  not executed: the server's certificate is for another name
  34  not executed: the server demands a certificate, or does not accept this one
  35  not executed: TLS has failed otherwise";

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be.
    Usage(String),
    /// The arguments are no JSON.
    NoJson(String),
    /// They are no arguments of this method.
    WrongType { method: String, signature: String, why: String },
    /// The server has no such method; some that it has.
    NoSuchMethod { method: String, alike: Vec<String> },
    /// Nothing answers there.
    Unreachable { address: Address, why: String },
    /// What answers refuses the session, or is no Oncewire server.
    Refused { address: Address, why: String },
    /// TLS has failed.
    Tls { address: Address, problem: Problem, why: String },
    /// The file of a durable call holds another one.
    OtherCall { path: PathBuf, holds: String },
    /// Clients cannot connect here.
    Listen { address: Address, why: String },
    /// A file cannot be read or written, or is not what it should be.
    File { path: PathBuf, why: String },
    /// A journal cannot be used, as an error that names it says.
    Journal(String),
    /// The server does not offer what the command needs.
    NotOffered(&'static str),
    /// A call brought no reply: what it ended as, and a line about it.
    NoReply { executed: Executed, why: String },
    /// A durable call has no outcome yet.
    NotYet(String),
    /// What was found cannot be written to stdout.
    Unwritable(io::Error),
}

impl Failure {
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Usage(_) => 2,
            Failure::NoJson(_) => 10,
            Failure::WrongType { .. } => 11,
            Failure::NoSuchMethod { .. } => 12,
            Failure::Unreachable { .. } | Failure::Listen { .. } => 13,
            Failure::Refused { .. } => 14,
            Failure::NotOffered(_) => 15,
            Failure::File { .. } | Failure::Journal(_) => 16,
            Failure::OtherCall { .. } => 17,
            Failure::Tls { problem, .. } => problem.status(),
            Failure::NoReply { executed: Executed::No, .. } => 20,
            Failure::NoReply { executed: Executed::Unknown, .. } => 21,
            Failure::NoReply { executed: Executed::Yes, .. } => 22,
            Failure::Unwritable(_) => 23,
            Failure::NotYet(_) => 24,
        })
    }

    pub(crate) fn file(path: &Path, why: impl fmt::Display) -> Failure {
        Failure::File { path: path.to_owned(), why: why.to_string() }
    }

    /// A call of a built-in method had no reply.
    pub(crate) fn of_builtin(failure: CallFailure, wants: &'static str) -> Failure {
        match failure {
            CallFailure::NotExecuted(oncewire::NotExecuted::UnknownMethod) => {
                Failure::NotOffered(wants)
            }
            failure => Failure::NoReply { executed: failure.executed(), why: failure.to_string() },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(why) | Failure::NotYet(why) | Failure::Journal(why) => f.write_str(why),
            Failure::NoJson(why) => write!(f, "not executed: the arguments are no JSON: {why}"),
            Failure::WrongType { method, signature, why } => {
                write!(f, "not executed: wrong arguments: {why}; it is {method}{signature}")
            }
            Failure::NoSuchMethod { method, alike } if alike.is_empty() => {
                write!(
                    f,
                    "not executed: the server has no method {method}, or none with a signature"
                )
            }
            Failure::NoSuchMethod { method, alike } => {
                write!(
                    f,
                    "not executed: the server has no method {method}; it has {}",
                    alike.join(", ")
                )
            }
            Failure::Unreachable { address, why } => {
                write!(f, "cannot connect to {address}: {why}")
            }
            Failure::Tls { address, why, .. } => write!(f, "no TLS with {address}: {why}"),
            Failure::OtherCall { path, holds } => write!(
                f,
                "not executed: {} holds another call, {holds}: one file is for one call",
                path.display()
            ),
            Failure::Listen { address, why } => write!(f, "cannot listen on {address}: {why}"),
            Failure::File { path, why } => write!(f, "{}: {why}", path.display()),
            Failure::Refused { address, why } => write!(f, "no session at {address}: {why}"),
            Failure::NotOffered(wants) => write!(f, "the server was built without {wants}"),
            Failure::NoReply { why, .. } => f.write_str(why),
            Failure::Unwritable(why) => write!(f, "stdout cannot be written: {why}"),
        }
    }
}
