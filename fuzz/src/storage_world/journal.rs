//! The real journal of a durable client on a simulated disk of its own.

use std::sync::{Arc, Mutex};

use oncewire_driver::journal::{Journal, JournalBatch, JournalError, JournalKey, JournalStore};
use oncewire_ledger_redb::RedbJournalStore;

use super::disk::{Death, Disk};
use super::program::Program;
use crate::driver_world::executor::{Group, Sleep, lock};
use crate::driver_world::profile::MS;
use crate::rng::Rng;

/// A journal whose commits are tasks of its program.
pub struct SimJournal {
    program: Arc<Program>,
    group: Group,
    disk: Disk,
    store: Arc<Mutex<RedbJournalStore>>,
    rng: Mutex<Rng>,
}

impl std::fmt::Debug for SimJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimJournal").field("group", &self.group).finish_non_exhaustive()
    }
}

impl SimJournal {
    /// Of this store on this disk, for the life of a program whose tasks are `group`.
    pub fn new(program: &Arc<Program>, group: Group, disk: &Disk, store: RedbJournalStore) -> Self {
        let rng = Rng::apart(program.world.profile.seed, u64::from(group) << 8 | 0x7b);
        SimJournal {
            program: program.clone(),
            group,
            disk: disk.clone(),
            store: Arc::new(Mutex::new(store)),
            rng: Mutex::new(rng),
        }
    }
}

impl Journal for SimJournal {
    fn recover(&self, keep: &mut dyn FnMut(JournalKey, &[u8])) -> Result<(), JournalError> {
        lock(&self.store).recover(keep)
    }

    fn commit(&self, batch: JournalBatch) {
        let world = &self.program.world;
        let mut rng = lock(&self.rng);
        let (first, fuse_max) = (rng.delay(MS), world.profile.fuse_max);
        let dies = rng.one_in(world.profile.fuse_in) && !world.sim.is_calm();
        let death = rng.pick(&[Death::Kill, Death::PowerCut]);
        let fuse = dies.then(|| (rng.below(fuse_max), death));
        let (program, disk, store) = (self.program.clone(), self.disk.clone(), self.store.clone());
        world.sim.spawn(self.group, async move {
            let sim = &program.world.sim;
            Sleep::new(sim, first).await;
            if let Some((operations, death)) = fuse {
                disk.light_fuse(operations, death);
            }
            let result = lock(&store).commit(batch.writes());
            disk.put_fuse_out();
            sim.note(|| format!("a journal's commit of {}: {result:?}", batch.writes().len()));
            if let Some(death) = disk.blown() {
                return program.end_life(death);
            }
            Sleep::new(sim, disk.take_owed()).await;
            batch.finish(result);
        });
    }
}
