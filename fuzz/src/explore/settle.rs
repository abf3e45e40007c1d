//! The check of a state in which nothing goes on by itself: every call has its outcome, and everything can be released.

use super::action::Action;
use super::world::{FOREVER, LEASE, World};
use crate::world::trace::{Check, ensure};

/// More than any world needs to come to rest.
const STEPS_MAX: usize = 2_000;

impl World {
    /// Checks a world that rests, and brings it to its end.
    pub(super) fn settle(mut self, actions: &mut Vec<Action>) -> Check {
        // What may still go wrong does not.
        self.left = super::scene::Budget { late: u8::MAX, ..Default::default() };
        // On a lossy link what was lost is sent again after a time, which doubles.
        for _ in 0..12 {
            if !self.scene.lossy || self.waits_for().is_none() {
                break;
            }
            self.moment(actions)?;
        }
        let waits = self.waits_for();
        ensure!(waits.is_none(), "op {waits:?} never ends: {:?}", self.model.ops);
        for _ in 0..3 {
            if self.scene.lossy {
                // What was lost is said again when the link has been silent (W63).
                self.peers.iter_mut().for_each(|peer| peer.clock += FOREVER.as_nanos() as u64 / 4);
            }
            self.moment(actions)?;
        }
        for session in self.model.sessions.iter().filter(|session| session.link.is_some()) {
            ensure!(session.holds_nothing(), "S16: {session:?} keeps what its client has seen");
        }
        for p in 0..self.peers.len() {
            self.apply(Action::Close(p))?;
        }
        self.rest(actions)?;
        for p in 0..self.peers.len() {
            for _ in 0..8 {
                if !self.peers[p].closed {
                    self.moment(actions)?;
                }
            }
            ensure!(self.peers[p].closed, "c{p} never closes: {:?}", self.peers[p].client);
        }
        for h in 0..self.hosts.len() {
            for _ in 0..2 {
                self.pass_at_host(h, LEASE * 2)?;
                self.rest(actions)?;
            }
            let held = self.hosts[h].server.counters();
            let nothing = held.kept_bytes == 0 && held.running == 0 && held.sessions == 0;
            ensure!(nothing, "s{h} still holds {held:?}");
        }
        Ok(())
    }

    /// Time passes at every client, and what it brings about goes on to its end.
    fn moment(&mut self, actions: &mut Vec<Action>) -> Check {
        for p in 0..self.peers.len() {
            self.pass_at_client(p)?;
            self.tidy()?;
        }
        self.rest(actions)
    }

    /// Everything that goes on by itself does, until nothing is left.
    fn rest(&mut self, actions: &mut Vec<Action>) -> Check {
        for _ in 0..STEPS_MAX {
            actions.clear();
            self.progress(actions);
            let Some(action) = actions.first().copied() else { return Ok(()) };
            self.apply(action)?;
        }
        ensure!(false, "the world never rests: {actions:?}");
        Ok(())
    }
}
