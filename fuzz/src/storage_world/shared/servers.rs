//! The processes of servers that share a ledger, the clients' way to them, and what goes wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use oncewire_driver::ledger::Store;

use super::super::disk::Death;
use super::super::host::end_faults;
use super::super::ledger::audit;
use super::super::profile::Sharing;
use super::super::{Check, World, service};
use super::{SharedLedger, Way};
use crate::driver_world::executor::{Sleep, lock};
use crate::driver_world::profile::MS;
use crate::rng::Rng;

impl World {
    pub(super) fn sharing(&self) -> &Sharing {
        self.profile.sharing.as_ref().expect("servers share a ledger")
    }

    /// Which server a client dials now.
    pub fn seat_for(&self, client: usize) -> usize {
        let Some(database) = &self.database else { return 0 };
        let mut host = lock(&self.host);
        let (servers, rng) = (host.seats.len(), &mut lock(&database.0).rng);
        let home = host.homes.get(&client).copied().unwrap_or(client % servers);
        let moves = rng.one_in(self.sharing().moves_in) || host.seats[home].server.is_none();
        let at = if moves { rng.index(servers) } else { home };
        host.homes.insert(client, at);
        at
    }

    /// Starts a process of a server.
    fn start_shared(self: &Arc<Self>, at: usize) -> Check {
        let Some(database) = &self.database else { return Ok(()) };
        let group = self.next_group();
        let mut state = lock(&database.0);
        state.alive.insert(group);
        let away = state.away_until[at] > self.sim.now();
        let Some(store) = state.store.as_ref().filter(|_| !away) else {
            drop(state);
            database.end_of(group);
            return Ok(());
        };
        audit(self, store)?;
        let (identity, snapshots) = (Store::identity(store), store.snapshots());
        drop(state);
        self.sim.note(|| format!("server {at} starts, as {group}"));
        let rng = Rng::apart(self.profile.seed, u64::from(group) << 8 | 0x82);
        let ledger = SharedLedger(Arc::new(Way {
            world: self.clone(),
            at,
            group,
            identity,
            epochs: Mutex::new(BTreeMap::new()),
            rng: Mutex::new(rng),
            failed: Mutex::default(),
            broken: Mutex::default(),
        }));
        self.serve(at, group, service::server(self, group, ledger, snapshots));
        Ok(())
    }

    /// All is over: of all servers one is left, which takes back what the others had.
    pub fn leave_one(self: &Arc<Self>) -> Check {
        let seats = lock(&self.host).seats.len();
        for at in (0..seats).filter(|at| self.runs(*at)) {
            self.end_life(at, Death::Kill);
        }
        self.start_shared(0)?;
        if self.runs(0) { Ok(()) } else { Err("in peace, no server starts".to_owned()) }
    }
}

/// Starts a server, and again after each of its deaths.
pub async fn operate(world: Arc<World>, at: usize) {
    let mut rng = Rng::apart(world.profile.seed, (at as u64) << 8 | 0x83);
    loop {
        if let Err(what) = world.start_shared(at) {
            return world.sim.fail(what);
        }
        world.await_end(at, &mut rng).await;
        // It may not have started.
        Sleep::new(&world.sim, MS).await;
    }
}

/// What goes wrong, for a time.
pub async fn chaos(world: Arc<World>) {
    let profile = &world.profile;
    let mut rng = Rng::apart(profile.seed, 0x84);
    let servers = world.sharing().servers;
    while world.sim.now() < profile.faults_until {
        let pause = profile.fault_pause / 4 + rng.delay(profile.fault_pause);
        Sleep::new(&world.sim, pause).await;
        let at = rng.index(servers);
        match rng.below(10) {
            0..=3 => world.cut_some(&mut rng),
            4 | 5 if world.runs(at) => world.end_life(at, Death::Kill),
            6 if profile.rolling => world.drain(at, rng.pick(&[0, 20, 500, 10_000]) * MS),
            7 => world.put_away(at..at + 1, &mut rng),
            8 if rng.one_in(3) => world.put_away(0..servers, &mut rng),
            _ => {
                let mut host = lock(&world.host);
                host.homes.values_mut().for_each(|home| *home = rng.index(servers));
                drop(host);
                world.cut_some(&mut rng);
            }
        }
    }
    if let Some(database) = &world.database {
        lock(&database.0).away_until.fill(0);
    }
    end_faults(&world).await;
}

impl World {
    /// These servers cannot reach the database for a while.
    fn put_away(&self, servers: std::ops::Range<usize>, rng: &mut Rng) {
        let Some(database) = &self.database else { return };
        let most = rng.pick(&[100, 2_000, 8_000]);
        let until = self.sim.now() + rng.delay(most * MS);
        self.sim.note(|| format!("the database is out of reach of {servers:?}"));
        let mut state = lock(&database.0);
        state.counters.away += 1;
        state.away_until[servers].fill(until);
    }
}
