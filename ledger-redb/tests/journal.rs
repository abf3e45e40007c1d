//! Journals in files: what a client has asked for is there after its crash; and files that are no journals.
#![allow(missing_docs)]

mod util;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use oncewire_driver::journal::{JournalError, JournalKey, JournalStore, JournalWrite};
use oncewire_driver::protocol::{NotExecuted, Unknown};
use oncewire_driver::{
    Bytes, ClientOptions, DurableClient, Method, Outcome, RecoveredCall, Server,
};
use oncewire_ledger_redb::redb::{Database, TableDefinition};
use oncewire_ledger_redb::{RedbJournal, RedbJournalStore, RedbLedger};
use util::{Folder, Place};

const COUNT: Method<u32, u32> = Method::new("test/count");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("oncewire.journal.meta");

fn server(runs: &Arc<AtomicU32>) -> Server {
    let runs = runs.clone();
    Server::builder("test")
        .method(&COUNT, move |_, n: u32| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            async move { n + run }
        })
        .build()
        .unwrap()
}

fn open(place: &Place, path: &Path) -> (DurableClient, Vec<RecoveredCall>) {
    let journal = RedbJournal::open(path).unwrap();
    DurableClient::open(place.clone(), ClientOptions::default(), journal).unwrap()
}

#[test]
fn an_outcome_that_was_not_confirmed_is_delivered_again_after_a_crash() {
    let folder = Folder::new("journal-crash");
    let (path, copy) = (folder.path("a.journal"), folder.path("crashed.journal"));
    let (place, runs) = (Place::default(), Arc::default());
    let server = server(&runs);
    place.set(Some(server.clone()));
    smol::block_on(async {
        let (client, left) = open(&place, &path);
        assert_eq!(left.len(), 0);
        let first = client.call("first", &COUNT, &10).await;
        assert!(matches!(first.outcome, Outcome::Reply(11)));
        first.receipt.confirm();
        let second = client.call("second", &COUNT, &20).await;
        assert!(matches!(second.outcome, Outcome::Reply(22)));
        // A file as a crash leaves it: not closed.
        std::fs::copy(&path, &copy).unwrap();
        // As good as dead: it finds no server any more.
        place.set(None);
        let again = Place::default();
        again.set(Some(server));
        let (after, left) = open(&again, &copy);
        let tags: Vec<_> = left.iter().map(|call| call.tag().clone()).collect();
        assert!(tags.ends_with(&["second".into()]), "{tags:?}");
        for call in left {
            let second = call.tag() == "second";
            let delivery = call.typed(&COUNT).unwrap().await;
            assert_eq!(delivery.outcome.ok(), Ok(if second { 22 } else { 11 }));
            delivery.receipt.confirm();
        }
        let third = after.call("third", &COUNT, &30).await;
        assert!(matches!(third.outcome, Outcome::Reply(33)), "in the same session");
        third.receipt.confirm();
        after.close().await;
        drop(after);
        drop(client);
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn a_client_that_was_closed_leaves_a_journal_that_can_be_opened_again() {
    let folder = Folder::new("journal-again");
    let path = folder.path("a.journal");
    let (place, runs) = (Place::default(), Arc::default());
    place.set(Some(server(&runs)));
    for run in 1..=3 {
        smol::block_on(async {
            let (client, left) = open(&place, &path);
            assert_eq!(left.len(), 0);
            let calls: Vec<_> = (0..20).map(|n| client.call(vec![n], &COUNT, &0)).collect();
            for call in calls {
                let delivery = call.await;
                assert!(delivery.outcome.ok().is_ok());
                delivery.receipt.confirm();
            }
            client.close().await;
            assert_eq!(runs.load(Ordering::SeqCst), 20 * run);
            let delivery = client.call("late", &COUNT, &0).await;
            assert!(matches!(delivery.outcome, Outcome::NotExecuted(NotExecuted::NotBegun(_))));
        });
        // Its task, which ends beside us, holds the journal.
        while let Err(error) = RedbJournal::open(&path) {
            assert!(error.to_string().contains("uses it"), "{error}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_client_whose_server_is_gone_for_good_learns_so() {
    let folder = Folder::new("journal-gone");
    let (path, copy) = (folder.path("a.journal"), folder.path("crashed.journal"));
    let place = Place::default();
    let hangs = Server::builder("test").method(&COUNT, |_, _| std::future::pending()).build();
    place.set(Some(hangs.unwrap()));
    smol::block_on(async {
        let (client, _) = open(&place, &path);
        let _call = client.call("hangs", &COUNT, &1);
        while client.status().counters.sent == 0 {
            smol::future::yield_now().await;
        }
        std::fs::copy(&path, &copy).unwrap();
        // Without a ledger: another server.
        let other = Place::default();
        other.set(Some(server(&Arc::default())));
        let (after, mut left) = open(&other, &copy);
        let delivery = left.remove(0).typed(&COUNT).unwrap().await;
        assert!(matches!(delivery.outcome, Outcome::Unknown(Unknown::SessionEnded, None)));
        delivery.receipt.confirm();
        after.close().await;
    });
}

fn refused(path: &Path) -> String {
    let before = std::fs::read(path).ok();
    let error = RedbJournal::open(path).expect_err("the file is refused").to_string();
    assert_eq!(std::fs::read(path).ok(), before, "the file is as it was");
    assert!(error.contains(&path.display().to_string()), "{error}");
    error
}

#[test]
fn what_is_no_journal_is_refused() {
    let folder = Folder::new("journal-foreign");
    let text = folder.path("text");
    std::fs::write(&text, "Dear diary, this is no journal, and it is to stay.").unwrap();
    assert!(refused(&text).contains("something else"));
    let empty = folder.path("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(refused(&empty).contains("empty or cut off"));
    let ledger = folder.path("a.ledger");
    drop(RedbLedger::open(&ledger).unwrap());
    assert!(RedbJournal::open(&ledger).unwrap_err().to_string().contains("no Oncewire journal"));
    drop(RedbLedger::open(&ledger).unwrap());
    let journal = folder.path("a.journal");
    let open = RedbJournal::open(&journal).unwrap();
    let error = RedbJournal::open(&journal).unwrap_err().to_string();
    assert!(error.contains(&format!("process {} uses it", std::process::id())), "{error}");
    drop(open);
    assert!(RedbLedger::open(&journal).unwrap_err().to_string().contains("no Oncewire ledger"));
}

#[test]
fn a_journal_from_the_future_is_refused() {
    let folder = Folder::new("journal-future");
    let path = folder.path("a.journal");
    drop(RedbJournal::open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", &7u32.to_le_bytes()[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = RedbJournal::open(&path).unwrap_err().to_string();
    assert!(error.contains("has format 7") && error.contains("use the version"), "{error}");
}

fn all_of(path: &Path) -> Result<Vec<(JournalKey, Vec<u8>)>, JournalError> {
    let mut all = Vec::new();
    RedbJournalStore::open(path)?.recover(&mut |key, bytes| all.push((key, bytes.to_vec())))?;
    Ok(all)
}

#[test]
fn a_journal_damaged_anywhere_is_refused_or_whole() {
    let folder = Folder::new("journal-damage");
    let path = folder.path("a.journal");
    let mut store = RedbJournalStore::open(&path).unwrap();
    let write = |key, value| JournalWrite { key, value };
    let session = write(JournalKey::Session, Some(Bytes::from_static(b"session")));
    let call = write(JournalKey::Call(1), Some(Bytes::from(vec![7; 300])));
    store.commit(&[session, call.clone(), write(JournalKey::Outcome(9), None)]).unwrap();
    drop(store);
    let right = all_of(&path).unwrap();
    assert_eq!(right.len(), 2);
    let whole = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut refusals = 0;
    for at in used.iter().step_by((used.len() / 60).max(1)) {
        let mut bytes = whole.clone();
        bytes[*at] ^= 0x55;
        std::fs::write(&path, &bytes).unwrap();
        match std::panic::catch_unwind(|| all_of(&path)) {
            Ok(Ok(all)) => assert_eq!(all, right, "damage at byte {at} is not seen"),
            Ok(Err(_)) => refusals += 1,
            Err(_) => panic!("damage at byte {at} is stumbled over"),
        }
    }
    assert!(refusals > 3, "{refusals} of the damaged files were refused");
}
