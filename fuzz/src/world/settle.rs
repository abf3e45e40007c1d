//! The end of a world: faults stop, every call ends, everything is released.

use std::time::Duration;

use oncewire_core::Instant;

use super::World;
use super::model::Stage;
use super::peer::Peer;
use super::profile::{Broken, MS};
use super::trace::{Check, ensure};

/// Within this time without faults, on the world's clock, every call ends.
const LIVENESS: u64 = 600_000 * MS;

impl World {
    /// When the next thing is due, in the world.
    pub(super) fn next_timer(&self) -> u64 {
        let peers = self.peers.iter().map(|peer| (peer.client.poll_timeout(), &peer.clock));
        let hosts = self.hosts.iter().map(|host| (host.server.poll_timeout(), &host.clock));
        let machines = peers.chain(hosts);
        let timers = machines.filter_map(|(at, clock)| Some(clock.world(at?, self.now)));
        let calls = self.hosts.iter().flat_map(|host| host.calls.iter().map(|call| call.due));
        let opened = self.hosts.iter().flat_map(|host| host.opened.iter().map(|(due, _)| *due));
        let journals = self.peers.iter().filter_map(|peer| peer.journal.due());
        let wanted = |host: &super::Host| host.shared.wanted.iter().map(|wanted| wanted.due).min();
        let wanted = self.hosts.iter().filter_map(wanted);
        let away = self.peers.iter().map(|peer| peer.away_until);
        let away = away.filter(|until| self.calm && *until > self.now);
        let others = calls.chain(opened).chain(wanted).chain(journals).chain(away);
        timers.chain(others).min().unwrap_or(u64::MAX)
    }

    /// Tells every machine the time whose moment has come.
    pub(super) fn fire_timers(&mut self) -> Check {
        for h in 0..self.hosts.len() {
            let host = &self.hosts[h];
            if host.clock.has_come(host.server.poll_timeout(), self.now) {
                let now = self.host_now(h);
                let latest = self.hosts[h].clock.latest.get();
                if self.profile.broken != Broken::Lazy || self.looks(h, now) {
                    self.hosts[h].server.handle_timeout(now);
                }
                self.pump_host(h)?;
                if self.profile.strangers {
                    self.check_handshakes(h, latest)?;
                }
            }
        }
        for p in 0..self.peers.len() {
            let peer = &self.peers[p];
            if peer.clock.has_come(peer.client.poll_timeout(), self.now) {
                let now = self.peer_now(p);
                // What its next reading shows may be later.
                let latest = self.peers[p].clock.latest.get();
                self.peers[p].client.handle_timeout(now);
                self.flush_peer(p)?;
                self.check_deadlines(p, latest)?;
            } else if peer.journal.due().is_some_and(|due| due <= self.now) {
                self.flush_peer(p)?;
            }
        }
        Ok(())
    }

    /// A server that looks after everything only as often as after its peers.
    fn looks(&mut self, h: usize, now: Instant) -> bool {
        let due = now.as_nanos() >= self.hosts[h].judged;
        if due {
            let often = self.profile.server.keepalive.as_nanos() as u64 / 4;
            self.hosts[h].judged = now.as_nanos() + often;
        }
        due
    }

    /// S17: a client that knows the time has given up what it had until then.
    fn check_deadlines(&self, p: usize, now: u64) -> Check {
        let peer = &self.peers[p];
        if !peer.tainted
            && let Some(op) = peer.overdue(now)
        {
            ensure!(false, "S17: op {op} of c{p} was not given up at {now}");
        }
        Ok(())
    }

    /// Faults stop; the promises that hold only then are checked.
    pub(super) fn settle(&mut self) -> Check {
        self.stop_faults()?;
        self.until("every call ends", LIVENESS, |world| {
            let ended = |peer: &Peer| peer.client.pending() == 0 && peer.journal.due().is_none();
            world.peers.iter().all(ended) && world.hosts.iter().all(|host| host.calls.is_empty())
        })?;
        for number in 0..self.model.ops.len() {
            let op = self.model.ops[number];
            let over = !matches!(op.stage, Stage::Pending | Stage::Ticket);
            let tainted = self.peers[usize::from(op.peer)].tainted;
            ensure!(over || tainted, "op {number} never had an outcome: {op:?}");
        }
        // S16: an idle client acknowledges soon. Where that was lost before the faults stopped, it does so again when it
        // next asks whether the server is there (S27), and where nothing passes, when it has called the connection dead
        // (S20). Sessions that are not resumed keep theirs until their leases end.
        let lost = self.profile.lossy || self.links.iter().any(|link| link.silent);
        let keepalive = self.profile.server.keepalive.min(Duration::from_secs(3_600));
        let again = if lost { keepalive } else { Duration::ZERO };
        let soon = 2_000 * MS + again.as_nanos() as u64;
        self.until("what is connected is released", soon, |world| {
            let mut sessions = world.model.sessions.iter();
            let exact = world.hosts.iter().all(|host| host.exact);
            !exact || sessions.all(|s| s.link.is_none() || s.holds_nothing())
        })?;
        let leave = self.rng.one_in(2);
        for p in 0..self.peers.len() {
            if leave || self.rng.one_in(2) {
                let now = self.peer_now(p);
                self.peers[p].client.close(now);
            } else {
                self.replace(p)?;
            }
        }
        let lease = self.profile.server.lease.as_nanos() as u64;
        let limit = 2 * lease + LIVENESS + 2 * again.as_nanos() as u64;
        self.until("everything is released", limit, |world| {
            world.hosts.iter().all(|host| {
                let counters = host.server.counters();
                counters.kept_bytes == 0 && counters.running == 0 && counters.sessions == 0
            })
        })?;
        // A server may have closed a silent link whose client still waits for a sign of it.
        self.until("clients that are closing have closed", limit, |world| {
            world.peers.iter().all(|peer| !peer.client.is_closing() || peer.closed)
        })?;
        if self.profile.shares {
            let left = self.model.sessions.iter().position(|session| session.page.is_some());
            ensure!(left.is_none(), "all is over, and the ledger has session {left:?}");
        }
        for h in 0..self.hosts.len() {
            self.measure(h)?;
        }
        self.check()
    }

    fn stop_faults(&mut self) -> Check {
        self.trace.note(|| "faults stop".into());
        self.calm = true;
        for clock in self.hosts.iter_mut().map(|host| &mut host.clock) {
            clock.go_on(self.now);
        }
        for peer in &mut self.peers {
            peer.clock.go_on(self.now);
        }
        for l in 0..self.links.len() {
            let link = &mut self.links[l];
            link.held = false;
            link.copies = Default::default();
            if link.used && link.silent && self.profile.is_patient() {
                // Nothing else would find it.
                self.end_link(l)?;
            }
        }
        for p in 0..self.peers.len() {
            self.peers[p].away_until = 0;
            if self.peers[p].tainted {
                self.replace(p)?;
            }
        }
        Ok(())
    }

    /// A client's process dies, and another one takes its place; its calls are not waited for any more.
    fn replace(&mut self, p: usize) -> Check {
        self.trace.note(|| format!("c{p} is replaced"));
        if let Some(l) = self.peers[p].link {
            self.leave(l);
            self.end_link(l)?;
        }
        let old = &self.peers[p];
        for op in old.waits_for().collect::<Vec<_>>() {
            self.model.ops[op as usize].stage = Stage::Unheard;
        }
        let mut new = Peer::new(self.profile.client, old.principal, old.clock.clone());
        new.away_until = u64::MAX;
        new.tainted = old.tainted;
        self.peers[p] = new;
        Ok(())
    }

    /// Lets the world go on without faults until `done`, for at most `limit` nanoseconds.
    fn until(&mut self, what: &str, limit: u64, done: impl Fn(&World) -> bool) -> Check {
        let end = self.now.saturating_add(limit);
        for _ in 0..200_000 {
            self.rest()?;
            if done(self) {
                return Ok(());
            }
            ensure!(self.now < end, "{what}: not within {} ms\n{}", limit / MS, self.describe());
            self.now = self.next_timer().max(self.now + 1_000).min(end);
            self.fire_timers()?;
        }
        ensure!(false, "{what}: the world never rests\n{}", self.describe());
        Ok(())
    }

    fn describe(&self) -> String {
        let mut out = String::new();
        for (p, peer) in self.peers.iter().enumerate() {
            let (now, at) = (self.peer_now(p), peer.client.poll_timeout());
            out += &format!("c{p} at {now:?}, next {at:?}: {peer:?}\n");
        }
        for (h, host) in self.hosts.iter().enumerate() {
            let (now, at) = (self.host_now(h), host.server.poll_timeout());
            out += &format!("s{h} at {now:?}, next {at:?}, {:?}: {host:?}\n", host.calls);
        }
        for link in self.links.iter().filter(|link| link.used) {
            out += &format!("{link:?}\n");
        }
        out
    }

    /// Moves everything that can move now.
    fn rest(&mut self) -> Check {
        for _ in 0..6 {
            for h in 0..self.hosts.len() {
                if self.hosts[h].drained {
                    let keep = self.profile.ledger;
                    self.restart(h, keep)?;
                }
                self.run_due_calls(h)?;
                self.pump_host(h)?;
            }
            for p in 0..self.peers.len() {
                if self.peers[p].link.is_none() && self.peers[p].away_until <= self.now {
                    self.dial(p)?;
                }
                self.flush_peer(p)?;
            }
            for l in 0..self.links.len() {
                if !self.links[l].used {
                    continue;
                }
                let h = self.links[l].host;
                self.deliver_up(l, usize::MAX)?;
                self.pump_host(h)?;
                self.flush_unsent(l)?;
                self.deliver_down(l, usize::MAX)?;
                self.close_ends(l)?;
            }
            self.check()?;
        }
        Ok(())
    }
}
