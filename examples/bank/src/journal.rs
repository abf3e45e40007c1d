//! What a client intends and learns, written down line by line, so that it is known of a client that was killed.
//!
//! A line `+` is written before its operation begins, a line `-` after its outcome came. The process may be killed at
//! any moment, but not the machine: what was written is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::chance::unique;
use crate::check::{Kind, Record, Records, Verdict};
use crate::service::{AccountId, Operation};

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Mutex<File>,
}

impl Journal {
    pub(crate) fn create(path: &Path) -> io::Result<Journal> {
        Ok(Journal { file: Mutex::new(File::create_new(path)?) })
    }

    /// Goes on with one, behind its last whole line.
    pub(crate) fn append(path: &Path) -> io::Result<Journal> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            text => text?,
        };
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        file.set_len(whole as u64)?;
        Ok(Journal { file: Mutex::new(file) })
    }

    /// An operation of an earlier run has an outcome, which that run did not live to write.
    pub(crate) fn write_late(&self, operation: Operation) {
        let Operation { client, number } = operation;
        self.write(&format!("= {client} {number}\n"));
    }

    /// An operation is about to begin.
    pub(crate) fn write_begin(&self, operation: Operation, record: &Record) {
        let Operation { client, number } = operation;
        let Record { kind, account, amount, .. } = record;
        self.write(&format!("+ {client} {number} {} {account} {amount}\n", kind_word(*kind)));
    }

    /// Its outcome came.
    pub(crate) fn write_end(&self, operation: Operation, verdict: Verdict, account: AccountId) {
        let Operation { client, number } = operation;
        self.write(&format!("- {client} {number} {} {account}\n", verdict_word(verdict)));
    }

    fn write(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Without its journal the run proves nothing.
        file.write_all(line.as_bytes()).expect("the journal cannot be written");
    }
}

/// Reads a journal: the records of each client by its number. A last line that was cut off says nothing.
pub(crate) fn read(path: &Path) -> io::Result<BTreeMap<u64, Records>> {
    let text = std::fs::read_to_string(path)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let mut clients = BTreeMap::new();
    for line in text[..whole].lines() {
        read_line(line, &mut clients).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {line:?}", path.display()))
        })?;
    }
    Ok(clients)
}

/// What a client that was started again has behind it.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) client: u64,
    pub(crate) records: Records,
    /// Operations whose outcomes stand there.
    pub(crate) ended: BTreeSet<u64>,
    /// Operations whose outcomes only a later run learned.
    pub(crate) learned: u64,
}

/// Reads the journal of one client, if it has written one.
pub(crate) fn read_past(path: &Path) -> io::Result<Past> {
    let mut past =
        Past { client: unique(), records: Records::new(), ended: BTreeSet::new(), learned: 0 };
    if !path.try_exists()? {
        return Ok(past);
    }
    if let Some((client, records)) = read(path)?.pop_first() {
        (past.client, past.records) = (client, records);
    }
    let text = std::fs::read_to_string(path)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let mut late = BTreeSet::new();
    for line in text[..whole].lines() {
        let mut words = line.split(' ');
        let (sign, number) = (words.next(), words.nth(1).and_then(|word| word.parse().ok()));
        match (sign, number) {
            (Some("-"), Some(number)) => drop(past.ended.insert(number)),
            (Some("="), Some(number)) => drop(late.insert(number)),
            _ => {}
        }
    }
    past.learned = late.len() as u64;
    Ok(past)
}

fn read_line(line: &str, clients: &mut BTreeMap<u64, Records>) -> Option<()> {
    let mut words = line.split(' ');
    let sign = words.next()?;
    let records = clients.entry(words.next()?.parse().ok()?).or_default();
    let number = words.next()?.parse().ok()?;
    if sign == "=" {
        return Some(());
    }
    let word = words.next()?;
    let account = words.next()?.parse().ok()?;
    if sign == "+" {
        let (kind, amount) = (kind_of(word)?, words.next()?.parse().ok()?);
        let verdict = if kind == Kind::Note { Verdict::Untold } else { Verdict::InDoubt };
        records.insert(number, Record { kind, account, amount, verdict });
    } else {
        let record = records.get_mut(&number)?;
        record.verdict = verdict_of(word)?;
        record.account = account;
    }
    Some(())
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Open, "open"),
    (Kind::Deduct, "deduct"),
    (Kind::Deposit, "deposit"),
    (Kind::Note, "note"),
];

const VERDICTS: [(Verdict, &str); 5] = [
    (Verdict::InDoubt, "in-doubt"),
    (Verdict::Applied, "applied"),
    (Verdict::Declined, "declined"),
    (Verdict::NotExecuted, "not-executed"),
    (Verdict::Untold, "untold"),
];

fn kind_word(kind: Kind) -> &'static str {
    KINDS.iter().find(|(k, _)| *k == kind).map_or("", |(_, word)| word)
}

fn kind_of(word: &str) -> Option<Kind> {
    KINDS.iter().find(|(_, w)| *w == word).map(|(kind, _)| *kind)
}

fn verdict_word(verdict: Verdict) -> &'static str {
    VERDICTS.iter().find(|(f, _)| *f == verdict).map_or("", |(_, word)| word)
}

fn verdict_of(word: &str) -> Option<Verdict> {
    VERDICTS.iter().find(|(_, w)| *w == word).map(|(verdict, _)| *verdict)
}
