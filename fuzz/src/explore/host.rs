//! A server: the steps of its handlers and of its ledger, and its death.

use std::rc::Rc;

use oncewire_core::wire::{self, Decoded, Frame, Grants, Role};
use oncewire_core::{
    CallRecord, ConnId, Incoming, NoReply, NotExecuted, ProtocolError, RecordState, Request,
    SessionRecord, Xid,
};

use super::scene::{Broken, End, Pace};
use super::world::{Accepted, Handling, Wire, World};
use crate::world::body::{self, REPLY_HEAD, REQUEST_HEAD};
use crate::world::host::Step;
use crate::world::model::{How, Page, Record, Recorded, SLOTS_MAX};
use crate::world::profile::{session_id, session_number};
use crate::world::trace::{Check, Violation, describe, ensure};

impl World {
    /// The server reads one frame of a connection, whose first one makes it.
    pub(super) fn read_up(&mut self, at: usize) -> Check {
        let frame = self.links[at].up.remove(0);
        let h = self.links[at].host;
        let (p, number) = (self.links[at].peer, self.links[at].number);
        if let Ok(Decoded::Frame(frame, _)) = wire::decode(&frame, Role::Client, u32::MAX / 2) {
            self.tell(|_| format!("    s{h} reads of link {number} {}", describe(&frame)));
        }
        let Some(frame) = self.break_up(at, frame)? else { return Ok(()) };
        if self.links[at].accepted == Accepted::NotYet {
            self.accept(at);
        }
        let Accepted::Open(conn) = self.links[at].accepted else { return Ok(()) };
        let now = self.host_now(h);
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let received = match self.hosts[h].server.handle_data(now, conn, rest) {
                Ok(received) => received,
                Err(error) => {
                    // C84: so it is said of a client that goes on from an old copy of its journal.
                    let old = self.scene.budget.old_copies > 0
                        && matches!(error, ProtocolError::AlreadySettled { .. });
                    ensure!(
                        self.scene.replays || old,
                        "c{p} broke the protocol, says s{h}: {error:?}"
                    );
                    return self.pump_host(h);
                }
            };
            let (read, more) = rest.split_at(received.consumed);
            rest = more;
            if self.scene.shared && self.links[at].session.is_none() {
                self.links[at].hello = Some(read.into());
            }
            self.note_bound(at, conn);
            if let Some(session) = self.links[at].session.filter(|at| !self.is_lost(h, *at)) {
                self.model.read(session, read);
            }
            match received.item {
                Some(Incoming::Request(request)) => self.admitted(at, request)?,
                Some(_) => {}
                None => ensure!(rest.is_empty(), "s{h} leaves {} bytes of a frame", rest.len()),
            }
        }
        self.pump_host(h)
    }

    /// Notes which session a connection is bound to, if it is now.
    pub(super) fn note_bound(&mut self, at: usize, conn: ConnId) {
        let (h, number) = (self.links[at].host, self.links[at].number);
        let server = &self.hosts[h].server;
        let record = server.session_of(conn).and_then(|key| server.session_record(key));
        let Some(record) = record.filter(|_| self.links[at].session.is_none()) else { return };
        let session = session_number(record.id);
        self.links[at].session = Some(session);
        self.model.bound(session, h, number as usize, record.grants.slots);
        // What was opened here; what was claimed is owned already.
        if self.scene.shared && self.model.sessions[session as usize].page.is_none() {
            self.hosts[h].owned.insert(session);
        }
        // C82: its lease is the full one.
        self.model.sessions[session as usize].used |= self.scene.durable;
        // S33: calls pass one that waits for its comparison, which comes behind them once it was not seen.
        self.model.sessions[session as usize].doubted |= self.scene.is_typed();
    }

    fn admitted(&mut self, at: usize, request: Request<'_>) -> Check {
        let link = &self.links[at];
        let (p, h, session) = (link.peer, link.host, link.session.unwrap_or(u32::MAX));
        let op = body::read_request(request.body).unwrap_or(u32::MAX);
        let Some((caller, kind)) = self.call_of(op) else {
            return Err(Violation("a request was damaged".into()));
        };
        let key = request.admission.key();
        let same = caller == p && kind.idempotent == request.idempotent;
        ensure!(same && kind.method == request.method, "link of c{p} brought op {op}");
        let room = if kind.one_way { 0 } else { REPLY_HEAD as u32 };
        if !self.is_lost(h, session) {
            self.model.admitted(session, key.xid().get(), kind.idempotent, room)?;
        }
        let digest = self.hosts[h].server.record_of(key).map_or(0, |(_, digest)| digest);
        let mut call = Handling {
            step: Step::Admitted,
            admission: Some(request.admission),
            running: None,
            key,
            session,
            op,
            run: 0,
            kind,
            digest,
            host: h,
        };
        let steps = match self.scene.pace {
            Pace::AtOnce => 4,
            Pace::Runs => 2,
            Pace::Slow => 0,
        };
        for _ in 0..steps {
            if !self.advance(h, &mut call)? {
                return Ok(());
            }
        }
        self.hosts[h].calls.push(call);
        Ok(())
    }

    /// The next step of a call; where nothing is written in between, the steps that follow too.
    pub(super) fn step(&mut self, h: usize, at: usize) -> Check {
        let mut call = self.hosts[h].calls.remove(at);
        let recorded = self.is_recorded(&call);
        loop {
            if !self.advance(h, &mut call)? {
                return self.pump_host(h);
            }
            // Without a ledger nothing can come between a record and what it is for.
            let stays = match call.step {
                Step::Admitted | Step::Running => true,
                Step::Recorded => recorded && !call.kind.transaction,
                Step::Completed => recorded,
            };
            if stays {
                break;
            }
        }
        self.hosts[h].calls.push(call);
        self.pump_host(h)
    }

    fn is_recorded(&self, call: &Handling) -> bool {
        self.scene.ledger && !call.kind.idempotent
    }

    /// Returns whether there is a step to come.
    fn advance(&mut self, h: usize, call: &mut Handling) -> Result<bool, Violation> {
        let op = call.op;
        let now = self.host_now(h);
        match call.step {
            Step::Admitted => {
                let refused = match call.kind.end {
                    End::Refuse => true,
                    End::RefuseFirst => self.hosts[h].life == 0,
                    _ => false,
                };
                if refused && let Some(admission) = call.admission.take() {
                    self.tell(|_| format!("    s{h} refuses op {op}"));
                    self.hosts[h].server.refuse(now, admission, NotExecuted::BadArguments);
                    return self.finished(call, 0).map(|()| false);
                }
                if self.is_recorded(call) && !call.kind.transaction {
                    if self.hosts[h].disk_full {
                        return self.refuse_unwritten(h, call);
                    }
                    if !self.write_record(h, call, Recorded::Started) {
                        return self.lose(h, call);
                    }
                }
                call.step = Step::Recorded;
            }
            Step::Recorded => {
                let Some(admission) = call.admission.take() else { return Ok(false) };
                match self.hosts[h].server.start(now, admission) {
                    Ok(running) => call.running = Some(running),
                    Err(why) => {
                        self.tell(|_| format!("    s{h} does not start op {op}: {why:?}"));
                        return self.finished(call, 0).map(|()| false);
                    }
                }
                if !call.kind.transaction {
                    self.execute(h, call)?;
                }
                call.step = Step::Running;
            }
            Step::Running => {
                if self.is_recorded(call) && self.hosts[h].disk_full {
                    // S31: it is never answered, and pins its slot until the server is replaced.
                    return Ok(true);
                }
                if !self.complete(h, call)? {
                    return self.lose(h, call);
                }
                call.step = Step::Completed;
            }
            Step::Completed => {
                self.answer(h, call)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn refuse_unwritten(&mut self, h: usize, call: &mut Handling) -> Result<bool, Violation> {
        let now = self.host_now(h);
        if let Some(admission) = call.admission.take() {
            self.hosts[h].server.refuse(now, admission, NotExecuted::LedgerFailed);
        }
        self.finished(call, 0).map(|()| false)
    }

    fn execute(&mut self, h: usize, call: &mut Handling) -> Check {
        let op = call.op;
        self.tell(|_| format!("    s{h} executes op {op}"));
        let same = !call.kind.typed || self.host_means_the_same(h);
        ensure!(same, "S33: s{h} executes op {op}, and means something else by its method");
        call.run = match self.is_stale(call) {
            true => self.model.executed_elsewhere(op)?,
            false => self.model.executed(op, call.session, call.key.xid().get())?,
        };
        Ok(())
    }

    /// False if another server has the session, and so nothing is written.
    fn complete(&mut self, h: usize, call: &mut Handling) -> Result<bool, Violation> {
        if self.is_recorded(call) && self.is_fenced(call) {
            return Ok(false);
        }
        if call.kind.transaction && call.kind.end != End::RollBack {
            self.execute(h, call)?;
        }
        let len = World::reply_len(call.kind) as u16;
        let how = match call.kind.end {
            End::Abort => How::Aborted,
            End::TooLarge => How::TooLarge,
            _ => How::Replied(len),
        };
        self.model.ops[call.op as usize].how = how;
        if self.is_recorded(call) && call.kind.end != End::RollBack {
            let state = match how {
                How::Aborted => Recorded::NoReply(NoReply::Aborted),
                How::TooLarge => Recorded::NoReply(NoReply::ReplyTooLarge),
                How::Running | How::Replied(_) => Recorded::Done(call.op, call.run, len),
            };
            return Ok(self.write_record(h, call, state));
        }
        Ok(true)
    }

    fn answer(&mut self, h: usize, call: &mut Handling) -> Check {
        let Some(running) = call.running.take() else { return Ok(()) };
        let (op, now) = (call.op, self.host_now(h));
        self.tell(|_| format!("    s{h} answers op {op}"));
        let server = &mut self.hosts[h].server;
        let mut reply = [0; REPLY_HEAD + 1];
        let len = World::reply_len(call.kind);
        match call.kind.end {
            End::Abort => server.abort(now, running),
            End::RollBack => server.roll_back(now, running, NotExecuted::Aborted),
            End::TooLarge => {
                let result = server.reply(now, running, &reply);
                ensure!(result.is_err(), "S15: a reply that is too large was taken");
            }
            End::Reply | End::Refuse | End::RefuseFirst => {
                body::write_reply(op, call.run, 0, &mut reply);
                let result = server.reply(now, running, &reply[..len]);
                ensure!(result.is_ok(), "a reply of {len} bytes was refused: {result:?}");
            }
        }
        self.finished(call, len as u32)
    }

    // The ledger.

    /// The record of a new session is stable: its `Welcome` may leave (S30).
    pub(super) fn record_session(&mut self, h: usize) -> Check {
        let conn = self.hosts[h].opened.remove(0);
        let server = &self.hosts[h].server;
        if let Some(session) = server.session_of(conn).and_then(|key| server.session_record(key)) {
            let number = session_number(session.id);
            self.tell(|_| format!("    the ledger of s{h} has session {number}"));
            let known = &mut self.model.sessions[number as usize];
            // C81: from now on its lease is the full one.
            known.used = true;
            known
                .page
                .get_or_insert_with(|| Box::new(Page { session, records: [None; SLOTS_MAX] }));
        }
        self.hosts[h].server.confirm_session(conn);
        self.pump_host(h)
    }

    /// False if another server has the session, and so nothing is written.
    fn write_record(&mut self, h: usize, call: &Handling, state: Recorded) -> bool {
        if self.is_fenced(call) {
            return false;
        }
        let commit = self.last_commit(h) + 1;
        let host = &mut self.hosts[h];
        let Some(session) = host.server.session_record(call.key.session()) else { return true };
        host.commit = commit;
        host.server.set_commit(commit);
        let xid = call.key.xid().get();
        self.tell(|_| format!("    the ledger of s{h} has xid {xid}: {state:?}"));
        let record = Record { xid, digest: call.digest, state };
        self.model.sessions[call.session as usize].write(session, record);
        true
    }

    /// The process dies, and another one starts: with what its ledger has, or with nothing.
    pub(super) fn restart(&mut self, h: usize) -> Check {
        for link in self.links.iter_mut().filter(|link| link.host == h) {
            // What no server has accepted is accepted by the new one, if it comes.
            if let Accepted::Open(_) = link.accepted {
                link.accepted = Accepted::Gone;
                link.broken = true;
            }
        }
        self.model.died(h);
        let (life, commit) = (self.hosts[h].life + 1, self.last_commit(h));
        let host = &mut self.hosts[h];
        host.server = World::machine(self.scene, h, life, commit);
        host.calls.clear();
        host.opened.clear();
        host.wanted.clear();
        host.owned.clear();
        host.life = life;
        (host.draining, host.drained, host.disk_full) = (false, false, false);
        let now = self.host_now(h);
        self.hosts[h].server.handle_timeout(now);
        if self.scene.ledger {
            self.restore(h)?;
        }
        self.model.kept_floor[h] = self.hosts[h].server.counters().kept_bytes;
        self.pump_host(h)
    }

    fn restore(&mut self, h: usize) -> Check {
        for number in 0..self.model.sessions.len() as u32 {
            let session = &self.model.sessions[number as usize];
            if session.page.is_some() && usize::from(session.host) == h {
                self.restore_one(h, number)?;
            }
        }
        Ok(())
    }

    /// A server takes back what its ledger has of a session.
    pub(super) fn restore_one(&mut self, h: usize, number: u32) -> Check {
        let now = self.host_now(h);
        let Some(page) = self.model.sessions[number as usize].page.clone() else { return Ok(()) };
        let Some(key) = self.hosts[h].server.restore_session(now, page.session) else {
            return Err(Violation(format!("session {number} was not restored").into()));
        };
        if self.scene.shared {
            self.hosts[h].owned.insert(number);
        }
        self.model.restored(number, page.session.acked, self.hosts[h].clock);
        for record in page.records.iter().flatten() {
            let mut reply = [0; REPLY_HEAD];
            let mut len = 0;
            let state = match record.state {
                Recorded::Started => RecordState::Started,
                Recorded::NoReply(why) => RecordState::NoReply(why),
                Recorded::Done(op, run, bytes) => {
                    len = usize::from(bytes);
                    body::write_reply(op, run, 0, &mut reply);
                    RecordState::Done(&reply[..len])
                }
            };
            let Some(xid) = Xid::new(record.xid) else { continue };
            let call = CallRecord { xid, digest: record.digest, state };
            if self.hosts[h].server.restore_call(key, call) {
                self.model.restored_call(number, record.xid, len as u32);
            }
        }
        Ok(())
    }

    // Machines that are broken on purpose.

    /// What a broken machine makes of a frame on its way up; `None` if it takes it.
    fn break_up(&mut self, at: usize, mut frame: Wire) -> Result<Option<Wire>, Violation> {
        match self.scene.broken {
            Broken::NoDedup => self.forget_kept(at, frame, true),
            Broken::Forgetful => self.forget_kept(at, frame, false),
            Broken::ResumeOpens => {
                self.open_what_is_resumed(at, &frame);
                Ok(Some(frame))
            }
            Broken::Reuse => {
                frame = Wire::from(&*frame);
                if frame[4] == 2
                    && let Some(frame) = Rc::get_mut(&mut frame)
                {
                    let slots = u64::from(self.scene.slots);
                    let field: &mut [u8; 8] = (&mut frame[16..24]).try_into().expect("8 bytes");
                    let xid = u64::from_le_bytes(*field);
                    if xid > slots {
                        *field = (xid - slots).to_le_bytes();
                    }
                }
                Ok(Some(frame))
            }
            Broken::No
            | Broken::Unread
            | Broken::GateOpen
            | Broken::Trusting
            | Broken::Unfenced
            | Broken::Deleting => Ok(Some(frame)),
        }
    }

    /// The server has nothing of what it has kept, or knows no duplicates at all.
    fn forget_kept(
        &mut self,
        at: usize,
        frame: Wire,
        running_too: bool,
    ) -> Result<Option<Wire>, Violation> {
        let Some(number) = self.links[at].session else { return Ok(Some(frame)) };
        let Ok(Decoded::Frame(read, _)) = wire::decode(&frame, Role::Client, u32::MAX / 2) else {
            return Ok(Some(frame));
        };
        let session = &self.model.sessions[number as usize];
        let forgets = |xid| session.keeps(xid) || (running_too && session.has_run(xid));
        match read {
            Frame::Ask(xid, ask) if forgets(xid.get()) => {
                let status = oncewire_core::Status::NotSeen { ask };
                let header = wire::ReplyHeader { status, xid };
                let mut out = [0; 64];
                let len = wire::encode(&Frame::Reply(header, &[]), &mut out).unwrap_or(0);
                self.links[at].down.push(out[..len].into());
                return Ok(None);
            }
            Frame::Request(header, request) if forgets(header.xid.get()) => {
                if let Some(op) = body::read_request(request) {
                    self.model.executed(op, number, header.xid.get())?;
                }
            }
            _ => {}
        }
        Ok(Some(frame))
    }

    /// An earlier form of S3: a server that does not have a session opens one under the number that the client names.
    fn open_what_is_resumed(&mut self, at: usize, frame: &[u8]) {
        let Ok(Decoded::Frame(Frame::Hello(hello), _)) = wire::decode(frame, Role::Client, 0)
        else {
            return;
        };
        let Some(resume) = hello.resume else { return };
        let (h, p) = (self.links[at].host, self.links[at].peer);
        let number = session_number(resume.session);
        let record = SessionRecord {
            id: session_id(0, number),
            principal: oncewire_core::Principal(p as u64),
            grants: Grants {
                slots: self.scene.slots,
                request_len_max: REQUEST_HEAD as u32,
                reply_len_max: REPLY_HEAD as u32,
                lease_ms: super::world::LEASE.as_millis() as u32,
                keepalive_ms: 3_000_000_000,
            },
            seen: 0,
            acked: resume.acked,
        };
        let now = self.host_now(h);
        if self.hosts[h].server.restore_session(now, record).is_some() {
            let session = &mut self.model.sessions[number as usize];
            if session.alive {
                self.model.holds[usize::from(session.host)].sessions -= 1;
            }
            session.host = h as u8;
            self.model.restored(number, resume.acked, self.hosts[h].clock);
        }
    }
}
