//! Servers that have the same records (S34): claims, and what a server does that has lost a session.

use oncewire_core::{Claimed, ConnId};

use super::scene::Broken;
use super::world::{Handling, World};
use crate::world::profile::{session_id, session_number};
use crate::world::trace::{Check, Violation};

impl World {
    /// Whether another server has claimed a session that this one has, or had.
    pub(super) fn is_lost(&self, h: usize, number: u32) -> bool {
        self.scene.shared && !self.hosts[h].owned.contains(&number)
    }

    /// Whether a call is one of what a server had of its session before that was claimed elsewhere.
    pub(super) fn is_stale(&self, call: &Handling) -> bool {
        let current = self.hosts[call.host].server.find_session(session_id(0, call.session));
        self.is_lost(call.host, call.session)
            || self.scene.shared && current.is_some_and(|key| key != call.key.session())
    }

    /// Whether the records take nothing of a call.
    pub(super) fn is_fenced(&self, call: &Handling) -> bool {
        self.is_stale(call) && self.scene.broken != Broken::Unfenced
    }

    /// The number of the last commit of all servers that share these records.
    pub(super) fn last_commit(&self, h: usize) -> u64 {
        let all = self.hosts.iter().map(|host| host.commit).max().unwrap_or_default();
        if self.scene.shared { all } else { self.hosts[h].commit }
    }

    /// The records took nothing of a call: its session is another server's, and it has no more steps.
    pub(super) fn lose(&mut self, h: usize, call: &mut Handling) -> Result<bool, Violation> {
        let now = self.host_now(h);
        self.tell(|_| format!("    s{h} has lost session {}", call.session));
        let server = &mut self.hosts[h].server;
        server.yield_session(now, call.key.session());
        if let Some(admission) = call.admission.take() {
            server.refuse(now, admission, oncewire_core::NotExecuted::Cancelled);
        }
        if let Some(running) = call.running.take() {
            server.abort(now, running);
        }
        Ok(false)
    }

    /// The lease of a session is over at a server that has lost it.
    pub(super) fn ended_elsewhere(&mut self, _: usize, number: u32) {
        if self.scene.broken == Broken::Deleting {
            self.model.sessions[number as usize].page = None;
        }
    }

    /// The records answer what a connection wants.
    pub(super) fn claim(&mut self, h: usize, at: usize) -> Check {
        let conn = self.hosts[h].wanted.remove(at);
        let Some(id) = self.hosts[h].server.wanted_session(conn) else { return self.pump_host(h) };
        let (now, number, commit) = (self.host_now(h), session_number(id), self.last_commit(h));
        if self.model.sessions[number as usize].page.is_none() {
            self.tell(|_| format!("    there is no record of session {number}"));
            return self.answer_claim(h, conn, Claimed::Unknown);
        }
        let held = self.hosts[h].server.find_session(id);
        let trusts = self.scene.broken == Broken::Trusting && held.is_some();
        if held.is_none() || self.is_lost(h, number) && !trusts {
            self.tell(|_| format!("    session {number} comes to s{h}"));
            for host in 0..self.hosts.len() {
                if self.hosts[host].owned.contains(&number) {
                    self.hosts[host].owned.remove(&number);
                }
            }
            self.model.moved(number, h);
            if let Some(key) = held {
                self.hosts[h].server.yield_session(now, key);
                self.pump_host(h)?;
            }
            self.restore_one(h, number)?;
        }
        self.hosts[h].server.set_commit(commit);
        self.answer_claim(h, conn, Claimed::Found)
    }

    /// The records cannot be reached.
    pub(super) fn cannot_claim(&mut self, h: usize, at: usize) -> Check {
        let conn = self.hosts[h].wanted.remove(at);
        self.answer_claim(h, conn, Claimed::Unavailable)
    }

    fn answer_claim(&mut self, h: usize, conn: ConnId, claimed: Claimed) -> Check {
        let now = self.host_now(h);
        self.hosts[h].server.answer_wanted(now, conn, claimed);
        if let Some(at) = self.link_at(h, conn) {
            let hello = self.links[at].hello.take();
            self.note_bound(at, conn);
            if let (Some(session), Some(hello)) = (self.links[at].session, hello) {
                self.model.read(session, &hello);
            }
        }
        self.pump_host(h)
    }
}
