//! What a journal holds when it is opened.

use std::collections::BTreeMap;

use super::codec::{CallRow, SessionRow, decode_outcome};
use crate::journal::{Journal, JournalError, JournalKey};
use crate::reply::RawOutcome;

/// What a journal holds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) session: Option<SessionRow>,
    pub(super) calls: BTreeMap<u64, (CallRow, Option<RawOutcome>)>,
}

impl Found {
    pub(super) fn read(journal: &dyn Journal) -> Result<Found, JournalError> {
        let mut found = Found::default();
        let mut outcomes = BTreeMap::new();
        let mut wrong = None;
        journal.recover(&mut |key, bytes| {
            let read = match key {
                JournalKey::Session => {
                    found.session = SessionRow::decode(bytes);
                    found.session.map(drop).ok_or("the session")
                }
                JournalKey::Call(number) => CallRow::decode(bytes)
                    .map(|row| drop(found.calls.insert(number, (row, None))))
                    .ok_or("a call"),
                JournalKey::Outcome(number) => decode_outcome(bytes)
                    .map(|outcome| drop(outcomes.insert(number, outcome)))
                    .ok_or("an outcome"),
            };
            wrong = wrong.or(read.err());
        })?;
        for (number, outcome) in outcomes {
            match found.calls.get_mut(&number) {
                Some((_, of_call)) => *of_call = Some(outcome),
                None => wrong = wrong.or(Some("an outcome")),
            }
        }
        match wrong {
            Some(what) => Err(broken(what)),
            None => Ok(found),
        }
    }
}

pub(super) fn broken(what: &str) -> JournalError {
    JournalError::new(format!(
        "the journal is corrupt: {what} in it cannot be decoded or does not fit the rest; what it held cannot be \
         learned from it"
    ))
}
