//! What a server's ledger writes, and what is left of a server whose process dies.

use oncewire_core::{CallRecord, RecordState, Server};
use oncewire_recorder::EndedBy;

use super::host::Call;
use super::kinds::Kind;
use super::model::{Page, Record, Recorded};
use super::profile::{self, session_number};
use super::trace::{Check, ensure};
use super::{Fault, World, body};

impl World {
    /// S30: a session was opened; its record is on its way to the ledger.
    pub(super) fn record_session(&mut self, h: usize, conn: oncewire_core::ConnId) {
        let slow = !self.calm && self.rng.one_in(4);
        let takes = if slow { self.rng.delay(self.profile.delay_max) } else { 0 };
        self.hosts[h].opened.push((self.now + takes, conn));
    }

    /// The records of new sessions are stable, as far as that was due: their `Welcome`s may leave.
    pub(super) fn confirm_opened(&mut self, h: usize, by: u64) -> Check {
        let mut at = 0;
        while let Some((due, conn)) = self.hosts[h].opened.get(at).copied() {
            if due > by {
                at += 1;
                continue;
            }
            self.hosts[h].opened.swap_remove(at);
            let server = &mut self.hosts[h].server;
            let record = server.session_of(conn).and_then(|key| server.session_record(key));
            if let Some(session) = record {
                let number = session_number(session.id);
                self.trace.note(|| format!("  the ledger of s{h} has session {number}"));
                self.kinds[Kind::Recorded as usize] += 1;
                self.model.sessions[number as usize].record(session);
            }
            server.confirm_session(conn);
        }
        self.pump_host(h)
    }

    /// False if another server has the session, and so nothing is written (S34).
    pub(super) fn write_record(&mut self, h: usize, call: &Call, state: Recorded) -> bool {
        if call.op.is_none() {
            return true;
        }
        if self.is_fenced(h, call) {
            return false;
        }
        let commit = self.last_commit(h) + 1;
        let host = &mut self.hosts[h];
        let Some(session) = host.server.session_record(call.key.session()) else { return true };
        let Some((_, digest)) = host.server.record_of(call.key) else { return true };
        host.commit = commit;
        host.server.set_commit(commit);
        let record = Record { xid: call.key.xid().get(), digest, state };
        self.model.sessions[call.session as usize].write(session, record);
        self.trace
            .note(|| format!("  the ledger of s{h} has {record:?} of session {}", call.session));
        true
    }

    /// The process of a server dies, and another one starts, with its ledger or with nothing.
    pub(super) fn restart(&mut self, h: usize, with_ledger: bool) -> Check {
        self.trace.note(|| format!("s{h} dies; ledger kept: {with_ledger}"));
        self.faults[if with_ledger { Fault::RestartLedger } else { Fault::Restart } as usize] += 1;
        for l in 0..self.links.len() {
            if self.links[l].used && self.links[l].host == h {
                let link = &mut self.links[l];
                if link.conn.take().is_some() {
                    self.trace.disconnected(self.now, link.number, EndedBy::Network);
                }
                link.server_open = false;
                link.up.clear();
                if self.rng.one_in(2) {
                    let lost = self.rng.below(link.down.on_the_way() as u64 + 1) as usize;
                    link.down.lose(lost);
                }
                link.held &= self.rng.one_in(2);
            }
        }
        self.model.died(h);
        let host = &mut self.hosts[h];
        host.calls.clear();
        host.opened.clear();
        host.shared = Default::default();
        (host.judged, host.half_sent) = (0, 0);
        host.life += 1;
        // The new process has seen no newer time.
        host.clock.latest.set(0);
        (host.draining, host.drained) = (false, false);
        let mut config = self.profile.server;
        let life = host.life;
        if !with_ledger {
            host.commit = 0;
            self.ids[h] = profile::server_id(h, life);
        }
        config.server = self.ids[h];
        config.instance = profile::instance(h, life);
        config.commit = self.last_commit(h);
        let server = Server::new(config, &profile::methods()).expect("methods differ");
        self.measure_dead(h, server)?;
        if with_ledger {
            self.restore(h)?;
        } else {
            for session in &mut self.model.sessions {
                if usize::from(session.host) == h {
                    session.page = None;
                    session.excused = true;
                }
            }
        }
        self.model.kept_floor[h] = self.hosts[h].server.counters().kept_bytes;
        Ok(())
    }

    fn restore(&mut self, h: usize) -> Check {
        let now = self.host_now(h);
        self.hosts[h].server.handle_timeout(now);
        for number in 0..self.model.sessions.len() {
            let session = &self.model.sessions[number];
            if usize::from(session.host) != h {
                continue;
            }
            let Some(page) = session.page.clone() else {
                self.model.sessions[number].excused = true;
                continue;
            };
            let restored = self.restore_one(h, number as u32, &page);
            ensure!(restored, "session {number} could not be restored");
        }
        Ok(())
    }

    /// A server takes a session with its calls from the ledger, if it has room.
    pub(super) fn restore_one(&mut self, h: usize, number: u32, page: &Page) -> bool {
        let now = self.host_now(h);
        let restored = self.hosts[h].server.restore_session(now, page.session);
        let Some(key) = restored else { return false };
        self.hosts[h].shared.owned.insert(number, Some(key));
        let since = self.hosts[h].clock.latest.get();
        self.model.restored(number, page.session.acked, since);
        for record in page.records.iter().flatten() {
            self.restore_record(h, number, key, record);
        }
        true
    }

    fn restore_record(
        &mut self,
        h: usize,
        number: u32,
        key: oncewire_core::SessionKey,
        record: &Record,
    ) {
        let mut len = 0;
        let state = match record.state {
            Recorded::Started => RecordState::Started,
            Recorded::NoReply(why) => RecordState::NoReply(why),
            Recorded::Done(op, run, bytes) => {
                len = usize::from(bytes);
                if len > 0 {
                    body::write_reply(op, run, len - body::REPLY_HEAD, &mut self.scratch);
                }
                RecordState::Done(&self.scratch[..len])
            }
        };
        let Some(xid) = oncewire_core::Xid::new(record.xid) else { return };
        let call = CallRecord { xid, digest: record.digest, state };
        if self.hosts[h].server.restore_call(key, call) {
            self.model.restored_call(number, record.xid, len as u32);
        }
    }
}
