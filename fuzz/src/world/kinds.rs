//! What was met on the way, beside the faults: a run that never meets one of these kinds proves nothing about it.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $text:literal,)*) => {
        /// Kinds of situations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// What each kind is called.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];
            /// How many kinds there are.
            pub const COUNT: usize = Kind::NAMES.len();
        }
    };
}

kinds! {
    /// A frame of a lossy link is delivered a second time.
    Doubled "doubled frames",
    /// A second copy of a `NotSeen` was delivered behind a further `Ask` for its call.
    OldNotSeen "old NotSeens behind an Ask",
    /// What came on a connection that its client has left was read after that.
    Old "reads of an old connection",
    /// A server that keeps a ledger recorded a session before its `Welcome` left.
    Recorded "recorded sessions",
    /// A stranger sent a call in the same write as its `Hello`.
    Early "calls behind a Hello",
    /// A stranger sent a call again with other metadata.
    Altered "calls with other metadata",
    /// A silent stranger was closed at the handshake's own time.
    TooSlow "handshakes too slow",
    /// A connection opened under a keepalive of a minute or more, or none.
    Patient "connections with a long keepalive",
    /// A machine was shown an earlier time than before.
    Back "clocks shown earlier",
    /// A call of a durable client was written to its journal before it was sent.
    Journaled "journaled calls",
    /// The process of a durable client died and went on from its journal.
    ClientCrash "client crashes",
    /// The same from an old copy of the journal.
    OldJournal "old journals",
    /// A server that came back from its ledger has nothing of a call that it had read.
    Hole "holes in a ledger",
    /// A reply was acknowledged that has not left whole.
    HalfSent "half-sent replies acknowledged",
    /// The rest of a frame left from shared memory.
    SharedRest "rests in shared memory",
    /// A reply was written where its connection sends next as its call ended.
    AtOnce "replies written at once",
    /// What a server holds was compared with the allocator.
    Measured "memory measured",
    /// A server with clients on a lossy link drained.
    LossyDrain "drains on lossy links",
    /// A server with durable clients drained.
    DurableDrain "drains with durable clients",
    /// A client closed its connection as soon as everything was said.
    Left "leaves without waiting",
    /// A frame took longer than the keepalive to arrive.
    SlowFrame "frames slower than the keepalive",
    /// A session was claimed by another server than the one that had it.
    Moved "sessions that moved",
    /// Two servers wanted one session at the same time.
    Raced "claims that raced",
    /// A server that had lost a session wanted to write a record of it.
    Fenced "late records of a loser",
    /// A server could not reach the ledger that it shares.
    Unreachable "claims out of reach",
}
