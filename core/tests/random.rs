//! A seeded random walk over everything that can happen to honest peers, judged by a model: what ran, and what the
//! caller saw. `SEED=n cargo test --test random` repeats one walk of each kind.
#![allow(missing_docs)]

mod util;

use oncewire_core::*;
use util::*;

/// What the walk may do, beside what it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The server lives on.
    OneServer,
    /// The server's process dies with everything it knows, or drains first.
    Restarts,
    /// It dies too, and a ledger keeps records of non-idempotent calls.
    Ledger,
}

/// One call, as the model knows it.
struct Made {
    id: CallId,
    body: Vec<u8>,
    call: Call<'static>,
    /// Its id was given back.
    forgotten: bool,
    cancelled: bool,
}

struct Walk {
    seed: u64,
    kind: Kind,
    rng: Rng,
    pair: Pair,
    made: Vec<Made>,
    draining: bool,
    /// Whether a session may have been lost for cause.
    restarted: bool,
}

/// Says which walk failed.
impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the walk that failed: SEED={} ({:?})", self.seed, self.kind);
        }
    }
}

impl Walk {
    fn new(seed: u64, kind: Kind) -> Walk {
        let mut rng = Rng(seed);
        let mut config = default_server_config();
        config.slots = 1 + rng.below(4) as u32;
        // Sessions end for no other reason than a restart.
        config.lease = secs(36_000);
        config.lease_unused = secs(36_000);
        if rng.one_in(5) {
            config.kept_per_session_max = 100_000;
        }
        let mut pair = Pair::with(config, ClientConfig::default());
        pair.out_len = *rng.pick(&[wire::CONTROL_LEN_MAX, 400, 4096]);
        let made = Vec::new();
        Walk { seed, kind, rng, pair, made, draining: false, restarted: false }
    }

    fn step(&mut self) {
        match self.rng.below(40) {
            0..=8 => self.call(),
            9 => self.cancel(),
            10 => self.forget(),
            11 => self.pair.cut(),
            12 if self.pair.peers[0].link.is_some() => {
                self.pair.cut_at_client();
            }
            13 if self.pair.peers[0].link.is_some() => self.pair.silence(),
            14 => {
                self.pair.connect(0);
                self.pair.drive();
            }
            15..=17 => self.hold(),
            18..=22 => self.trickle(),
            23 => self.pair.chunk = *self.rng.pick(&[1, 3, 40, usize::MAX]),
            24..=29 => self.handle(),
            30 if self.kind != Kind::Ledger => {
                self.pair.mode = *self.rng.pick(&[Mode::Echo, Mode::Start, Mode::Hold]);
            }
            31 if self.kind != Kind::OneServer && self.rng.one_in(3) => self.restart(),
            32 if self.kind == Kind::Restarts && self.rng.one_in(4) => {
                let (now, grace) = (self.pair.now, secs(self.rng.below(10)));
                self.pair.server.drain(now, grace);
                self.pair.drive();
                self.draining = true;
            }
            33 => self.pair.advance(secs(self.rng.below(4))),
            _ => self.pair.advance(ms(self.rng.below(300))),
        }
        if self.pair.peers[0].link.is_none() && self.rng.one_in(3) {
            self.pair.connect(0);
            self.pair.drive();
        }
        self.record_session();
    }

    /// A ledger knows a session as soon as it is open.
    fn record_session(&mut self) {
        let connected = self.pair.peers[0].client.session().map(|session| session.id);
        let Some(id) = connected.filter(|_| self.kind == Kind::Ledger) else { return };
        let known = self.pair.ledger.sessions.contains_key(&id.to_bytes());
        if known && !self.rng.one_in(4) {
            return;
        }
        for number in 0..self.pair.links.len() {
            let Some(conn) = self.pair.conn(number) else { continue };
            let Some(key) = self.pair.server.session_of(conn) else { continue };
            let Some(record) = self.pair.server.session_record(key) else { continue };
            self.pair
                .ledger
                .sessions
                .entry(record.id.to_bytes())
                .or_insert((record, Default::default()))
                .0 = record;
        }
    }

    fn call(&mut self) {
        let number = self.made.len() as u32;
        let mut body = number.to_le_bytes().to_vec();
        if self.rng.one_in(6) {
            // From 1 KiB on it is shared.
            body.resize(4 + self.rng.below(2_000) as usize, 7);
        }
        let idempotent = self.rng.one_in(4);
        let mut call =
            Call::new(if idempotent { IDEM } else { ECHO }, bytes::Bytes::from(body.clone()));
        call.with_len = self.rng.one_in(4);
        if call.with_len {
            body = behind_len(&body);
        }
        call.idempotent = idempotent;
        call.one_way = self.rng.one_in(8);
        call.fail_fast = self.rng.one_in(6);
        let short = self.rng.one_in(4);
        call.timeout = if short { ms(self.rng.below(3_000)) } else { secs(3_000) };
        let id = self.pair.call_with(0, call.clone());
        self.made.push(Made { id, body, call, forgotten: false, cancelled: false });
    }

    fn cancel(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let at = self.rng.below(self.made.len() as u64) as usize;
        self.made[at].cancelled = true;
        self.pair.cancel(self.made[at].id);
    }

    fn forget(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let at = self.rng.below(self.made.len() as u64) as usize;
        if !self.made[at].call.one_way {
            self.made[at].forgotten = true;
            self.pair.forget(self.made[at].id);
        }
    }

    fn hold(&mut self) {
        let (up, down) = (self.rng.one_in(2), self.rng.one_in(2));
        let number = self.rng.below(self.pair.links.len().max(1) as u64) as usize;
        if let Some(link) = self.pair.links.get_mut(number) {
            (link.hold_up, link.hold_down) = (up, down);
        }
        if let Some(number) = self.pair.peers[0].link {
            let link = &mut self.pair.links[number];
            (link.hold_up, link.hold_down) = (up, down);
        }
        self.pair.drive();
    }

    /// Delivers some bytes of some connection, an old one perhaps.
    fn trickle(&mut self) {
        let many = self.pair.links.len() as u64;
        if many == 0 {
            return;
        }
        let newest = self.rng.one_in(2);
        let number = if newest { many - 1 } else { self.rng.below(many) } as usize;
        let len = self.rng.below(200) as usize;
        if self.rng.one_in(2) {
            self.pair.deliver_up(number, len);
        } else {
            self.pair.deliver_down(number, len);
        }
        self.pair.drive();
    }

    /// Something happens to a call that is admitted or runs.
    fn handle(&mut self) {
        if !self.pair.admitted.is_empty() && self.rng.one_in(2) {
            let at = self.rng.below(self.pair.admitted.len() as u64) as usize;
            self.start(at);
        } else if !self.pair.started.is_empty() {
            let at = self.rng.below(self.pair.started.len() as u64) as usize;
            self.end(at);
        }
    }

    fn start(&mut self, at: usize) {
        let call = &self.pair.admitted[at];
        let (body, key, method) = (call.body.clone(), call.admission.key(), call.method);
        if self.kind != Kind::Ledger && self.rng.one_in(8) {
            self.pair.refuse(&body, NotExecuted::Overloaded);
            return;
        }
        if self.kind == Kind::Ledger && method != IDEM {
            // S28: the started record is stable before the call runs; a refused start takes it back.
            self.pair.record(key, None);
        }
        let _ = self.pair.start(&body);
    }

    fn end(&mut self, at: usize) {
        let call = &self.pair.started[at];
        let (body, key) = (call.body.clone(), call.running.key());
        match self.rng.below(10) {
            0 if self.kind != Kind::Ledger => self.pair.abort(&body),
            1 if self.kind != Kind::Ledger => {
                let running = self.pair.running(&body);
                let now = self.pair.now;
                self.pair.server.roll_back(now, running, NotExecuted::Aborted);
                // Nothing of it remains.
                let at = self.pair.runs.iter().position(|run| run.body == body).unwrap();
                self.pair.runs.remove(at);
                self.pair.drive();
            }
            _ => {
                let idempotent = self.pair.is_idempotent(key);
                if self.kind == Kind::Ledger && !idempotent {
                    // S28: and the completion record before the reply leaves.
                    self.pair.record(key, Some(&echo(&body)));
                }
                self.pair.finish(&body);
            }
        }
    }

    fn restart(&mut self) {
        if self.kind == Kind::Ledger {
            self.pair.restart_server_with_ledger();
        } else {
            self.pair.restart_server();
            self.restarted = true;
        }
        self.draining = false;
    }

    /// No more faults: everything must come to its end.
    fn settle(&mut self) {
        if self.draining {
            self.restart();
        }
        self.pair.chunk = usize::MAX;
        if self.pair.peers[0].link.is_some() && self.pair.link().silent {
            self.pair.cut();
        }
        for link in &mut self.pair.links {
            (link.hold_up, link.hold_down) = (false, false);
        }
        self.pair.drive();
        for _ in 0..200 {
            self.drain_handlers();
            if self.pair.peers[0].link.is_none() {
                self.pair.connect(0);
                self.pair.drive();
            }
            self.record_session();
            self.pair.advance(secs(1));
            if self.pair.peers[0].client.pending() == 0 && self.pair.peers[0].client.is_connected()
            {
                break;
            }
        }
        self.pair.advance(secs(5));
    }

    fn drain_handlers(&mut self) {
        while !self.pair.admitted.is_empty() {
            self.start(0);
        }
        while !self.pair.started.is_empty() {
            self.end(0);
        }
    }

    fn judge(&mut self) {
        let peer = &self.pair.peers[0];
        assert_eq!((&peer.errors, &self.pair.server_errors), (&vec![], &vec![]), "both are honest");
        assert_eq!((peer.client.unsettled(), peer.client.pending()), (0, 0));
        let counters = self.pair.server.counters();
        assert_eq!((counters.kept_bytes, counters.running), (0, 0));
        for made in &self.made {
            self.judge_call(made);
        }
        let lost = self.pair.sessions_lost();
        assert!(self.restarted || lost.is_empty(), "a session was lost without cause: {lost:?}");
    }

    fn judge_call(&self, made: &Made) {
        let ran = self.pair.ran(&made.body);
        let outcomes = self.pair.outcomes(made.id);
        let what = format!("{:?} ran {ran} times, reported as {outcomes:?}", &made.body[..4]);
        assert!(made.call.idempotent || ran <= 1, "{what}");
        let is_final = |outcome: &OwnedOutcome| !matches!(outcome, OwnedOutcome::Unknown(_, true));
        let finals = outcomes.iter().filter(|outcome| is_final(outcome)).count();
        assert!(
            finals <= 1 && outcomes.iter().rev().skip(1).all(|outcome| !is_final(outcome)),
            "{what}"
        );
        assert!(outcomes.len() <= 2, "{what}");
        match outcomes.iter().find(|outcome| is_final(outcome)) {
            Some(OwnedOutcome::Reply(bytes)) => {
                assert!(ran >= 1, "{what}");
                assert_eq!(*bytes, echo(&made.body), "{what}");
            }
            Some(OwnedOutcome::NoReply(NoReply::NotKept)) => {
                assert!(ran >= 1 && made.call.idempotent, "{what}")
            }
            Some(OwnedOutcome::NoReply(_)) => assert!(ran >= 1, "{what}"),
            Some(OwnedOutcome::NotExecuted(why)) => {
                assert_eq!(ran, 0, "{what}");
                let cause = match why {
                    NotExecuted::DeadlinePassed => made.call.timeout < secs(3_000),
                    NotExecuted::Cancelled => made.cancelled,
                    NotExecuted::Disconnected => made.call.fail_fast,
                    NotExecuted::ShuttingDown => self.kind == Kind::Restarts,
                    NotExecuted::Overloaded | NotExecuted::Aborted => true,
                    _ => false,
                };
                assert!(cause, "{what}");
            }
            Some(OwnedOutcome::Unknown(why, _)) => {
                let cause = match why {
                    Unknown::SessionEnded => self.restarted,
                    Unknown::Interrupted => self.kind == Kind::Ledger && !made.call.idempotent,
                    Unknown::Repeated => made.call.idempotent,
                    _ => false,
                };
                assert!(cause, "{what}");
            }
            None => assert!(made.call.one_way || made.forgotten, "{what}"),
        }
        if made.call.one_way {
            assert_eq!(outcomes, [], "{what}");
        }
    }
}

fn walk(seed: u64, kind: Kind) {
    let mut walk = Walk::new(seed, kind);
    if kind == Kind::Ledger {
        walk.pair.mode = Mode::Hold;
    }
    let steps = 20 + walk.rng.below(80);
    for _ in 0..steps {
        walk.step();
    }
    walk.settle();
    walk.judge();
    // And in the end nothing is left at all.
    walk.pair.close();
    assert!(walk.pair.client().is_closed());
    walk.pair.advance(secs(40_000));
    let counters = walk.pair.server.counters();
    assert_eq!((counters.sessions, counters.conns), (0, 0));
}

fn walks(kind: Kind, seeds: u64) {
    match std::env::var("SEED") {
        Ok(seed) => walk(seed.parse().expect("SEED is a number"), kind),
        Err(_) => (0..seeds).for_each(|seed| walk(seed, kind)),
    }
}

#[test]
fn random_walks_with_one_server_end_with_the_truth() {
    walks(Kind::OneServer, 2_000);
}

#[test]
fn random_walks_over_restarts_and_drains_end_with_the_truth() {
    walks(Kind::Restarts, 1_500);
}

#[test]
fn random_walks_over_crashes_with_a_ledger_end_with_the_truth() {
    walks(Kind::Ledger, 1_500);
}
