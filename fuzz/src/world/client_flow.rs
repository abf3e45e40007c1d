//! What a client is given, and what becomes of what it gives: bytes, events and outcomes.

use oncewire_core::wire::Role;
use oncewire_core::{ClientEvent, Outcome, ProtocolError, Unknown};

use super::journal::Final;
use super::kinds::Kind;
use super::link::lose_frames;
use super::profile::{self, MS, session_number};
use super::trace::{Check, ensure};
use super::{Fault, World};

impl World {
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
            self.trace.sent(self.now, link.number, Role::Client, &link.up.room(out_len)[..len]);
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
                    self.trace.sent(self.now, link.number, Role::Client, &rest);
                    link.up.push(&rest);
                }
                if self.profile.doubles && !self.calm {
                    self.kinds[Kind::Doubled as usize] += link.double(0, len, &mut self.rng);
                }
            } else {
                self.trace.note(|| format!("  link {l} loses {len} bytes up"));
            }
            if !self.calm && len > out_len / 2 && self.rng.one_in(8) {
                // The rest leaves later: half a frame is in the queue.
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
                ClientEvent::Ended { call, outcome, .. } => self.observe(p, call, &outcome)?,
                ClientEvent::Disconnect(reason) => {
                    use oncewire_core::{CloseReason, Refuse};
                    let fault = reason.is_protocol_error();
                    let peer = &self.peers[p];
                    let ahead = ProtocolError::AckAhead { acked: 0 }.code();
                    let busy = ProtocolError::SlotBusy { xid: 0, running: 0 }.code();
                    let refused = |code| CloseReason::Refused(Refuse::Protocol(code));
                    let lost = [ahead, busy].map(refused).contains(&reason);
                    let excused =
                        peer.tainted || peer.journal.rolled_back || peer.journal.lost && lost;
                    ensure!(!fault || excused, "c{p} is disconnected for {reason:?}");
                    if self.calm && reason == CloseReason::Refused(Refuse::ShuttingDown) {
                        // As drivers do. A drain that waits for a link that is silent was asked thousands of times.
                        self.peers[p].away_until = self.now + 20 * MS;
                    }
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

    fn observe(&mut self, p: usize, call: oncewire_core::CallId, outcome: &Outcome<'_>) -> Check {
        let peer = &mut self.peers[p];
        let ticket = matches!(outcome, Outcome::Unknown { ticket: true, .. });
        let Some(op) = peer.op(call) else {
            ensure!(peer.tainted, "c{p} reports {outcome:?} of a call that is over");
            return Ok(());
        };
        let (due, latest) = (peer.due(call), peer.clock.latest.get());
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
                ensure!(
                    due <= latest,
                    "S17: op {op} had until {due}, and was given up at {latest}"
                );
            }
            Outcome::Unknown { why: Unknown::SessionEnded, .. } => {
                let session = peer.session.map(|number| &self.model.sessions[number as usize]);
                let excused = session.is_none_or(|session| session.excused);
                ensure!(excused, "op {op} of c{p} is unknown for good, and could be known");
            }
            _ => {}
        }
        match (self.peers[p].durable, ticket) {
            (false, _) => self.model.observe(op, outcome),
            (true, true) => Ok(()),
            (true, false) => self.note_outcome(p, call, op, Final::of(outcome)),
        }
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
                    self.trace.arrived(self.now, link.number, Role::Server, &data[..consumed]);
                    if !peer.tainted {
                        self.trace.frames(l, &'c', Role::Server, &data[..consumed]);
                    }
                    let Some(reply) = received.item else {
                        link.down.take(consumed);
                        break;
                    };
                    let op = peer.op(reply.call);
                    ensure!(op.is_some() || peer.tainted, "c{p} has a reply without a call");
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
                                self.model.observe(op, &reply.outcome)?;
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
}
