//! What a small world is made of: its calls, what may happen in it and how often, and bugs planted in it.

use oncewire_core::{MethodId, MethodSpec};

use crate::world::body::REPLY_HEAD;
use crate::world::profile::{IDEM, PLAIN, TRANSACTION};

/// What every server offers.
pub(super) fn methods() -> [MethodSpec; 3] {
    [PLAIN, IDEM, TRANSACTION].map(|id| {
        let mut spec = MethodSpec::new(id);
        spec.reply_len_max = REPLY_HEAD as u32;
        spec.idempotent = id == IDEM;
        spec
    })
}

/// How a handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It replies.
    Reply,
    /// It is refused before it starts.
    Refuse,
    /// The same, but only in the first life of its server: what refuses it does not outlive a restart.
    RefuseFirst,
    /// It aborts.
    Abort,
    /// Its reply is too large.
    TooLarge,
    /// Its transaction is rolled back.
    RollBack,
}

/// A call that a client makes.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub(super) method: MethodId,
    pub(super) idempotent: bool,
    pub(super) transaction: bool,
    pub(super) one_way: bool,
    pub(super) fail_fast: bool,
    /// Its deadline passes at the next step of its client's clock.
    pub(super) short: bool,
    /// Its client knows the method's signature. Each life of a server means something else by it than the one before; the first
    /// life of the first server means the same as the clients.
    pub(super) typed: bool,
    pub(super) end: End,
}

pub(super) const CALL: Kind = Kind {
    method: PLAIN,
    idempotent: false,
    transaction: false,
    one_way: false,
    fail_fast: false,
    short: false,
    typed: false,
    end: End::Reply,
};
pub(super) const REFUSED: Kind = Kind { end: End::Refuse, ..CALL };
pub(super) const REFUSED_FIRST: Kind = Kind { end: End::RefuseFirst, ..CALL };
pub(super) const SHORT: Kind = Kind { short: true, ..CALL };
pub(super) const FAST: Kind = Kind { fail_fast: true, ..CALL };
pub(super) const ABORTED: Kind = Kind { end: End::Abort, ..CALL };
pub(super) const TOO_LARGE: Kind = Kind { end: End::TooLarge, ..CALL };
pub(super) const ONE_WAY: Kind = Kind { one_way: true, ..CALL };
pub(super) const AGAIN: Kind = Kind { method: IDEM, idempotent: true, ..CALL };
pub(super) const AGAIN_REFUSED: Kind = Kind { end: End::Refuse, ..AGAIN };
pub(super) const AGAIN_SHORT: Kind = Kind { short: true, ..AGAIN };
pub(super) const ATOMIC: Kind = Kind { method: TRANSACTION, transaction: true, ..CALL };
pub(super) const TYPED: Kind = Kind { typed: true, ..CALL };
pub(super) const TYPED_AGAIN: Kind = Kind { typed: true, ..AGAIN };
pub(super) const TYPED_ATOMIC: Kind = Kind { typed: true, ..ATOMIC };
pub(super) const ROLLED_BACK: Kind = Kind { end: End::RollBack, ..ATOMIC };

/// How finely a handler's steps lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A call is over in the moment in which it is admitted.
    AtOnce,
    /// It starts at once, and ends later.
    Runs,
    /// It is admitted, starts later, and ends later still.
    Slow,
}

/// How a machine is broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// It is not.
    #[default]
    No,
    /// The server runs every request that comes, also one that it has run.
    NoDedup,
    /// The server forgets kept replies.
    Forgetful,
    /// The client uses an xid twice.
    Reuse,
    /// An earlier form of S4: the client reads what its older connection still had for it.
    Unread,
    /// The client compares no signatures.
    GateOpen,
    /// S34: a server takes the session that it has for the latest, also when its client was at another one.
    Trusting,
    /// S34: a server that has lost a session still writes its records.
    Unfenced,
    /// S34: a server that has lost a session has its records deleted when it gives it up.
    Deleting,
    /// An earlier form of S3: to resume a session that a server does not have opens it there, under the same server id.
    ResumeOpens,
}

/// How often things may go wrong in one schedule.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct Budget {
    /// A connection breaks: one end learns of it, the other one later.
    pub cuts: u8,
    /// What came up a connection comes once more, on a connection of its own, at any server, at any time.
    pub copies: u8,
    /// A frame of a connection that its client has left is read after one of a newer connection.
    pub late: u8,
    /// A server's process dies.
    pub restarts: u8,
    /// A server's clock passes a lease.
    pub leases: u8,
    /// A client dials the server that does not have its session.
    pub strays: u8,
    /// A client's clock passes the short deadlines.
    pub client_ticks: u8,
    /// A server's clock passes the short deadlines.
    pub server_ticks: u8,
    /// A client cancels a call.
    pub cancels: u8,
    /// A client forgets a call.
    pub forgets: u8,
    /// A server drains.
    pub drains: u8,
    /// A frame is lost on a link that does not break.
    pub losses: u8,
    /// A server's ledger cannot write any more.
    pub disks: u8,
    /// A client closes.
    pub closes: u8,
    /// A durable client's process dies, and another one goes on from its journal.
    pub deaths: u8,
    /// A durable client's journal is copied; once the copy is put back when its process dies.
    pub old_copies: u8,
    /// A server cannot reach the records that it shares.
    pub unreachable: u8,
    /// A server's clock passes half a lease: all that a session gets whose `Welcome` its client may not have.
    pub half_leases: u8,
}

pub(super) const NONE: Budget = Budget {
    cuts: 0,
    copies: 0,
    late: 0,
    restarts: 0,
    leases: 0,
    strays: 0,
    client_ticks: 0,
    server_ticks: 0,
    cancels: 0,
    forgets: 0,
    drains: 0,
    losses: 0,
    disks: 0,
    closes: 0,
    deaths: 0,
    old_copies: 0,
    half_leases: 0,
    unreachable: 0,
};

/// A small world.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Its name.
    pub name: &'static str,
    /// What is tried in it, in words.
    pub about: &'static str,
    /// The calls of each client, in their order.
    pub(super) calls: &'static [&'static [Kind]],
    pub(super) slots: u32,
    pub(super) hosts: usize,
    pub(super) ledger: bool,
    /// All servers have the same records (S34).
    pub(super) shared: bool,
    pub(super) lossy: bool,
    /// Clients keep journals.
    pub(super) durable: bool,
    pub(super) pace: Pace,
    /// Bytes of replies that a server keeps.
    pub(super) kept_max: u64,
    /// Clients acknowledge at once, not when they are idle.
    pub(super) ack_at_once: bool,
    /// Copies are of everything that came up a connection which resumed a session, not of its `Hello` alone.
    pub(super) replays: bool,
    /// What may go wrong.
    pub budget: Budget,
    /// How a machine is broken on purpose.
    pub broken: Broken,
    /// Small enough for a test in a debug build.
    pub quick: bool,
}

impl Scene {
    /// Whether clients compare signatures.
    pub(super) fn is_typed(&self) -> bool {
        self.calls.iter().any(|calls| calls.iter().any(|kind| kind.typed))
    }
}

pub(super) const SCENE: Scene = Scene {
    name: "",
    about: "",
    calls: &[&[CALL]],
    slots: 2,
    hosts: 1,
    ledger: false,
    shared: false,
    lossy: false,
    durable: false,
    pace: Pace::Runs,
    kept_max: 1 << 20,
    ack_at_once: false,
    replays: false,
    budget: NONE,
    broken: Broken::No,
    quick: false,
};
