//! Files that are no ledgers, or not any more: an error that says what and what to do, and the file as it was.
#![allow(missing_docs)]

mod util;

use std::path::Path;

use oncewire_driver::ledger::Ledger;
use oncewire_ledger_redb::redb::{Database, ReadableDatabase, TableDefinition};
use oncewire_ledger_redb::{RedbLedger, tool};
use util::Folder;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("oncewire.meta");

/// Why a file is refused, having checked that it was left alone.
fn refused(path: &Path) -> String {
    let before = std::fs::read(path).ok();
    let error = RedbLedger::open(path).expect_err("the file is refused").to_string();
    assert_eq!(std::fs::read(path).ok(), before, "the file is as it was");
    assert!(error.contains(&path.display().to_string()), "{error}");
    error
}

#[test]
fn a_new_ledger_has_a_server_id_that_stays() {
    let folder = Folder::new("new");
    let path = folder.path("a.ledger");
    let first = RedbLedger::open(&path).unwrap().identity();
    assert_eq!(RedbLedger::open(&path).unwrap().identity(), first);
    let other = RedbLedger::open(folder.path("b.ledger")).unwrap().identity();
    assert_ne!(other.server, first.server);
}

#[test]
fn a_second_server_is_told_who_uses_the_ledger() {
    let folder = Folder::new("lock");
    let path = folder.path("a.ledger");
    let _first = RedbLedger::open(&path).unwrap();
    let error = RedbLedger::open(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("process {} uses it", std::process::id())), "{error}");
}

#[test]
fn something_else_is_refused() {
    let folder = Folder::new("foreign");
    let text = folder.path("text");
    std::fs::write(&text, "Dear diary, this is no ledger, and it is to stay.").unwrap();
    assert!(refused(&text).contains("something else"));

    let empty = folder.path("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(refused(&empty).contains("empty or cut off"));

    let other = folder.path("other.redb");
    drop(Database::create(&other).unwrap());
    assert!(RedbLedger::open(&other).unwrap_err().to_string().contains("no Oncewire ledger"));

    assert!(refused(&folder.path("")).contains("cannot be read and written"));
    let nowhere = folder.path("nowhere").join("a.ledger");
    assert!(refused(&nowhere).contains("folder that exists"));
}

#[test]
fn a_ledger_from_the_future_is_refused() {
    let folder = Folder::new("future");
    let path = folder.path("a.ledger");
    drop(RedbLedger::open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", &7u32.to_le_bytes()[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = RedbLedger::open(&path).unwrap_err().to_string();
    assert!(error.contains("has format 7") && error.contains("use the version"), "{error}");
}

#[test]
fn a_ledger_damaged_anywhere_is_refused_or_whole() {
    let folder = Folder::new("damage");
    let path = folder.path("a.ledger");
    drop(RedbLedger::open(&path).unwrap());
    let whole = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut refusals = 0;
    let step = used.len() / 40;
    for at in used.into_iter().step_by(step.max(1)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&path, &bytes).unwrap();
        // What redb does not need may be anything; what it needs has a checksum.
        match std::panic::catch_unwind(|| RedbLedger::open(&path)) {
            Ok(Ok(ledger)) => drop(ledger.identity()),
            Ok(Err(error)) => {
                refusals += 1;
                assert!(!error.to_string().is_empty());
            }
            Err(_) => panic!("damage at byte {at} is stumbled over"),
        }
    }
    assert!(refusals > 3, "{refusals} of the damaged files were refused");
    for len in [1, 9, 100, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let opened = std::panic::catch_unwind(|| RedbLedger::open(&path));
        assert!(opened.expect("told of, not stumbled over").is_err(), "cut off at {len}");
    }
}

#[test]
fn the_tool_says_what_is_there_and_what_is_not() {
    let folder = Folder::new("tool");
    let path = folder.path("a.ledger");
    assert!(tool::inspect(&path).unwrap_err().to_string().contains("no such file"));
    assert!(!path.exists(), "looking makes nothing");
    let ledger = RedbLedger::open(&path).unwrap();
    assert!(tool::inspect(&path).unwrap_err().to_string().contains("uses it"));
    let identity = ledger.identity();
    drop(ledger);
    let found = tool::verify(&path).unwrap();
    assert_eq!((found.server, found.sessions, found.broken), (identity.server, 0, 0));
    let (before, after) = tool::compact(&path).unwrap();
    assert!(after <= before && tool::verify(&path).is_ok());
}

#[test]
fn a_restored_copy_has_a_server_id_of_its_own_and_replaces_nothing() {
    let folder = Folder::new("restore");
    let (from, to) = (folder.path("old"), folder.path("new"));
    let old = RedbLedger::open(&from).unwrap().identity();
    let server = tool::restore(&from, &to).unwrap();
    assert_ne!(server, old.server);
    assert_eq!(RedbLedger::open(&to).unwrap().identity().server, server);
    assert!(tool::restore(&from, &to).unwrap_err().to_string().contains("it exists"));
    assert_eq!(tool::inspect(&from).unwrap().server, old.server);
    let database = Database::open(&from).unwrap();
    let meta = database.begin_read().unwrap().open_table(META).unwrap();
    assert_eq!(meta.get("server").unwrap().unwrap().value(), &old.server.to_bytes()[..]);
}
