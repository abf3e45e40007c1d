//! An allocator that counts the bytes that each thread allocates and frees.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Allocations that this thread has made.
pub(crate) fn count() -> u64 {
    COUNT.get()
}

/// Bytes that this thread holds.
pub(crate) fn live_bytes() -> i64 {
    LIVE.get()
}

fn note(allocations: u64, bytes: i64) {
    COUNT.set(COUNT.get() + allocations);
    LIVE.set(LIVE.get() + bytes);
}

// SAFETY: every method does what the system's allocator does; the counters do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: our caller keeps the trait's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: our caller keeps the trait's promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(1, new_size as i64 - layout.size() as i64);
        // SAFETY: our caller keeps the trait's promises.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        // SAFETY: our caller keeps the trait's promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}
