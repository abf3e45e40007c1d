//! The reference model: how often every operation ran, which outcomes its caller may get, and what is durable.

use std::collections::{BTreeMap, BTreeSet};

use oncewire_driver::protocol::{NoReply, NotBegun, NotExecuted, Unknown};

use super::stranger;
pub use crate::driver_world::model::{End, Observed};

/// Which method an operation calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Transactional.
    Pay,
    /// Recorded.
    Note,
    /// Idempotent: asks whether another operation's payment is durable.
    Peek(u64),
}

/// A call as a handler knows it: whose, and its xid in one of the client's sessions.
pub type Name = (usize, u64);

/// How far a call's record has come for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has its started record.
    Started,
    /// It has its completion record.
    Done,
}

#[derive(Debug)]
struct Op {
    kind: Kind,
    begun_at: u64,
    timeout: u64,
    /// The client whose journal it is in, if it is in one.
    durable: Option<usize>,
    name: Option<Name>,
    /// A completion record that names it was durable.
    done: bool,
    /// Executions of a recorded operation, in all lives of the server.
    runs: Vec<End>,
    observed: Option<Observed>,
    /// How often a server had died by then.
    deaths: u64,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Model {
    ops: Vec<Op>,
    /// Records that are durable.
    stable: BTreeMap<Name, Stage>,
    /// The clients of sessions.
    pub sessions: BTreeMap<[u8; 16], usize>,
    /// Clients in place of whose journals an old copy was put.
    put_back: BTreeSet<usize>,
    /// A server was drained.
    pub drained: bool,
    /// Payments that some life of the server found on the disk, or that was reported: they stay.
    found: BTreeSet<u64>,
    /// The last commit that the server knows of.
    pub commit: u64,
    /// A disk or a commit has failed: calls may be refused for it.
    pub ledger_failed: bool,
    /// How often a server has died.
    pub deaths: u64,
    /// How often a session has moved to another server.
    pub moves: u64,
    /// Outcomes reported, by kind: replies, without reply, not executed, unknown.
    pub outcomes: [u64; 4],
    /// Executions of recorded operations, and runs of transactional ones.
    pub runs: u64,
    /// Do not look at records, only at what callers and tables show: a broken disk has to be found out by that.
    pub looks_away: bool,
}

type Check = Result<(), String>;

impl Model {
    /// A new operation.
    pub fn begin(&mut self, now: u64, kind: Kind, timeout: u64) -> u64 {
        self.push(now, kind, timeout, None)
    }

    /// A new operation of a durable client.
    pub fn begin_durable(&mut self, now: u64, kind: Kind, timeout: u64, client: usize) -> u64 {
        self.push(now, kind, timeout, Some(client))
    }

    fn push(&mut self, now: u64, kind: Kind, timeout: u64, durable: Option<usize>) -> u64 {
        let (name, runs, observed) = (None, Vec::new(), None);
        let done = false;
        let deaths = self.deaths;
        self.ops.push(Op {
            kind,
            begun_at: now,
            timeout,
            durable,
            name,
            done,
            runs,
            observed,
            deaths,
        });
        self.ops.len() as u64 - 1
    }

    /// An old copy was put in the place of a client's journal.
    pub fn put_back(&mut self, client: usize) {
        self.put_back.insert(client);
    }

    /// Whether that was done.
    pub fn was_put_back(&self, client: usize) -> bool {
        self.put_back.contains(&client)
    }

    /// A durable client starts again, and finds these in its journal: of its other calls nothing was sent.
    pub fn reopened(&mut self, client: usize, left: &BTreeSet<u64>) -> Check {
        let put_back = self.was_put_back(client);
        for (number, op) in (0..).zip(&mut self.ops) {
            if op.durable != Some(client) || op.observed.is_some() || left.contains(&number) {
                continue;
            }
            if !op.runs.is_empty() && !put_back {
                return Err(format!("operation {number} ran, and was not in the journal: {op:?}"));
            }
            if !put_back {
                let why = NotExecuted::NotBegun(NotBegun::Closed);
                op.observed = Some(Observed::NotExecuted(why));
            }
        }
        Ok(())
    }

    /// Operations so far.
    pub fn ops(&self) -> u64 {
        self.ops.len() as u64
    }

    /// The kind of an operation.
    pub fn kind(&self, op: u64) -> Option<Kind> {
        self.ops.get(op as usize).map(|op| op.kind)
    }

    /// A record is durable; its reply may name its operation.
    pub fn note_stable(&mut self, name: Name, stage: Stage, op: Option<u64>) {
        if let Some(op) = op.and_then(|op| self.ops.get_mut(op as usize)) {
            op.done = true;
        }
        let there = self.stable.entry(name).or_insert(stage);
        *there = stage.max(*there);
    }

    /// An execution of a recorded operation begins; returns its number.
    pub fn start(&mut self, op: u64, name: Name) -> Result<u64, String> {
        let known = self.ops.get_mut(op as usize).ok_or(format!("no operation {op} was made"))?;
        known.name = Some(name);
        known.runs.push(End::Runs);
        self.runs += 1;
        if known.runs.len() > 1 {
            return Err(format!("operation {op} runs a second time"));
        }
        match known.observed {
            // A server that has lost a session may learn of it when it has started what another one calls interrupted.
            Some(Observed::Unknown(Unknown::Interrupted, _)) if self.moves > 0 => {}
            Some(observed) if !leaves_open(known, observed, &self.put_back, self.deaths) => {
                return Err(format!("operation {op} runs after its caller saw {observed:?}"));
            }
            _ => {}
        }
        // S28.
        if !self.looks_away && !self.stable.contains_key(&name) {
            return Err(format!("operation {op} runs without a stable started record"));
        }
        self.check_session(op, name)?;
        Ok(0)
    }

    /// S30: a call is only taken where the `Welcome` has left, so its session is on the disk. It is checked for strangers, whose
    /// connections have a session each.
    fn check_session(&self, op: u64, (client, _): Name) -> Check {
        let is_known = || self.sessions.values().any(|known| *known == client);
        if client < stranger::CLIENTS || self.looks_away || is_known() {
            return Ok(());
        }
        Err(format!("operation {op} runs in a session that has no stable record"))
    }

    /// An execution of a recorded operation ends.
    pub fn end(&mut self, op: u64, run: u64, end: End) {
        if let Some(there) =
            self.ops.get_mut(op as usize).and_then(|op| op.runs.get_mut(run as usize))
        {
            *there = end;
        }
    }

    /// A transactional handler runs, perhaps not for the last time, and sees whether it has run before.
    pub fn run(&mut self, op: u64, name: Name, there: bool) -> Check {
        let known = self.ops.get_mut(op as usize).ok_or(format!("no operation {op} was made"))?;
        known.name = Some(name);
        self.runs += 1;
        if there {
            return Err(format!("operation {op} is executed a second time"));
        }
        match known.observed {
            Some(observed) if !leaves_open(known, observed, &self.put_back, self.deaths) => {
                Err(format!("operation {op} is executed after its caller saw {observed:?}"))
            }
            _ => self.check_session(op, name),
        }
    }

    /// What a life of the server finds on the disk, or the last look does: the payments in the tables.
    pub fn audit(&mut self, payments: &BTreeMap<u64, u64>) -> Check {
        for (op, times) in payments {
            let known = self.ops.get(*op as usize).ok_or(format!("no payment {op} was made"))?;
            if *times != 1 || known.kind != Kind::Pay {
                return Err(format!("payment {op} was executed {times} times"));
            }
            if let Some(observed @ Observed::NotExecuted(why)) = known.observed
                && !leaves_open(known, observed, &self.put_back, self.deaths)
            {
                return Err(format!("payment {op} is there, and its caller saw {why:?}"));
            }
        }
        for (op, known) in (0..).zip(&self.ops).filter(|(_, known)| known.kind == Kind::Pay) {
            let observed =
                matches!(known.observed, Some(Observed::Reply(_) | Observed::NoReply(_)));
            let must = observed || self.found.contains(&op) || (known.done && !self.looks_away);
            if must && !payments.contains_key(&op) {
                return Err(format!("payment {op} was durable, and is gone: {known:?}"));
            }
        }
        self.found.extend(payments.keys());
        Ok(())
    }

    /// A completion record on the disk: the operation and the number that its reply names.
    pub fn audit_record(&self, op: u64, number: u64, payments: &BTreeMap<u64, u64>) -> Check {
        let known = self.ops.get(op as usize).ok_or(format!("a record of no operation: {op}"))?;
        match known.kind {
            Kind::Pay if !payments.contains_key(&op) => {
                Err(format!("payment {op} has a completion record and no effect"))
            }
            Kind::Note if known.runs.get(number as usize) != Some(&End::Replied) => {
                Err(format!("operation {op} has a completion record, and is {known:?}"))
            }
            Kind::Peek(_) => Err(format!("the idempotent operation {op} has a record")),
            _ => Ok(()),
        }
    }

    /// The caller got an outcome.
    pub fn observe(&mut self, now: u64, op: u64, observed: Observed) -> Check {
        let at = match observed {
            Observed::Reply(_) => 0,
            Observed::NoReply(_) => 1,
            Observed::NotExecuted(_) => 2,
            Observed::Unknown(..) => 3,
        };
        self.outcomes[at] += 1;
        let known = &mut self.ops[op as usize];
        let before = known.observed.replace(observed);
        known.deaths = self.deaths;
        let put_back = known.durable.is_some_and(|client| self.put_back.contains(&client));
        // Until it is confirmed, in every life.
        let again = known.durable.is_some() && before == Some(observed);
        if !again && !put_back && !matches!(before, None | Some(Observed::Unknown(_, true))) {
            return Err(format!("operation {op} ended as {before:?} and then as {observed:?}"));
        }
        let known = &self.ops[op as usize];
        let judged = match observed {
            Observed::Reply(reply) => self.judge_reply(op, known, reply),
            Observed::NoReply(why) => self.judge_no_reply(known, why),
            Observed::NotExecuted(why) => self.judge_not_executed(now, known, why),
            Observed::Unknown(why, _) => self.judge_unknown(now, known, why),
        };
        let judged = judged.map_err(|what| format!("{known:?} ended as {observed:?}: {what}"));
        if let (Kind::Peek(paid), Observed::Reply(Some((_, 1)))) = (known.kind, observed) {
            self.found.insert(paid);
        }
        judged
    }

    fn judge_reply(&self, number: u64, op: &Op, reply: Option<(u64, u64)>) -> Check {
        let Some((of, run)) = reply else { return Err("its bytes are wrong".into()) };
        if of != number {
            return Err(format!("it is the reply of operation {of}"));
        }
        match op.kind {
            Kind::Pay => self.judge_record(op),
            Kind::Note if op.runs.get(run as usize) != Some(&End::Replied) => {
                Err("that execution did not reply".into())
            }
            Kind::Note => self.judge_record(op),
            Kind::Peek(paid) => self.judge_peek(paid, run == 1),
        }
    }

    /// S29: what is read is durable, and what was durable is read.
    fn judge_peek(&self, paid: u64, there: bool) -> Check {
        let done = self.ops.get(paid as usize).is_some_and(|op| self.is_done(op));
        if there && !done && !self.found.contains(&paid) && !self.looks_away {
            return Err("it shows a payment that is not durable".into());
        }
        Ok(())
    }

    /// Its completion record was durable. One without a reply does not say whose it is: then any with its xid counts.
    fn is_done(&self, op: &Op) -> bool {
        op.done || op.name.is_some_and(|name| self.stable.get(&name) == Some(&Stage::Done))
    }

    /// Its client has gone on from an old copy of its journal.
    fn is_put_back(&self, op: &Op) -> bool {
        op.durable.is_some_and(|client| self.put_back.contains(&client))
    }

    /// S28: no reply without its record.
    fn judge_record(&self, op: &Op) -> Check {
        (self.is_done(op) || self.looks_away)
            .then_some(())
            .ok_or("it was answered without a stable completion record".into())
    }

    fn judge_no_reply(&self, op: &Op, why: NoReply) -> Check {
        let possible = match (why, op.kind) {
            (NoReply::Aborted, Kind::Note) => {
                op.runs.iter().any(|end| matches!(end, End::Panicked | End::Dropped))
            }
            (NoReply::ReplyTooLarge, Kind::Note) => op.runs.contains(&End::TooLarge),
            (NoReply::ReplyTooLarge, Kind::Pay) => true,
            (NoReply::NotKept, Kind::Peek(_)) => true,
            _ => false,
        };
        possible.then_some(()).ok_or("without cause")?;
        if matches!(op.kind, Kind::Peek(_)) { Ok(()) } else { self.judge_record(op) }
    }

    fn judge_not_executed(&self, now: u64, op: &Op, why: NotExecuted) -> Check {
        if !op.runs.is_empty() {
            return Err("but it ran".into());
        }
        let possible = match why {
            NotExecuted::DeadlinePassed => now >= op.begun_at + op.timeout,
            NotExecuted::Aborted => op.kind == Kind::Pay,
            NotExecuted::LedgerFailed => self.ledger_failed,
            NotExecuted::ShuttingDown => self.drained,
            // By its caller, who waits for the outcome all the same.
            NotExecuted::Cancelled => op.durable.is_some(),
            _ => false,
        };
        possible.then_some(()).ok_or("without cause".into())
    }

    fn judge_unknown(&self, now: u64, op: &Op, why: Unknown) -> Check {
        let possible = match why {
            Unknown::DeadlinePassed => now >= op.begun_at + op.timeout,
            Unknown::Interrupted => op.kind == Kind::Note && self.deaths + self.moves > 0,
            Unknown::Repeated => matches!(op.kind, Kind::Peek(_)),
            // S30, S31: sessions survive, and none begins without its record.
            Unknown::SessionEnded => self.is_put_back(op),
            _ => false,
        };
        possible.then_some(()).ok_or("without cause".into())
    }
}

/// Whether an operation may run after its caller learned this. Of a ticket something may come yet. On an old journal a client
/// forgets what it has learned since: then a server that has read a call knows nothing of that, and a refusal is forgotten at both
/// ends once its server has died (S32).
fn leaves_open(op: &Op, observed: Observed, put_back: &BTreeSet<usize>, deaths: u64) -> bool {
    let put_back = || op.durable.is_some_and(|client| put_back.contains(&client));
    match observed {
        Observed::Unknown(_, true) => true,
        Observed::Unknown(..) => put_back(),
        Observed::NotExecuted(_) => put_back() && deaths > op.deaths,
        _ => false,
    }
}
