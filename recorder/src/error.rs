//! Why a recording cannot be read.

use std::{fmt, io};

/// Why a recording cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// It does not begin as a recording does.
    NoRecording,
    /// It is of this version of the format, which this build does not read.
    Version(u8),
    /// The fields of a record of this kind make no sense.
    Malformed {
        /// The record's kind.
        kind: u8,
    },
    /// A record says that it is longer than any is.
    TooLong {
        /// The record's kind.
        kind: u8,
    },
    /// It holds more than is run through machines at once.
    TooMuch(&'static str),
    /// The file cannot be read.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::NoRecording => f.write_str("this is no recording"),
            ReadError::Version(version) => {
                write!(
                    f,
                    "the recording has version {version} of the format; this program reads version 1"
                )
            }
            ReadError::Malformed { kind } => {
                write!(f, "the recording is damaged: a record of kind {kind} makes no sense")
            }
            ReadError::TooLong { kind } => {
                write!(f, "the recording is damaged: a record of kind {kind} is too long")
            }
            ReadError::TooMuch(what) => {
                write!(f, "the recording holds more {what} than can be replayed")
            }
            ReadError::Io(error) => write!(f, "the recording cannot be read: {error}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReadError::Io(error) => Some(error),
            _ => None,
        }
    }
}
