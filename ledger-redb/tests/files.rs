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
fn a_second_server_learns_who_uses_the_ledger() {
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
    #[cfg(unix)]
    secrets::set_mode(&other, 0o600);
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
        assert!(opened.expect("reported, not a panic").is_err(), "cut off at {len}");
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

/// Files that hold session ids belong to one user alone.
#[cfg(unix)]
mod secrets {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use oncewire_ledger_redb::RedbJournal;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    pub(super) fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn c120_ledgers_journals_and_copies_are_made_for_their_owner_alone() {
        let folder = Folder::new("modes");
        let (ledger, journal) = (folder.path("a.ledger"), folder.path("a.journal"));
        let held = (RedbLedger::open(&ledger).unwrap(), RedbJournal::open(&journal).unwrap());
        assert_eq!([mode(&ledger), mode(&folder.path("a.ledger.lock"))], [0o600; 2]);
        assert_eq!([mode(&journal), mode(&folder.path("a.journal.lock"))], [0o600; 2]);
        drop(held);
        tool::restore(&ledger, &folder.path("copy")).unwrap();
        tool::compact(&ledger).unwrap();
        for file in fs::read_dir(folder.path("")).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    }

    #[test]
    fn c120_ledgers_and_journals_that_others_can_read_are_refused() {
        let folder = Folder::new("readable");
        let (ledger, journal) = (folder.path("a.ledger"), folder.path("a.journal"));
        drop((RedbLedger::open(&ledger).unwrap(), RedbJournal::open(&journal).unwrap()));
        set_mode(&ledger, 0o644);
        set_mode(&journal, 0o640);
        let error = refused(&ledger);
        assert!(error.contains("0644") && error.contains("chmod 600"), "{error}");
        let error = RedbJournal::open(&journal).unwrap_err().to_string();
        assert!(error.contains("a.journal") && error.contains("0640"), "{error}");
        assert!(tool::inspect(&ledger).is_err() && tool::verify(&ledger).is_err());
        assert!(tool::restore(&ledger, &folder.path("copy")).is_err());
        assert!(!folder.path("copy").exists() && !folder.path("copy.new").exists());
        set_mode(&ledger, 0o600);
        set_mode(&journal, 0o600);
        drop((RedbLedger::open(&ledger).unwrap(), RedbJournal::open(&journal).unwrap()));
    }

    #[test]
    fn c120_a_ledger_of_another_user_or_with_a_second_name_is_refused() {
        let folder = Folder::new("owner");
        let path = folder.path("a.ledger");
        drop(RedbLedger::open(&path).unwrap());
        fs::hard_link(&path, folder.path("kept")).unwrap();
        assert!(refused(&path).contains("2 names"));
        fs::remove_file(folder.path("kept")).unwrap();
        if std::os::unix::fs::chown(&path, Some(65534), None).is_err() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        assert!(refused(&path).contains("belongs to uid 65534"));
    }

    #[test]
    fn c121_what_is_in_the_place_of_a_lock_or_of_a_half_made_file_is_left_alone_and_named() {
        let folder = Folder::new("beside");
        let path = folder.path("a.ledger");
        for ending in ["lock", "new"] {
            let beside = folder.path(&format!("a.ledger.{ending}"));
            fs::create_dir(&beside).unwrap();
            let error = refused(&path);
            assert!(error.contains(&beside.display().to_string()), "{error}");
            assert!(error.contains("a directory"), "{error}");
            fs::remove_dir(&beside).unwrap();
            assert!(!path.exists());
        }
        let lock = folder.path("a.ledger.lock");
        fs::write(&lock, "precious").unwrap();
        set_mode(&lock, 0o600);
        assert!(refused(&path).contains("something else"));
        assert_eq!(fs::read(&lock).unwrap(), b"precious");
    }

    #[test]
    fn a_ledger_behind_a_link_is_opened_and_no_new_one_is_made_where_the_link_leads_nowhere() {
        let folder = Folder::new("link");
        let (path, elsewhere) = (folder.path("a.ledger"), folder.path("elsewhere"));
        let identity = RedbLedger::open(&elsewhere).unwrap().identity();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(RedbLedger::open(&path).unwrap().identity(), identity);
        fs::rename(&elsewhere, folder.path("away")).unwrap();
        assert!(refused(&path).contains("leads nowhere"));
        assert!(path.is_symlink());
    }
}
