//! The table: its rows and columns, what each cell claims, and whether a run came out so.

use std::collections::BTreeSet;

use crate::cell::Seen;
use crate::server::{IN_MEMORY, NAIVE, ON_LEDGER, REMEMBERS};

/// What a call does to the account, and dollars: "deduct" takes them, "put" sets what is in it.
pub(crate) type Act = (&'static str, i64);

/// The two stories: the client's calls, of which the first suffers.
pub(crate) const STORIES: [[Act; 2]; 2] =
    [[("deduct", 10), ("deduct", 1)], [("put", 10), ("put", 20)]];

/// What a call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    AtLeastOnce,
    NoRetry,
    Remembers,
    Retry,
    OneSlot,
    WithinLease,
    AfterLease,
    Ledger,
}

impl Row {
    pub(crate) const ALL: [(Row, &'static str); 8] = [
        (Row::AtLeastOnce, "at least once (naive)"),
        (Row::NoRetry, "at most once, no retry (as Go's net/rpc)"),
        (Row::Remembers, "at most once by old[uid], for 5 min (naive)"),
        (Row::Retry, "at most once, with retry (Oncewire)"),
        (Row::OneSlot, "  one outstanding call (slots = 1)"),
        (Row::WithinLease, "  keeps trying for less than the lease"),
        (Row::AfterLease, "  comes back after the lease"),
        (Row::Ledger, "exactly once (Oncewire on a ledger)"),
    ];

    /// The kind of server that it needs.
    pub(crate) fn server(self) -> &'static str {
        match self {
            Row::AtLeastOnce | Row::NoRetry => NAIVE,
            Row::Remembers => REMEMBERS,
            Row::Ledger => ON_LEDGER,
            _ => IN_MEMORY,
        }
    }

    /// Whether it is Oncewire.
    pub(crate) fn has_sessions(self) -> bool {
        matches!(self.server(), IN_MEMORY | ON_LEDGER)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    LostRequest,
    LostReply,
    DelayedDuplicate,
    SlowServer,
    ServerCrash,
}

impl Fault {
    /// Its name on the command line, and what it does.
    pub(crate) const ALL: [(Fault, &'static str, &'static str); 5] = [
        (Fault::LostRequest, "lost-request", "the connection breaks before it is through"),
        (
            Fault::LostReply,
            "lost-reply",
            "executed, and the connection breaks before it is through",
        ),
        (Fault::DelayedDuplicate, "delayed-duplicate", "what seemed lost comes after all else"),
        (Fault::SlowServer, "slow-server", "the handler runs longer than the client waits"),
        (Fault::ServerCrash, "server-crash", "executed, and killed before the reply is through"),
    ];
}

/// What is claimed of a row and a fault.
pub(crate) struct Claim {
    learned: &'static str,
    deducted: &'static str,
    puts: &'static str,
    rules: &'static str,
    copy_rules: &'static str,
    pub(crate) why: &'static str,
}

/// The claim about this row and fault.
pub(crate) fn claim(title: &str, fault: &str) -> Option<Claim> {
    let blocks = include_str!("claims.txt").split("\n\n");
    let mut lines = blocks.filter(|block| block.starts_with(title.trim())).flat_map(str::lines);
    let line = lines.find(|line| line.starts_with(fault))?;
    let fields: Vec<&str> = line.split('|').map(str::trim).collect();
    let [_, learned, deducted, puts, rules, copy_rules, why] = fields[..] else { return None };
    Some(Claim { learned, deducted, puts, rules, copy_rules, why })
}

/// The rules that are named in a text, apart from those that a row lacks.
fn numbers(rules: &str) -> impl Iterator<Item = u32> {
    let words = rules.split(' ').filter(|_| !rules.starts_with("no "));
    words.filter_map(|word| word.strip_prefix('S')?.parse().ok())
}

impl Claim {
    /// The rules that decide, as they are printed.
    pub(crate) fn rules(&self) -> String {
        let rules: BTreeSet<u32> = numbers(self.rules).chain(numbers(self.copy_rules)).collect();
        let rules: Vec<String> = rules.iter().map(|rule| format!("S{rule}")).collect();
        if rules.is_empty() { self.rules.to_owned() } else { rules.join(" ") }
    }

    /// What came of a run, as it is printed; and how it is not as it is claimed, if it is not.
    pub(crate) fn check(
        &self,
        fault: Fault,
        acts: [Act; 2],
        seen: &Seen,
    ) -> (String, Option<String>) {
        let (kind, first) = acts[0];
        let dollars: Vec<i64> = seen
            .effects
            .iter()
            .filter_map(|effect| effect.strip_prefix(kind)?.trim().parse().ok())
            .collect();
        let words: Vec<String> = dollars.iter().map(i64::to_string).collect();
        let is_put = kind == "put";
        let (printed, is, claimed) = if is_put {
            let last = dollars.last().copied().unwrap_or(0);
            let (puts, mark) = (words.join(" "), if last == 20 { "" } else { "WRONG" });
            (format!("{puts:<12} k = {last} {mark:<7}"), puts, self.puts)
        } else {
            let ran = dollars.iter().filter(|dollars| **dollars == first).count();
            let left = 100 - dollars.iter().sum::<i64>();
            let is_certain = seen.learned.ends_with("reply");
            let mark =
                ["WRONG", "in doubt", ""][if ran > 1 { 0 } else { 1 + usize::from(is_certain) }];
            let printed = format!("{:<16}ran {ran}x  ${left} {mark:<10}", seen.learned);
            (printed, ran.to_string(), self.deducted)
        };
        let copies = if is_put || fault == Fault::DelayedDuplicate { self.copy_rules } else { "" };
        let rules: BTreeSet<u32> = numbers(self.rules).chain(numbers(copies)).collect();
        let is = (seen.learned.as_str(), is.as_str(), &seen.rules);
        let claimed = (self.learned, claimed, &rules);
        (printed, (is != claimed).then(|| format!("{is:?}, and not {claimed:?}")))
    }
}
