//! Servers on the real store: what is durable when, and what is there after a crash.
#![allow(missing_docs)]

mod util;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncewire_driver::ledger::Rollback;
use oncewire_driver::protocol::ServerId;
use oncewire_driver::{
    CallFailure, Client, ClientOptions, Method, Outcome, Server, SessionTag, Unknown, Xid,
};
use oncewire_ledger_redb::redb::{ReadableTable, TableDefinition};
use oncewire_ledger_redb::tool::CallFound;
use oncewire_ledger_redb::{RedbLedger, RedbStore, Snapshots, Transaction, tool};
use util::{Disk, Folder, Place};

const ACCOUNTS: TableDefinition<'_, u32, i64> = TableDefinition::new("accounts");
/// Transactional: adds, and says what is there. Rolls back what leaves less than nothing, and panics at 13.
const PAY: Method<(u32, i64), i64> = Method::new("test/pay");
/// Recorded: counts.
const COUNT: Method<(), u32> = Method::new("test/count");
/// Idempotent, from a snapshot.
const BALANCE: Method<u32, i64> = Method::new("test/balance").idempotent();
/// Transactional, and reaches for what is not its own.
const STEAL: Method<(), ()> = Method::new("test/steal");

fn server(ledger: RedbLedger, runs: &Arc<AtomicU32>) -> Server {
    let (snapshots, runs): (Snapshots, _) = (ledger.snapshots(), runs.clone());
    Server::builder("test")
        .ledger(ledger)
        .transactional(&PAY, |transaction: &mut Transaction, _, (account, amount)| {
            let mut accounts = transaction.open_table(ACCOUNTS)?;
            let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + amount;
            accounts.insert(account, balance)?;
            assert_ne!(amount, 13, "a transactional handler that panics");
            if balance < 0 {
                return Err(Rollback::new("nothing is left"));
            }
            Ok(balance)
        })
        .transactional(&STEAL, |transaction: &mut Transaction, _, ()| {
            let own = TableDefinition::<&str, &[u8]>::new("oncewire.meta");
            drop(transaction.open_table(own)?);
            Ok(())
        })
        .method(&COUNT, move |_, ()| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            async move { run }
        })
        .method(&BALANCE, move |_, account| {
            let snapshot = snapshots.latest();
            async move {
                let Ok(accounts) = snapshot.open_table(ACCOUNTS) else { return 0 };
                accounts.get(account).unwrap().map_or(0, |balance| balance.value())
            }
        })
        .build()
        .unwrap()
}

fn open(path: &Path, runs: &Arc<AtomicU32>) -> Server {
    server(RedbLedger::open(path).unwrap(), runs)
}

#[test]
fn what_was_answered_is_there_after_a_crash_and_answered_alike() {
    let folder = Folder::new("crash");
    let (path, copy) = (folder.path("a.ledger"), folder.path("crashed.ledger"));
    let (place, runs) = (Place::default(), Arc::default());
    let before = open(&path, &runs);
    place.set(Some(before.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(1));
        // A file as a crash leaves it: not closed.
        std::fs::copy(&path, &copy).unwrap();
        let after = open(&copy, &runs);
        assert_eq!(after.id(), before.id());
        place.set(Some(after.clone()));
        // Not by a drain: a client that is fast enough says goodbye to a server that drains, and opens a new session.
        place.cut();
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(101));
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(101));
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(2));
        assert_eq!(after.counters().resumes, 1, "the session survived");
        client.close().await;
    });
}

#[test]
fn c56_of_many_calls_in_flight_those_that_fail_are_rolled_back_alone() {
    let folder = Folder::new("neighbours");
    let path = folder.path("a.ledger");
    let (place, runs) = (Place::default(), Arc::default());
    let server = open(&path, &runs);
    place.set(Some(server.clone()));
    let (mut good, mut bad) = (0, 0);
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        for round in 0..10 {
            let amounts = (0..64).map(|n| match (n + round) % 16 {
                3 => 13,
                7 => -1_000_000,
                _ => 2,
            });
            let calls: Vec<_> = amounts.map(|n| client.call(&PAY, &(1, n)).start()).collect();
            for call in calls {
                match call.await {
                    Outcome::Reply(_) => good += 1,
                    Outcome::NotExecuted(_) => bad += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((good, bad), (560, 80));
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(1120));
        assert!(matches!(client.call(&STEAL, &()).await, Outcome::NotExecuted(_)));
        client.close().await;
    });
    let faults = server.handler_faults();
    assert_eq!((faults.rollbacks, faults.panics), (81, 40));
}

#[test]
fn the_file_is_bounded_by_the_calls_in_flight_not_by_those_made() {
    let folder = Folder::new("bounded");
    let path = folder.path("a.ledger");
    let (place, runs) = (Place::default(), Arc::default());
    let server = open(&path, &runs);
    place.set(Some(server.clone()));
    let mut lens = Vec::new();
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        for _ in 0..4 {
            for _ in 0..20 {
                let calls: Vec<_> = (0..50).map(|n| client.call(&PAY, &(n, 1)).start()).collect();
                for call in calls {
                    assert!(call.await.ok().is_ok());
                }
            }
            lens.push(std::fs::metadata(&path).unwrap().len());
        }
        client.close().await;
        server.drain(std::time::Duration::from_secs(5)).await;
    });
    assert_eq!(lens[1], lens[3], "{lens:?}");
    place.set(None);
    drop(server);
    // The server's tasks drop the ledger within a second; its lock says when.
    let found = loop {
        match tool::inspect(&path) {
            Ok(found) => break found,
            Err(error) => assert!(error.to_string().contains("uses it"), "{error}"),
        }
        std::thread::yield_now();
    };
    assert!(found.done <= 50 && found.broken == 0, "{found}");
}

const HANG: Method<(), ()> = Method::new("test/hang");

#[test]
fn c161_what_a_client_could_not_learn_of_a_call_is_looked_up_by_what_its_error_says() {
    let folder = Folder::new("looked-up");
    let path = folder.path("a.ledger");
    let (place, (started, starts)) = (Place::default(), smol::channel::bounded(1));
    let server = Server::builder("test")
        .ledger(RedbLedger::open(&path).unwrap())
        .method(&HANG, move |_, ()| {
            started.try_send(()).unwrap();
            std::future::pending()
        })
        .build()
        .unwrap();
    place.set(Some(server));
    let report = smol::block_on(async {
        let options = ClientOptions::default().with_close_timeout(Duration::ZERO).with_slots(1);
        let client = Client::new(place.clone(), options);
        // Refused, before another call takes its slot.
        assert!(matches!(client.call(&COUNT, &()).await, Outcome::NotExecuted(_)));
        let call = smol::spawn(client.call(&HANG, &()).result());
        starts.recv().await.unwrap();
        client.close().await;
        let failed = call.await.unwrap_err();
        assert_eq!(failed.failure(), CallFailure::Unknown(Unknown::Closed));
        let report = failed.report().unwrap().clone();
        let known_by = format!("session {}, xid {}", report.session.unwrap(), report.xid.unwrap());
        let said = failed.to_string();
        assert!(said.starts_with("test/hang of \"test\" at a socket pair: unknown"), "{said}");
        assert!(said.contains(&known_by), "{said}");
        report
    });
    // The call still runs, as it would if the server were killed: so this is what is looked up after a crash.
    let copy = folder.path("copy.ledger");
    std::fs::copy(&path, &copy).unwrap();
    let (session, xid) = (report.session.unwrap(), report.xid.unwrap());
    let look_up = |session, xid| tool::call(&copy, session, xid).unwrap();
    assert_eq!(look_up(session, xid), CallFound::Started);
    let before = Xid::new(xid.get() - 1).unwrap();
    assert_eq!(look_up(session, before), CallFound::Settled { by: xid });
    assert_eq!(look_up(session, Xid::new(77).unwrap()), CallFound::NoRecord);
    let stranger = SessionTag::from_number(session.number() ^ 1);
    assert_eq!(look_up(stranger, xid), CallFound::NoSession);
}

#[test]
fn c58_a_sync_that_fails_stops_the_server_from_answering() {
    let (disk, runs) = (Disk::default(), Arc::default());
    let id = ServerId::from_bytes([5; 16]);
    let ledger = RedbLedger::new(RedbStore::with_backend(disk.clone(), id).unwrap());
    let (place, server) = (Place::default(), server(ledger, &runs));
    assert_eq!(server.id(), id);
    place.set(Some(server.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(1));
        disk.full.store(true, Ordering::SeqCst);
        let wait = std::time::Duration::from_millis(500);
        let in_doubt = client.call(&PAY, &(1, 1)).timeout(wait).await;
        assert!(matches!(in_doubt, Outcome::Unknown(_, Some(_))), "{in_doubt:?}");
        // The disk is asked on a thread of its own.
        while server.ledger_error().is_none() {
            smol::future::yield_now().await;
        }
        let refused = client.call(&PAY, &(1, 1)).await;
        assert!(matches!(refused, Outcome::NotExecuted(_)), "{refused:?}");
        let error = server.ledger_error().expect("the error is loud").to_string();
        assert!(error.contains("cannot be written"), "{error}");
        disk.full.store(false, Ordering::SeqCst);
        let refused = client.call(&PAY, &(1, 1)).await;
        assert!(matches!(refused, Outcome::NotExecuted(_)), "an error is for good: {refused:?}");
    });
}
