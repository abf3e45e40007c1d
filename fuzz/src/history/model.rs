//! The sequential programs: a register and an append log.

use serde::{Deserialize, Serialize};

use super::check::Model;
use crate::rng::mix;

/// A number that is written, read and swapped. It begins at 0.
#[derive(Clone, Copy, Debug)]
pub struct Register;

/// What a [`Register`] can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterCall {
    /// Returns the value.
    Read,
    /// Sets the value and returns it.
    Write(u64),
    /// Sets the value and returns the one before.
    Swap(u64),
}

impl Model for Register {
    type State = u64;
    type Call = RegisterCall;
    type Return = u64;

    fn initial() -> u64 {
        0
    }

    fn step(state: &u64, call: &RegisterCall) -> (u64, u64) {
        match *call {
            RegisterCall::Read => (*state, *state),
            RegisterCall::Write(value) => (value, value),
            RegisterCall::Swap(value) => (value, *state),
        }
    }
}

/// Elements in a row. It begins empty.
#[derive(Clone, Copy, Debug)]
pub struct Log;

/// What a [`Log`] can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogCall {
    /// Appends an element and returns what the log is then.
    Append(u64),
    /// Returns what the log is.
    Read,
}

/// A log, in short: its state and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogReturn {
    /// How many elements it has.
    pub len: u64,
    /// Which, and in which order.
    pub digest: u64,
}

impl Model for Log {
    type State = LogReturn;
    type Call = LogCall;
    type Return = LogReturn;

    fn initial() -> LogReturn {
        LogReturn::default()
    }

    fn step(state: &LogReturn, call: &LogCall) -> (LogReturn, LogReturn) {
        let after = match *call {
            LogCall::Read => *state,
            LogCall::Append(element) => {
                LogReturn { len: state.len + 1, digest: mix(state.digest ^ mix(element)) }
            }
        };
        (after, after)
    }
}

/// The digest of a log with these elements.
pub fn digest(elements: &[u64]) -> u64 {
    elements.iter().fold(0, |digest, element| mix(digest ^ mix(*element)))
}
