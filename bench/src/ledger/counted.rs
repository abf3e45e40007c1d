//! What callgrind counts for a call with a ledger: client, server and commits on one thread, so that batches are the same in each
//! run. What it costs to pass a batch to the ledger's thread and back is not in it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oncewire_driver::ledger::{Batch, Identity, Ledger, LedgerError, Restore, Store};
use oncewire_driver::{Client, ClientOptions, Server};
use oncewire_ledger_redb::{RedbStore, Transaction};
use serde::{Deserialize, Serialize};
use smol::Executor;

use super::service::{self, Kind};
use crate::both_ends::{CountedRuntime, Dial};
use crate::{Result, callgrind};

/// Calls of each loop in the longer of two runs; the shorter one makes a third of them.
const CALLS_EACH: u64 = 48;
/// Calls of the longer run, at least.
const CALLS_MIN: u64 = 600;

/// What a run is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    kind: Kind,
    in_flight: usize,
    /// Where its ledger is made, in a file that is not there yet.
    folder: PathBuf,
}

/// Instructions of a call with so many in flight.
pub(super) fn instructions(folder: &Path, kind: Kind, in_flight: usize) -> Result<f64> {
    let counted = |calls: u64| {
        let folder = folder.join(format!("counted-{calls}"));
        std::fs::create_dir(&folder)?;
        let setup = Setup { kind, in_flight, folder: folder.clone() };
        let count = callgrind::instructions("ledger-calls", &setup, calls);
        std::fs::remove_dir_all(&folder)?;
        count
    };
    let calls = (CALLS_EACH * in_flight as u64).max(CALLS_MIN);
    let (less, more) = (counted(calls / 3)?, counted(calls)?);
    Ok((more - less) as f64 / (calls - calls / 3) as f64)
}

/// Makes calls: what callgrind counts.
pub(crate) fn make_calls(setup: &Setup, calls: u64) -> Result<()> {
    let executor: Arc<Executor<'static>> = Arc::default();
    let runtime = Arc::new(CountedRuntime::new(executor.clone()));
    let ledger = InPlace::new(RedbStore::open(&setup.folder.join("ledger"))?);
    let server = service::on_ledger(Server::builder("ledgered").runtime(runtime.clone()), ledger)?;
    let dial = Dial { server, recorder: None };
    let client = Client::with_runtime(dial, ClientOptions::default(), runtime);
    let (method, numbers) = (setup.kind.method(), Default::default());
    let each = calls / setup.in_flight as u64;
    smol::block_on(executor.run(async {
        let one = |_| async {
            for _ in 0..each {
                client.call(method, &service::argument(&numbers, 0)).await.ok()?;
            }
            Ok::<_, oncewire_driver::CallFailure>(())
        };
        let mut loops: FuturesUnordered<_> = (0..setup.in_flight).map(one).collect();
        while let Some(done) = loops.next().await {
            done?;
        }
        Ok(())
    }))
}

/// A ledger that commits before it returns.
struct InPlace {
    store: Mutex<RedbStore>,
    identity: Identity,
}

impl InPlace {
    fn new(store: RedbStore) -> InPlace {
        InPlace { identity: store.identity(), store: Mutex::new(store) }
    }
}

impl Ledger for InPlace {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn recover(&self, restore: &mut Restore<'_>) -> std::result::Result<(), LedgerError> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).recover(restore)
    }

    fn commit(&self, mut batch: Batch<Transaction>) {
        let result = self.store.lock().unwrap_or_else(PoisonError::into_inner).commit(&mut batch);
        batch.finish(result);
    }
}
