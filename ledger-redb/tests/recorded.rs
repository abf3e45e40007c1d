//! A ledger and a journal of each released version, as a crash of both sides left them: every later build opens them.
//!
//! `tests/recorded/VERSION/` holds the pair. It was made by the ignored test below, and is never made again: a build that
//! cannot open it needs code that reads the old format, or a clear refusal and a line in the changelog.
#![allow(missing_docs)]

mod util;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use oncewire_driver::protocol::Unknown;
use oncewire_driver::{ClientOptions, DurableClient, Method, Outcome, Server};
use oncewire_ledger_redb::redb::{ReadableTable, TableDefinition};
use oncewire_ledger_redb::{RedbJournal, RedbLedger, Transaction, tool};
use util::{Folder, Place};

const VERSIONS: [&str; 1] = ["0.1"];

const ACCOUNTS: TableDefinition<'_, u32, i64> = TableDefinition::new("accounts");
/// Transactional: adds, and returns the sum.
const PAY: Method<(u32, i64), i64> = Method::new("test/pay");
/// Recorded: never ends.
const HANG: Method<(), ()> = Method::new("test/hang");
/// The account whose payments copy the journal while they run.
const COPIES: u32 = 2;

/// What the handlers of a server saw.
#[derive(Default)]
struct Seen {
    runs: AtomicU32,
    /// From where to where the journal is copied while a payment runs.
    copy: Mutex<Option<(PathBuf, PathBuf)>>,
}

fn server(ledger: &Path, seen: &Arc<Seen>) -> Server {
    let (pays, hangs) = (seen.clone(), seen.clone());
    Server::builder("test")
        .ledger(RedbLedger::open(ledger).unwrap())
        .transactional(&PAY, move |transaction: &mut Transaction, _, (account, amount)| {
            pays.runs.fetch_add(1, Ordering::SeqCst);
            let mut accounts = transaction.open_table(ACCOUNTS)?;
            let sum = accounts.get(account)?.map_or(0, |sum| sum.value()) + amount;
            accounts.insert(account, sum)?;
            if account == COPIES
                && let Some((from, to)) = pays.copy.lock().unwrap().take()
            {
                std::fs::copy(from, to).unwrap();
            }
            Ok(sum)
        })
        .method(&HANG, move |_, ()| {
            hangs.runs.fetch_add(1, Ordering::SeqCst);
            std::future::pending()
        })
        .build()
        .unwrap()
}

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(version)
}

/// Makes the pair of the version that is being released, once: `cargo test -p oncewire-ledger-redb --test recorded --
/// --ignored`. The journal is copied while the last payment runs, the ledger after it: the client died without its answer.
#[test]
#[ignore = "makes the recordings of a release"]
fn record_a_ledger_and_a_journal() {
    let into = folder(VERSIONS[VERSIONS.len() - 1]);
    std::fs::create_dir(&into).expect("a recording is made once, and stays");
    let folder = Folder::new("record");
    let (ledger, journal) = (folder.path("a.ledger"), folder.path("a.journal"));
    let (place, seen) = (Place::default(), Arc::<Seen>::default());
    *seen.copy.lock().unwrap() = Some((journal.clone(), into.join("client.journal")));
    place.set(Some(server(&ledger, &seen)));
    smol::block_on(async {
        let opened = RedbJournal::open(&journal).unwrap();
        let (client, _) =
            DurableClient::open(place.clone(), ClientOptions::default(), opened).unwrap();
        client.call("confirmed", &PAY, &(1, 100)).await.receipt.confirm();
        let delivery = client.call("told", &PAY, &(1, 20)).await;
        let _interrupted = client.call("interrupted", &HANG, &());
        while seen.runs.load(Ordering::SeqCst) < 3 {
            smol::future::yield_now().await;
        }
        let answered = client.call("answered", &PAY, &(COPIES, 5)).await;
        assert!(matches!(answered.outcome, Outcome::Reply(5)));
        std::fs::copy(&ledger, into.join("server.ledger")).unwrap();
        drop((delivery, answered));
    });
}

/// A copy that its owner alone may open, as the files were before they were committed.
fn copy(version: &str, name: &str, into: &Folder) -> PathBuf {
    let to = into.path(name);
    std::fs::copy(folder(version).join(name), &to).unwrap();
    std::fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
    to
}

#[test]
fn executed_calls_of_every_version_are_answered_and_not_run_again() {
    for version in VERSIONS {
        let folder = Folder::new(&format!("recorded-{version}"));
        let ledger = copy(version, "server.ledger", &folder);
        let journal = copy(version, "client.journal", &folder);
        let found = tool::verify(&ledger).unwrap();
        assert_eq!((found.sessions, found.started, found.broken), (1, 1, 0), "{version}");
        let (place, seen) = (Place::default(), Arc::<Seen>::default());
        let server = server(&ledger, &seen);
        place.set(Some(server.clone()));
        smol::block_on(async {
            let opened = RedbJournal::open(&journal).unwrap();
            let (client, left) =
                DurableClient::open(place.clone(), ClientOptions::default(), opened).unwrap();
            let mut tags = Vec::new();
            for call in left {
                let tag = String::from_utf8(call.tag().to_vec()).unwrap();
                let is_hang = tag == "interrupted";
                let (outcome, receipt) = if is_hang {
                    let delivery = call.typed(&HANG).unwrap().await;
                    let unknown =
                        matches!(delivery.outcome, Outcome::Unknown(Unknown::Interrupted, _));
                    assert!(unknown, "{version}: {:?}", delivery.outcome);
                    (None, delivery.receipt)
                } else {
                    let delivery = call.typed(&PAY).unwrap().await;
                    (Some(delivery.outcome.ok().unwrap()), delivery.receipt)
                };
                receipt.confirm();
                tags.push((tag, outcome));
            }
            tags.retain(|(tag, _)| tag != "confirmed");
            let expected = [("told", Some(120)), ("interrupted", None), ("answered", Some(5))];
            assert_eq!(tags, expected.map(|(tag, sum)| (tag.to_owned(), sum)), "{version}");
            assert_eq!(seen.runs.load(Ordering::SeqCst), 0, "{version}: a recorded call ran again");

            let delivery = client.call("new", &PAY, &(COPIES, 1)).await;
            assert!(
                matches!(delivery.outcome, Outcome::Reply(6)),
                "{version}: {:?}",
                delivery.outcome
            );
            delivery.receipt.confirm();
            assert_eq!(server.counters().resumes, 1, "{version}: the session goes on");
            client.close().await;
        });
    }
}
