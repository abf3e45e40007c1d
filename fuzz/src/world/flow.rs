//! How bytes and events move between the machines.

use oncewire_core::wire::Role;
use oncewire_core::{ClientEvent, Incoming, Instant, Outcome, ProtocolError, ServerEvent};

use super::host::{self, Call, Step};
use super::link::lose_frames;
use super::profile::{self, session_id, session_number};
use super::trace::{Check, ensure};
use super::{Fault, World, body};

/// What the server's end of a connection gave.
enum Got {
    Nothing,
    Call(Box<Arrived>),
    Again,
    Error(ProtocolError),
}

struct Arrived {
    admission: oncewire_core::Admission,
    op: Option<u32>,
    method: usize,
    idempotent: bool,
    one_way: bool,
}

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
            if self.rng.one_in(6) {
                h = 1 - h;
                self.faults[Fault::OtherServer as usize] += 1;
            }
        }
        let number = self.model.sessions.len() as u32;
        self.model.sessions.push(Default::default());
        let now = self.host_now(h);
        let id = session_id(self.seed, number);
        let principal = self.peers[p].principal;
        let Some(conn) = self.hosts[h].server.handle_connected(now, principal, id) else {
            return Ok(());
        };
        let l = self.links.iter().position(|link| !link.used).unwrap_or(self.links.len());
        if l == self.links.len() {
            self.links.push(Default::default());
        }
        self.links[l].open(p, h, conn);
        let links = &mut self.hosts[h].links;
        if links.len() <= conn.index() {
            links.resize(conn.index() + 1, usize::MAX);
        }
        links[conn.index()] = l;
        if let Some(old) = self.peers[p].link.replace(l) {
            self.leave(old);
        }
        self.trace.note(|| format!("c{p} dials s{h}, link {l}"));
        let now = self.peer_now(p);
        self.peers[p].client.handle_connected(now);
        self.flush_peer(p)
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

    /// Polls a client's events and writes what it wants to send.
    pub(super) fn flush_peer(&mut self, p: usize) -> Check {
        self.pump_peer(p)?;
        let now = self.peer_now(p);
        let out_len = self.profile.out_len;
        loop {
            let Some(l) = self.peers[p].link else {
                let sent = self.peers[p].client.poll_transmit(now, &mut self.scratch[..512]);
                ensure!(sent.is_none(), "c{p} sends without a connection");
                break;
            };
            let link = &mut self.links[l];
            let Some(len) = self.peers[p].client.poll_transmit(now, link.up.room(out_len)) else {
                break;
            };
            let mut len = len.get();
            self.trace.count(len as u64);
            if self.profile.lossy && !self.calm {
                let bytes = &mut link.up.room(out_len)[..len];
                let lost = lose_frames(bytes, || self.rng.one_in(24));
                len = lost.0;
                self.faults[Fault::Loss as usize] += lost.1;
            }
            if !link.silent && link.conn.is_some() {
                link.up.wrote(len);
                if self.profile.takes_rest
                    && let Some(rest) = self.peers[p].client.take_shared_tail()
                {
                    link.up.push(&rest);
                }
            } else {
                self.trace.note(|| format!("  link {l} loses {len} bytes up"));
            }
            if !self.calm && len > out_len / 2 && self.rng.one_in(8) {
                // The rest leaves later: a frame stands half in the queue.
                break;
            }
        }
        self.pump_peer(p)
    }

    pub(super) fn pump_peer(&mut self, p: usize) -> Check {
        while let Some(event) = self.peers[p].client.poll_event() {
            if self.trace.on {
                let op = match event {
                    ClientEvent::Ended { call, .. } => self.peers[p].op(call),
                    _ => None,
                };
                self.trace.note(|| format!("c{p} op {op:?}: {event:?}"));
            }
            match event {
                ClientEvent::Ended { call, outcome } => self.told(p, call, &outcome)?,
                ClientEvent::Disconnect(reason) => {
                    use oncewire_core::CloseReason::{PeerSaysProtocol, Protocol};
                    let fault = matches!(reason, PeerSaysProtocol(_) | Protocol(_));
                    ensure!(!fault || self.peers[p].tainted, "c{p} is disconnected for {reason:?}");
                    if let Some(l) = self.peers[p].link {
                        if reason == oncewire_core::CloseReason::PeerSilent {
                            self.check_dead(l)?;
                        }
                        self.leave(l);
                    }
                }
                ClientEvent::Closed => self.peers[p].closed = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// One end of a link calls the other one dead: is it?
    fn check_dead(&self, l: usize) -> Check {
        let link = &self.links[l];
        let well = !link.may_look_dead() && !self.profile.lossy && !self.peers[link.peer].tainted;
        ensure!(!well, "link {l} is well, and its peer called dead: {link:?}");
        Ok(())
    }

    fn told(&mut self, p: usize, call: oncewire_core::CallId, outcome: &Outcome<'_>) -> Check {
        let peer = &mut self.peers[p];
        let ticket = matches!(outcome, Outcome::Unknown { ticket: true, .. });
        let Some(op) = peer.op(call) else {
            ensure!(peer.tainted, "c{p} reports {outcome:?} of a call that is over");
            return Ok(());
        };
        if !ticket {
            peer.over(call);
        }
        if peer.tainted {
            return Ok(());
        }
        self.trace.count(u64::from(op) << 8 | outcome.executed() as u64);
        self.model.told(op, outcome)
    }

    /// Lets at most `len` more bytes reach the server.
    pub(super) fn deliver_up(&mut self, l: usize, len: usize) -> Check {
        if self.profile.broken != profile::Broken::No {
            self.break_up(l)?;
        }
        // Bytes that were there before are not given again alone: they would count as a sign of life.
        if self.links[l].up.arrive(len) == 0 {
            return Ok(());
        }
        loop {
            match self.read_up(l)? {
                Got::Nothing => return Ok(()),
                Got::Again => {}
                Got::Error(error) => {
                    let p = self.links[l].peer;
                    ensure!(
                        self.peers[p].tainted,
                        "c{p} broke the protocol on link {l}, says its server: {error:?}"
                    );
                    return Ok(());
                }
                Got::Call(arrived) => self.arrived(l, *arrived)?,
            }
        }
    }

    fn read_up(&mut self, l: usize) -> Result<Got, super::Violation> {
        let link = &mut self.links[l];
        let Some(conn) = link.conn else {
            link.up.clear();
            return Ok(Got::Nothing);
        };
        let data = link.up.arrived();
        if data.is_empty() {
            return Ok(Got::Nothing);
        }
        let host = &mut self.hosts[link.host];
        let now = host.clock.read(self.now);
        let tainted = self.peers[link.peer].tainted;
        let received = match host.server.handle_data(now, conn, data) {
            Ok(received) => received,
            Err(error) => return Ok(Got::Error(error)),
        };
        let consumed = received.consumed;
        self.trace.count(consumed as u64);
        if !tainted && consumed > 0 {
            self.trace.frames(l, &link.host, Role::Client, &data[..consumed]);
            let bound = link.session.is_none();
            if bound && let Some(key) = host.server.session_of(conn) {
                let record = host.server.session_record(key);
                let record = record.ok_or_else(|| super::Violation("no record".into()))?;
                let number = session_number(record.id);
                link.session = Some(number);
                self.model.bound(number, link.host, l, record.grants.slots);
            }
            if let Some(number) = link.session {
                self.model.read(number, &data[..consumed]);
            }
        }
        let item = match received.item {
            Some(Incoming::Request(request)) => {
                let op = body::read_request(request.body).filter(|_| !tainted);
                ensure!(op.is_some() || tainted, "a request on link {l} was damaged");
                Got::Call(Box::new(Arrived {
                    admission: request.admission,
                    op,
                    method: request.method_index,
                    idempotent: request.idempotent,
                    one_way: request.one_way,
                }))
            }
            Some(_) => Got::Again,
            None => Got::Nothing,
        };
        link.up.take(consumed);
        Ok(item)
    }

    /// A call was let in.
    fn arrived(&mut self, l: usize, arrived: Arrived) -> Check {
        let link = &self.links[l];
        let h = link.host;
        let key = arrived.admission.key();
        let number = link.session.unwrap_or(0);
        let methods = self.hosts[h].server.methods();
        let spec = methods[arrived.method];
        if let Some(op) = arrived.op {
            let bytes = if arrived.one_way { 0 } else { spec.reply_len_max };
            self.model.admitted(number, key.xid().get(), arrived.idempotent, bytes)?;
            let known = self.model.ops.get(op as usize).map(|op| (op.peer, op.idempotent));
            ensure!(
                known == Some((link.peer as u8, arrived.idempotent)),
                "link {l} brought op {op}, {known:?}"
            );
        }
        let kind = usize::from(spec.id == profile::LONG);
        let call = Call {
            due: 0,
            step: Step::LetIn,
            plan: host::plan(self.seed, arrived.op.unwrap_or(0), &self.profile, kind),
            admission: Some(arrived.admission),
            running: None,
            key,
            session: number,
            op: arrived.op,
            run: 0,
            idempotent: arrived.idempotent,
            one_way: arrived.one_way,
            transaction: spec.id == profile::TRANSACTION,
        };
        self.run_call(h, call)
    }

    /// Polls a server's events and writes what it wants to send.
    pub(super) fn pump_host(&mut self, h: usize) -> Check {
        while let Some(event) = self.hosts[h].server.poll_event() {
            match event {
                ServerEvent::Transmit(conn) => self.flush_conn(h, conn)?,
                ServerEvent::Close(conn, reason) => {
                    self.trace.note(|| format!("s{h} closes: {reason:?}"));
                    let l = self.hosts[h].links[conn.index()];
                    self.trace.note(|| format!("  that is link {l}"));
                    if reason == oncewire_core::CloseReason::PeerSilent {
                        self.check_dead(l)?;
                    }
                    self.links[l].conn = None;
                    self.links[l].server_open = false;
                    self.unbound(l);
                }
                ServerEvent::SessionEnded(id) => {
                    let number = session_number(id);
                    self.trace.note(|| format!("s{h} ends session {number}"));
                    let now = self.hosts[h].clock.told.get();
                    let config = &self.profile.server;
                    let lease = config.lease.as_nanos() as u64;
                    let unused = config.lease_unused.as_nanos() as u64;
                    if self.model.sessions[number as usize].alive {
                        self.model.session_ended(number, now, (lease, unused))?;
                    }
                }
                ServerEvent::Drained => self.hosts[h].drained = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// A connection has ended at its server.
    pub(super) fn unbound(&mut self, l: usize) {
        let link = &self.links[l];
        if let Some(number) = link.session {
            let now = self.hosts[link.host].clock.told.get();
            self.trace.note(|| format!("  session {number} leaves link {l} at {now}"));
            self.model.unbound(number, l, now);
        }
    }

    /// Writes what was left when a connection was last written to.
    pub(super) fn flush_unsent(&mut self, l: usize) -> Check {
        let link = &self.links[l];
        match link.conn {
            Some(conn) if link.unsent => {
                let h = link.host;
                self.flush_conn(h, conn)?;
                self.pump_host(h)
            }
            _ => Ok(()),
        }
    }

    fn flush_conn(&mut self, h: usize, conn: oncewire_core::ConnId) -> Check {
        let now = self.host_now(h);
        let host = &mut self.hosts[h];
        let l = host.links[conn.index()];
        let link = &mut self.links[l];
        ensure!(link.conn == Some(conn), "s{h} sends on a connection that it has let go of");
        let out_len = self.profile.out_len;
        while let Some(len) = host.server.poll_transmit(now, conn, link.down.room(out_len)) {
            let mut len = len.get();
            self.trace.count(len as u64);
            if let Some(number) = link.session {
                self.model.wrote(number, &link.down.room(out_len)[..len]);
            }
            if self.profile.lossy && !self.calm {
                let bytes = &mut link.down.room(out_len)[..len];
                let lost = lose_frames(bytes, || self.rng.one_in(24));
                len = lost.0;
                self.faults[Fault::Loss as usize] += lost.1;
            }
            if link.client_open && !link.silent {
                link.down.wrote(len);
            }
            if self.profile.takes_rest
                && let Some(rest) = host.server.take_shared_tail(conn)
                && link.client_open
                && !link.silent
            {
                link.down.push(&rest);
            }
            if !self.calm && len > out_len / 2 && self.rng.one_in(4) {
                link.unsent = true;
                return Ok(());
            }
        }
        link.unsent = false;
        Ok(())
    }

    /// Lets at most `len` more bytes reach the client.
    pub(super) fn deliver_down(&mut self, l: usize, len: usize) -> Check {
        let p = self.links[l].peer;
        if self.peers[p].link != Some(l) {
            self.links[l].down.clear();
            return Ok(());
        }
        if self.links[l].down.arrive(len) == 0 {
            return Ok(());
        }
        let now = self.peer_now(p);
        loop {
            let link = &mut self.links[l];
            let peer = &mut self.peers[p];
            let data = link.down.arrived();
            if data.is_empty() {
                break;
            }
            match peer.client.handle_data(now, data) {
                Err(error) => {
                    ensure!(peer.tainted, "link {l}: c{p} says that its server broke: {error:?}");
                    self.leave(l);
                    break;
                }
                Ok(received) => {
                    let consumed = received.consumed;
                    if !peer.tainted {
                        self.trace.frames(l, &'c', Role::Server, &data[..consumed]);
                    }
                    let Some(reply) = received.item else {
                        link.down.take(consumed);
                        break;
                    };
                    let op = peer.op(reply.call);
                    ensure!(op.is_some() || peer.tainted, "c{p} has a reply for nobody");
                    let ticket = matches!(reply.outcome, Outcome::Unknown { ticket: true, .. });
                    ensure!(!ticket, "received data brought a ticket");
                    if let Some(op) = op {
                        peer.over(reply.call);
                        if !peer.tainted {
                            self.trace.count(u64::from(op));
                            self.model.told(op, &reply.outcome)?;
                        }
                    }
                    link.down.take(consumed);
                }
            }
        }
        self.pump_peer(p)
    }

    /// Tells each end of the other's close, once it has read everything.
    pub(super) fn close_ends(&mut self, l: usize) -> Check {
        let link = &self.links[l];
        if !link.used || link.held {
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

    /// The server is told that the connection is gone.
    pub(super) fn tell_server(&mut self, l: usize) -> Check {
        let link = &mut self.links[l];
        link.server_open = false;
        let h = link.host;
        if let Some(conn) = link.conn.take() {
            let now = self.host_now(h);
            self.unbound(l);
            self.hosts[h].server.handle_disconnected(now, conn);
            self.pump_host(h)?;
        }
        Ok(())
    }

    /// The client is told that the connection is gone.
    pub(super) fn tell_client(&mut self, l: usize) -> Check {
        let p = self.links[l].peer;
        if self.peers[p].link == Some(l) {
            self.leave(l);
            self.trace.note(|| format!("c{p} is told that link {l} is gone"));
            let now = self.peer_now(p);
            self.peers[p].client.handle_disconnected(now);
            self.pump_peer(p)?;
        }
        self.links[l].client_open = false;
        Ok(())
    }
}
