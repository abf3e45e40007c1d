//! Machines that are broken on purpose: a front that changes frames on their way, for the checks to find out.

use oncewire_core::Status;
use oncewire_core::wire::{self, Decoded, Frame, ReplyHeader, Role};

use super::profile::Broken;
use super::trace::Check;
use super::{World, body};

impl World {
    /// A machine that is broken on purpose meets what is on the way up.
    pub(super) fn break_up(&mut self, l: usize) -> Check {
        match self.profile.broken {
            Broken::No => Ok(()),
            Broken::NoDedup => self.forget_kept(l, true),
            Broken::Forgetful => self.forget_kept(l, false),
            Broken::Reuse => {
                self.reuse_xid(l);
                Ok(())
            }
            Broken::StaleAck => {
                self.links[l].widen_acks();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The same on the way down.
    pub(super) fn break_down(&mut self, l: usize) {
        match self.profile.broken {
            Broken::HastyGoodbye => self.leave_at_once(l),
            Broken::OldJournal => self.hide_seen(l),
            Broken::StaleNotSeen => self.links[l].renumber_not_seen(),
            _ => {}
        }
    }

    /// A client that reads that its server drains says `Goodbye` at once.
    fn leave_at_once(&mut self, l: usize) {
        let link = &mut self.links[l];
        let mut bytes = link.down.on_the_way_mut() as &[u8];
        let mut drains = false;
        while let Ok(Decoded::Frame(frame, len)) = wire::decode(bytes, Role::Server, u32::MAX / 2) {
            drains |= matches!(frame, Frame::Goodbye(_));
            bytes = &bytes[len..];
        }
        if drains && link.conn.is_some() && link.client_open {
            let mut out = [0; 16];
            let len = wire::encode(&Frame::Goodbye(Role::Client), &mut out).unwrap_or(0);
            link.up.push(&out[..len]);
            self.trace.note(|| format!("link {l}: the client says Goodbye at once"));
        }
    }

    /// A durable client that resumes reads no number above those that it has given.
    fn hide_seen(&mut self, l: usize) {
        let link = &mut self.links[l];
        let peer = &self.peers[link.peer];
        let bytes = link.down.on_the_way_mut();
        let Ok(Decoded::Frame(Frame::Welcome(mut welcome), len)) =
            wire::decode(bytes, Role::Server, u32::MAX / 2)
        else {
            return;
        };
        let known = peer.client.session().is_some_and(|own| own.id == welcome.session);
        let last = peer.journal.last_in(welcome.session);
        if !known || welcome.seen <= last || len != bytes.len() {
            return;
        }
        welcome.seen = last;
        let mut out = [0; wire::CONTROL_LEN_MAX];
        let said = wire::encode(&Frame::Welcome(welcome), &mut out).unwrap_or(0);
        link.down.lose(len);
        link.down.push(&out[..said]);
    }

    /// The server says of a kept reply, or of any call if it knows none, that it has nothing, and runs the call again
    /// when it comes again.
    fn forget_kept(&mut self, l: usize, running_too: bool) -> Check {
        let link = &mut self.links[l];
        let clear = link.conn.is_some() && link.up.arrived().is_empty();
        let Some(number) = link.session.filter(|_| clear) else { return Ok(()) };
        let bytes = link.up.on_the_way_mut();
        let Ok(Decoded::Frame(frame, len)) = wire::decode(bytes, Role::Client, u32::MAX / 2) else {
            return Ok(());
        };
        let session = &self.model.sessions[number as usize];
        let forgets = |xid| session.keeps(xid) || (running_too && session.has_run(xid));
        match frame {
            Frame::Ask(xid, ask) if forgets(xid.get()) => {
                let header = ReplyHeader { status: Status::NotSeen { ask }, xid };
                let mut out = [0; 64];
                let said = wire::encode(&Frame::Reply(header, &[]), &mut out).unwrap_or(0);
                link.up.skip(len);
                link.down.push(&out[..said]);
                self.trace.note(|| format!("link {l}: {xid} is forgotten"));
                self.forget_kept(l, running_too)
            }
            Frame::Request(header, body) if forgets(header.xid.get()) => {
                match body::read_request(body::arguments(header.flags, body)) {
                    Some(op) => self.model.executed(op, number, header.xid.get()).map(drop),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The client sends a call under the number of the one before it on its slot.
    fn reuse_xid(&mut self, l: usize) {
        let slots = u64::from(self.profile.slots);
        if self.links[l].conn.is_none() || !self.rng.one_in(64) {
            return;
        }
        let bytes = self.links[l].up.on_the_way_mut();
        if bytes.len() < wire::REQUEST_HEADER_LEN || bytes[4] != 2 {
            return;
        }
        let field: &mut [u8; 8] = (&mut bytes[16..24]).try_into().expect("8 bytes");
        let xid = u64::from_le_bytes(*field);
        if xid > slots {
            *field = (xid - slots).to_le_bytes();
            self.trace.note(|| format!("link {l}: xid {xid} becomes {}", xid - slots));
        }
    }
}
