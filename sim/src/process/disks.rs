//! A process's disks: what is wrong with them, and what they hold when it is dead.

use oncewire_driver::ledger::LedgerError;
use oncewire_driver::protocol::ServerId;
use oncewire_ledger_redb::RedbStore;

use super::{Life, Process};
use crate::checks::Disks;
use crate::parts::disk::{Death, Disk, Faults as DiskFaults};
use crate::parts::executor::lock;
use crate::parts::rng::Rng;

impl Process {
    pub(crate) fn disk(&self, name: &str) -> Disk {
        let mut disks = lock(&self.disks);
        let number = disks.len() as u64;
        let seed = Rng::apart(self.world.seed, self.number << 16 | number << 8 | 3).next_u64();
        let slowness = self.world.faults().slowness.as_nanos() as u64;
        disks.entry(name.to_owned()).or_insert_with(|| Disk::new(seed, slowness)).clone()
    }

    pub(crate) fn open_ledger(&self) -> Result<RedbStore, LedgerError> {
        let id = Rng::apart(self.world.seed, self.number << 8 | 4).next_u64();
        let mut bytes = [9; 16];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        RedbStore::with_backend(self.disk("ledger").handle(), ServerId::from_bytes(bytes))
    }

    pub(crate) fn has_effects(&self) -> bool {
        !lock(&self.effects).is_empty()
    }

    /// Of all its disks, so far.
    pub(super) fn disk_failures(&self) -> u64 {
        lock(&self.disks).values().map(Disk::failures).sum()
    }

    /// Whether one of its disks has failed in this life.
    pub(super) fn has_bad_disk(&self) -> bool {
        self.disk_failures() > lock(&self.state).failures
    }

    pub(crate) fn break_disk(&self, name: &str, faults: DiskFaults) {
        self.world.exec.note(|| format!("{}: its disk {name} has errors: {faults:?}", self.name));
        self.world.count(if faults.room.is_some() { "full disks" } else { "disk errors" });
        self.disk(name).set_faults(faults);
    }

    /// Says whether it has a disk.
    pub(crate) fn break_some_disk(&self, faults: DiskFaults, rng: &mut Rng) -> bool {
        let names: Vec<String> = lock(&self.disks).keys().cloned().collect();
        if !names.is_empty() {
            self.break_disk(&names[rng.index(names.len())], faults);
        }
        !names.is_empty()
    }

    /// What has failed meanwhile is started again.
    pub(crate) fn mend_disks(&self) {
        let broken: Vec<Disk> = {
            let disks = lock(&self.disks);
            disks.values().filter(|disk| disk.faults().any()).cloned().collect()
        };
        if broken.is_empty() {
            return;
        }
        self.world.exec.note(|| format!("{}: its disks are in order", self.name));
        broken.iter().for_each(|disk| disk.set_faults(DiskFaults::default()));
        if self.has_bad_disk() {
            self.die(Death::Kill, "its disk had errors");
        }
    }

    /// Looks at the disks from outside, where they have no errors.
    fn on_sound_disks<T>(&self, look: impl FnOnce() -> T) -> T {
        let disks: Vec<Disk> = lock(&self.disks).values().cloned().collect();
        let faults: Vec<DiskFaults> = disks.iter().map(Disk::faults).collect();
        disks.iter().for_each(|disk| disk.set_faults(DiskFaults::default()));
        let found = look();
        disks.iter().zip(faults).for_each(|(disk, faults)| disk.set_faults(faults));
        found
    }

    /// Compares what its disks hold with the outcomes that callers have, and checks what is always true.
    pub(super) fn audit(&self, ends: bool) -> Result<(), String> {
        let found = self.on_sound_disks(|| self.look_at_disks(ends));
        // Handles of the audit are dead now.
        lock(&self.disks).values().for_each(|disk| disk.end_life(Death::Kill, true));
        found
    }

    fn look_at_disks(&self, ends: bool) -> Result<(), String> {
        let disks = Disks::new(self);
        let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", self.name);
        let effects = lock(&self.effects);
        if !effects.is_empty() {
            let mut keys = Vec::new();
            for of in effects.iter() {
                keys.extend(of(&disks).map_err(|error| failed(&error))?);
            }
            self.world.exec.note(|| format!("{}: {} effects on its disks", self.name, keys.len()));
            let mut book = lock(&self.world.book);
            book.audit(&self.name, keys).map_err(|error| failed(&error))?;
            if ends || self.world.is_only_one_with_effects(self) {
                book.check_replied().map_err(|error| failed(&error))?;
            }
        }
        for (name, check) in lock(&self.checks).iter() {
            check(&disks).map_err(|error| failed(&format!("{name}: {error}")))?;
        }
        Ok(())
    }

    /// The world is over: it ends as by a power cut, so that only what was durable is left.
    pub(crate) fn end_for_good(&self) -> Result<(), String> {
        self.end(Death::PowerCut, "the world ends", Life::Ended);
        // Of one that was down, too.
        lock(&self.disks).values().for_each(|disk| disk.end_life(Death::PowerCut, true));
        self.audit(true)
    }
}
