//! The reference model: how often every operation ran, and which outcomes its caller may get.

use std::collections::BTreeMap;

use oncewire_driver::protocol::{NoReply, NotExecuted, Unknown};

use super::profile::Profile;

/// An outcome without its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A reply: the operation and the execution that its bytes name, if they are as they were written.
    Reply(Option<(u64, u64)>),
    /// Executed without a reply.
    NoReply(NoReply),
    /// Not executed.
    NotExecuted(NotExecuted),
    /// It is not known; whether a ticket came with it.
    Unknown(Unknown, bool),
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has not.
    Runs,
    /// It returned a reply.
    Replied,
    /// It returned one that is too large.
    TooLarge,
    /// It panicked.
    Panicked,
    /// It was dropped: too slow, or its server crashed.
    Dropped,
}

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Which method, by its place in `handlers.rs`.
    pub method: usize,
    /// It may run more than once.
    pub idempotent: bool,
    /// Nothing is reported of it.
    pub one_way: bool,
    /// It ends when the connection breaks.
    pub fail_fast: bool,
    /// Time until it gives up, in nanoseconds.
    pub timeout: u64,
}

#[derive(Debug)]
struct Op {
    kind: Kind,
    client: usize,
    begun_at: u64,
    runs: Vec<End>,
    observed: Option<Observed>,
    /// Its caller has dropped it.
    given_up: bool,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Model {
    ops: Vec<Op>,
    /// Clients that were closed.
    pub closing: Vec<bool>,
    /// A server has drained.
    pub drained: bool,
    /// A server has crashed, or there was a second one.
    pub servers_changed: bool,
    /// Panics of handlers, by server.
    pub panics: BTreeMap<u32, u64>,
    /// Outcomes reported, by kind: replies, without reply, not executed, unknown.
    pub outcomes: [u64; 4],
    /// Executions.
    pub runs: u64,
    /// What runs where.
    pub load: Load,
    /// How far clocks have jumped forward, in all, with the jumps that make up for a stop.
    pub clocks_ahead: u64,
    /// How long they have stood still, in all.
    pub clocks_stood: u64,
}

/// Calls that run, by server and method.
#[derive(Debug, Default)]
pub struct Load(BTreeMap<(u32, usize), usize>);

impl Load {
    /// A handler begins.
    pub fn enter(&mut self, profile: &Profile, server: u32, method: usize) -> Check {
        let running = self.0.entry((server, method)).or_default();
        *running += 1;
        let Some(limits) = &profile.limits else { return Ok(()) };
        if *running > limits.method && method <= super::handlers::IDEM_PLACE {
            return Err(format!("{running} calls of one method run, and {limits:?}"));
        }
        let all: usize = self.0.range((server, 0)..(server + 1, 0)).map(|(_, count)| count).sum();
        if all > limits.server {
            return Err(format!("{all} calls run, and {limits:?}"));
        }
        Ok(())
    }

    /// A handler has ended.
    pub fn leave(&mut self, server: u32, method: usize) {
        if let Some(running) = self.0.get_mut(&(server, method)) {
            *running -= 1;
        }
    }
}

type Check = Result<(), String>;

impl Model {
    /// A new operation.
    pub fn begin(&mut self, now: u64, client: usize, kind: Kind) -> u64 {
        self.ops.push(Op {
            kind,
            client,
            begun_at: now,
            runs: Vec::new(),
            observed: None,
            given_up: false,
        });
        self.ops.len() as u64 - 1
    }

    /// Operations so far.
    pub fn ops(&self) -> u64 {
        self.ops.len() as u64
    }

    /// An execution begins; returns its number.
    pub fn start(&mut self, op: u64) -> Result<u64, String> {
        let known = self.ops.get_mut(op as usize).ok_or(format!("no operation {op} was made"))?;
        known.runs.push(End::Runs);
        self.runs += 1;
        if known.runs.len() > 1 && !known.kind.idempotent {
            return Err(format!("operation {op} runs a second time"));
        }
        match known.observed {
            Some(Observed::NotExecuted(why)) => Err(format!("operation {op} runs after {why:?}")),
            _ => Ok(known.runs.len() as u64 - 1),
        }
    }

    /// An execution ends.
    pub fn end(&mut self, op: u64, run: u64, end: End) {
        if let Some(op) = self.ops.get_mut(op as usize) {
            op.runs[run as usize] = end;
        }
    }

    /// Which method's.
    pub fn method_of(&self, op: u64) -> usize {
        self.ops[op as usize].kind.method
    }

    /// Its caller waits for it no more.
    pub fn give_up(&mut self, op: u64) {
        self.ops[op as usize].given_up = true;
    }

    /// Whether its handler may hear of a cancel, where nothing goes wrong.
    pub fn may_be_cancelled(&self, op: u64) -> bool {
        let op = &self.ops[op as usize];
        op.given_up || self.closing[op.client]
    }

    /// Whether it runs now.
    pub fn runs_now(&self, op: u64) -> bool {
        self.ops[op as usize].runs.contains(&End::Runs)
    }

    /// Whether a one-way call was executed.
    pub fn one_way_lost(&self) -> Option<u64> {
        let lost = |op: &Op| op.kind.one_way && op.runs.is_empty() && op.observed.is_none();
        self.ops.iter().position(lost).map(|op| op as u64)
    }

    /// It was never begun: nothing is expected of it.
    pub fn not_begun(&mut self, op: u64, why: NotExecuted) {
        self.ops[op as usize].observed = Some(Observed::NotExecuted(why));
    }

    /// The caller got an outcome.
    pub fn observe(&mut self, profile: &Profile, now: u64, op: u64, observed: Observed) -> Check {
        let known = &mut self.ops[op as usize];
        let before = known.observed.replace(observed);
        let at = match observed {
            Observed::Reply(_) => 0,
            Observed::NoReply(_) => 1,
            Observed::NotExecuted(_) => 2,
            Observed::Unknown(..) => 3,
        };
        self.outcomes[at] += 1;
        let known = &self.ops[op as usize];
        if !matches!(before, None | Some(Observed::Unknown(_, true))) {
            return Err(format!("operation {op} ended as {before:?} and then as {observed:?}"));
        }
        let judged = match observed {
            Observed::Reply(reply) => judge_reply(op, known, reply),
            Observed::NoReply(why) => judge_no_reply(known, why),
            Observed::NotExecuted(why) => self.judge_not_executed(profile, now, known, why),
            Observed::Unknown(why, ticket) => self.judge_unknown(profile, now, known, why, ticket),
        };
        judged.map_err(|what| {
            format!(
                "operation {op} {:?}, runs {:?}, ended as {observed:?}: {what}",
                known.kind, known.runs
            )
        })
    }

    fn judge_not_executed(&self, profile: &Profile, now: u64, op: &Op, why: NotExecuted) -> Check {
        if !op.runs.is_empty() {
            return Err("but it ran".into());
        }
        let possible = match why {
            NotExecuted::Overloaded => {
                profile.tight || profile.requests_max.is_some() || profile.limits.is_some()
            }
            NotExecuted::UnknownMethod => op.kind.method == super::handlers::ABSENT,
            NotExecuted::BadArguments => op.kind.method == super::handlers::GARBLED,
            NotExecuted::DeadlinePassed => self.is_late(now, op),
            // A caller that cancels learns nothing.
            NotExecuted::Cancelled => false,
            NotExecuted::ShuttingDown => self.drained,
            NotExecuted::NotIdempotent => op.kind.idempotent,
            NotExecuted::Disconnected => op.kind.fail_fast,
            NotExecuted::Closed => self.closing[op.client],
            NotExecuted::SignatureMismatch | NotExecuted::NotCompared => {
                let compared = op.kind.method <= super::handlers::IDEM_PLACE;
                profile.compares && !profile.brisk && compared
            }
            NotExecuted::NotBegun(_) => true,
            _ => false,
        };
        possible.then_some(()).ok_or("without cause".into())
    }

    /// Whether its deadline has passed by some clock.
    fn is_late(&self, now: u64, op: &Op) -> bool {
        now + self.clocks_ahead >= op.begun_at + op.kind.timeout
    }

    fn judge_unknown(
        &self,
        profile: &Profile,
        now: u64,
        op: &Op,
        why: Unknown,
        ticket: bool,
    ) -> Check {
        let (possible, with_ticket) = match why {
            Unknown::Disconnected => (op.kind.fail_fast, true),
            Unknown::DeadlinePassed => (self.is_late(now, op), true),
            Unknown::SessionEnded => (profile.sessions_may_end(), false),
            Unknown::Repeated => (op.kind.idempotent, false),
            Unknown::Closed => (self.closing[op.client], false),
            _ => (false, false),
        };
        if ticket && !with_ticket {
            return Err("there is nothing left to ask".into());
        }
        if !ticket && with_ticket && !profile.sessions_may_end() && !self.closing[op.client] {
            return Err("there is no ticket".into());
        }
        possible.then_some(()).ok_or("without cause".into())
    }
}

fn judge_reply(number: u64, op: &Op, reply: Option<(u64, u64)>) -> Check {
    let Some((of, run)) = reply else { return Err("its bytes are wrong".into()) };
    if of != number {
        return Err(format!("it is the reply of operation {of}"));
    }
    match op.runs.get(run as usize) {
        Some(End::Replied) => Ok(()),
        other => Err(format!("that execution is {other:?}")),
    }
}

fn judge_no_reply(op: &Op, why: NoReply) -> Check {
    let any = |wanted: &[End]| op.runs.iter().any(|end| wanted.contains(end));
    let possible = match why {
        NoReply::Aborted => any(&[End::Panicked, End::Dropped]),
        NoReply::ReplyTooLarge => any(&[End::TooLarge]),
        NoReply::NotKept => op.kind.idempotent && any(&[End::Replied, End::TooLarge]),
        _ => false,
    };
    possible.then_some(()).ok_or("without cause".into())
}
