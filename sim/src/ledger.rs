//! The real ledger and the real journal on simulated disks: commits are tasks of the world, and a process may die inside.

use std::sync::{Arc, Mutex};

use oncewire_driver::journal::{Journal, JournalBatch, JournalError, JournalKey, JournalStore};
use oncewire_driver::ledger::{Batch, Identity, Ledger, LedgerError, Restore, Store};
use oncewire_ledger_redb::{RedbJournalStore, RedbStore, Snapshots, Transaction};

use crate::parts::MS;
use crate::parts::disk::{Death, Disk};
use crate::parts::executor::{Group, Sleep, lock};
use crate::parts::rng::Rng;
use crate::process::Process;

/// Where one commit ends its process.
#[derive(Clone, Copy, Debug)]
enum End {
    /// After so many operations of the disk.
    Within(u64, Death),
    /// When all is durable and nothing was answered.
    After(Death),
}

/// What a ledger and a journal have in common.
struct Commits {
    process: Arc<Process>,
    group: Group,
    disk: Disk,
    rng: Mutex<Rng>,
}

impl Commits {
    fn new(process: &Arc<Process>, group: Group, disk: Disk, purpose: u64) -> Commits {
        let rng = Rng::apart(process.world.seed, u64::from(group) << 8 | purpose);
        Commits { process: process.clone(), group, disk, rng: Mutex::new(rng) }
    }

    /// How long a commit waits for its thread, and where it ends its process.
    fn plan(&self) -> (u64, Option<End>) {
        let mut rng = lock(&self.rng);
        let wait = rng.delay(MS);
        let death = rng.pick(&[Death::Kill, Death::PowerCut]);
        let end = match rng.one_in(2) {
            true => End::After(death),
            false => End::Within(rng.below(30), death),
        };
        let world = &self.process.world;
        let dies = rng.one_in(world.faults().dies_in_commit) && !world.exec.is_calm();
        (wait, dies.then_some(end))
    }

    /// Runs one commit and hands over its result, unless the process dies before.
    fn run<T: Send + 'static, R: std::fmt::Debug + Send + 'static>(
        &self,
        mut batch: T,
        commit: impl FnOnce(&mut T) -> R + Send + 'static,
        finish: impl FnOnce(T, R) + Send + 'static,
    ) {
        let (wait, end) = self.plan();
        let (process, disk, group) = (self.process.clone(), self.disk.clone(), self.group);
        self.process.world.exec.spawn(self.group, async move {
            let exec = &process.world.exec;
            Sleep::new(exec, wait).await;
            if let Some(End::Within(operations, death)) = end {
                disk.light_fuse(operations, death);
            }
            let result = commit(&mut batch);
            disk.put_fuse_out();
            exec.note(|| format!("{}: a commit: {result:?}", process.name));
            if let Some(death) = disk.blown() {
                return process.die_in(group, death, "within a commit");
            }
            Sleep::new(exec, disk.take_owed()).await;
            if let Some(End::After(death)) = end {
                return process.die_in(group, death, "after a commit, before its replies");
            }
            finish(batch, result);
        });
    }
}

/// A ledger of one file on a simulated disk: [`Host::ledger`](crate::Host::ledger).
pub struct SimLedger {
    commits: Commits,
    store: Arc<Mutex<RedbStore>>,
    identity: Identity,
    snapshots: Snapshots,
}

impl SimLedger {
    pub(crate) fn new(process: &Arc<Process>, group: Group, store: RedbStore) -> SimLedger {
        SimLedger {
            commits: Commits::new(process, group, process.disk("ledger"), 1),
            identity: Store::identity(&store),
            snapshots: store.snapshots(),
            store: Arc::new(Mutex::new(store)),
        }
    }

    /// Where what is durable can be read, as from a `RedbLedger`.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }
}

impl Ledger for SimLedger {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        lock(&self.store).recover(restore)
    }

    fn commit(&self, batch: Batch<Transaction>) {
        let store = self.store.clone();
        let commit = move |batch: &mut Batch<Transaction>| lock(&store).commit(batch);
        self.commits.run(batch, commit, |batch, result| batch.finish(result));
    }
}

impl std::fmt::Debug for SimLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimLedger").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A journal of one file on a simulated disk: [`Host::journal`](crate::Host::journal).
pub struct SimJournal {
    commits: Commits,
    store: Arc<Mutex<RedbJournalStore>>,
}

impl SimJournal {
    pub(crate) fn new(process: &Arc<Process>, group: Group, store: RedbJournalStore) -> SimJournal {
        let commits = Commits::new(process, group, process.disk("journal"), 2);
        SimJournal { commits, store: Arc::new(Mutex::new(store)) }
    }
}

impl Journal for SimJournal {
    fn recover(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
        lock(&self.store).recover(keep)
    }

    fn commit(&self, batch: JournalBatch) {
        let store = self.store.clone();
        let commit = move |batch: &mut JournalBatch| lock(&store).commit(batch.writes());
        self.commits.run(batch, commit, |batch, result| batch.finish(result));
    }
}

impl std::fmt::Debug for SimJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimJournal").finish_non_exhaustive()
    }
}
