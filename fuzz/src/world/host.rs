//! A server of the world: what its handlers do, when, and what its ledger writes.

use oncewire_core::{Admission, CallKey, Heap, Instant, NoReply, NotExecuted, Running, Server};

use super::kinds::Kind;
use super::model::{How, Recorded};
use super::peer::Clock;
use super::profile::{self, MS};
use super::sharing::Shared;
use super::trace::{Check, ensure};
use super::{Fault, World, body};
use crate::rng::mix;

/// How far a call has come at its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Admitted.
    Admitted,
    /// Its started record is stable.
    Recorded,
    /// It runs.
    Running,
    /// Its completion record is stable.
    Completed,
}

/// What a handler will do, drawn from its operation's number.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Nanoseconds before each step.
    pub delays: [u64; 4],
    /// How it ends.
    pub end: End,
    /// Bytes of its reply's pad.
    pub pad: usize,
}

/// How a handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It replies.
    Reply,
    /// It is refused before it starts.
    Refuse,
    /// It aborts.
    Abort,
    /// Its reply is too large.
    TooLarge,
    /// Its transaction is rolled back.
    RollBack,
}

/// A call at its server.
#[derive(Debug)]
pub struct Call {
    /// When its next step is due.
    pub due: u64,
    /// How far it has come.
    pub step: Step,
    /// What it will do.
    pub plan: Plan,
    /// The right to start it.
    pub admission: Option<Admission>,
    /// The right to answer it.
    pub running: Option<Running>,
    /// The call.
    pub key: CallKey,
    /// Its session's number.
    pub session: u32,
    /// Its operation; `None` where nothing is known of its client any more.
    pub op: Option<u32>,
    /// The execution's number.
    pub run: u32,
    /// It may run more than once.
    pub idempotent: bool,
    /// It has no reply's body.
    pub one_way: bool,
    /// Its effects and its record are one transaction.
    pub transaction: bool,
}

/// A server and what the world knows of it.
pub struct Host {
    /// The machine.
    pub server: Server<Heap>,
    /// Its clock.
    pub clock: Clock,
    /// Links by the index of their connections.
    pub links: Vec<usize>,
    /// Calls between two steps.
    pub calls: Vec<Call>,
    /// Connections whose new session is being recorded, and when that is stable.
    pub opened: Vec<(u64, oncewire_core::ConnId)>,
    /// When handshakes were last judged, where that is broken.
    pub judged: u64,
    /// Bytes of half-sent replies that were acknowledged, when last looked at.
    pub half_sent: u64,
    /// The most sessions that this process of it has had at once.
    pub sessions_most: usize,
    /// How many processes it has had.
    pub life: u32,
    /// Records its ledger has written.
    pub commit: u64,
    /// It drains.
    pub draining: bool,
    /// Its drain is complete.
    pub drained: bool,
    /// What the model says of its kept bytes is exact.
    pub exact: bool,
    /// Its sessions, if another server has the same ledger.
    pub shared: Shared,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What the handler of an operation does, in a world of this profile.
pub fn plan(seed: u64, op: u32, profile: &profile::Profile, method: usize) -> Plan {
    let chance = mix(seed ^ (u64::from(op) << 20));
    let pad = (chance >> 40) as usize % 24;
    let mut plan = Plan { delays: [0; 4], end: End::Reply, pad };
    if !chance.is_multiple_of(profile.odd_in) {
        return plan;
    }
    let chance = mix(chance);
    let delay = |shift: u64| {
        let chance = mix(chance ^ shift);
        match chance % 3 {
            0 => ((chance >> 8) % profile.delay_max) >> ((chance >> 50) % 16),
            _ => 0,
        }
    };
    plan.delays = [delay(1), delay(2), delay(3), delay(4)];
    plan.end = match chance % 16 {
        0 => End::Refuse,
        1 => End::Abort,
        2 => End::TooLarge,
        3 | 4 => End::RollBack,
        _ => End::Reply,
    };
    if method == 1 {
        plan.pad = (chance >> 24) as usize % 3_900;
    }
    plan
}

impl World {
    /// Takes a call as far as it comes without a delay.
    pub(super) fn run_call(&mut self, h: usize, mut call: Call) -> Check {
        loop {
            let delay = call.plan.delays[call.step as usize];
            if delay > 0 {
                call.due = self.now + delay;
                self.hosts[h].calls.push(call);
                return Ok(());
            }
            call.due = 0;
            let more = match call.step {
                Step::Admitted => self.call_admitted(h, &mut call)?,
                Step::Recorded => self.call_start(h, &mut call)?,
                Step::Running => self.call_complete(h, &mut call)?,
                Step::Completed => {
                    self.call_answer(h, &mut call)?;
                    false
                }
            };
            if !more {
                return Ok(());
            }
        }
    }

    fn is_recorded(&self, call: &Call) -> bool {
        self.profile.ledger && !call.idempotent
    }

    fn call_admitted(&mut self, h: usize, call: &mut Call) -> Result<bool, super::Violation> {
        if call.plan.end == End::Refuse
            && let Some(admission) = call.admission.take()
        {
            let now = self.host_now(h);
            self.hosts[h].server.refuse(now, admission, NotExecuted::BadArguments);
            self.film_finished(call);
            self.finished(h, call, 0)?;
            return Ok(false);
        }
        let records = self.is_recorded(call) && !call.transaction;
        if records && !self.write_record(h, call, Recorded::Started) {
            return self.lose(h, call);
        }
        call.step = Step::Recorded;
        Ok(true)
    }

    fn call_start(&mut self, h: usize, call: &mut Call) -> Result<bool, super::Violation> {
        let Some(admission) = call.admission.take() else { return Ok(false) };
        let now = self.host_now(h);
        match self.hosts[h].server.start(now, admission) {
            Err(_) => {
                self.finished(h, call, 0)?;
                return Ok(false);
            }
            Ok(running) => call.running = Some(running),
        }
        if !call.transaction {
            self.execute(h, call)?;
        }
        call.step = Step::Running;
        Ok(true)
    }

    fn execute(&mut self, h: usize, call: &mut Call) -> Check {
        let Some(op) = call.op else { return Ok(()) };
        call.run = match self.is_stale(h, call) {
            true => self.model.executed_elsewhere(op)?,
            false => self.model.executed(op, call.session, call.key.xid().get())?,
        };
        self.trace.count(u64::from(op));
        self.trace.note(|| format!("  op {op} runs, execution {}", call.run));
        Ok(())
    }

    fn reply_len(call: &Call) -> usize {
        if call.one_way { 0 } else { body::REPLY_HEAD + call.plan.pad }
    }

    fn call_complete(&mut self, h: usize, call: &mut Call) -> Result<bool, super::Violation> {
        if self.is_recorded(call) && self.is_fenced(h, call) {
            return self.lose(h, call);
        }
        if call.transaction && call.plan.end != End::RollBack {
            self.execute(h, call)?;
        }
        if !call.transaction && call.plan.end == End::RollBack {
            call.plan.end = End::Reply;
        }
        if let Some(op) = call.op {
            let how = match call.plan.end {
                End::Abort => How::Aborted,
                End::TooLarge if !call.one_way => How::TooLarge,
                _ => How::Replied(World::reply_len(call) as u16),
            };
            self.model.ops[op as usize].how = how;
            if self.is_recorded(call) && call.plan.end != End::RollBack {
                let state = match how {
                    How::Aborted => Recorded::NoReply(NoReply::Aborted),
                    How::TooLarge => Recorded::NoReply(NoReply::ReplyTooLarge),
                    How::Running | How::Replied(_) => {
                        Recorded::Done(op, call.run, World::reply_len(call) as u16)
                    }
                };
                self.write_record(h, call, state);
            }
        }
        call.step = Step::Completed;
        Ok(true)
    }

    fn call_answer(&mut self, h: usize, call: &mut Call) -> Check {
        let Some(running) = call.running.take() else { return Ok(()) };
        let now = self.host_now(h);
        let (at_hand, out_len) = (self.link_at_hand(h, call), self.profile.out_len);
        let server = &mut self.hosts[h].server;
        let (mut kept, mut written) = (0, None);
        match call.plan.end {
            End::Abort => server.abort(now, running),
            End::RollBack => server.roll_back(now, running, NotExecuted::Aborted),
            End::TooLarge => {
                let max = running.reply_len_max();
                let result = server.reply(now, running, &self.scratch[..max + 1]);
                ensure!(result.is_err() || call.one_way, "S15: a reply above {max} was taken");
            }
            End::Reply | End::Refuse => {
                let len = World::reply_len(call);
                if len > 0 {
                    let op = call.op.unwrap_or(0);
                    body::write_reply(op, call.run, call.plan.pad, &mut self.scratch);
                }
                let reply = &self.scratch[..len];
                let shared = self.profile.shared && len > 1_024 && call.run % 2 == 1;
                let result = if shared {
                    server.reply(
                        now,
                        running,
                        oncewire_core::Payload::Shared(reply.to_vec().into()),
                    )
                } else if let Some(l) = at_hand
                    && let Some(conn) = self.links[l].conn
                {
                    let room = self.links[l].down.room(out_len);
                    let result = server.reply_into(now, running, reply, conn, room);
                    written = result.ok().map(|len| (l, len));
                    result.map(|_| ())
                } else {
                    server.reply(now, running, reply)
                };
                // A damaged Hello may have asked for room for less.
                let damaged = call.op.is_none();
                ensure!(
                    result.is_ok() || damaged,
                    "a reply of {len} bytes was refused: {result:?}"
                );
                kept = len;
            }
        }
        self.film_finished(call);
        if let Some((l, len)) = written.filter(|(_, len)| *len > 0) {
            self.kinds[Kind::AtOnce as usize] += 1;
            self.wrote_down(l, out_len, len);
        }
        self.finished(h, call, kept as u32)
    }

    /// A link to whose connection a reply may be written at once, if it may leave there: mostly that of the call's session,
    /// sometimes any other one, and not for every call.
    fn link_at_hand(&self, h: usize, call: &Call) -> Option<usize> {
        let number = call.key.xid().get();
        if number.is_multiple_of(4) {
            return None;
        }
        self.links.iter().position(|link| {
            let is_there = link.used && link.host == h && link.conn.is_some();
            let is_free = !link.unsent && link.stranger.is_none();
            is_there && is_free && (number % 4 == 1 || link.session == Some(call.session))
        })
    }

    fn finished(&mut self, h: usize, call: &Call, kept: u32) -> Check {
        if call.op.is_none() || self.is_stale(h, call) {
            return Ok(());
        }
        self.model.finished(call.session, call.key.xid().get(), call.idempotent, kept)
    }

    /// Lets calls whose delay is over go on.
    pub(super) fn run_due_calls(&mut self, h: usize) -> Check {
        if !self.hosts[h].opened.is_empty() {
            self.confirm_opened(h, self.now)?;
        }
        self.answer_due_claims(h)?;
        let mut at = 0;
        while at < self.hosts[h].calls.len() {
            if self.hosts[h].calls[at].due <= self.now {
                let mut call = self.hosts[h].calls.swap_remove(at);
                // It may wait before its next step, not before this one again.
                call.plan.delays[call.step as usize] = 0;
                self.run_call(h, call)?;
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// What a server's clock shows.
    #[inline]
    pub(super) fn host_now(&self, h: usize) -> Instant {
        self.hosts[h].clock.read(self.now)
    }

    /// A server begins to drain.
    pub(super) fn drain(&mut self, h: usize) {
        if !self.hosts[h].draining {
            let grace = [200 * MS, 5_000 * MS][self.rng.below(2) as usize];
            self.trace.note(|| format!("s{h} drains"));
            self.faults[Fault::Drain as usize] += 1;
            let on = |link: &super::Link| link.used && link.host == h && link.session.is_some();
            let lossy = self.profile.lossy && self.links.iter().any(on);
            let durable = |link: &super::Link| on(link) && self.peers[link.peer].durable;
            self.kinds[Kind::LossyDrain as usize] += u64::from(lossy);
            self.kinds[Kind::DurableDrain as usize] += u64::from(self.links.iter().any(durable));
            let now = self.host_now(h);
            self.hosts[h].draining = true;
            self.hosts[h].server.drain(now, std::time::Duration::from_nanos(grace));
        }
    }
}
