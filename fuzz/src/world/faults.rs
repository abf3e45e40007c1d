//! The faults of the world.

use super::World;
use super::profile::MS;
use super::trace::{Check, ensure};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $text:literal,)*) => {
        /// Kinds of faults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// What each kind is called.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];
            /// How many kinds there are.
            pub const KINDS: usize = Fault::NAMES.len();
        }
    };
}

faults! {
    /// A connection breaks for both ends; of the bytes on the way any number is lost.
    Cut "cut",
    /// The client alone learns of it; what it sent is read later, after what comes on a newer connection.
    Late "read late",
    /// The server alone learns of it; the client reads on until it learns of it too.
    ServerFirst "cut at the server",
    /// Bytes vanish, and neither end notices.
    Silence "silence",
    /// The client leaves a working connection and makes another one.
    Takeover "takeover",
    /// The server's process dies; nothing is left.
    Restart "restart",
    /// The server's process dies; its ledger is left.
    RestartLedger "restart with ledger",
    /// The server drains and is replaced.
    Drain "drain",
    /// A clock jumps.
    Jump "clock jump",
    /// Nothing moves for seconds, or longer than a lease.
    Sleep "sleep",
    /// A client stays away.
    Away "away",
    /// Another server answers at the address.
    OtherServer "other server",
    /// A byte is changed.
    Damage "damage",
    /// A frame is lost on a link that does not break.
    Loss "frame loss",
    /// A call is cancelled.
    Cancel "cancel",
    /// A call or ticket is forgotten.
    Forget "forget",
    /// Nothing is delivered in a turn.
    Delay "delay",
}

impl World {
    /// Something goes wrong, mostly for this client.
    pub(super) fn fault(&mut self, p: usize) -> Check {
        let kind = self.rng.below(100);
        match (kind, self.peers[p].link) {
            (0..30, Some(l)) => self.cut(l),
            (30..42, Some(l)) => self.cut_late(l),
            (42..50, Some(l)) => self.cut_server_first(l),
            (50..56, Some(l)) => {
                self.count(Fault::Silence, l);
                self.links[l].silent = true;
                Ok(())
            }
            (56..62, Some(_)) => {
                self.faults[Fault::Takeover as usize] += 1;
                self.dial(p)
            }
            (62..66, _) => self.crash(),
            (66..67, _) => self.drain_one(),
            (67..72, _) => {
                self.jump(p);
                Ok(())
            }
            (72..75, _) => self.sleep(),
            (75..77, link) => {
                self.faults[Fault::Away as usize] += 1;
                self.peers[p].away_until = self.now + self.rng.below(3_000 * MS);
                link.map_or(Ok(()), |l| self.cut(l))
            }
            (77..82, Some(l)) if self.peers[p].tainted => self.damage(l),
            (82..85, _) if self.profile.rolling => self.drain_one(),
            (85..91, _) if self.profile.strangers => self.meet_stranger(p),
            (91..95, _) if self.peers[p].durable => self.client_dies(p),
            (82..100, _) => self.old_links(),
            _ => Ok(()),
        }
    }

    fn drain_one(&mut self) -> Check {
        let h = self.rng.below(self.hosts.len() as u64) as usize;
        self.drain(h);
        self.pump_host(h)
    }

    fn count(&mut self, fault: Fault, l: usize) {
        self.faults[fault as usize] += 1;
        self.trace.note(|| format!("link {l}: {}", Fault::NAMES[fault as usize]));
    }

    /// Both ends learn of it; each has read some of what was on the way.
    fn cut(&mut self, l: usize) -> Check {
        self.count(Fault::Cut, l);
        if self.rng.one_in(2) {
            let up = self.some_of(self.links[l].up.on_the_way());
            self.deliver_up(l, up)?;
            let h = self.links[l].host;
            self.pump_host(h)?;
        }
        if self.rng.one_in(2) {
            let down = self.some_of(self.links[l].down.on_the_way());
            self.deliver_down(l, down)?;
        }
        self.links[l].held = false;
        if self.rng.one_in(2) {
            self.tell_server(l)?;
            self.tell_client(l)?;
        } else {
            self.tell_client(l)?;
            self.tell_server(l)?;
        }
        self.close_ends(l)
    }

    /// The server has read what was sent after a lost frame: on its next connection the client asks for that.
    pub(super) fn cut_behind_hole(&mut self, l: usize) -> Check {
        self.deliver_up(l, usize::MAX)?;
        let h = self.links[l].host;
        self.pump_host(h)?;
        self.cut(l)
    }

    fn some_of(&mut self, len: usize) -> usize {
        self.rng.below(len as u64 + 1) as usize
    }

    /// The client writes once more, perhaps half a frame, and learns of it; the server reads it later.
    fn cut_late(&mut self, l: usize) -> Check {
        self.count(Fault::Late, l);
        let p = self.links[l].peer;
        self.flush_peer(p)?;
        if self.rng.one_in(2) {
            let lost = self.some_of(self.links[l].up.on_the_way());
            self.links[l].up.lose(lost);
        }
        self.links[l].held = true;
        self.tell_client(l)
    }

    fn cut_server_first(&mut self, l: usize) -> Check {
        self.count(Fault::ServerFirst, l);
        let h = self.links[l].host;
        if self.rng.one_in(2) {
            let up = self.some_of(self.links[l].up.on_the_way());
            self.deliver_up(l, up)?;
            self.pump_host(h)?;
        }
        self.links[l].held = self.rng.one_in(2);
        self.tell_server(l)
    }

    /// Connections that were left are read on, or come to their end.
    fn old_links(&mut self) -> Check {
        for l in 0..self.links.len() {
            let link = &self.links[l];
            let current = self.peers[link.peer].link == Some(l);
            if !link.used || (current && link.server_open) || self.rng.one_in(3) {
                continue;
            }
            if link.is_silent_stranger() {
                continue;
            }
            let h = link.host;
            let up = self.some_of(self.links[l].up.on_the_way());
            self.deliver_up(l, up)?;
            self.pump_host(h)?;
            if self.rng.one_in(3) {
                self.links[l].held = false;
                let down = self.some_of(self.links[l].down.on_the_way());
                self.deliver_down(l, down)?;
                self.end_link(l)?;
            }
        }
        Ok(())
    }

    /// What a link still carries is lost.
    pub(super) fn end_link(&mut self, l: usize) -> Check {
        self.links[l].held = false;
        if self.links[l].client_open {
            self.tell_client(l)?;
        }
        self.links[l].up.clear();
        self.tell_server(l)?;
        self.close_ends(l)
    }

    fn crash(&mut self) -> Check {
        // Restarts cost every client its connection: the more clients, the rarer.
        if !self.rng.one_in(self.peers.len() as u64) {
            return Ok(());
        }
        let h = self.rng.below(self.hosts.len() as u64) as usize;
        let with_ledger = self.profile.ledger && (!self.rng.one_in(8) || self.profile.shares);
        self.restart(h, with_ledger)?;
        if self.rng.one_in(8) {
            // C57: and once more.
            self.restart(h, with_ledger)?;
        }
        Ok(())
    }

    fn jump(&mut self, p: usize) {
        self.faults[Fault::Jump as usize] += 1;
        let by = match self.rng.below(4) {
            0 if self.profile.back && self.rng.one_in(4) => {
                -(self.rng.below(3_600_000 * MS) as i64)
            }
            0 => -(self.rng.below(200 * MS) as i64),
            1 => self.rng.below(3_600_000 * MS) as i64,
            _ => self.rng.below(2_000 * MS) as i64,
        };
        let at_server = self.rng.one_in(2);
        let h = self.rng.below(self.hosts.len() as u64) as usize;
        self.trace.note(|| format!("a clock jumps by {by} ns, c{p} or s{h}: {at_server}"));
        let clock = match at_server {
            true => &mut self.hosts[h].clock,
            false => &mut self.peers[p].clock,
        };
        clock.ahead += by;
        self.disturb();
    }

    /// Time did not go on as it does: a peer that is called dead by it need not be.
    fn disturb(&mut self) {
        self.links.iter_mut().for_each(|link| link.disturbed = true);
    }

    fn sleep(&mut self) -> Check {
        self.faults[Fault::Sleep as usize] += 1;
        let lease = self.profile.server.lease.as_nanos() as u64;
        let longest = if self.rng.one_in(8) { lease + lease / 4 } else { 3_000 * MS };
        let end = self.now + self.rng.below(longest);
        self.trace.note(|| format!("all sleep until {} µs", end / 1000));
        self.disturb();
        for _ in 0..20 {
            let next = self.next_timer().min(end).max(self.now + 1_000);
            if next >= end {
                break;
            }
            self.now = next;
            self.fire_timers()?;
            self.move_bytes_a_little()?;
        }
        self.now = end;
        self.fire_timers()
    }

    fn move_bytes_a_little(&mut self) -> Check {
        let p = self.rng.below(self.peers.len() as u64) as usize;
        for h in 0..self.hosts.len() {
            self.run_due_calls(h)?;
            self.pump_host(h)?;
        }
        self.peers[p].link.map_or(Ok(()), |l| self.exchange(l))
    }

    /// Changes a byte on its way.
    fn damage(&mut self, l: usize) -> Check {
        let (at, bits) = (self.rng.next_u64(), self.rng.next_u64());
        ensure!(self.profile.corrupt, "damage in a world without damage");
        let link = &mut self.links[l];
        let pipe = if bits & 0x100 == 0 { &mut link.up } else { &mut link.down };
        let bytes = pipe.on_the_way_mut();
        if bytes.is_empty() {
            return Ok(());
        }
        let at = at as usize % bytes.len();
        bytes[at] ^= (bits as u8).max(1);
        self.count(Fault::Damage, l);
        Ok(())
    }
}
