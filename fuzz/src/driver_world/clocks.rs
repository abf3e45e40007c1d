//! What happens to the clocks of processes.

use std::sync::Arc;

pub use oncewire_sim::parts::clocks::Clock;

use super::World;
use super::executor::{Sleep, lock};
use super::profile::{MS, SECOND};
use crate::rng::Rng;

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
            let makes_up = rng.one_in(2);
            if makes_up {
                // A call that began while it stood is later by that time than its caller has waited.
                lock(&world.model).clocks_ahead += time;
            }
            clock.go_on(&world.sim, makes_up);
        }
        // Timers were armed for when the clock was to show something.
        world.sim.wake_all();
    }
}
