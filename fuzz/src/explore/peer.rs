//! A client's side of a small world: it dials, calls, reads and learns.

use oncewire_core::wire::{self, Decoded, Role};
use oncewire_core::{CallId, ClientEvent, Comparison, Outcome, ProtocolError};

use super::scene::Broken;
use super::world::*;
use crate::world::body::{self, REQUEST_HEAD};
use crate::world::trace::{Check, describe, ensure};

impl World {
    pub(super) fn make_call(&mut self, p: usize) -> Check {
        let k = self.peers[p].made;
        let kind = self.scene.calls[p][k];
        let op = self.op(p, k);
        let mut request = [0; REQUEST_HEAD];
        body::write_request(op, 0, &mut request);
        let mut call = oncewire_core::Call::new(kind.method, &request);
        call.timeout = if kind.short { SHORT } else { FOREVER };
        (call.idempotent, call.one_way) = (kind.idempotent, kind.one_way);
        call.fail_fast = kind.fail_fast;
        if kind.typed && self.scene.broken != Broken::GateOpen {
            call.comparison = self.comparison(p);
        }
        let now = self.peer_now(p);
        let peer = &mut self.peers[p];
        let id = peer.client.call(now, call);
        ensure!(id.is_ok(), "c{p} took no call: {id:?}");
        peer.made += 1;
        if !kind.one_way {
            peer.calls[k] = id.ok();
        }
        self.flush_peer(p)
    }

    /// What a client knows of the methods that it has signatures of.
    fn comparison(&self, p: usize) -> Comparison {
        let peer = &self.peers[p];
        match peer.client.server_info().filter(|_| peer.compared) {
            None => Comparison::Pending,
            Some(info) if means_the_same(info.instance) => Comparison::Same,
            Some(_) => Comparison::Differs,
        }
    }

    /// The server has said what it means by the methods (S33).
    pub(super) fn compare(&mut self, p: usize) -> Check {
        self.peers[p].compared = true;
        let (now, verdict) = (self.peer_now(p), self.comparison(p));
        self.tell(|_| format!("    c{p} finds: {verdict:?}"));
        self.peers[p].client.compare(now, |_| verdict);
        self.flush_peer(p)
    }

    pub(super) fn dial(&mut self, p: usize, h: usize) -> Check {
        let unread = self.unread_of(p);
        let link = self.new_link(p, h);
        link.client_open = true;
        link.stale = unread;
        let number = link.number;
        self.peers[p].link = Some(number);
        self.peers[p].compared = false;
        let now = self.peer_now(p);
        self.peers[p].client.handle_connected(now);
        self.flush_peer(p)
    }

    /// Of a client that is broken so: what it has not read of its older connection.
    fn unread_of(&mut self, p: usize) -> Vec<Wire> {
        std::mem::take(&mut self.peers[p].unread)
    }

    /// A client has let go of its connection: what is on the way to it is never read (S4).
    pub(super) fn leave(&mut self, p: usize) {
        self.peers[p].compared = false;
        let reads_on = self.scene.broken == Broken::Unread;
        if let Some(number) = self.peers[p].link.take()
            && let Some(link) = self.link(number)
        {
            link.client_open = false;
            if reads_on {
                let mut unread = std::mem::take(&mut link.down);
                unread.retain(|frame| frame[4] == REPLY);
                self.peers[p].unread = unread;
            }
        }
    }

    pub(super) fn flush_peer(&mut self, p: usize) -> Check {
        self.pump_peer(p)?;
        if self.scene.durable {
            self.number_calls(p);
        }
        let now = self.peer_now(p);
        let mut out = [0; 512];
        while let Some(len) = self.peers[p].client.poll_transmit(now, &mut out) {
            let number = self.peers[p].link;
            ensure!(number.is_some(), "c{p} sends without a connection");
            let (keep, all) = (self.scene.budget.copies > 0, self.scene.replays);
            if let Some(link) = number.and_then(|number| self.link(number)) {
                for frame in frames(&out[..len.get()]) {
                    if keep && (all || link.sent.is_empty()) {
                        link.sent.push(frame.into());
                    }
                    if link.accepted != Accepted::Gone {
                        link.up.push(frame.into());
                    }
                }
            }
        }
        self.pump_peer(p)
    }

    fn pump_peer(&mut self, p: usize) -> Check {
        use oncewire_core::{CloseReason, Refuse};
        while let Some(event) = self.peers[p].client.poll_event() {
            self.tell(|_| format!("    c{p}: {event:?}"));
            match event {
                ClientEvent::Ended { call, outcome, .. } => self.observe(p, call, &outcome)?,
                ClientEvent::Disconnect(reason) => {
                    let settled = ProtocolError::AlreadySettled { xid: 1 }.code();
                    let old = self.scene.budget.old_copies > 0
                        && reason == CloseReason::Refused(Refuse::Protocol(settled));
                    let fault = reason.is_protocol_error() && !old;
                    ensure!(!fault, "c{p} is disconnected for {reason:?}");
                    self.leave(p);
                }
                ClientEvent::Closed => self.peers[p].closed = true,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn observe(&mut self, p: usize, call: CallId, outcome: &Outcome<'_>) -> Check {
        let place = self.peers[p].calls.iter().position(|known| *known == Some(call));
        let Some(k) = place else {
            ensure!(false, "c{p} reports {outcome:?} of a call that is over");
            return Ok(());
        };
        if self.scene.durable {
            return self.note_outcome(p, k, outcome);
        }
        if !matches!(outcome, Outcome::Unknown { ticket: true, .. }) {
            self.peers[p].calls[k] = None;
        }
        self.learn(p, k, outcome)
    }

    /// The client reads one frame.
    pub(super) fn read_down(&mut self, at: usize, frame: &[u8]) -> Check {
        let p = self.links[at].peer;
        let said = || match wire::decode(frame, Role::Server, u32::MAX / 2) {
            Ok(Decoded::Frame(frame, _)) => describe(&frame),
            other => format!("{other:?}"),
        };
        self.tell(|_| format!("    c{p} reads {}", said()));
        let now = self.peer_now(p);
        let mut rest = frame;
        while !rest.is_empty() {
            let result = self.peers[p].client.handle_data(now, rest);
            let received = match result {
                Ok(received) => received,
                Err(error) => {
                    ensure!(false, "c{p} says that its server broke: {error:?}");
                    return Ok(());
                }
            };
            rest = &rest[received.consumed..];
            match received.item {
                Some(reply) => {
                    let ticket = matches!(reply.outcome, Outcome::Unknown { ticket: true, .. });
                    ensure!(!ticket, "received data brought a ticket");
                    self.observe(p, reply.call, &reply.outcome)?;
                }
                None => ensure!(rest.is_empty(), "c{p} leaves {} bytes of a frame", rest.len()),
            }
        }
        self.flush_peer(p)
    }

    pub(super) fn tell_client(&mut self, p: usize) -> Check {
        self.leave(p);
        let now = self.peer_now(p);
        self.peers[p].client.handle_disconnected(now);
        self.flush_peer(p)
    }

    // Servers.
}
