//! Connections: how they begin, who is called dead, and how each end learns of its end.

use oncewire_core::Instant;
use oncewire_recorder::EndedBy;

use super::kinds::Kind;
use super::profile::{session_id, session_number};
use super::trace::{Check, ensure};
use super::{Fault, World};

impl World {
    /// What a client's clock shows.
    #[inline]
    pub(super) fn peer_now(&self, p: usize) -> Instant {
        self.peers[p].clock.read(self.now)
    }

    /// A client makes a connection; an older one is left behind.
    pub(super) fn dial(&mut self, p: usize) -> Check {
        if !self.peers[p].client.wants_connection() {
            return Ok(());
        }
        let mut h = 0;
        if self.hosts.len() > 1 {
            // Mostly where its session is.
            let home = self.peers[p].client.session().map(|session| session.server);
            h = usize::from(home == Some(self.ids[1]));
            if self.profile.shares {
                h = self.peers[p].home;
            }
            if self.rng.one_in(if self.profile.shares { 3 } else { 6 }) {
                h = 1 - h;
                self.faults[Fault::OtherServer as usize] += 1;
            }
            self.peers[p].home = h;
        }
        let number = self.model.sessions.len() as u32;
        self.model.sessions.push(Default::default());
        let now = self.host_now(h);
        let id = session_id(self.seed, number);
        let principal = self.peers[p].principal;
        let Some(conn) = self.hosts[h].server.handle_connected(now, principal, id) else {
            return Ok(());
        };
        let l = self.take_link(p, h, conn);
        let patient = self.profile.is_patient();
        self.kinds[Kind::Patient as usize] += u64::from(patient);
        if let Some(own) = self.peers[p].client.session()
            && own.server != self.ids[h]
        {
            match self.model.sessions.get_mut(session_number(own.id) as usize) {
                Some(session) => session.excused = true,
                // A `Welcome` that was damaged may name any session.
                None => ensure!(self.peers[p].tainted, "c{p} is in a session that never was"),
            }
        }
        if let Some(old) = self.peers[p].link.replace(l) {
            self.leave(old);
        }
        self.trace.note(|| format!("c{p} dials s{h}, link {l}"));
        let now = self.peer_now(p);
        self.peers[p].client.handle_connected(now);
        self.flush_peer(p)
    }

    /// A place for a new connection.
    pub(super) fn take_link(&mut self, p: usize, h: usize, conn: oncewire_core::ConnId) -> usize {
        let l = self.links.iter().position(|link| !link.used).unwrap_or(self.links.len());
        if l == self.links.len() {
            self.links.push(Default::default());
        }
        self.links[l].open(p, h, conn);
        self.links[l].number = self.trace.connected(self.now, || format!("c{p} to s{h}"));
        // To a machine whose clock went back, time stops for a while, and its peer may call it dead.
        let (ours, theirs) = (&self.peers[p].clock, &self.hosts[h].clock);
        self.links[l].disturbed = ours.is_behind(self.now) || theirs.is_behind(self.now);
        let links = &mut self.hosts[h].links;
        if links.len() <= conn.index() {
            links.resize(conn.index() + 1, usize::MAX);
        }
        links[conn.index()] = l;
        l
    }

    /// A client has let go of a connection: what is on the way to it is never read (S4).
    pub(super) fn leave(&mut self, l: usize) {
        let link = &mut self.links[l];
        link.client_open = false;
        link.down.clear();
        if self.peers[link.peer].link == Some(l) {
            self.peers[link.peer].link = None;
        }
    }

    /// One end of a link calls the other one dead: is it?
    pub(super) fn check_dead(&self, l: usize) -> Check {
        let link = &self.links[l];
        let well = !link.may_look_dead() && !self.profile.lossy && !self.peers[link.peer].tainted;
        ensure!(!well, "link {l} is well, and its peer called dead: {link:?}");
        Ok(())
    }

    /// Counts a frame that took longer than the keepalive to arrive.
    pub(super) fn note_slow(&mut self, l: usize, way: usize, before: usize) {
        if self.profile.rate > 0 {
            let link = &mut self.links[l];
            let taken = if way == 0 { link.up.taken() } else { link.down.taken() };
            let limit = self.profile.server.keepalive.as_nanos() as u64;
            let slow = link.note_partial(way, self.now, taken != before, limit);
            self.kinds[Kind::SlowFrame as usize] += u64::from(slow);
        }
    }

    /// A connection has ended at its server.
    pub(super) fn unbound(&mut self, l: usize) {
        let link = &self.links[l];
        if let Some(number) = link.session {
            let now = self.hosts[link.host].clock.latest.get();
            self.trace.note(|| format!("  session {number} leaves link {l} at {now}"));
            self.model.unbound(number, l, now);
        }
    }

    /// Tells each end of the other's close, once it has read everything.
    pub(super) fn close_ends(&mut self, l: usize) -> Check {
        let link = &self.links[l];
        if !link.used || link.held || link.is_silent_stranger() {
            return Ok(());
        }
        if !link.client_open && (link.up.on_the_way() == 0 || link.conn.is_none()) {
            self.tell_server(l)?;
        }
        let link = &self.links[l];
        if link.client_open && !link.server_open && link.down.on_the_way() == 0 && !link.silent {
            self.tell_client(l)?;
        }
        let link = &mut self.links[l];
        if !link.client_open && link.conn.is_none() {
            link.used = false;
        }
        Ok(())
    }

    /// The server learns that the connection is gone.
    pub(super) fn tell_server(&mut self, l: usize) -> Check {
        let link = &mut self.links[l];
        link.server_open = false;
        let h = link.host;
        if let Some(conn) = link.conn.take() {
            let now = self.host_now(h);
            self.trace.disconnected(self.now, self.links[l].number, EndedBy::Network);
            self.unbound(l);
            self.hosts[h].server.handle_disconnected(now, conn);
            self.pump_host(h)?;
        }
        Ok(())
    }

    /// The client learns that the connection is gone.
    pub(super) fn tell_client(&mut self, l: usize) -> Check {
        let p = self.links[l].peer;
        if self.peers[p].link == Some(l) {
            self.leave(l);
            self.trace.note(|| format!("c{p} learns that link {l} is gone"));
            let now = self.peer_now(p);
            self.peers[p].client.handle_disconnected(now);
            self.pump_peer(p)?;
        }
        self.links[l].client_open = false;
        Ok(())
    }
}
