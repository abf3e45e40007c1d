//! Worlds with planted bugs: small, except in what shows the bug.

use super::scene::*;

/// Worlds whose machines are broken on purpose: the explorer must find each.
pub static BROKEN: &[Scene] = &[
    Scene {
        name: "no-dedup",
        about: "a server that knows no duplicates",
        broken: Broken::NoDedup,
        budget: Budget { cuts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "forgetful",
        about: "a server that forgets kept replies",
        broken: Broken::Forgetful,
        pace: Pace::AtOnce,
        budget: Budget { cuts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "reuse",
        about: "a client that uses an xid twice",
        calls: &[&[CALL, CALL]],
        broken: Broken::Reuse,
        slots: 1,
        ..SCENE
    },
    Scene {
        name: "unread",
        about: "a client that reads what its older connection still had (an earlier form of S4, C62)",
        calls: &[&[CALL, REFUSED_FIRST]],
        ledger: true,
        pace: Pace::AtOnce,
        broken: Broken::Unread,
        budget: Budget { restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "gate-open",
        about: "a client that compares no signatures (before S33)",
        calls: &[&[TYPED]],
        ledger: true,
        broken: Broken::GateOpen,
        budget: Budget { restarts: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared-trusting",
        about: "a server that takes the session which it has for the latest, though its client was elsewhere (before S34)",
        hosts: 2,
        ledger: true,
        shared: true,
        broken: Broken::Trusting,
        budget: Budget { cuts: 2, late: 1, cancels: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared-unfenced",
        about: "a server that has lost a session, and still writes its records",
        calls: &[&[ATOMIC]],
        hosts: 2,
        ledger: true,
        shared: true,
        pace: Pace::Slow,
        broken: Broken::Unfenced,
        budget: Budget { cuts: 1, late: 1, ..NONE },
        ..SCENE
    },
    Scene {
        name: "shared-deleting",
        about: "a server that has lost a session, and has its records deleted when it gives that up",
        calls: &[&[CALL, CALL]],
        hosts: 2,
        ledger: true,
        shared: true,
        pace: Pace::AtOnce,
        broken: Broken::Deleting,
        budget: Budget { cuts: 2, ..NONE },
        ..SCENE
    },
    Scene {
        name: "resume-opens",
        about: "a server that opens a session which it does not have, by the number that its client names (an earlier \
                form of S3)",
        broken: Broken::ResumeOpens,
        pace: Pace::AtOnce,
        budget: Budget { restarts: 1, ..NONE },
        ..SCENE
    },
];
