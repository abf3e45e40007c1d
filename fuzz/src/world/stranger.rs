//! Others that connect: they write calls behind their `Hello`, say nothing, acknowledge what they have not read, or send a
//! call again with other metadata.

use oncewire_core::wire::{self, Ack, Frame, Hello, MAGIC, RequestHeader, Resume, VERSION};
use oncewire_core::{CloseReason, ProtocolError, Refuse, Xid};

use super::kinds::Kind;
use super::link::Stranger;
use super::model::Stage;
use super::profile::{self, Broken, session_id};
use super::trace::{Check, ensure};
use super::{World, body};

/// Bytes that a machine may take for a call beside its reply.
const CALL_BYTES: i64 = 600;

impl World {
    /// A stranger connects to a server, as the principal of this client.
    pub(super) fn meet_stranger(&mut self, p: usize) -> Check {
        let h = self.rng.index(self.hosts.len());
        if self.peers[p].tainted || self.hosts[h].draining {
            return Ok(());
        }
        match self.rng.below(4) {
            0 => self.early(p, h),
            1 => self.silent(p, h),
            2 => self.altering(p, h),
            _ => self.hasty(p, h),
        }
    }

    /// Its connection; what comes down is not read.
    fn connect_stranger(&mut self, p: usize, h: usize, who: Stranger) -> Option<usize> {
        let number = self.model.sessions.len() as u32;
        let now = self.host_now(h);
        let (id, principal) = (session_id(self.seed, number), self.peers[p].principal);
        let conn = self.hosts[h].server.handle_connected(now, principal, id)?;
        self.model.sessions.push(Default::default());
        let l = self.take_link(p, h, conn);
        let link = &mut self.links[l];
        (link.client_open, link.held, link.stranger) = (false, true, Some(who));
        self.trace.note(|| format!("a stranger dials s{h}, link {l}: {who:?}"));
        Some(l)
    }

    fn say(&mut self, l: usize, frame: &Frame<'_>) {
        let mut out = [0; 4_200];
        let len = wire::encode(frame, &mut out).unwrap_or(0);
        self.links[l].up.push(&out[..len]);
    }

    fn say_hello(&mut self, l: usize, resume: Option<Resume>) {
        let hello = Hello {
            magic: MAGIC,
            version_min: VERSION,
            version_max: VERSION,
            features: wire::FEATURE_METADATA,
            resume,
            slots: 8,
            request_len_max: 8_192,
            reply_len_max: 4_096,
            service: None,
            server: None,
            token: None,
        };
        self.say(l, &Frame::Hello(hello));
    }

    fn say_request(&mut self, l: usize, xid: Xid, op: u32) {
        let request = self.request_of(op);
        self.say_call(l, xid, op, &request);
    }

    fn request_of(&mut self, op: u32) -> Vec<u8> {
        let (len, _) = body::write_call(op, 0, &mut self.scratch);
        self.scratch[..len].to_vec()
    }

    fn say_call(&mut self, l: usize, xid: Xid, op: u32, request: &[u8]) {
        let flags = if body::has_metadata(op) { wire::FLAG_METADATA } else { 0 };
        let method = profile::LONG;
        let header = RequestHeader { flags, method, remaining_ms: 30_000, xid, acked: 0 };
        self.say(l, &Frame::Request(header, request));
    }

    /// S2: calls in one write with the `Hello`, of a new session or of a client's own. None is taken.
    fn early(&mut self, p: usize, h: usize) -> Check {
        let Some(l) = self.connect_stranger(p, h, Stranger::Early) else { return Ok(()) };
        self.kinds[Kind::Early as usize] += 1;
        let known = self.peers[p].client.session().filter(|session| session.server == self.ids[h]);
        let resume = known.map(|session| Resume { session: session.id, acked: 0 });
        let resume = resume.filter(|_| self.rng.one_in(4));
        self.say_hello(l, resume);
        let hello_len = self.links[l].up.on_the_way();
        let op = self.model.begin(p, false, false);
        self.model.ops[op as usize].stage = Stage::Never;
        let Some(xid) = Xid::new(1 + self.rng.below(1 << 40)) else { return Ok(()) };
        for _ in 0..=self.rng.below(3) {
            self.say_request(l, xid, op);
        }
        if self.rng.one_in(2) {
            self.links[l].up.push(b"not a frame");
        }
        if self.profile.broken == Broken::Early {
            // As if each were read by itself, and the record of the session were stable at once.
            self.deliver_up(l, hello_len)?;
            if let Some(conn) = self.links[l].conn {
                self.hosts[h].server.confirm_session(conn);
            }
            self.pump_host(h)?;
        }
        self.deliver_up(l, usize::MAX)?;
        self.pump_host(h)?;
        ensure!(
            self.links[l].conn.is_none(),
            "S2: link {l} lives on after a call behind its Hello"
        );
        self.end_link(l)
    }

    /// A connection that says nothing, or half a `Hello`: it has the handshake's time, whatever the keepalive.
    fn silent(&mut self, p: usize, h: usize) -> Check {
        let timeout = self.profile.server.handshake_timeout.as_nanos() as u64;
        let who = Stranger::Silent(u64::MAX);
        let Some(l) = self.connect_stranger(p, h, who) else { return Ok(()) };
        let due = self.hosts[h].clock.latest.get() + timeout;
        self.links[l].stranger = Some(Stranger::Silent(due));
        if self.rng.one_in(2) {
            self.say_hello(l, None);
            let len = self.links[l].up.on_the_way();
            let half = self.rng.below(len as u64) as usize;
            self.links[l].up.lose(len - half);
            self.deliver_up(l, half)?;
        }
        let next = self.hosts[h].server.poll_timeout();
        ensure!(
            next.is_some_and(|at| at.as_nanos() <= due),
            "C42: s{h} looks at {next:?} next, and a handshake is over at {due}"
        );
        Ok(())
    }

    /// C42: whether every handshake that is over was ended, of those whose time this server knows to be over.
    pub(super) fn check_handshakes(&self, h: usize, latest: u64) -> Check {
        for (l, link) in self.links.iter().enumerate() {
            if let (Some(Stranger::Silent(due)), Some(_)) = (link.stranger, link.conn)
                && link.used
                && link.host == h
            {
                ensure!(
                    due > latest,
                    "C42: link {l} had until {due} to say Hello, and it is {latest}"
                );
            }
        }
        Ok(())
    }

    /// A server has closed the connection of a stranger.
    pub(super) fn stranger_closed(&mut self, l: usize, who: Stranger, why: CloseReason) -> Check {
        if let Stranger::Silent(due) = who {
            let latest = self.hosts[self.links[l].host].clock.latest.get();
            let expected =
                matches!(why, CloseReason::TooSlow | CloseReason::Refused(Refuse::ShuttingDown));
            ensure!(expected, "link {l} said nothing, and was closed for {why:?}");
            if why == CloseReason::TooSlow {
                ensure!(latest >= due, "C42: link {l} was closed at {latest}, it had until {due}");
                self.kinds[Kind::TooSlow as usize] += 1;
            }
        }
        Ok(())
    }

    /// Whether a server may say so of a stranger.
    pub(super) fn stranger_may_err(who: Stranger, error: &ProtocolError) -> bool {
        match who {
            Stranger::Early => *error == ProtocolError::NoSession,
            Stranger::Hasty => matches!(error, ProtocolError::AckAhead { .. }),
            Stranger::Altering => matches!(error, ProtocolError::FalseRetry { .. }),
            Stranger::Silent(_) => false,
        }
    }

    /// S10: a call is answered, and comes again with the same arguments and other metadata. Its session is over.
    fn altering(&mut self, p: usize, h: usize) -> Check {
        if !body::has_metadata(self.model.ops.len() as u32) {
            // The operation that is begun next.
            return Ok(());
        }
        let Some(l) = self.connect_stranger(p, h, Stranger::Altering) else { return Ok(()) };
        self.say_hello(l, None);
        self.deliver_up(l, usize::MAX)?;
        self.pump_host(h)?;
        self.confirm_opened(h, u64::MAX)?;
        let xid = Xid::new(1 + self.rng.below(64));
        let Some(xid) = xid.filter(|_| self.links[l].conn.is_some()) else { return Ok(()) };
        let op = self.model.begin(p, false, false);
        self.model.ops[op as usize].stage = Stage::Unheard;
        self.say_request(l, xid, op);
        self.deliver_up(l, usize::MAX)?;
        self.pump_host(h)?;
        let session = self.links[l].session.map(|number| &mut self.model.sessions[number as usize]);
        let Some(session) = session.filter(|session| session.keeps(xid.get())) else {
            // With a ledger its record may not be stable yet.
            return self.end_link(l);
        };
        session.faulty = true;
        self.kinds[Kind::Altered as usize] += 1;
        let mut request = self.request_of(op);
        if self.profile.broken != Broken::BareDigest {
            let at = request.windows(2).position(|bytes| bytes == b"op").unwrap_or(0);
            request[at] = b'O';
        }
        self.say_call(l, xid, op, &request);
        self.deliver_up(l, usize::MAX)?;
        self.pump_host(h)?;
        ensure!(
            self.links[l].conn.is_none(),
            "S10: link {l} lives on after a request came again with other metadata"
        );
        self.end_link(l)
    }

    /// C98: replies are acknowledged of which a part has left: what the server holds stays what it says.
    fn hasty(&mut self, p: usize, h: usize) -> Check {
        if self.profile.lossy {
            // Such a link has whole frames.
            return Ok(());
        }
        let Some(l) = self.connect_stranger(p, h, Stranger::Hasty) else { return Ok(()) };
        self.say_hello(l, None);
        self.deliver_up(l, usize::MAX)?;
        self.pump_host(h)?;
        self.confirm_opened(h, u64::MAX)?;
        let before = self.surplus(h);
        let xid = Xid::new(1 + self.rng.below(64));
        let Some(xid) = xid.filter(|_| self.links[l].conn.is_some()) else { return Ok(()) };
        let op = self.model.begin(p, false, false);
        self.model.ops[op as usize].stage = Stage::Unheard;
        self.say_request(l, xid, op);
        self.deliver_up(l, usize::MAX)?;
        self.pump_host(h)?;
        if self.rng.one_in(2) {
            self.acknowledge_half(l, xid)?;
        }
        if let (Some(before), Some(after)) = (before, self.surplus(h)) {
            self.kinds[Kind::Measured as usize] += 1;
            ensure!(
                after - before <= CALL_BYTES,
                "S11: s{h} holds {after} bytes more than it says, and {before} before: {:?}",
                self.counters(h)
            );
        }
        self.check()?;
        match self.rng.below(3) {
            0 => self.end_link(l),
            1 => {
                // It reads on.
                self.links[l].stranger = None;
                self.flush_unsent(l)
            }
            _ => Ok(()),
        }
    }

    fn acknowledge_half(&mut self, l: usize, xid: Xid) -> Check {
        let h = self.links[l].host;
        let base = (xid.get() % u64::from(self.profile.slots)) as u32;
        let acked = if self.rng.one_in(2) { xid.get() } else { 0 };
        self.say(l, &Frame::Ack(Ack { acked, last: xid.get(), base, settled: 1 }));
        self.deliver_up(l, usize::MAX)?;
        self.pump_host(h)
    }
}
