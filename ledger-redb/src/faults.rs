//! Faults that no storage can show, for simulators (feature `_faults`); not for programs.

/// What goes wrong inside commits whose calls run apart because one of them was rolled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The commit fails before its call of this number, from 0, or after its last one. It is no I/O error, which would
    /// keep redb from making anything durable, and no panic.
    pub stop_at: Option<u32>,
    /// A mutant: records are written after all effects, in another transaction.
    pub records_apart: bool,
}

impl Faults {
    /// Counts the calls down.
    pub(crate) fn may_stop(&mut self) -> Result<(), redb::Error> {
        match &mut self.stop_at {
            None => Ok(()),
            Some(0) => Err(redb::Error::Corrupted("a simulated fault between two calls".into())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use oncewire_driver::ledger::Rollback;
    use oncewire_driver::{
        BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Outcome, Server, Subject,
    };
    use redb::{ReadableTable, TableDefinition};
    use smol::net::unix::UnixStream;

    use super::*;
    use crate::{RedbLedger, RedbStore, Snapshots, Transaction};

    const BALANCE: TableDefinition<'_, (), i64> = TableDefinition::new("balance");
    /// Transactional: adds, and rolls back what leaves less than nothing.
    const PAY: Method<i64, i64> = Method::new("test/pay");
    /// Transactional: keeps the commit under way until it is released.
    const HOLD: Method<(), ()> = Method::new("test/hold");
    /// Idempotent.
    const READ: Method<(), i64> = Method::new("test/read").idempotent();

    /// Where HOLD says that it runs, and what releases it.
    type Gate = (Sender<()>, Receiver<()>);

    fn server(ledger: RedbLedger, gate: Gate) -> Server {
        let (snapshots, gate): (Snapshots, _) = (ledger.snapshots(), Mutex::new(gate));
        Server::builder("test")
            .ledger(ledger)
            .transactional(&PAY, |transaction: &mut Transaction, _, amount| {
                let mut table = transaction.open_table(BALANCE)?;
                let balance = table.get(())?.map_or(0, |balance| balance.value()) + amount;
                table.insert((), balance)?;
                drop(table);
                if balance < 0 { Err(Rollback::new("nothing is left")) } else { Ok(balance) }
            })
            .transactional(&HOLD, move |_: &mut Transaction, _, ()| {
                let (runs, release) = &*gate.lock().unwrap();
                // Run again after the crash, when no caller waits for it.
                if runs.send(()).is_ok() {
                    release.recv()?;
                }
                Ok(())
            })
            .method(&READ, move |_, ()| {
                let snapshot = snapshots.latest();
                async move {
                    let Ok(table) = snapshot.open_table(BALANCE) else { return 0 };
                    table.get(()).unwrap().map_or(0, |balance| balance.value())
                }
            })
            .build()
            .unwrap()
    }

    #[derive(Clone, Default)]
    struct Place(Arc<Mutex<Option<Server>>>);

    impl Connect for Place {
        fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
            Box::pin(async {
                let server = self.0.lock().unwrap().clone().ok_or(io::ErrorKind::NotFound)?;
                let (ours, theirs) = UnixStream::pair()?;
                server.serve_stream(Box::new(theirs), Subject::Anonymous);
                Ok(Box::new(ours) as BoxStream)
            })
        }

        fn address(&self) -> String {
            "a socket pair".to_owned()
        }
    }

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// Once the last server has closed it.
    async fn open(path: &Path) -> RedbStore {
        loop {
            match RedbStore::open(path) {
                Ok(store) => return store,
                Err(error) => assert!(error.to_string().contains("uses it"), "{error}"),
            }
            smol::future::yield_now().await;
        }
    }

    /// Eight payments in one batch, of which the third is rolled back, and a commit that fails before its call `stop_at`
    /// or after all of them. Returns what the callers learned was paid, and what is there.
    fn payments(stop_at: u32, records_apart: bool) -> (i64, i64) {
        let name = format!("oncewire-apart-{}-{stop_at}-{records_apart}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        let (path, place) = (folder.0.join("a.ledger"), Place::default());
        smol::block_on(async {
            let mut store = open(&path).await;
            store.set_faults(Faults { stop_at: Some(stop_at), records_apart });
            let ((runs, running), (release, released)) = (channel(), channel());
            let before = server(RedbLedger::new(store), (runs, released));
            *place.0.lock().unwrap() = Some(before.clone());
            let client = Client::new(place.clone(), ClientOptions::default());
            let held = client.call(&HOLD, &()).start();
            smol::unblock(move || running.recv().unwrap()).await;
            let amounts = [1, 1, -1_000, 1, 1, 1, 1, 1];
            let calls: Vec<_> =
                amounts.iter().map(|amount| client.call(&PAY, amount).start()).collect();
            // Requests are read in order: the others are in the next batch once this one was answered.
            assert_eq!(client.call(&READ, &()).await.ok(), Ok(0));
            release.send(()).unwrap();
            assert_eq!(held.await.ok(), Ok(()));
            while before.ledger_error().is_none() {
                smol::future::yield_now().await;
            }
            *place.0.lock().unwrap() = None;
            before.drain(Duration::ZERO).await;
            drop(before);
            let (runs, (_, released)) = (channel().0, channel());
            let after = server(RedbLedger::new(open(&path).await), (runs, released));
            *place.0.lock().unwrap() = Some(after.clone());
            let mut paid = 0;
            for (amount, call) in amounts.iter().zip(calls) {
                match call.await {
                    Outcome::Reply(_) => paid += amount,
                    Outcome::NotExecuted(_) => assert!(*amount < 0),
                    other => panic!("{other:?}"),
                }
            }
            let there = client.call(&READ, &()).await.ok().unwrap();
            client.close().await;
            after.drain(Duration::from_secs(5)).await;
            (paid, there)
        })
    }

    #[test]
    fn c126_a_commit_that_fails_between_two_calls_leaves_no_effect_without_its_record() {
        for stop_at in [0, 1, 3, 5, 8] {
            assert_eq!(payments(stop_at, false), (7, 7), "stopped at {stop_at}");
        }
    }

    /// The mutant: what was seen before.
    #[test]
    fn c126_records_written_after_their_effects_are_found_out() {
        assert_eq!(payments(5, true), (7, 11));
    }
}
