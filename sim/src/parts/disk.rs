//! A disk that does what disks may do, and, with a mutant, what they may not.
//!
//! What is written is in the cache, where reads see it, until a sync. A power cut leaves of each write since the last
//! sync all, nothing, or any bytes; the death of a process leaves the cache. A sync that fails may have written
//! a part, and may have forgotten the rest: the cache still shows what will never be on the platter.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use oncewire_ledger_redb::redb::StorageBackend;

use super::executor::lock;
use super::rng::Rng;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It is killed: what it has written is in the cache.
    Kill,
    /// The power fails: what was not synced is torn.
    PowerCut,
}

/// What is wrong with the disk just now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A sync fails once in so many; 0 for never.
    pub sync_in: u64,
    /// A write fails, half done, once in so many.
    pub write_in: u64,
    /// A read fails once in so many.
    pub read_in: u64,
    /// Bytes that can still be written before the disk is full.
    pub room: Option<u64>,
}

impl Faults {
    /// Whether anything is wrong.
    pub fn any(&self) -> bool {
        let Faults { sync_in, write_in, read_in, room } = *self;
        sync_in > 0 || write_in > 0 || read_in > 0 || room.is_some()
    }
}

/// What happened to the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Syncs that did what they said.
    pub syncs: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Syncs that lied.
    pub lies: u64,
    /// Reads and writes that failed, a full disk included.
    pub errors: u64,
    /// Writes that found the disk full.
    pub full: u64,
    /// Power cuts with something unsynced.
    pub torn: u64,
    /// Processes that died between two operations of one commit or one recovery.
    pub fuses: u64,
}

enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Len(usize),
}

struct State {
    rng: Rng,
    /// What reads see.
    cache: Vec<u8>,
    /// What a power cut is sure to leave.
    platter: Vec<u8>,
    /// What it may leave, oldest first.
    unsynced: Vec<Change>,
    /// Which process uses it: the handles of those before are dead.
    life: u64,
    faults: Faults,
    /// Syncs say that they are done and do nothing.
    lies: bool,
    /// Operations until the process dies, and how.
    fuse: Option<(u64, Death)>,
    blown: Option<Death>,
    /// Longest time that an operation takes.
    slowness: u64,
    /// Time that operations have taken and that has not passed yet.
    owed: u64,
    counters: Counters,
}

/// The disk; it outlives its processes.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// What one process sees of the disk.
#[derive(Debug)]
pub struct Handle {
    disk: Disk,
    life: u64,
}

/// What stood on a disk at some time.
#[derive(Clone)]
pub struct Copied(Vec<u8>);

impl fmt::Debug for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Copied").field(&self.0.len()).finish()
    }
}

/// Whether a process may do another operation.
enum Pulse {
    Lives,
    /// In the midst of this one.
    Dies,
    Dead,
}

fn dead() -> io::Error {
    error(io::ErrorKind::Other, "this process is dead")
}

fn error(kind: io::ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, what)
}

impl Disk {
    /// An empty disk, whose operations take up to `slowness` nanoseconds.
    pub fn new(seed: u64, slowness: u64) -> Disk {
        Disk(Arc::new(Mutex::new(State {
            rng: Rng::apart(seed, 0x70),
            cache: Vec::new(),
            platter: Vec::new(),
            unsynced: Vec::new(),
            life: 0,
            faults: Faults::default(),
            lies: false,
            fuse: None,
            blown: None,
            slowness,
            owed: 0,
            counters: Counters::default(),
        })))
    }

    /// For the process that lives now.
    pub fn handle(&self) -> Handle {
        Handle { disk: self.clone(), life: lock(&self.0).life }
    }

    /// From now on this is wrong with it.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.0).faults = faults;
    }

    /// What is wrong with it.
    pub fn faults(&self) -> Faults {
        lock(&self.0).faults
    }

    /// Whether syncs lie from now on. What they did not write is written by the first honest one.
    pub fn set_lies(&self, lies: bool) {
        lock(&self.0).lies = lies;
    }

    /// The process dies after so many operations more.
    pub fn light_fuse(&self, operations: u64, death: Death) {
        lock(&self.0).fuse = Some((operations, death));
    }

    /// It does not.
    pub fn put_fuse_out(&self) {
        lock(&self.0).fuse = None;
    }

    /// Whether the fuse has burnt down: the process is dead, and how.
    pub fn blown(&self) -> Option<Death> {
        lock(&self.0).blown
    }

    /// Writes that are not on the platter for sure. Changes of its length, as when redb gives room back, do not count.
    pub fn unsynced(&self) -> usize {
        let state = lock(&self.0);
        state.unsynced.iter().filter(|change| matches!(change, Change::Write { .. })).count()
    }

    /// Time that operations took since this was last asked.
    pub fn take_owed(&self) -> u64 {
        std::mem::take(&mut lock(&self.0).owed)
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        lock(&self.0).counters
    }

    /// Operations that failed so far, of whatever kind.
    pub fn failures(&self) -> u64 {
        let counters = self.counters();
        counters.errors + counters.syncs_failed
    }

    /// The process is dead: its handles are, too. `evicts` says that the next one drops what the cache holds and the
    /// platter does not, and no sync will bring there.
    pub fn end_life(&self, death: Death, evicts: bool) {
        let mut state = lock(&self.0);
        state.life += 1;
        state.fuse = None;
        state.blown = None;
        state.owed = 0;
        let changes = std::mem::take(&mut state.unsynced);
        match death {
            Death::PowerCut => {
                state.counters.torn += u64::from(!changes.is_empty());
                state.leave_some(&changes);
                state.cache = state.platter.clone();
            }
            Death::Kill => {
                if evicts {
                    state.cache = state.platter.clone();
                    for change in &changes {
                        apply(&mut state.cache, change, None);
                    }
                }
                state.unsynced = changes;
            }
        }
    }

    /// What reads see now. No process uses it meanwhile.
    pub fn copy(&self) -> Copied {
        Copied(lock(&self.0).cache.clone())
    }

    /// An old copy takes the place of what is there.
    pub fn put_back(&self, copy: Copied) {
        let mut state = lock(&self.0);
        state.unsynced.clear();
        state.cache.clone_from(&copy.0);
        state.platter = copy.0;
    }

    /// Everything on it is gone.
    pub fn wipe(&self) {
        let mut state = lock(&self.0);
        state.cache.clear();
        state.platter.clear();
        state.unsynced.clear();
    }
}

/// Does a change, or the part of it that is given.
fn apply(to: &mut Vec<u8>, change: &Change, part: Option<(usize, usize)>) {
    match change {
        Change::Len(len) => to.resize(*len, 0),
        Change::Write { at, bytes } => {
            let (from, until) = part.unwrap_or((0, bytes.len()));
            if to.len() < at + until {
                to.resize(at + until, 0);
            }
            to[at + from..at + until].copy_from_slice(&bytes[from..until]);
        }
    }
}

impl State {
    /// Some of these reach the platter, some in part.
    fn leave_some(&mut self, changes: &[Change]) {
        // All up to one of them, which is torn; or each by its own chance.
        let in_order = self.rng.one_in(3);
        let stop = self.rng.index(changes.len() + 1);
        let lost_in = self.rng.pick(&[2, 2, 3, 8]);
        for (number, change) in changes.iter().enumerate() {
            let whole = if in_order { number < stop } else { !self.rng.one_in(lost_in) };
            if whole {
                apply(&mut self.platter, change, None);
                continue;
            }
            let tears = if in_order { number == stop } else { self.rng.one_in(2) };
            if let (Change::Write { bytes, .. }, true) = (change, tears) {
                let at = self.rng.index(bytes.len() + 1);
                let part = if self.rng.one_in(3) { (at, bytes.len()) } else { (0, at) };
                apply(&mut self.platter, change, Some(part));
            }
        }
    }

    /// Every operation passes here: a process of before, or one whose fuse has burnt down, does nothing more.
    fn pulse(&mut self, life: u64) -> Pulse {
        if life != self.life || self.blown.is_some() {
            return Pulse::Dead;
        }
        let took = self.rng.delay(self.slowness);
        self.owed += took;
        match self.fuse.take() {
            Some((0, death)) => {
                self.blown = Some(death);
                self.counters.fuses += 1;
                return Pulse::Dies;
            }
            Some((left, death)) => self.fuse = Some((left - 1, death)),
            None => {}
        }
        Pulse::Lives
    }

    fn step(&mut self, life: u64) -> io::Result<()> {
        match self.pulse(life) {
            Pulse::Lives => Ok(()),
            Pulse::Dies | Pulse::Dead => Err(dead()),
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.cache, &change, None);
        self.unsynced.push(change);
    }

    /// How many bytes of a write are written, and why not all.
    fn judge_write(&mut self, len: usize) -> (usize, io::Result<()>) {
        if let Some(room) = self.faults.room {
            let written = room.min(len as u64);
            self.faults.room = Some(room - written);
            if written < len as u64 {
                self.counters.full += 1;
                return (written as usize, Err(error(io::ErrorKind::StorageFull, "no space left")));
            }
        }
        if self.rng.one_in(self.faults.write_in) {
            return (self.rng.index(len + 1), Err(error(io::ErrorKind::Other, "a write failed")));
        }
        (len, Ok(()))
    }

    fn write(&mut self, life: u64, at: u64, data: &[u8]) -> io::Result<()> {
        let (len, judged) = match self.pulse(life) {
            Pulse::Lives => self.judge_write(data.len()),
            // The last write of a process may be half done.
            Pulse::Dies => (self.rng.index(data.len() + 1), Err(dead())),
            Pulse::Dead => return Err(dead()),
        };
        let at = at as usize;
        if at + data.len() > self.cache.len() {
            return Err(error(io::ErrorKind::InvalidInput, "a write beyond the end"));
        }
        self.counters.errors += u64::from(judged.is_err());
        if len > 0 {
            self.change(Change::Write { at, bytes: data[..len].to_vec() });
        }
        judged
    }

    fn sync(&mut self, life: u64) -> io::Result<()> {
        self.step(life)?;
        if self.lies {
            self.counters.lies += 1;
            return Ok(());
        }
        let fails = self.rng.one_in(self.faults.sync_in);
        if fails && self.rng.one_in(2) {
            self.counters.syncs_failed += 1;
            return Err(error(io::ErrorKind::Other, "a sync failed"));
        }
        let changes = std::mem::take(&mut self.unsynced);
        if fails {
            // What was not written is forgotten: the next sync does not try again.
            self.counters.syncs_failed += 1;
            self.leave_some(&changes);
            return Err(error(io::ErrorKind::Other, "a sync failed"));
        }
        self.counters.syncs += 1;
        for change in &changes {
            apply(&mut self.platter, change, None);
        }
        Ok(())
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = lock(&self.disk.0);
        state.step(self.life)?;
        Ok(state.cache.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = lock(&self.disk.0);
        state.step(self.life)?;
        let fails = state.faults.read_in;
        if state.rng.one_in(fails) {
            state.counters.errors += 1;
            return Err(error(io::ErrorKind::Other, "a read failed"));
        }
        let at = offset as usize;
        let from = state.cache.get(at..at + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = lock(&self.disk.0);
        state.step(self.life)?;
        if len > state.cache.len() as u64 && state.faults.room.is_some() {
            state.counters.full += 1;
            state.counters.errors += 1;
            return Err(error(io::ErrorKind::StorageFull, "no space left"));
        }
        state.change(Change::Len(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        lock(&self.disk.0).sync(self.life)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        lock(&self.disk.0).write(self.life, offset, data)
    }
}

#[cfg(test)]
mod tests;
