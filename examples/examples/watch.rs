//! A watch that is not a poll: a board of values on a ledger, a method that answers when a value has changed, and a stream that sends
//! each change.
//!
//! `cargo run --example watch` prints what two watchers see while values change, and ends with an error if that is not as it must be.

use std::error::Error;
use std::time::Duration;

use oncewire::ledger::{LedgerError, Rollback};
use oncewire::redb::redb::{ReadableTable, TableDefinition};
use oncewire::redb::{RedbLedger, Snapshot, Snapshots, Transaction};
use oncewire::stream::Outgoing;
use oncewire::{Client, ClientOptions, Context, Server, memory};
use smol::stream;

/// A value, and how often it was set.
type Value = (u64, String);

#[oncewire::service(name = "board")]
trait Board {
    /// Sets a value; returns how often it was set.
    #[rpc(transactional)]
    fn set(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        name: String,
        text: String,
    ) -> Result<u64, Rollback>;
    /// The value, once it was set more often than `seen`. Dropped when its caller has gone; made again, at another server too,
    /// when the connection breaks.
    #[rpc(idempotent, drop_on_cancel)]
    async fn watch(&self, context: Context, name: String, seen: u64) -> Result<Value, String>;
    /// The value as it changes. A reader that is slow gets the last one, and not each between.
    async fn follow(&self, context: Context, name: String, seen: u64) -> Outgoing<Value>;
}

const VALUES: TableDefinition<'_, String, Value> = TableDefinition::new("values");

#[derive(Clone)]
struct OnLedger(Snapshots);

fn read(snapshot: &Snapshot, name: &String) -> Option<Value> {
    // There is no such table before the first value was set.
    let values = snapshot.open_table(VALUES).ok()?;
    values.get(name).ok()?.map(|value| value.value())
}

impl OnLedger {
    /// Waits for a value that was set more often than `seen`.
    async fn newer(&self, name: &String, seen: u64) -> Result<Value, LedgerError> {
        let mut snapshot = self.0.latest();
        loop {
            if let Some(value) = read(&snapshot, name).filter(|(set, _)| *set > seen) {
                return Ok(value);
            }
            // Until the next commit that wrote something: the records of other calls wake nothing.
            snapshot = snapshot.changed().await?;
        }
    }
}

impl Board for OnLedger {
    fn set(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        name: String,
        text: String,
    ) -> Result<u64, Rollback> {
        transaction.with_table(VALUES, move |values| {
            let set = values.get(&name)?.map_or(0, |value| value.value().0) + 1;
            values.insert(name, (set, text))?;
            Ok(set)
        })
    }

    async fn watch(&self, _: Context, name: String, seen: u64) -> Result<Value, String> {
        self.newer(&name, seen).await.map_err(|error| error.to_string())
    }

    async fn follow(&self, _: Context, name: String, seen: u64) -> Outgoing<Value> {
        // It ends where the ledger does: no value comes after that.
        Outgoing::new(stream::unfold(
            (self.clone(), name, seen),
            |(board, name, seen)| async move {
                let value = board.newer(&name, seen).await.ok()?;
                let set = value.0;
                Some((value, (board, name, set)))
            },
        ))
    }
}

async fn show(board: BoardClient, watcher: BoardClient) -> Result<(), Box<dyn Error>> {
    let name = || "copper".to_owned();
    let mut follow = watcher.follow(name(), 0);
    for price in 1..=3 {
        let watch = watcher.watch(name(), price - 1).timeout(Duration::from_secs(60)).start();
        // Another value wakes the handler, which looks, and waits again.
        board.set("tin".to_owned(), format!("{price}")).await.ok()?;
        board.set(name(), format!("{price} a pound")).await.ok()?;
        let watched = watch.await.ok()??;
        let followed = follow.next().await.ok_or("the stream ends too early")??;
        output::show!("watched: {watched:?}; followed: {followed:?}");
        assert_eq!(watched, (price, format!("{price} a pound")));
        assert_eq!(followed, watched);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("oncewire-watch-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let ledger = RedbLedger::open(folder.join("board.ledger"))?;
    let snapshots = ledger.snapshots();
    let board = OnLedger(snapshots.clone());
    let server = Server::builder("board").ledger(ledger).service(BoardServer(board)).build()?;
    let (connector, acceptor) = memory::listener();
    let serving = server.clone();
    let task = smol::spawn(async move { serving.serve(acceptor).await });

    let client = Client::new(connector.clone(), ClientOptions::default());
    let watcher = Client::new(connector, ClientOptions::default());
    let shown = smol::block_on(async {
        let shown = show(BoardClient(client.clone()), BoardClient(watcher.clone())).await;
        // A watch whose caller gives up is dropped at the server, and so is the stream that was dropped.
        drop(BoardClient(watcher.clone()).watch("lead".to_owned(), 0).start());
        while snapshots.changes().waiting() > 0 {
            smol::future::yield_now().await;
        }
        watcher.close().await;
        client.close().await;
        server.drain(Duration::from_secs(5)).await;
        task.cancel().await;
        shown
    });
    drop(server);
    std::fs::remove_dir_all(&folder)?;
    shown
}
