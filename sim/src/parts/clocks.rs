//! The clocks of processes: each is behind the world's by some time, jumps forward, and stops.
//!
//! No clock goes back: that is all that a runtime promises. One jumps when its machine was suspended, say, and stops while
//! a virtual machine is paused, after which it has either lost that time or makes up for it at once.

use std::sync::{Arc, Mutex};

use oncewire_driver::protocol::Instant;

use super::executor::{Sim, lock};

#[derive(Debug, Default)]
struct State {
    /// How far it is behind the world's; less than 0 after jumps.
    behind: i64,
    /// Where it has stopped.
    stands_at: Option<u64>,
}

/// The clock of a process.
#[derive(Debug, Default)]
pub struct Clock(Mutex<State>);

impl Clock {
    /// One that is so many nanoseconds behind: that of a process which was started later, say.
    pub fn behind(nanos: u64) -> Arc<Clock> {
        Arc::new(Clock(Mutex::new(State { behind: nanos as i64, stands_at: None })))
    }

    /// What it shows.
    pub fn now(&self, sim: &Sim) -> Instant {
        let state = lock(&self.0);
        Instant::from_nanos(state.stands_at.unwrap_or_else(|| state.shown(sim)))
    }

    /// When it will show `at`, if no fault touches it: as the world counts. Never, while it is stopped.
    pub fn shows_at(&self, at: Instant) -> u64 {
        let state = lock(&self.0);
        match state.stands_at {
            Some(_) => u64::MAX,
            None => at.as_nanos().saturating_add_signed(state.behind),
        }
    }

    /// Jumps forward by so many nanoseconds.
    pub fn jump(&self, nanos: u64) {
        let mut state = lock(&self.0);
        state.behind -= nanos as i64;
        if let Some(at) = &mut state.stands_at {
            *at += nanos;
        }
    }

    /// Stops.
    pub fn stop(&self, sim: &Sim) {
        let mut state = lock(&self.0);
        state.stands_at = Some(state.stands_at.unwrap_or_else(|| state.shown(sim)));
    }

    /// It continues, from where it stopped or from where it would be.
    pub fn go_on(&self, sim: &Sim, makes_up: bool) {
        let mut state = lock(&self.0);
        if let Some(at) = state.stands_at.take()
            && !makes_up
        {
            state.behind += state.shown(sim) as i64 - at as i64;
        }
    }
}

impl State {
    fn shown(&self, sim: &Sim) -> u64 {
        sim.now().saturating_add_signed(-self.behind)
    }
}
