//! What a server says that it holds, against an allocator that counts (S11).
//!
//! The allocator counts for each thread by itself, so that tests may run beside each other. Where a program has not made
//! [`Counting`] its allocator, nothing is measured.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use oncewire_core::{Heap, Server, ServerCounters};

use super::World;
use super::kinds::Kind;
use super::profile::Broken;
use super::trace::{Check, ensure};

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, and how many bytes of it are live.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: i64) {
    // A thread that ends frees what it had after its counter is gone.
    let _gone = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: everything is passed on to the system's allocator as it came.
#[allow(unsafe_code, reason = "an allocator cannot be written without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count(len as i64 - layout.size() as i64);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.realloc(ptr, layout, len) }
    }
}

fn live() -> i64 {
    LIVE.get()
}

/// Tables of connections, sessions and shares with one chunk of places each, and the methods.
const TABLES: u64 = 44_800;
/// Places for another 64 sessions. They are kept when the sessions have ended.
const MORE_SESSIONS: u64 = 64 * 256;
/// A session and a connection beside that: their places in indexes and lists, and memory that waits to be used again.
const SESSION: u64 = 128;
const CONN: u64 = 64;

impl World {
    /// Bytes that a server is made of beside those that it says it holds: of a copy of it. `None` if not counted.
    pub(super) fn surplus(&self, h: usize) -> Option<i64> {
        if live() == 0 {
            return None;
        }
        let before = live();
        let copy = self.hosts[h].server.clone();
        let held = live() - before;
        drop(copy);
        let counters = self.counters(h);
        Some(held - (counters.kept_bytes + counters.table_bytes) as i64)
    }

    /// Compares what a server holds with what it says.
    pub(super) fn measure(&mut self, h: usize) -> Check {
        match self.surplus(h) {
            Some(surplus) => self.judge_memory(h, surplus, &self.counters(h)),
            None => Ok(()),
        }
    }

    /// The process of a server dies, and another one takes its place. What is freed by it is what it held: shared memory
    /// too, and room that was not used.
    pub(super) fn measure_dead(&mut self, h: usize, next: Server<Heap>) -> Check {
        let counters = self.counters(h);
        let before = live();
        drop(std::mem::replace(&mut self.hosts[h].server, next));
        let held = before - live();
        if before == 0 {
            return Ok(());
        }
        self.judge_memory(
            h,
            held - (counters.kept_bytes + counters.table_bytes) as i64,
            &counters,
        )?;
        self.hosts[h].sessions_most = 0;
        Ok(())
    }

    fn judge_memory(&mut self, h: usize, surplus: i64, counters: &ServerCounters) -> Check {
        self.kinds[Kind::Measured as usize] += 1;
        let places = TABLES + self.hosts[h].sessions_most as u64 / 64 * MORE_SESSIONS;
        let known = counters.sessions as u64 * SESSION + counters.conns as u64 * CONN + places;
        ensure!(
            surplus <= known as i64,
            "S11: s{h} holds {surplus} bytes more than it says: {counters:?}"
        );
        Ok(())
    }

    /// What a server says that it holds.
    pub(super) fn counters(&self, h: usize) -> ServerCounters {
        let mut counters = self.hosts[h].server.counters();
        if self.profile.broken == Broken::Undercount {
            counters.kept_bytes -= counters.half_sent_bytes;
            counters.half_sent_bytes = 0;
        }
        counters
    }
}
