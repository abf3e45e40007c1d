//! How bytes and events move between the machines.

use oncewire_core::wire::Role;
use oncewire_core::{ClientEvent, Incoming, Instant, Outcome, ProtocolError, ServerEvent, Unknown};

use super::host::{self, Call, Step};
use super::journal::Final;
use super::kinds::Kind;
use super::link::{Stranger, lose_frames};
use super::profile::{self, BACK_MAX, session_id, session_number};
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
        let l = self.take_link(p, h, conn);
        let patient = self.profile.is_patient();
        self.kinds[Kind::Patient as usize] += u64::from(patient);
        if let Some(own) = self.peers[p].client.session()
            && own.server != self.ids[h]
        {
            let number = session_number(own.id) as usize;
            self.model.sessions[number].excused = true;
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

    /// Polls a client's events and writes what it wants to send.
    pub(super) fn flush_peer(&mut self, p: usize) -> Check {
        self.pump_peer(p)?;
        if self.peers[p].durable {
            self.keep_journal(p)?;
            self.pump_peer(p)?;
        }
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
            if self.profile.doubles && !self.calm {
                self.kinds[Kind::OldNotSeen as usize] += link.note_asks(len);
            }
            if self.profile.lossy && !self.calm {
                let bytes = &mut link.up.room(out_len)[..len];
                let lost = lose_frames(bytes, || self.rng.one_in(24));
                len = lost.0;
                self.faults[Fault::Loss as usize] += lost.1;
                link.has_hole |= self.profile.doubles && lost.1 > 0 && len > 0;
            }
            if !link.silent && link.conn.is_some() {
                link.up.wrote(len);
                if self.profile.takes_rest
                    && let Some(rest) = self.peers[p].client.take_shared_tail()
                {
                    self.kinds[Kind::SharedRest as usize] += 1;
                    link.up.push(&rest);
                }
                if self.profile.doubles && !self.calm {
                    self.kinds[Kind::Doubled as usize] += link.double(0, len, &mut self.rng);
                }
            } else {
                self.trace.note(|| format!("  link {l} loses {len} bytes up"));
            }
            if !self.calm && len > out_len / 2 && self.rng.one_in(8) {
                // The rest leaves later: a frame stands half in the queue.
                break;
            }
        }
        self.pump_peer(p)?;
        if self.profile.leaves && self.peers[p].client.is_goodbye_sent() {
            self.take_leave(p)?;
        }
        Ok(())
    }

    /// W62: everything is said, and a client need not wait for its server to close the connection.
    fn take_leave(&mut self, p: usize) -> Check {
        let Some(l) = self.peers[p].link else { return Ok(()) };
        self.kinds[Kind::Left as usize] += 1;
        self.trace.note(|| format!("c{p} has taken leave, and closes link {l}"));
        self.leave(l);
        let now = self.peer_now(p);
        self.peers[p].client.handle_disconnected(now);
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
                    let peer = &self.peers[p];
                    let ahead = ProtocolError::AckAhead { acked: 0 }.code();
                    let busy = ProtocolError::SlotBusy { xid: 0, running: 0 }.code();
                    let lost = [ahead, busy].map(PeerSaysProtocol).contains(&reason);
                    let excused =
                        peer.tainted || peer.journal.rolled_back || peer.journal.lost && lost;
                    ensure!(!fault || excused, "c{p} is disconnected for {reason:?}");
                    if let Some(l) = self.peers[p].link {
                        if reason == oncewire_core::CloseReason::PeerSilent {
                            self.check_dead(l)?;
                        }
                        self.leave(l);
                    }
                }
                ClientEvent::Closed => self.peers[p].closed = true,
                ClientEvent::Connected { .. } => {
                    let peer = &mut self.peers[p];
                    if let Some(session) = peer.client.session() {
                        peer.session = Some(session_number(session.id));
                    }
                }
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
        let (due, told) = (peer.due(call), peer.clock.told.get());
        peer.reported(call);
        if !ticket && !peer.durable {
            peer.over(call);
        }
        if peer.tainted {
            return Ok(());
        }
        self.trace.count(u64::from(op) << 8 | outcome.executed() as u64);
        match outcome {
            Outcome::Unknown { why: Unknown::DeadlinePassed, .. } => {
                ensure!(due <= told, "S17: op {op} had until {due}, and was given up at {told}");
            }
            Outcome::Unknown { why: Unknown::SessionEnded, .. } => {
                let session = peer.session.map(|number| &self.model.sessions[number as usize]);
                let excused = session.is_none_or(|session| session.excused);
                ensure!(excused, "op {op} of c{p} is unknown for good, and could be known");
            }
            _ => {}
        }
        match (self.peers[p].durable, ticket) {
            (false, _) => self.model.told(op, outcome),
            (true, true) => Ok(()),
            (true, false) => self.note_outcome(p, call, op, Final::of(outcome)),
        }
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
        let link = &self.links[l];
        let old = link.conn.is_some() && !link.client_open && link.stranger.is_none();
        self.kinds[Kind::Old as usize] += u64::from(old);
        let before = self.links[l].up.taken();
        loop {
            match self.read_up(l)? {
                Got::Nothing => {
                    self.note_slow(l, 0, before);
                    return Ok(());
                }
                Got::Again => {}
                Got::Error(error) => {
                    let p = self.links[l].peer;
                    let peer = &self.peers[p];
                    let who = self.links[l].stranger;
                    ensure!(
                        peer.tainted
                            || peer.journal.rolled_back
                            || peer.journal.lost
                                && matches!(
                                    error,
                                    ProtocolError::AckAhead { .. } | ProtocolError::SlotBusy { .. }
                                )
                            || who.is_some_and(|who| World::stranger_may_err(who, &error)),
                        "c{p} broke the protocol on link {l}, says its server: {error:?}"
                    );
                    return Ok(());
                }
                Got::Call(arrived) => self.arrived(l, *arrived)?,
            }
        }
    }

    /// Counts a frame that took longer than the keepalive to arrive.
    fn note_slow(&mut self, l: usize, way: usize, before: usize) {
        if self.profile.rate > 0 {
            let link = &mut self.links[l];
            let taken = if way == 0 { link.up.taken() } else { link.down.taken() };
            let limit = self.profile.server.keepalive.as_nanos() as u64;
            let slow = link.note_partial(way, self.now, taken != before, limit);
            self.kinds[Kind::SlowFrame as usize] += u64::from(slow);
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
                // C82: a client's journal may know it.
                let durable = self.peers[link.peer].durable && link.stranger.is_none();
                self.model.sessions[number as usize].used |= durable;
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
        if let (Got::Call(_), Some(Stranger::Early)) = (&item, link.stranger) {
            ensure!(false, "S2: a call behind a Hello was taken on link {l}");
        }
        link.up.take(consumed);
        Ok(item)
    }

    /// A call was admitted.
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
        let mut plan = host::plan(self.seed, arrived.op.unwrap_or(0), &self.profile, kind);
        if link.stranger == Some(Stranger::Hasty) {
            plan = host::Plan { delays: [0; 4], end: host::End::Reply, pad: 3_000 };
        }
        let call = Call {
            due: 0,
            step: Step::LetIn,
            plan,
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
                    if let Some(who) = self.links[l].stranger {
                        self.stranger_closed(l, who, reason)?;
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
                    // Where a clock shows an earlier time now and then, the machine may have been shown one.
                    let less = if self.profile.back { BACK_MAX } else { 0 };
                    let lease = config.lease.as_nanos() as u64 - less;
                    let unused = config.lease_unused.as_nanos() as u64 - less;
                    if self.model.sessions[number as usize].alive {
                        self.model.session_ended(number, now, (lease, unused))?;
                    }
                }
                ServerEvent::SessionOpened(conn) => self.record_session(h, conn),
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
        let reads_slowly = link.stranger == Some(Stranger::Hasty);
        let out_len = if reads_slowly { 256 } else { self.profile.out_len };
        while let Some(len) = host.server.poll_transmit(now, conn, link.down.room(out_len)) {
            let mut len = len.get();
            self.trace.count(len as u64);
            if let Some(number) = link.session {
                let holes = self.model.wrote(number, &link.down.room(out_len)[..len]);
                self.kinds[Kind::Hole as usize] += holes;
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
                self.kinds[Kind::SharedRest as usize] += 1;
                link.down.push(&rest);
            }
            if reads_slowly && len > out_len / 2 {
                link.unsent = true;
                return Ok(());
            }
            if self.profile.doubles && !self.calm && link.client_open && !link.silent {
                self.kinds[Kind::Doubled as usize] += link.double(1, len, &mut self.rng);
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
        if self.profile.broken != profile::Broken::No {
            self.break_down(l);
        }
        if self.links[l].down.arrive(len) == 0 {
            return Ok(());
        }
        let now = self.peer_now(p);
        let mut ends = Vec::new();
        let before = self.links[l].down.taken();
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
                        if peer.durable {
                            peer.reported(reply.call);
                        } else {
                            peer.over(reply.call);
                        }
                        if !peer.tainted {
                            self.trace.count(u64::from(op));
                            if peer.durable {
                                ends.push((reply.call, op, Final::of(&reply.outcome)));
                            } else {
                                self.model.told(op, &reply.outcome)?;
                            }
                        }
                    }
                    link.down.take(consumed);
                }
            }
        }
        self.note_slow(l, 1, before);
        for (call, op, end) in ends {
            self.note_outcome(p, call, op, end)?;
        }
        self.pump_peer(p)
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
