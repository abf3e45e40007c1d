//! Whether the journals of clients and servers agree.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::Path;

use super::journal::{Key, Links, Observed, Ran, Receipt, Said, read_ran, read_said};

/// How calls fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were begun.
    pub calls: u64,
    /// Calls with a reply.
    pub replies: u64,
    /// Calls that were not executed.
    pub not_executed: u64,
    /// Calls of unknown outcome.
    pub unknown: u64,
    /// Calls that were given up, or whose client was killed.
    pub silent: u64,
    /// Calls that were unknown first, and whose ticket then brought the outcome.
    pub late: u64,
    /// Executions.
    pub runs: u64,
    /// Lives of servers.
    pub lives: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Connections after a client's first.
    pub reconnects: u64,
    /// Questions about calls in doubt.
    pub asks: u64,
    /// Requests that were sent again.
    pub resends: u64,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    key: Key,
    element: u64,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { client, generation, call } = self.key;
        let Violation { element, what, .. } = self;
        write!(
            f,
            "element {element}, call {call} of client {client} in its life {generation}: {what}"
        )
    }
}

/// What a client wrote of one call.
#[derive(Debug)]
struct Called {
    element: u64,
    observed: Option<Observed>,
}

/// All journals of one run.
#[derive(Debug, Default)]
pub(super) struct Journals {
    calls: BTreeMap<Key, Called>,
    /// Each life of a server.
    lives: Vec<(u32, Vec<Ran>)>,
    tally: Tally,
}

impl Journals {
    /// Reads what is in `dir`.
    pub(super) fn read(dir: &Path) -> io::Result<Result<Journals, Violation>> {
        let mut journals = Journals::default();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let words: Vec<&str> = name.split('-').collect();
            let number = |word: &str| word.parse::<u32>().map_err(io::Error::other);
            match words.as_slice() {
                ["calls", client, generation] => {
                    let (client, generation) = (number(client)?, number(generation)?);
                    let said = read_said(&entry.path())?;
                    if let Err(violation) = journals.add_client(client, generation, &said) {
                        return Ok(Err(violation));
                    }
                }
                ["runs", life] => {
                    journals.lives.push((number(life)?, read_ran(&entry.path())?));
                }
                _ => {}
            }
        }
        Ok(Ok(journals))
    }

    fn add_client(&mut self, client: u32, generation: u32, said: &[Said]) -> Result<(), Violation> {
        let mut links = Links::default();
        for one in said {
            match *one {
                Said::Call { call, element } => {
                    let key = Key { client, generation, call };
                    self.calls.insert(key, Called { element, observed: None });
                }
                Said::Observed { call, observed } => {
                    let key = Key { client, generation, call };
                    let Some(called) = self.calls.get_mut(&key) else {
                        let what = "has an outcome, and was never made".to_owned();
                        return Err(Violation { key, element: 0, what });
                    };
                    // Only an unknown one has more to come.
                    if called.observed.is_some_and(|before| before != Observed::Unknown) {
                        let what =
                            format!("ended as {:?} and then as {observed:?}", called.observed);
                        return Err(Violation { key, element: called.element, what });
                    }
                    self.tally.late += u64::from(called.observed.is_some());
                    called.observed = Some(observed);
                }
                Said::Links(now) => links = now,
            }
        }
        self.tally.sessions += links.sessions;
        self.tally.reconnects += links.reconnects;
        self.tally.asks += links.asks;
        self.tally.resends += links.resends;
        Ok(())
    }

    /// Compares the outcomes that clients saw with what servers did.
    pub(super) fn check(mut self) -> Result<Tally, Violation> {
        let mut runs: HashMap<Key, Vec<Receipt>> = HashMap::new();
        for (life, ran) in &self.lives {
            for one in ran {
                let receipt = Receipt { life: *life, position: one.position };
                runs.entry(one.key).or_default().push(receipt);
            }
        }
        for (key, called) in &self.calls {
            let receipts = runs.get(key).map_or(&[][..], Vec::as_slice);
            if let Some(what) = contradiction(called.observed, receipts) {
                return Err(Violation { key: *key, element: called.element, what });
            }
            let tally = &mut self.tally;
            tally.calls += 1;
            tally.runs += receipts.len() as u64;
            match called.observed {
                Some(Observed::Reply(_) | Observed::NoReply) => tally.replies += 1,
                Some(Observed::NotExecuted) => tally.not_executed += 1,
                Some(Observed::Unknown) => tally.unknown += 1,
                None => tally.silent += 1,
            }
        }
        for (_, ran) in &self.lives {
            self.check_life(ran)?;
        }
        self.tally.lives = self.lives.len() as u64;
        Ok(self.tally)
    }

    /// What one life of a server did: only what was called, each client's calls in order, each position once.
    fn check_life(&self, ran: &[Ran]) -> Result<(), Violation> {
        let mut last: HashMap<(u32, u32), u64> = HashMap::new();
        let mut positions: HashMap<(u32, u32, bool), u64> = HashMap::new();
        for Ran { key, element, is_append, position } in ran {
            let fail = |what| Err(Violation { key: *key, element: *element, what });
            if self.calls.get(key).is_none_or(|called| called.element != *element) {
                return fail("was executed, and never made".to_owned());
            }
            let before = last.insert((key.client, key.generation), key.call).unwrap_or(0);
            if before > key.call {
                return fail(format!("was executed after call {before}"));
            }
            let object = (key.client, key.generation, *is_append);
            let at = positions.entry(object).or_default();
            *at += 1;
            if at != position {
                return fail(format!("was executed at position {position}, which should be {at}"));
            }
        }
        Ok(())
    }
}

/// What is wrong with a call whose client saw `outcome` and that was executed `runs` times.
fn contradiction(observed: Option<Observed>, runs: &[Receipt]) -> Option<String> {
    match (observed, runs) {
        (_, [_, _, ..]) => Some(format!("was executed {} times: {runs:?}", runs.len())),
        (Some(Observed::Reply(receipt)), [run]) if receipt == *run => None,
        (Some(Observed::Reply(receipt)), _) => {
            Some(format!("ended with {receipt:?}, and its executions are {runs:?}"))
        }
        (Some(Observed::NoReply), []) => Some("ended as executed, and never was".to_owned()),
        (Some(Observed::NotExecuted), [run]) => {
            Some(format!("ended as not executed, and was: {run:?}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: Receipt = Receipt { life: 1, position: 1 };

    fn key(call: u64) -> Key {
        Key { client: 0, generation: 1, call }
    }

    fn ran(call: u64, position: u64) -> Ran {
        Ran { key: key(call), element: 100 + call, is_append: true, position }
    }

    fn check(observed: &[(u64, Option<Observed>)], lives: &[&[Ran]]) -> Result<Tally, Violation> {
        let mut journals = Journals::default();
        let mut said = Vec::new();
        for (call, observed) in observed {
            said.push(Said::Call { call: *call, element: 100 + call });
            said.extend(observed.map(|observed| Said::Observed { call: *call, observed }));
        }
        journals.add_client(0, 1, &said)?;
        for (life, runs) in (1..).zip(lives) {
            journals.lives.push((life, runs.to_vec()));
        }
        journals.check()
    }

    #[test]
    fn a_reply_needs_its_execution() {
        let observed = [(1, Some(Observed::Reply(RECEIPT)))];
        assert_eq!(check(&observed, &[&[ran(1, 1)]]).map(|tally| tally.replies), Ok(1));
        assert!(check(&observed, &[&[]]).is_err());
        assert!(check(&observed, &[&[], &[ran(1, 1)]]).is_err(), "another life executed it");
    }

    #[test]
    fn a_call_reported_as_not_executed_was_never_executed() {
        assert!(check(&[(1, Some(Observed::NotExecuted))], &[&[]]).is_ok());
        assert!(check(&[(1, Some(Observed::NotExecuted))], &[&[ran(1, 1)]]).is_err());
    }

    #[test]
    fn an_unknown_call_was_executed_at_most_once_over_all_lives() {
        for observed in [None, Some(Observed::Unknown)] {
            assert!(check(&[(1, observed)], &[&[]]).is_ok());
            assert!(check(&[(1, observed)], &[&[ran(1, 1)]]).is_ok());
            assert!(check(&[(1, observed)], &[&[ran(1, 1)], &[ran(1, 1)]]).is_err());
            assert!(check(&[(1, observed)], &[&[ran(1, 1), ran(1, 2)]]).is_err());
        }
    }

    #[test]
    fn a_life_executes_the_calls_of_a_client_in_order() {
        let observed = [(1, None), (2, None)];
        assert!(check(&observed, &[&[ran(1, 1), ran(2, 2)]]).is_ok());
        assert!(check(&observed, &[&[ran(2, 1), ran(1, 2)]]).is_err());
        assert!(check(&observed, &[&[ran(2, 1)], &[ran(1, 1)]]).is_ok());
    }

    #[test]
    fn nothing_is_executed_that_was_not_called() {
        assert!(check(&[], &[&[ran(1, 1)]]).is_err());
    }

    #[test]
    fn only_an_unknown_call_is_reported_again() {
        let again = [
            Said::Call { call: 1, element: 101 },
            Said::Observed { call: 1, observed: Observed::NotExecuted },
            Said::Observed { call: 1, observed: Observed::Unknown },
        ];
        assert!(Journals::default().add_client(0, 1, &again).is_err());
    }
}
