//! What a journal holds when it is opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{Client as Machine, ClientConfig, Heap, Instant, Unknown};

use super::codec::{CallRow, SessionRow, decode_outcome};
use super::{Batch, Delivered, JournalState, JournaledCall, Recovered, Stage, call_of};
use crate::client::comparisons::Comparisons;
use crate::journal::{Journal, JournalError, JournalKey};
use crate::reply::RawOutcome;

impl JournalState {
    /// Reads a journal, and makes the machine that continues where the one before was.
    pub(in crate::client) fn open(
        journal: Arc<dyn Journal>,
        mut config: ClientConfig,
        now: Instant,
        timeout: Duration,
        comparisons: &mut Comparisons,
    ) -> Result<(JournalState, Machine<Heap>, Vec<Recovered>), JournalError> {
        config.durable = true;
        let found = Found::read(&*journal)?;
        let mut machine = match found.session {
            None => Machine::new(config),
            Some(row) => Machine::restore(config, row.session, row.xid_last)
                .ok_or_else(|| broken("the session"))?,
        };
        let session = found.session;
        let mut journal = JournalState {
            journal,
            calls: BTreeMap::new(),
            by_call: Vec::new(),
            next_number: found.calls.keys().next_back().map_or(1, |last| last + 1),
            left: found.calls.len() as u64,
            session,
            next: Batch::default(),
            in_flight: None,
            error: None,
            idle_wakers: Vec::new(),
        };
        let mut unfinished = Vec::new();
        let mut left = Vec::new();
        for (number, (row, outcome)) in found.calls {
            let CallRow { tag, method, .. } = row.clone();
            left.push(Recovered { number, tag: tag.clone(), method });
            let ready = |outcome| {
                let delivered = Delivered { outcome, stable: true };
                Stage::Ready { delivered, written: true }
            };
            let stage = match outcome {
                Some(outcome) => ready(outcome),
                None if session.is_some_and(|last| last.session.id == row.session) => {
                    unfinished.push((row.xid, number, row));
                    Stage::Written
                }
                // Its session was over before. The journal does not say whether a byte of it was sent.
                None => ready(RawOutcome::Unknown(Unknown::SessionEnded, false)),
            };
            let call = JournaledCall::new(tag, method, Bytes::new(), None, stage);
            journal.calls.insert(number, call);
        }
        unfinished.sort_by_key(|(xid, ..)| *xid);
        for (xid, number, row) in unfinished {
            let mut call = call_of(row.method, row.body.clone(), row.metadata, timeout);
            if let Some(compared) = &row.compared {
                comparisons.restore(&mut call, compared);
            }
            let call = machine.restore_call(now, xid, call).ok_or_else(|| broken("a call"))?;
            journal.number_call(call, number);
            if let Some(entry) = journal.calls.get_mut(&number) {
                (entry.body, entry.compared) = (row.body, row.compared);
            }
        }
        Ok((journal, machine, left))
    }
}

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
