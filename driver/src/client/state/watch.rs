//! Calls that depend on another one's polls are watched over: that one's future may be left by its owner.
//!
//! They wait for what it reads, or for what it has put off writing. The client's task could look whether it is still polled; but that
//! is another thread's on the default runtime, and where many calls are in flight they depend on one of them all the time. So the
//! watch has its own timer, whose waker belongs to no task, as deadlines have: the thread that calls it, the reactor's or that of the
//! alarms, looks, and wakes the task only if it must read. A leader that was not polled is woken first: it may wait for an answer that takes
//! longer, and be polled on the thread that has called the waker, which async-io puts to sleep if it does nothing but wake others.

use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};

use oncewire_core::Instant;

use super::super::reader::Watched;
use super::super::shared::Shared;
use super::State;
use crate::runtime::Timer;

/// Set while calls depend on a leading one, when the lock is free.
pub(in super::super) struct WatchTimer {
    timer: Box<dyn Timer>,
    waker: Waker,
}

impl WatchTimer {
    pub(in super::super) fn new(timer: Box<dyn Timer>, shared: Weak<Shared>) -> WatchTimer {
        WatchTimer { timer, waker: Waker::from(Arc::new(WatchWaker(shared))) }
    }
}

/// Ends the watch on whatever thread the timer wakes it.
struct WatchWaker(Weak<Shared>);

impl Wake for WatchWaker {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.0.upgrade().filter(|shared| !shared.is_forked()) {
            shared.with(|state, _| state.poll_watch_timer());
        }
    }
}

impl State {
    /// Whether calls depend on a leading call, and it is not watched yet.
    #[inline]
    pub(in super::super) fn wants_watch(&self) -> bool {
        self.reader.wants_watch() && self.link.is_up()
    }

    /// `now` is the present.
    pub(in super::super) fn begin_watch(&mut self, now: Instant) {
        let until = self.reader.begin_watch(now);
        let WatchTimer { timer, waker } = &mut self.watch_timer;
        timer.set(until);
        if timer.poll(&mut Context::from_waker(waker)).is_ready() {
            // It is over already. The waker takes the lock, so it is called when that is free.
            timer.set(Instant::ZERO);
            self.to_wake.push(waker.clone());
        }
    }

    /// The timer's waker was called, perhaps for nothing.
    fn poll_watch_timer(&mut self) {
        let WatchTimer { timer, waker } = &mut self.watch_timer;
        if timer.poll(&mut Context::from_waker(waker)).is_pending() {
            return;
        }
        match self.reader.end_watch() {
            Watched::Idle(leader) => self.to_wake.extend(self.pending.waker(leader).cloned()),
            Watched::Stalled if self.link.is_up() => self.wake_task(),
            Watched::Stalled | Watched::Well => {}
        }
    }
}
