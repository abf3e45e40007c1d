//! The worlds: each is small, except in what it tests.

use super::scene::*;
use crate::world::body::REPLY_HEAD;

/// All worlds.
pub static SCENES: &[Scene] = &[
    Scene {
        name: "cut",
        about: "two calls, a cut, and what was sent before it read late",
        calls: &[&[CALL, CALL]],
        budget: Budget { cuts: 1, late: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "cuts",
        about: "three calls on two slots, two cuts, one late read",
        calls: &[&[CALL, CALL, CALL]],
        budget: Budget { cuts: 2, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "acks",
        about: "three calls on two slots, two cuts, every answer acknowledged at once",
        calls: &[&[CALL, CALL, CALL]],
        ack_at_once: true,
        budget: Budget { cuts: 2, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "ends",
        about: "a refusal, an abort and a reply that is too large, two cuts",
        calls: &[&[REFUSED, ABORTED, TOO_LARGE]],
        pace: Pace::AtOnce,
        budget: Budget { cuts: 2, late: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "restarts",
        about: "three calls, a cut, two restarts that lose everything",
        calls: &[&[CALL, CALL, CALL]],
        budget: Budget { cuts: 1, restarts: 2, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "opens",
        about: "two servers behind one address, a copy of an open that arrives late at either, a cut, a lease end",
        hosts: 2,
        pace: Pace::AtOnce,
        budget: Budget { cuts: 1, copies: 1, late: 1, leases: 1, strays: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "late opens",
        about: "two copies of opens and resumes that arrive late, a cut, a lease end",
        budget: Budget { cuts: 1, copies: 2, late: 1, leases: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "addresses",
        about: "two servers behind one address, two cuts, a restart, a call that fails fast",
        calls: &[&[CALL, FAST]],
        hosts: 2,
        budget: Budget { cuts: 2, late: 1, restarts: 1, strays: 2, ..NONE },
        ..SCENE
    },
    Scene {
        name: "stray",
        about: "the same, smaller, with a copy of an open that arrives late",
        calls: &[&[CALL]],
        hosts: 2,
        pace: Pace::AtOnce,
        budget: Budget { cuts: 1, late: 1, strays: 1, copies: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "replay",
        about: "all that came up a resumed connection comes once more, two cuts",
        calls: &[&[CALL, CALL]],
        replays: true,
        budget: Budget { cuts: 2, copies: 1, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "ledger",
        about: "recorded calls, one refused at first: records survive two restarts, refusals do not; two cuts",
        calls: &[&[CALL, REFUSED_FIRST]],
        ledger: true,
        pace: Pace::Slow,
        budget: Budget { cuts: 2, late: 1, restarts: 2, ..NONE },
        ..SCENE
    },
    Scene {
        name: "record",
        about: "the same, smaller",
        calls: &[&[REFUSED_FIRST, CALL]],
        ledger: true,
        pace: Pace::Slow,
        budget: Budget { cuts: 1, restarts: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "holes",
        about: "three recorded calls on two slots, a cut and two restarts",
        calls: &[&[CALL, CALL, CALL]],
        ledger: true,
        budget: Budget { cuts: 1, late: 1, restarts: 2, ..NONE },
        ..SCENE
    },
    Scene {
        name: "transactions",
        about: "transactions, one rolled back, beside a recorded call; a cut and two restarts",
        calls: &[&[ATOMIC, ROLLED_BACK, CALL]],
        ledger: true,
        budget: Budget { cuts: 1, late: 1, restarts: 2, ..NONE },
        ..SCENE
    },
    Scene {
        name: "expired record",
        about: "a recorded call whose deadline passes while its record is written, and one that takes its slot (C76)",
        calls: &[&[SHORT, CALL]],
        slots: 1,
        ledger: true,
        pace: Pace::Slow,
        budget: Budget {
            cuts: 1,
            restarts: 2,
            client_ticks: 1,
            server_ticks: 1,
            cancels: 1,
            ..NONE
        },
        ..SCENE
    },
    Scene {
        name: "deadlines",
        about: "deadlines and cancels between admission and start, a refusal read late, two cuts",
        calls: &[&[SHORT, CALL]],
        pace: Pace::Slow,
        budget: Budget { cuts: 2, late: 1, client_ticks: 1, server_ticks: 1, cancels: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "deadline",
        about: "the same, smaller",
        calls: &[&[SHORT, CALL]],
        slots: 1,
        pace: Pace::Slow,
        budget: Budget { cuts: 1, client_ticks: 1, server_ticks: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "give-ups",
        about: "three calls given up while disconnected: one late, one cancelled, one forgotten (C65); two cuts",
        calls: &[&[SHORT, CALL, CALL]],
        pace: Pace::AtOnce,
        budget: Budget { cuts: 2, late: 1, client_ticks: 1, cancels: 1, forgets: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "idempotent",
        about: "calls that may run again, one refused, one late, beside one that may not; two cuts (C73, C74)",
        calls: &[&[AGAIN_SHORT, AGAIN_REFUSED, CALL]],
        budget: Budget { cuts: 2, client_ticks: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "again",
        about: "calls that may run again, a restart, two servers, a cancel",
        calls: &[&[AGAIN, CALL]],
        hosts: 2,
        budget: Budget { cuts: 1, late: 1, restarts: 1, strays: 1, cancels: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "one-way",
        about: "a one-way call, one that fails fast and a plain one, two cuts, a restart",
        calls: &[&[ONE_WAY, FAST, CALL]],
        budget: Budget { cuts: 2, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "lease",
        about: "a lease ends while calls run and while the client is away; two cuts, one late read",
        calls: &[&[CALL, CALL, CALL]],
        budget: Budget { cuts: 2, leases: 1, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "lease ledger",
        about: "a lease ends around a restart with a ledger",
        calls: &[&[CALL, CALL]],
        ledger: true,
        budget: Budget { cuts: 2, leases: 1, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "drain",
        about: "a server drains under calls that are admitted and run; two cuts (C75)",
        calls: &[&[CALL, CALL]],
        pace: Pace::Slow,
        budget: Budget { cuts: 2, late: 1, drains: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "close",
        about: "a client closes, its goodbye is lost or read late; two cuts, a lease end",
        calls: &[&[CALL, CALL]],
        budget: Budget { cuts: 2, late: 1, closes: 1, leases: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "disk",
        about: "a ledger that cannot write any more; a cut and a restart",
        calls: &[&[CALL, ATOMIC, CALL]],
        ledger: true,
        pace: Pace::Slow,
        budget: Budget { cuts: 1, disks: 1, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "lossy",
        about: "a link that loses two frames, and requests sent again after a time",
        calls: &[&[CALL, CALL]],
        lossy: true,
        budget: Budget { losses: 2, client_ticks: 2, ..NONE },
        ..SCENE
    },
    Scene {
        name: "lossy cut",
        about: "the same with a cut, a cancel, and a call that may run again",
        calls: &[&[CALL, AGAIN]],
        lossy: true,
        budget: Budget { cuts: 1, losses: 1, client_ticks: 2, cancels: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "holes drain",
        about: "a server with a ledger crashes, and drains while it is asked for what it has not recorded (C79); two cuts",
        calls: &[&[CALL, CALL]],
        ledger: true,
        budget: Budget { cuts: 2, restarts: 1, drains: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "hole drain",
        about: "the same, smaller",
        ledger: true,
        budget: Budget { restarts: 1, drains: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "lossy drain",
        about: "a server drains at a link that loses two frames (C80)",
        calls: &[&[CALL, CALL]],
        lossy: true,
        pace: Pace::AtOnce,
        budget: Budget { losses: 2, client_ticks: 2, drains: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "durable",
        about: "a client with a journal dies twice, a cut",
        calls: &[&[CALL, CALL]],
        durable: true,
        budget: Budget { cuts: 1, deaths: 2, ..NONE },
        ..SCENE
    },
    Scene {
        name: "durable drain",
        about: "a server with a ledger drains while calls are journaled (C78); its client dies",
        calls: &[&[CALL, CALL]],
        ledger: true,
        durable: true,
        budget: Budget { deaths: 1, drains: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "durable ledger",
        about: "client and server die, each with what it has written; a cut",
        calls: &[&[CALL, CALL]],
        ledger: true,
        durable: true,
        budget: Budget { cuts: 1, deaths: 1, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "durable lease",
        about: "half a lease passes before a journaled call is read (C82); a cut",
        durable: true,
        budget: Budget { cuts: 1, deaths: 1, half_leases: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "ledger lease",
        about: "half a lease passes before the first call of a recorded session is read (C81); two cuts",
        ledger: true,
        budget: Budget { cuts: 2, half_leases: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "old journal",
        about: "a client goes on from an old copy of its journal (C83), a cut",
        calls: &[&[CALL, CALL, CALL]],
        durable: true,
        pace: Pace::AtOnce,
        budget: Budget { cuts: 1, deaths: 1, old_copies: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "meanings",
        about: "a server is replaced by one that means something else by two of three methods (S33); a cut",
        calls: &[&[TYPED, TYPED_AGAIN, CALL]],
        budget: Budget { cuts: 1, late: 1, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "meanings ledger",
        about: "the same with a ledger: the session goes on, and what was not read is not sent again; two restarts, a cancel",
        calls: &[&[TYPED, TYPED_ATOMIC]],
        ledger: true,
        pace: Pace::Slow,
        budget: Budget { cuts: 1, restarts: 2, cancels: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "meaning",
        about: "the same, smaller",
        calls: &[&[TYPED, CALL]],
        ledger: true,
        budget: Budget { cuts: 1, restarts: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "meanings durable",
        about: "a client with a journal, whose calls are journaled only for a server that means the same; a cut, a restart",
        calls: &[&[TYPED, TYPED]],
        ledger: true,
        durable: true,
        budget: Budget { cuts: 1, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "meanings lossy",
        about: "a link that loses a frame, and a server that drains and is replaced by one that means something else",
        calls: &[&[TYPED, TYPED_AGAIN]],
        lossy: true,
        budget: Budget { losses: 1, client_ticks: 1, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared",
        about: "two servers with the same records: a client moves with a call in flight, what it left is read late",
        hosts: 2,
        ledger: true,
        shared: true,
        pace: Pace::Slow,
        budget: Budget { cuts: 1, late: 1, cancels: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "shared transaction",
        about: "the same with a transaction, and claims that find the records out of reach",
        calls: &[&[ATOMIC]],
        hosts: 2,
        ledger: true,
        shared: true,
        pace: Pace::Slow,
        budget: Budget { cuts: 1, late: 1, cancels: 1, unreachable: 1, ..NONE },
        quick: true,
        ..SCENE
    },
    Scene {
        name: "shared back",
        about: "two servers with the same records: a client moves there and back, what it left is read late",
        calls: &[&[CALL]],
        hosts: 2,
        ledger: true,
        shared: true,
        pace: Pace::Slow,
        budget: Budget { cuts: 2, late: 1, cancels: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared slots",
        about: "the same with two calls on one slot, the second a transaction",
        calls: &[&[CALL, ATOMIC]],
        slots: 1,
        hosts: 2,
        ledger: true,
        shared: true,
        budget: Budget { cuts: 2, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared copies",
        about: "claims that race: a copy of what resumed a session comes to either server, once more",
        hosts: 2,
        ledger: true,
        shared: true,
        pace: Pace::AtOnce,
        budget: Budget { cuts: 1, copies: 1, late: 1, unreachable: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared restarts",
        about: "two servers with the same records, one of which dies; a drain",
        hosts: 2,
        ledger: true,
        shared: true,
        budget: Budget { cuts: 1, late: 1, restarts: 1, drains: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared again",
        about: "a call that may run again moves there and back, beside a refusal that its server does not outlive; what it left is read late",
        calls: &[&[AGAIN, REFUSED_FIRST]],
        hosts: 2,
        ledger: true,
        shared: true,
        budget: Budget { cuts: 2, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared lease",
        about: "two servers with the same records, and a lease that is over at either",
        hosts: 2,
        ledger: true,
        shared: true,
        budget: Budget { cuts: 2, leases: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "room",
        about: "two clients at a server with room for one reply; a cut",
        calls: &[&[CALL, CALL], &[CALL]],
        kept_max: REPLY_HEAD as u64,
        budget: Budget { cuts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "clients",
        about: "two clients of one call each, a cut and a restart",
        calls: &[&[CALL], &[CALL]],
        budget: Budget { cuts: 1, restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "clients ledger",
        about: "two clients of one call each at a server with a ledger, a restart",
        calls: &[&[CALL], &[CALL]],
        ledger: true,
        budget: Budget { restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "crowd",
        about: "two clients of three calls each on two slots, a cut",
        calls: &[&[CALL, CALL, CALL], &[CALL, CALL, CALL]],
        pace: Pace::AtOnce,
        budget: Budget { cuts: 1, ..NONE },
        ..SCENE
    },
];
