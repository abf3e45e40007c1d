//! The clocks of processes: each is behind the world's by some time, jumps forward, and stops.
//!
//! No clock goes back: that is all that a runtime promises. One jumps when its machine was suspended, say, and stops while
//! a virtual machine is paused, after which it has either lost that time or makes up for it at once.

use std::sync::{Arc, Mutex};

use oncewire_driver::protocol::Instant;

use super::World;
use super::executor::{Sim, Sleep, lock};
use super::profile::{MS, SECOND};
use crate::rng::Rng;

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

    fn jump(&self, nanos: u64) {
        let mut state = lock(&self.0);
        state.behind -= nanos as i64;
        if let Some(at) = &mut state.stands_at {
            *at += nanos;
        }
    }

    fn stop(&self, sim: &Sim) {
        let mut state = lock(&self.0);
        state.stands_at = Some(state.stands_at.unwrap_or_else(|| state.shown(sim)));
    }

    /// It goes on, from where it stopped or from where it would be.
    fn go_on(&self, sim: &Sim, makes_up: bool) {
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

/// What happens to clocks, a few times.
pub async fn disturb(world: Arc<World>) {
    let mut rng = Rng::apart(world.profile.seed, 0x70);
    for _ in 0..rng.range(2, 8) {
        Sleep::new(&world.sim, rng.delay(2_000 * MS)).await;
        let clock = {
            let place = lock(&world.place);
            let of_servers = place.hosts.iter().map(|host| &host.clock);
            let all: Vec<_> = place.client_clocks.iter().chain(of_servers).collect();
            all[rng.index(all.len())].clone()
        };
        if rng.one_in(2) {
            let by = rng.pick(&[20 * MS, 700 * MS, 3 * SECOND, 30 * SECOND, 400 * SECOND]);
            world.sim.note(|| format!("a clock jumps by {} ms", by / MS));
            world.count("clock jump");
            lock(&world.model).clocks_ahead += by;
            clock.jump(by);
        } else {
            let time = rng.pick(&[5 * MS, 300 * MS, 2_500 * MS]);
            world.sim.note(|| format!("a clock stops for {} ms", time / MS));
            world.count("clock stops");
            lock(&world.model).clocks_stood += time;
            clock.stop(&world.sim);
            Sleep::new(&world.sim, time).await;
            clock.go_on(&world.sim, rng.one_in(2));
        }
        // Timers were armed for when the clock was to show something.
        world.sim.wake_all();
    }
}
