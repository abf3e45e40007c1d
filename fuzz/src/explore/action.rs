//! The actions that are possible in a state; `apply.rs` executes one.

use std::fmt;

use oncewire_core::wire::{self, Decoded, Frame, Role};

use super::scene::Pace;
use super::world::{Accepted, Link, World};

/// One thing that happens. Connections are given by number, calls by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client makes its next call.
    Call(usize),
    /// A client dials a server.
    Dial(usize, usize),
    /// A client learns what the server of its connection means by the methods that it has signatures of.
    Compare(usize),
    /// The next frame reaches the server.
    Up(u32),
    /// The next frame reaches the client.
    Down(u32),
    /// A broken client reads what its older connection had for it.
    Stale(u32),
    /// A server takes a call one step further.
    Step(usize, usize),
    /// The record of a server's oldest new session becomes stable.
    Record(usize),
    /// A server's claim of a session that a connection wants is answered.
    Claim(usize, usize),
    /// A server cannot reach the records of a session that a connection wants.
    Unreachable(usize, usize),
    /// The connection breaks, and the client learns of it.
    CutClient(u32),
    /// The connection breaks, and the server learns of it.
    CutServer(u32),
    /// The client learns of the end.
    EndClient(u32),
    /// The server learns of the end.
    EndServer(u32),
    /// What came up a connection comes once more, to this server.
    Copy(u32, usize),
    /// A server's process dies, and another one starts.
    Restart(usize),
    /// A lease's time passes on a server's clock.
    Lease(usize),
    /// A moment passes on a server's clock.
    ServerTick(usize),
    /// A moment passes on a client's clock.
    ClientTick(usize),
    /// A client cancels a call.
    Cancel(usize, usize),
    /// A client forgets a call.
    Forget(usize, usize),
    /// A server drains.
    Drain(usize),
    /// The grace of a server's drain is over. Nothing can follow.
    Grace(usize),
    /// A frame on its way up is lost.
    LoseUp(u32),
    /// A frame on its way down is lost.
    LoseDown(u32),
    /// A server's ledger cannot write any more.
    FailLedger(usize),
    /// A client closes.
    Close(usize),
    /// What a durable client has first given to its journal is stable.
    Journal(usize),
    /// A durable client's process dies, and another one goes on from its journal.
    Death(usize),
    /// A durable client's journal is copied.
    CopyJournal(usize),
    /// A durable client's process dies, and another one goes on from the copy of its journal.
    OldJournal(usize),
    /// Half a lease passes on a server's clock.
    HalfLease(usize),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Action::Call(p) => write!(f, "c{p} makes a call"),
            Action::Dial(p, h) => write!(f, "c{p} dials s{h}"),
            Action::Compare(p) => write!(f, "c{p} compares signatures"),
            Action::Up(n) => write!(f, "link {n} carries a frame up"),
            Action::Down(n) => write!(f, "link {n} carries a frame down"),
            Action::Stale(n) => write!(f, "the client of link {n} reads what the older one had"),
            Action::Step(h, _) => write!(f, "s{h} takes a call further"),
            Action::Record(h) => write!(f, "s{h} has recorded a session"),
            Action::Claim(h, _) => write!(f, "s{h} claims a session"),
            Action::Unreachable(h, _) => write!(f, "s{h} cannot reach the records"),
            Action::CutClient(n) => write!(f, "link {n} breaks, its client learns of it"),
            Action::CutServer(n) => write!(f, "link {n} breaks, its server learns of it"),
            Action::EndClient(n) => write!(f, "the client of link {n} learns of its end"),
            Action::EndServer(n) => write!(f, "the server of link {n} learns of its end"),
            Action::Copy(n, h) => write!(f, "what came up link {n} comes to s{h} once more"),
            Action::Restart(h) => write!(f, "s{h} dies and starts again"),
            Action::Lease(h) => write!(f, "a lease passes at s{h}"),
            Action::ServerTick(h) => write!(f, "two seconds pass at s{h}"),
            Action::ClientTick(p) => write!(f, "two seconds pass at c{p}"),
            Action::Cancel(p, k) => write!(f, "c{p} cancels its call {k}"),
            Action::Forget(p, k) => write!(f, "c{p} forgets its call {k}"),
            Action::Drain(h) => write!(f, "s{h} drains"),
            Action::Grace(h) => write!(f, "the grace of s{h} is over"),
            Action::LoseUp(n) => write!(f, "link {n} loses a frame up"),
            Action::LoseDown(n) => write!(f, "link {n} loses a frame down"),
            Action::FailLedger(h) => write!(f, "the ledger of s{h} cannot write"),
            Action::Close(p) => write!(f, "c{p} closes"),
            Action::Journal(p) => write!(f, "the journal of c{p} writes"),
            Action::Death(p) => write!(f, "c{p} dies and starts again"),
            Action::CopyJournal(p) => write!(f, "the journal of c{p} is copied"),
            Action::OldJournal(p) => write!(f, "c{p} dies and starts again from the copy"),
            Action::HalfLease(h) => write!(f, "half a lease passes at s{h}"),
        }
    }
}

impl World {
    /// What goes on by itself: when nothing of it is left, the world rests.
    pub(super) fn progress(&self, out: &mut Vec<Action>) {
        for (p, peer) in self.peers.iter().enumerate() {
            if peer.made < self.scene.calls[p].len() && !peer.client.is_closing() {
                out.push(Action::Call(p));
            }
            if peer.link.is_none() && peer.client.wants_connection() {
                self.dials(p, out);
            }
            if self.scene.is_typed() && peer.client.is_connected() && !peer.compared {
                out.push(Action::Compare(p));
            }
            if !peer.journal.pending.is_empty() {
                out.push(Action::Journal(p));
            }
        }
        for link in &self.links {
            self.ends(link, out);
        }
        for (h, host) in self.hosts.iter().enumerate() {
            for (at, call) in host.calls.iter().enumerate() {
                let written = self.scene.ledger && !call.kind.idempotent && call.running.is_some();
                // S31: what cannot be recorded is not answered.
                let stuck =
                    host.disk_full && written && call.step == crate::world::host::Step::Running;
                if !stuck {
                    out.push(Action::Step(h, at));
                }
            }
            if !host.opened.is_empty() {
                out.push(Action::Record(h));
            }
            out.extend((0..host.wanted.len()).map(|at| Action::Claim(h, at)));
            if host.drained || host.disk_full {
                out.push(Action::Restart(h));
            }
        }
        let drains = self.hosts.iter().any(|host| host.draining && !host.drained);
        if out.is_empty() && self.scene.lossy && drains {
            // What was lost is sent again before the grace is over.
            let resends =
                |p: &usize| self.peers[*p].link.is_some() && self.peers[*p].client.unsettled() > 0;
            out.extend((0..self.peers.len()).filter(resends).map(Action::ClientTick));
        }
        if out.is_empty() {
            let waits = |h: &usize| self.hosts[*h].draining && !self.hosts[*h].drained;
            out.extend((0..self.hosts.len()).filter(waits).map(Action::Grace));
        }
    }

    fn dials(&self, p: usize, out: &mut Vec<Action>) {
        let session = self.peers[p].client.session();
        for h in 0..self.hosts.len() {
            // A server that drains or whose ledger has failed opens no sessions, and a drained one does not listen: a client
            // that tried again would meet the same refusal without end.
            let server = &self.hosts[h].server;
            let known = session.is_some_and(|session| {
                !self.scene.shared || server.find_session(session.id).is_some()
            });
            let host = &self.hosts[h];
            let refused = (host.draining || host.disk_full) && !known || host.drained;
            let home = self.scene.shared
                || session.is_none_or(|session| session.server.to_bytes()[0] == h as u8 + 1);
            if !refused && (home || self.left.strays > 0) {
                out.push(Action::Dial(p, h));
            }
        }
    }

    fn ends(&self, link: &Link, out: &mut Vec<Action>) {
        let number = link.number;
        let open = matches!(link.accepted, Accepted::Open(_));
        if !link.up.is_empty() && (self.left.late > 0 || !self.is_late(link)) {
            out.push(Action::Up(number));
        }
        if link.client_open && !link.down.is_empty() {
            out.push(Action::Down(number));
        }
        let up = self.peers[link.peer].client.is_connected();
        if link.client_open && !link.stale.is_empty() && up {
            out.push(Action::Stale(number));
        }
        if !link.client_open && (open || link.accepted == Accepted::NotYet) {
            out.push(Action::EndServer(number));
        }
        let read = link.broken || link.down.is_empty();
        if link.client_open && link.accepted == Accepted::Gone && read {
            out.push(Action::EndClient(number));
        }
    }

    /// Whether its next frame would be read after one of a newer connection of its client.
    pub(super) fn is_late(&self, link: &Link) -> bool {
        !link.client_open
            && self.links.iter().any(|other| {
                other.peer == link.peer
                    && other.number > link.number
                    && other.accepted != Accepted::NotYet
            })
    }

    /// What else may happen.
    pub(super) fn faults(&self, out: &mut Vec<Action>) {
        self.link_faults(out);
        self.host_faults(out);
        self.peer_faults(out);
    }

    fn link_faults(&self, out: &mut Vec<Action>) {
        let left = &self.left;
        for link in &self.links {
            let number = link.number;
            if left.cuts > 0 && link.client_open && !link.broken {
                out.push(Action::CutClient(number));
                if matches!(link.accepted, Accepted::Open(_)) {
                    out.push(Action::CutServer(number));
                }
            }
            // Requests that came behind an opening `Hello` came only because its client had read the answer to that:
            // nothing repeats such a connection by chance (S2).
            let copied = match link.sent.first().map(|hello| wire::decode(hello, Role::Client, 0)) {
                Some(Ok(Decoded::Frame(Frame::Hello(hello), _))) => {
                    !self.scene.replays || hello.resume.is_some()
                }
                _ => false,
            };
            if left.copies > 0 && copied {
                out.extend((0..self.hosts.len()).map(|h| Action::Copy(number, h)));
            }
            if left.losses > 0 && !link.up.is_empty() {
                out.push(Action::LoseUp(number));
            }
            if left.losses > 0 && !link.down.is_empty() {
                out.push(Action::LoseDown(number));
            }
        }
    }

    fn host_faults(&self, out: &mut Vec<Action>) {
        let left = &self.left;
        for (h, host) in self.hosts.iter().enumerate() {
            if left.restarts > 0 && !host.drained && !host.disk_full {
                out.push(Action::Restart(h));
            }
            if left.leases > 0 {
                out.push(Action::Lease(h));
            }
            if left.unreachable > 0 {
                out.extend((0..host.wanted.len()).map(|at| Action::Unreachable(h, at)));
            }
            if left.half_leases > 0 {
                out.push(Action::HalfLease(h));
            }
            if left.server_ticks > 0 {
                out.push(Action::ServerTick(h));
            }
            if left.drains > 0 && !host.draining {
                out.push(Action::Drain(h));
            }
            if left.disks > 0 && !host.disk_full {
                out.push(Action::FailLedger(h));
            }
        }
    }

    fn peer_faults(&self, out: &mut Vec<Action>) {
        let left = &self.left;
        for (p, peer) in self.peers.iter().enumerate() {
            if left.client_ticks > 0 {
                out.push(Action::ClientTick(p));
            }
            for k in (0..peer.made).filter(|k| peer.calls[*k].is_some()) {
                if left.cancels > 0 {
                    out.push(Action::Cancel(p, k));
                }
                if left.forgets > 0 {
                    out.push(Action::Forget(p, k));
                }
            }
            if left.closes > 0 && !peer.client.is_closing() {
                out.push(Action::Close(p));
            }
            if left.deaths > 0 {
                out.push(Action::Death(p));
            }
            if left.old_copies > 0 {
                out.push(Action::CopyJournal(p));
            }
            if left.deaths > 0 && peer.journal.copy.is_some() {
                out.push(Action::OldJournal(p));
            }
        }
    }

    /// Whether all clients have the same calls: then it does not matter which one moves first.
    pub(super) fn is_symmetric(&self) -> bool {
        let plain = |kind: &super::scene::Kind| format!("{kind:?}");
        let scripts = self.scene.calls.iter().map(|calls| calls.iter().map(plain).collect());
        let scripts: Vec<Vec<String>> = scripts.collect();
        self.scene.pace != Pace::Slow && scripts.windows(2).all(|pair| pair[0] == pair[1])
    }
}
