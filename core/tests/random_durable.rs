//! Seeded random walks of a client with a journal and a server with a ledger: both die, the server drains, and the link
//! breaks or loses frames. `SEED=n cargo test --test random_durable` repeats one walk of each kind.
#![allow(missing_docs)]

mod util;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use oncewire_core::*;
use util::durable::*;
use util::*;

struct Walk {
    seed: u64,
    rng: Rng,
    pair: Pair,
    disk: Disk,
    /// The client's process knows which call has which xid.
    known: BTreeMap<u64, CallId>,
    /// Final outcomes that were written, by the call's body. What an earlier session left behind stays here.
    told: BTreeMap<Vec<u8>, OwnedOutcome>,
    made: u64,
    draining: bool,
    loses: Rc<Cell<bool>>,
}

/// Says which walk failed.
impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the walk that failed: SEED={}", self.seed);
        }
    }
}

impl Walk {
    fn new(seed: u64, lossy: bool) -> Walk {
        let mut rng = Rng(seed);
        let mut server = default_server_config();
        server.slots = 1 + rng.below(4) as u32;
        server.lossy = lossy;
        if lossy {
            // Three pings in a row are rarely lost.
            server.keepalive = secs(60);
        }
        let mut client = ClientConfig::default();
        client.durable = true;
        client.resend_after = lossy.then_some(ms(200));
        let mut pair = Pair::with(server, client);
        pair.mode = Mode::Hold;
        let loses = Rc::new(Cell::new(lossy));
        let (on, mut chance) = (loses.clone(), Rng(!seed));
        if lossy {
            pair.luck = Some(Box::new(move || match chance.below(12) {
                0 | 1 if on.get() => Luck::Lost,
                at @ 2..4 if on.get() => Luck::Twice(at as usize),
                _ => Luck::Once,
            }));
        }
        Walk {
            seed,
            rng,
            pair,
            disk: Disk::default(),
            known: BTreeMap::new(),
            told: BTreeMap::new(),
            made: 0,
            draining: false,
            loses,
        }
    }

    fn step(&mut self) {
        match self.rng.below(24) {
            0..4 => {
                self.made += 1;
                let body = self.made.to_string();
                self.pair.call(body.as_bytes());
            }
            4..7 => self.write_calls(),
            7..9 => self.write_outcomes(false),
            9 => self.die(),
            10 => self.pair.cut(),
            11 if self.pair.peers[0].link.is_some() => {
                let held_back = self.rng.one_in(2);
                self.pair.hold(held_back);
                self.pair.drive();
            }
            12..16 => self.handle(),
            16 => self.restart_server(),
            17 if !self.draining => {
                let (now, grace) = (self.pair.now, secs(1 + self.rng.below(20)));
                self.draining = true;
                self.pair.server.drain(now, grace);
                self.pair.drive();
            }
            18 if !self.known.is_empty() => {
                let at = self.rng.below(self.known.len() as u64) as usize;
                let call = *self.known.values().nth(at).expect("there are so many");
                self.pair.cancel(call);
            }
            19 => self.pair.advance(secs(self.rng.below(3))),
            // Longer than the lease of a session that its client never learned of.
            20 if self.rng.one_in(3) => self.pair.advance(secs(20)),
            _ => self.pair.advance(ms(self.rng.below(300))),
        }
        self.go_on();
    }

    /// What goes on by itself: connections, sessions that are recorded, a new server after a drain.
    fn go_on(&mut self) {
        if self.draining && self.pair.server.is_drained() {
            self.restart_server();
        }
        if self.pair.peers[0].link.is_none() && self.rng.one_in(2) {
            self.pair.connect(0);
            self.pair.drive();
        }
        for number in 0..self.pair.links.len() {
            let key = self.pair.conn(number).and_then(|conn| self.pair.server.session_of(conn));
            let record = key.and_then(|key| self.pair.server.session_record(key));
            if let Some(record) = record {
                let sessions = &mut self.pair.ledger.sessions;
                sessions.entry(record.id.to_bytes()).or_insert((record, BTreeMap::new()));
            }
        }
    }

    /// Calls get their numbers and are written; the process may die before or after, and before it says so.
    fn write_calls(&mut self) {
        let mut after = self.disk.clone();
        let session = self.pair.client().session().copied();
        let now = self.pair.now;
        while let Some(numbered) = self.pair.client().poll_unjournaled(now) {
            let kept = Kept { body: numbered.body.to_vec(), outcome: None };
            let (xid, call) = (numbered.xid.get(), numbered.call);
            if after.session.map(|s| s.id) != session.map(|s| s.id) {
                after = Disk { session, ..Disk::default() };
                self.known.clear();
            }
            after.xid_last = xid;
            after.calls.insert(xid, kept);
            self.known.insert(xid, call);
        }
        if self.rng.one_in(4) {
            // On its way to the disk; meanwhile anything may happen.
            self.pair.advance(ms(self.rng.below(300)));
            if self.rng.one_in(2) && !self.draining {
                self.draining = true;
                self.pair.server.drain(self.pair.now, secs(20));
                self.pair.drive();
            }
        }
        match self.rng.below(6) {
            0 => self.die(),
            1 => {
                self.disk = after;
                self.die();
            }
            _ => {
                self.disk = after;
                if self.disk.session.is_some() {
                    say_recorded(&mut self.pair, &self.disk);
                }
            }
        }
    }

    /// Outcomes are written, and their calls settled.
    fn write_outcomes(&mut self, all: bool) {
        for (number, call) in &self.known {
            let Some(kept) = self.disk.calls.get_mut(number).filter(|k| k.outcome.is_none()) else {
                continue;
            };
            let outcome = self
                .pair
                .outcome(*call)
                .filter(|outcome| !matches!(outcome, OwnedOutcome::Unknown(_, true)));
            let Some(outcome) = outcome.filter(|_| all || self.rng.one_in(2)) else { continue };
            kept.outcome = Some(outcome.clone());
            self.told.insert(kept.body.clone(), outcome);
            let now = self.pair.now;
            self.pair.peers[0].client.settle(now, *call);
        }
        self.pair.drive();
    }

    fn die(&mut self) {
        self.known = restart(&mut self.pair, &self.disk);
    }

    fn restart_server(&mut self) {
        self.draining = false;
        self.pair.restart_server_with_ledger();
    }

    /// A call is started, or answered, with its record before.
    fn handle(&mut self) {
        if !self.pair.admitted.is_empty() && self.rng.one_in(2) {
            let at = self.rng.below(self.pair.admitted.len() as u64) as usize;
            let call = &self.pair.admitted[at];
            let (body, key) = (call.body.clone(), call.admission.key());
            self.pair.record(key, None);
            let _ = self.pair.start(&body);
        } else if !self.pair.started.is_empty() {
            let at = self.rng.below(self.pair.started.len() as u64) as usize;
            let call = &self.pair.started[at];
            let (body, key) = (call.body.clone(), call.running.key());
            self.pair.record(key, Some(&echo(&body)));
            self.pair.finish(&body);
        }
    }

    /// No more faults: everything comes to its end.
    fn settle(&mut self) {
        self.loses.set(false);
        if self.draining {
            self.restart_server();
        }
        self.pair.cut();
        for _ in 0..200 {
            while !self.pair.admitted.is_empty() || !self.pair.started.is_empty() {
                self.handle();
            }
            self.go_on();
            self.pair.advance(ms(500));
            self.write_outcomes(true);
            let mut after = std::mem::take(&mut self.disk);
            let before = after.session;
            let waits = self.pair.client().pending() > self.pair.client().unsettled();
            if waits && self.pair.client().is_connected() {
                write_down(&mut self.pair, &mut after);
                if before.map(|s| s.id) != after.session.map(|s| s.id) {
                    self.known.clear();
                }
                self.disk = after;
                // The simplest way to know its calls.
                self.die();
            } else {
                self.disk = after;
            }
            if self.pair.client().pending() == 0 {
                return;
            }
        }
        panic!("{:?} never ends", self.pair.peers[0].client);
    }

    fn judge(&self) {
        let errors = (&self.pair.peers[0].errors, &self.pair.server_errors);
        assert_eq!(errors, (&vec![], &vec![]), "both are honest");
        for number in 1..=self.made {
            let body = number.to_string().into_bytes();
            let ran = self.pair.ran(&body);
            let told = self.told.get(&body);
            let true_ = match told {
                Some(OwnedOutcome::Reply(bytes)) => ran == 1 && *bytes == echo(&body),
                Some(OwnedOutcome::Unknown(Unknown::Interrupted, false)) => ran <= 1,
                Some(OwnedOutcome::NotExecuted(_)) | None => ran == 0,
                // The session is kept by a ledger, for longer than the walk: there is always an answer.
                Some(_) => false,
            };
            assert!(true_, "call {number} ran {ran} times, told {told:?}");
        }
    }
}

fn walk(seed: u64, lossy: bool) {
    let mut walk = Walk::new(seed, lossy);
    for _ in 0..80 {
        walk.step();
    }
    walk.settle();
    walk.judge();
}

fn walks(lossy: bool, seeds: u64) {
    match std::env::var("SEED") {
        Ok(seed) => walk(seed.parse().expect("SEED is a number"), lossy),
        Err(_) => (0..seeds).for_each(|seed| walk(seed, lossy)),
    }
}

#[test]
fn random_walks_of_durable_clients_end_with_the_truth() {
    walks(false, 400);
}

#[test]
fn random_walks_of_durable_clients_on_lossy_links_end_with_the_truth() {
    walks(true, 250);
}
