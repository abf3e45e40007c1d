//! Servers that have one ledger (S34): sessions that are claimed, claims that race, and what a server does that has lost one.
//!
//! A claim takes effect and is answered in one moment, some time after it was made; a step of a call that is due later
//! writes its record only if the session is still its server's. The driver has more ways to be late: see `storage_world`.

use std::collections::BTreeMap;

use oncewire_core::{Claimed, ConnId, NotExecuted, SessionEnd, SessionKey};

use super::host::Call;
use super::kinds::Kind;
use super::model::Page;
use super::profile::{Broken, session_number};
use super::trace::Check;
use super::{Violation, World};

/// A server's sessions, if another server has the same ledger.
#[derive(Debug, Default)]
pub struct Shared {
    /// Those that are its own, and what it has of each since it was opened here or came here; `None` if it had no room for it.
    pub owned: BTreeMap<u32, Option<SessionKey>>,
    /// Those that it has lost and still holds something of, once for each time.
    pub stale: Vec<u32>,
    /// Connections that want a session.
    pub wanted: Vec<Wanted>,
}

/// A connection that wants a session.
#[derive(Debug)]
pub struct Wanted {
    /// When the claim comes to the ledger.
    pub due: u64,
    conn: ConnId,
    /// What the ledger had when the claim was made, for a machine that is broken so.
    early: Option<Box<Page>>,
}

impl World {
    /// Whether another server has claimed a session that this one has, or had.
    pub(super) fn is_lost(&self, h: usize, number: u32) -> bool {
        self.profile.shares && !self.hosts[h].shared.owned.contains_key(&number)
    }

    /// Whether a call is one of what a server had of its session before that was claimed elsewhere.
    pub(super) fn is_stale(&self, h: usize, call: &Call) -> bool {
        let current = self.hosts[h].shared.owned.get(&call.session).copied().flatten();
        self.profile.shares && current != Some(call.key.session())
    }

    /// Whether the ledger takes nothing of a call.
    pub(super) fn is_fenced(&self, h: usize, call: &Call) -> bool {
        self.is_stale(h, call) && self.profile.broken != Broken::Unfenced
    }

    /// The number of the last commit of all servers that have this ledger.
    pub(super) fn last_commit(&self, h: usize) -> u64 {
        let all = self.hosts.iter().map(|host| host.commit).max().unwrap_or_default();
        if self.profile.shares { all } else { self.hosts[h].commit }
    }

    /// The ledger took nothing of a call: its session is another server's, and it has no more steps.
    pub(super) fn lose(&mut self, h: usize, call: &mut Call) -> Result<bool, Violation> {
        let now = self.host_now(h);
        self.trace.note(|| format!("  s{h} has lost session {}", call.session));
        self.kinds[Kind::Fenced as usize] += 1;
        let server = &mut self.hosts[h].server;
        server.yield_session(now, call.key.session());
        if let Some(admission) = call.admission.take() {
            server.refuse(now, admission, NotExecuted::Cancelled);
        }
        if let Some(running) = call.running.take() {
            server.abort(now, running);
        }
        Ok(false)
    }

    /// A server has ended a session that is another server's, or one that it had before it lost it.
    pub(super) fn ended_elsewhere(&mut self, h: usize, number: u32, why: SessionEnd) -> bool {
        if !self.profile.shares || (why != SessionEnd::Taken && !self.is_lost(h, number)) {
            self.hosts[h].shared.owned.remove(&number);
            return false;
        }
        let stale = &mut self.hosts[h].shared.stale;
        if let Some(at) = stale.iter().position(|lost| *lost == number) {
            stale.swap_remove(at);
        }
        if self.profile.broken == Broken::Deleting && why == SessionEnd::Lease {
            self.model.sessions[number as usize].page = None;
        }
        true
    }

    /// A client wants to resume a session: it is claimed.
    pub(super) fn want(&mut self, h: usize, conn: ConnId) {
        let Some(id) = self.hosts[h].server.wanted_session(conn) else { return };
        let number = session_number(id) as usize;
        let slow = !self.calm && self.rng.one_in(3);
        let takes = if slow { self.rng.delay(self.profile.delay_max) } else { 0 };
        let early = match self.profile.broken {
            Broken::EarlyClaim => self.model.sessions[number].page.clone(),
            _ => None,
        };
        let wants = |host: &super::Host| {
            let mut wanted = host.shared.wanted.iter();
            wanted.any(|other| host.server.wanted_session(other.conn) == Some(id))
        };
        let races = (0..self.hosts.len()).any(|other| other != h && wants(&self.hosts[other]));
        self.kinds[Kind::Raced as usize] += u64::from(races);
        self.hosts[h].shared.wanted.push(Wanted { due: self.now + takes, conn, early });
    }

    pub(super) fn answer_due_claims(&mut self, h: usize) -> Check {
        let mut at = 0;
        while let Some(wanted) = self.hosts[h].shared.wanted.get(at) {
            if wanted.due > self.now {
                at += 1;
                continue;
            }
            let wanted = self.hosts[h].shared.wanted.swap_remove(at);
            let claimed = match !self.calm && self.rng.one_in(8) {
                true => self.cannot_claim(h),
                false => self.claim(h, wanted.conn, wanted.early)?,
            };
            self.answer_claim(h, wanted.conn, claimed)?;
        }
        Ok(())
    }

    fn cannot_claim(&mut self, h: usize) -> Claimed {
        self.trace.note(|| format!("  the ledger is out of reach of s{h}"));
        self.kinds[Kind::Unreachable as usize] += 1;
        Claimed::Unavailable
    }

    /// The ledger says what it has of a session, which is this server's from now on.
    fn claim(
        &mut self,
        h: usize,
        conn: ConnId,
        early: Option<Box<Page>>,
    ) -> Result<Claimed, Violation> {
        let Some(id) = self.hosts[h].server.wanted_session(conn) else {
            return Ok(Claimed::Unknown);
        };
        let (number, commit) = (session_number(id), self.last_commit(h));
        let Some(page) = self.model.sessions[number as usize].page.clone() else {
            self.trace.note(|| format!("  there is no record of session {number}"));
            return Ok(Claimed::Unknown);
        };
        let l = self.hosts[h].links[conn.index()];
        if page.session.principal != self.peers[self.links[l].peer].principal {
            return Ok(Claimed::WrongPrincipal);
        }
        let held = self.hosts[h].server.find_session(id);
        let trusts = self.profile.broken == Broken::Trusting && held.is_some();
        if held.is_none() || self.is_lost(h, number) && !trusts {
            self.trace.note(|| format!("  session {number} comes to s{h}"));
            self.kinds[Kind::Moved as usize] += 1;
            for host in &mut self.hosts {
                if host.shared.owned.remove(&number).is_some()
                    && host.server.find_session(id).is_some()
                {
                    host.shared.stale.push(number);
                }
            }
            self.model.moved(number, h);
            if let Some(key) = held {
                let now = self.host_now(h);
                self.hosts[h].server.yield_session(now, key);
                self.pump_host(h)?;
            }
            if !self.restore_one(h, number, &early.unwrap_or(page)) {
                self.hosts[h].shared.owned.insert(number, None);
                return Ok(Claimed::Unavailable);
            }
            let kept = self.hosts[h].server.counters().kept_bytes;
            self.model.kept_floor[h] = self.model.kept_floor[h].max(kept);
        }
        self.hosts[h].server.set_commit(commit);
        Ok(Claimed::Found)
    }

    fn answer_claim(&mut self, h: usize, conn: ConnId, claimed: Claimed) -> Check {
        if self.hosts[h].server.wanted_session(conn).is_none() {
            return self.pump_host(h);
        }
        let now = self.host_now(h);
        self.hosts[h].server.answer_wanted(now, conn, claimed);
        let l = self.hosts[h].links[conn.index()];
        let hello = std::mem::take(&mut self.links[l].hello);
        if self.links[l].conn == Some(conn) && self.note_bound(l)? {
            let number = self.links[l].session.unwrap_or_default();
            self.model.read(number, &hello);
        }
        self.pump_host(h)
    }
}
