//! Handlers that answer when something has changed: what wakes them, what does not, and what they leave behind.
#![allow(missing_docs)]

mod util;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use oncewire_driver::ledger::Rollback;
use oncewire_driver::protocol::ServerId;
use oncewire_driver::{Client, ClientOptions, Method, NotExecuted, Outcome, Server};
use oncewire_ledger_redb::redb::{ReadableTable, TableDefinition};
use oncewire_ledger_redb::{RedbLedger, RedbStore, Snapshot, Snapshots, Transaction};
use util::{Disk, Place};

const VALUES: TableDefinition<'_, u32, u64> = TableDefinition::new("values");
/// Transactional: adds to a value, and rolls back at 13.
const ADD: Method<(u32, u64), u64> = Method::new("test/add");
/// Transactional, with no effect.
const NOTHING: Method<(), ()> = Method::new("test/nothing");
/// Recorded.
const COUNT: Method<(), ()> = Method::new("test/count");
/// A long poll: a value, once it is more than this.
const WATCH: Method<(u32, u64), Result<u64, String>> =
    Method::new("test/watch").idempotent().drop_on_cancel();

fn value(snapshot: &Snapshot, key: u32) -> u64 {
    let Ok(values) = snapshot.open_table(VALUES) else { return 0 };
    values.get(key).unwrap().map_or(0, |value| value.value())
}

async fn watch(snapshots: Snapshots, key: u32, since: u64) -> Result<u64, String> {
    let mut snapshot = snapshots.latest();
    loop {
        match value(&snapshot, key) {
            value if value > since => return Ok(value),
            _ => snapshot = snapshot.changed().await.map_err(|error| error.to_string())?,
        }
    }
}

fn server(ledger: RedbLedger) -> Server {
    let snapshots = ledger.snapshots();
    Server::builder("test")
        .ledger(ledger)
        .transactional(&ADD, |transaction: &mut Transaction, _, (key, n)| {
            let mut values = transaction.open_table(VALUES)?;
            let sum = values.get(key)?.map_or(0, |value| value.value()) + n;
            values.insert(key, sum)?;
            if n == 13 { Err(Rollback::new("13")) } else { Ok(sum) }
        })
        .transactional(&NOTHING, |_: &mut Transaction, _, ()| Ok(()))
        .method(&COUNT, |_, ()| async {})
        .method(&WATCH, move |_, (key, since)| watch(snapshots.clone(), key, since))
        .build()
        .unwrap()
}

struct World {
    disk: Disk,
    snapshots: Snapshots,
    server: Server,
    place: Place,
}

fn world() -> World {
    let disk = Disk::default();
    let store = RedbStore::with_backend(disk.clone(), ServerId::from_bytes([5; 16])).unwrap();
    let (ledger, place) = (RedbLedger::new(store), Place::default());
    let snapshots = ledger.snapshots();
    let server = server(ledger);
    place.set(Some(server.clone()));
    World { disk, snapshots, server, place }
}

impl World {
    fn client(&self) -> Client {
        Client::new(self.place.clone(), ClientOptions::default())
    }

    /// Waits until so many watch.
    async fn until_watched_by(&self, watchers: usize) {
        while self.snapshots.changes().waiting() != watchers {
            smol::future::yield_now().await;
        }
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn c320_a_watch_wakes_after_an_effect_and_not_by_records_alone() {
    let world = world();
    smol::block_on(async {
        let client = world.client();
        assert_eq!(client.call(&ADD, &(1, 5)).await.ok(), Ok(5));
        let snapshot = world.snapshots.latest();
        let before = snapshot.change();
        let wakes = Arc::new(Counted::default());
        let waker = Waker::from(wakes.clone());
        let mut changed = pin!(snapshot.changed());
        assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        client.call(&COUNT, &()).await.ok().unwrap();
        client.call(&NOTHING, &()).await.ok().unwrap();
        let rolled_back = client.call(&ADD, &(1, 13)).await;
        assert!(matches!(rolled_back, Outcome::NotExecuted(NotExecuted::Aborted)));
        // Another session, which comes and goes.
        let other = world.client();
        assert!(other.connected().await && other.close().await.in_good_order);
        assert_eq!(
            (wakes.0.load(Ordering::SeqCst), world.snapshots.latest().change()),
            (0, before)
        );
        assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());

        // One that is rolled back in the same commit takes nothing from its neighbour.
        let calls = [(1, 13), (1, 2), (2, 1)].map(|add| client.call(&ADD, &add).start());
        let next = changed.await.unwrap();
        assert!(next.change() > before);
        for call in calls {
            let _outcome = call.await;
        }
        let latest = world.snapshots.latest();
        assert_eq!((value(&latest, 1), value(&latest, 2)), (7, 1));
        client.close().await;
    });
}

#[test]
fn c321_a_commit_between_a_snapshot_and_the_wait_is_not_missed() {
    let world = world();
    smol::block_on(async {
        let client = world.client();
        for round in 1..=100 {
            let snapshot = world.snapshots.latest();
            assert_eq!(client.call(&ADD, &(1, 1)).await.ok(), Ok(round));
            // Records behind it hide nothing.
            client.call(&COUNT, &()).await.ok().unwrap();
            let next = snapshot.changed().await.unwrap();
            assert_eq!(value(&next, 1), round);
        }
        // Over the wire, with calls that race with the watch: each change is seen, since each is waited for.
        let watcher = world.client();
        let adds = smol::spawn(async move {
            for round in 101..=300 {
                assert_eq!(client.call(&ADD, &(1, 1)).await.ok(), Ok(round));
            }
            client.close().await
        });
        let mut seen = 100;
        while seen < 300 {
            let next = watcher.call(&WATCH, &(1, seen)).await.ok().unwrap().unwrap();
            assert!(next > seen);
            seen = next;
        }
        adds.await;
        watcher.close().await;
    });
}

#[test]
fn c322_a_thousand_watchers_are_woken_and_those_that_are_dropped_leave_nothing() {
    const WATCHERS: usize = 1_000;
    let world = world();
    smol::block_on(async {
        let (client, watching) = (world.client(), world.client());
        // Of keys 0 to 9, of which one changes.
        let of_key = |key: u32| -> Vec<_> {
            (0..WATCHERS / 10).map(|_| watching.call(&WATCH, &(key, 0)).start()).collect()
        };
        let mut calls: Vec<_> = (0..10).map(of_key).collect();
        world.until_watched_by(WATCHERS).await;
        assert_eq!(client.call(&ADD, &(3, 1)).await.ok(), Ok(1));
        for call in calls.remove(3) {
            assert_eq!(call.await.ok(), Ok(Ok(1)));
        }
        world.until_watched_by(WATCHERS - WATCHERS / 10).await;
        // Their callers go: the server drops them, and the feed knows none of them any more.
        drop(calls);
        world.until_watched_by(0).await;
        assert_eq!(client.call(&ADD, &(3, 1)).await.ok(), Ok(2));

        // In this process: a wait keeps no snapshot, and its drop leaves no waker.
        let latest = world.snapshots.latest();
        let holders = Arc::strong_count(&latest);
        let waker = Waker::from(Arc::new(Counted::default()));
        let mut waits: Vec<_> = (0..WATCHERS).map(|_| Box::pin(latest.clone().changed())).collect();
        for wait in &mut waits {
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(world.snapshots.changes().waiting(), WATCHERS);
        assert_eq!(Arc::strong_count(&latest), holders);
        drop(waits);
        assert_eq!(world.snapshots.changes().waiting(), 0);
        watching.close().await;
        client.close().await;
    });
}

#[test]
fn c323_a_ledger_that_fails_or_ends_wakes_its_watchers_with_an_error() {
    let world = world();
    smol::block_on(async {
        let client = world.client();
        assert_eq!(client.call(&ADD, &(1, 1)).await.ok(), Ok(1));
        let watch = client.call(&WATCH, &(1, 1)).start();
        world.until_watched_by(1).await;
        let waits = world.snapshots.latest().changed();
        world.disk.full.store(true, Ordering::SeqCst);
        let mut in_doubt = client.call(&ADD, &(1, 1)).timeout(Duration::from_millis(500));
        // Sent by this, however late the client's task comes.
        assert!(smol::future::poll_once(&mut in_doubt).await.is_none());
        let error = waits.await.unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{error}");
        let ended = watch.await.ok().unwrap().unwrap_err();
        assert!(ended.contains("cannot be written"), "{ended}");
        assert!(matches!(in_doubt.await, Outcome::Unknown(..)));
        let later = world.snapshots.latest().changed().await;
        assert!(later.is_err(), "an error is for good");
    });

    // One that is closed without an error, with its server.
    let World { snapshots, server, place, .. } = self::world();
    let latest = snapshots.latest();
    let mut closed = pin!(latest.changed());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    place.set(None);
    drop((server, place));
    let Poll::Ready(Err(error)) = closed.as_mut().poll(&mut cx) else {
        panic!("no commit follows, and it waits")
    };
    assert!(error.to_string().contains("was closed"), "{error}");
}
