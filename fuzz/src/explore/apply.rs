//! The execution of an action, and what it uses up of the faults that are left.

use super::action::Action;
use super::world::{GRACE, LEASE, TICK, World};
use crate::world::trace::{Check, ensure};

impl World {
    /// Makes it happen.
    pub(super) fn apply(&mut self, action: Action) -> Check {
        self.tell(|_| action.to_string());
        match action {
            Action::Up(number)
            | Action::Down(number)
            | Action::Stale(number)
            | Action::CutClient(number)
            | Action::CutServer(number)
            | Action::EndClient(number)
            | Action::EndServer(number)
            | Action::LoseUp(number)
            | Action::LoseDown(number)
            | Action::Copy(number, _) => self.apply_to_link(action, number)?,
            Action::Step(..)
            | Action::Record(_)
            | Action::Claim(..)
            | Action::Unreachable(..)
            | Action::Restart(_)
            | Action::Lease(_)
            | Action::HalfLease(_)
            | Action::ServerTick(_)
            | Action::Drain(_)
            | Action::Grace(_)
            | Action::FailLedger(_) => self.apply_to_host(action)?,
            _ => self.apply_to_peer(action)?,
        }
        self.tidy()
    }

    fn apply_to_host(&mut self, action: Action) -> Check {
        match action {
            Action::Step(h, at) => self.step(h, at)?,
            Action::Record(h) => self.record_session(h)?,
            Action::Claim(h, at) => self.claim(h, at)?,
            Action::Unreachable(h, at) => {
                self.left.unreachable -= 1;
                self.cannot_claim(h, at)?;
            }
            Action::Restart(h) => {
                if !self.hosts[h].drained && !self.hosts[h].disk_full {
                    self.left.restarts = self.left.restarts.saturating_sub(1);
                    self.excused |= !self.scene.ledger;
                }
                self.restart(h)?;
            }
            Action::Lease(h) => {
                self.left.leases -= 1;
                // With shared records it may be over where the session is not any more.
                self.excused |= !self.scene.shared;
                self.pass_at_host(h, LEASE)?;
            }
            Action::HalfLease(h) => {
                self.left.half_leases -= 1;
                self.excused |= !self.scene.ledger && !self.scene.durable;
                self.pass_at_host(h, LEASE / 2)?;
            }
            Action::ServerTick(h) => {
                self.left.server_ticks -= 1;
                self.pass_at_host(h, TICK)?;
            }
            Action::Drain(h) => {
                self.left.drains -= 1;
                let now = self.host_now(h);
                self.hosts[h].draining = true;
                self.hosts[h].server.drain(now, GRACE);
                self.pump_host(h)?;
            }
            Action::Grace(h) => {
                self.excused |= !self.scene.ledger;
                self.pass_at_host(h, GRACE)?;
            }
            Action::FailLedger(h) => {
                self.left.disks -= 1;
                self.hosts[h].disk_full = true;
                self.hosts[h].server.fail_ledger();
                // Their connections are refused.
                self.hosts[h].opened.clear();
                self.pump_host(h)?;
            }
            _ => unreachable!("{action} is none of these"),
        }
        Ok(())
    }

    fn apply_to_peer(&mut self, action: Action) -> Check {
        match action {
            Action::Call(p) => self.make_call(p)?,
            Action::Dial(p, h) => {
                let session = self.peers[p].client.session();
                let stray = |id: oncewire_core::ServerId| id.to_bytes()[0] != h as u8 + 1;
                if !self.scene.shared && session.is_some_and(|session| stray(session.server)) {
                    self.left.strays = self.left.strays.saturating_sub(1);
                    self.excused = true;
                }
                self.dial(p, h)?;
            }
            Action::Compare(p) => self.compare(p)?,
            Action::Journal(p) => self.write_journal(p)?,
            Action::Death(p) => {
                self.left.deaths -= 1;
                self.die(p, false)?;
            }
            Action::CopyJournal(p) => {
                self.left.old_copies -= 1;
                self.copy_journal(p);
            }
            Action::OldJournal(p) => {
                self.left.deaths -= 1;
                self.excused = true;
                self.die(p, true)?;
            }
            Action::ClientTick(p) => {
                self.left.client_ticks = self.left.client_ticks.saturating_sub(1);
                self.pass_at_client(p)?;
            }
            Action::Cancel(p, k) => {
                self.left.cancels -= 1;
                let now = self.peer_now(p);
                if let Some(id) = self.peers[p].calls[k] {
                    self.peers[p].client.cancel(now, id);
                }
                self.flush_peer(p)?;
            }
            Action::Forget(p, k) => {
                self.left.forgets -= 1;
                self.forget(p, k)?;
            }
            Action::Close(p) => {
                self.left.closes = self.left.closes.saturating_sub(1);
                // What it had not called by then is never called.
                for k in self.peers[p].made..self.scene.calls[p].len() {
                    let op = self.op(p, k) as usize;
                    self.model.ops[op].stage = crate::world::model::Stage::Never;
                }
                let now = self.peer_now(p);
                self.peers[p].client.close(now);
                self.flush_peer(p)?;
            }
            _ => unreachable!("{action} is none of these"),
        }
        Ok(())
    }

    fn apply_to_link(&mut self, action: Action, number: u32) -> Check {
        let at = self.links.iter().position(|link| link.number == number);
        ensure!(at.is_some(), "there is no link {number}");
        let at = at.unwrap_or_default();
        let p = self.links[at].peer;
        match action {
            Action::Up(_) => {
                if self.is_late(&self.links[at]) {
                    self.left.late -= 1;
                }
                self.read_up(at)
            }
            Action::Down(_) => {
                let frame = self.links[at].down.remove(0);
                self.read_down(at, &frame)
            }
            Action::Stale(_) => {
                let frame = self.links[at].stale.remove(0);
                self.read_down(at, &frame)
            }
            Action::CutClient(_) => {
                self.left.cuts -= 1;
                self.links[at].broken = true;
                self.tell_client(p)
            }
            Action::CutServer(_) => {
                self.left.cuts -= 1;
                self.links[at].broken = true;
                self.tell_server(at)
            }
            Action::EndClient(_) => self.tell_client(p),
            Action::EndServer(_) => self.tell_server(at),
            Action::LoseUp(_) => {
                self.left.losses -= 1;
                self.links[at].up.remove(0);
                Ok(())
            }
            Action::LoseDown(_) => {
                self.left.losses -= 1;
                self.links[at].down.remove(0);
                Ok(())
            }
            Action::Copy(_, h) => {
                self.left.copies -= 1;
                let sent = self.links[at].sent.clone();
                self.new_link(p, h).up = sent;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn forget(&mut self, p: usize, k: usize) -> Check {
        let now = self.peer_now(p);
        if let Some(id) = self.peers[p].calls[k].take() {
            self.peers[p].client.forget(now, id);
            let op = self.op(p, k) as usize;
            self.model.ops[op].stage = crate::world::model::Stage::Unheard;
        }
        self.flush_peer(p)
    }

    pub(super) fn pass_at_host(&mut self, h: usize, time: std::time::Duration) -> Check {
        self.hosts[h].clock += time.as_nanos() as u64;
        let now = self.host_now(h);
        self.hosts[h].server.handle_timeout(now);
        self.pump_host(h)
    }

    pub(super) fn pass_at_client(&mut self, p: usize) -> Check {
        self.peers[p].clock += TICK.as_nanos() as u64;
        let now = self.peer_now(p);
        self.peers[p].client.handle_timeout(now);
        self.flush_peer(p)
    }
}
