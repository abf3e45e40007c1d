//! What a server is given, and what becomes of what it gives: bytes, events and calls.

use oncewire_core::wire::{self, Role};
use oncewire_core::{Incoming, ProtocolError, ServerEvent};
use oncewire_recorder::EndedBy;

use super::host::{self, Call, Step};
use super::kinds::Kind;
use super::link::{Stranger, lose_frames};
use super::profile::{self, BACK_MAX, session_number};
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
            Err(error) => {
                self.trace.arrived(self.now, link.number, Role::Client, data);
                return Ok(Got::Error(error));
            }
        };
        let consumed = received.consumed;
        self.trace.count(consumed as u64);
        self.trace.arrived(self.now, link.number, Role::Client, &data[..consumed]);
        if !tainted && consumed > 0 {
            self.trace.frames(l, &link.host, Role::Client, &data[..consumed]);
        }
        let item = match received.item {
            Some(Incoming::Request(request)) => {
                let op = body::read_request(request.body)
                    .filter(|op| !tainted && body::is_metadata_of(*op, request.metadata));
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
        if !tainted && consumed > 0 {
            self.note_read(l, consumed)?;
        }
        if let (Got::Call(_), Some(Stranger::Early)) = (&item, self.links[l].stranger) {
            ensure!(false, "S2: a call behind a Hello was taken on link {l}");
        }
        self.links[l].up.take(consumed);
        Ok(item)
    }

    /// A server has taken so many bytes of what has arrived.
    fn note_read(&mut self, l: usize, consumed: usize) -> Check {
        if self.links[l].session.is_none() && !self.note_bound(l)? && self.profile.shares {
            // It is read once its session is here; of a second one nothing comes (S27).
            let link = &mut self.links[l];
            if link.hello.is_empty() {
                link.hello.extend_from_slice(&link.up.arrived()[..consumed]);
            }
        }
        let link = &self.links[l];
        if let Some(number) = link.session.filter(|at| !self.is_lost(link.host, *at)) {
            self.model.read(number, &link.up.arrived()[..consumed]);
        }
        Ok(())
    }

    /// Notes to which session a connection is bound now, if it is.
    pub(super) fn note_bound(&mut self, l: usize) -> Result<bool, super::Violation> {
        let link = &mut self.links[l];
        let host = &mut self.hosts[link.host];
        let Some(key) = link.conn.and_then(|conn| host.server.session_of(conn)) else {
            return Ok(false);
        };
        let record = host.server.session_record(key);
        let record = record.ok_or_else(|| super::Violation("no record".into()))?;
        let number = session_number(record.id);
        link.session = Some(number);
        // What was claimed is owned already.
        if self.model.sessions[number as usize].page.is_none() {
            host.shared.owned.insert(number, Some(key));
        }
        self.model.bound(number, link.host, l, record.grants.slots);
        // C82: a client's journal may know it.
        let durable = self.peers[link.peer].durable && link.stranger.is_none();
        self.model.sessions[number as usize].used |= durable;
        Ok(true)
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
            if !self.is_lost(h, number) {
                self.model.admitted(number, key.xid().get(), arrived.idempotent, bytes)?;
            }
            let known = self.model.ops.get(op as usize).map(|op| (op.peer, op.idempotent));
            ensure!(
                known == Some((link.peer as u8, arrived.idempotent)),
                "link {l} brought op {op}, {known:?}"
            );
        }
        let kind = usize::from(spec.id == profile::LONG);
        let mut plan = host::plan(self.seed, arrived.op.unwrap_or(0), &self.profile, kind);
        if let Some(Stranger::Hasty | Stranger::Altering) = link.stranger {
            plan = host::Plan { delays: [0; 4], end: host::End::Reply, pad: 3_000 };
        }
        let call = Call {
            due: 0,
            step: Step::Admitted,
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
        let host = &mut self.hosts[h];
        host.sessions_most = host.sessions_most.max(host.server.counters().sessions);
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
                    self.trace.disconnected(self.now, self.links[l].number, EndedBy::Server);
                    self.unbound(l);
                }
                ServerEvent::SessionEnded(id, why) => {
                    let number = session_number(id);
                    self.trace.note(|| format!("s{h} ends session {number}"));
                    if self.ended_elsewhere(h, number, why) {
                        continue;
                    }
                    let now = self.hosts[h].clock.latest.get();
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
                ServerEvent::SessionWanted(conn) => self.want(h, conn),
                ServerEvent::Drained => self.hosts[h].drained = true,
                _ => {}
            }
        }
        Ok(())
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
        let l = self.hosts[h].links[conn.index()];
        let link = &self.links[l];
        ensure!(link.conn == Some(conn), "s{h} sends on a connection that it has let go of");
        let reads_slowly = link.stranger == Some(Stranger::Hasty);
        let out_len = if reads_slowly { wire::CONTROL_LEN_MAX } else { self.profile.out_len };
        loop {
            let room = self.links[l].down.room(out_len);
            let Some(len) = self.hosts[h].server.poll_transmit(now, conn, room) else { break };
            let len = self.wrote_down(l, out_len, len.get());
            let (host, link) = (&mut self.hosts[h], &mut self.links[l]);
            if self.profile.takes_rest
                && let Some(rest) = host.server.take_shared_tail(conn)
                && link.client_open
                && !link.silent
            {
                self.kinds[Kind::SharedRest as usize] += 1;
                self.trace.sent(self.now, link.number, Role::Server, &rest);
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
        self.links[l].unsent = false;
        Ok(())
    }

    /// A server has written so many bytes at the front of a link's room; returns how many of them were not lost at once.
    pub(super) fn wrote_down(&mut self, l: usize, out_len: usize, mut len: usize) -> usize {
        let link = &mut self.links[l];
        self.trace.count(len as u64);
        self.trace.sent(self.now, link.number, Role::Server, &link.down.room(out_len)[..len]);
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
        len
    }
}
