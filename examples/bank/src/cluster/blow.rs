//! What is done to servers, clients, and what the ledger is in.

use crate::chance::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    not(all(feature = "postgres", feature = "etcd")),
    allow(dead_code, reason = "some are of one store")
)]
pub(super) enum Blow {
    /// A server that serves is killed.
    Kill,
    /// One that serves is paused, and continues when another one has taken over.
    Pause,
    /// One that serves is paused, and continues soon.
    PauseShortly,
    /// One that waits for its turn is killed.
    KillWaiting,
    KillClient,
    /// The primary is killed, and started again.
    Restart,
    /// The primary is killed, its stand-by is promoted and gets a stand-by of its own.
    FailOver,
    /// The member of etcd that leads is killed, and started again.
    KillLeader,
    /// One that follows.
    KillFollower,
    /// The member of etcd that leads is paused.
    PauseLeader,
    /// One that follows.
    PauseFollower,
    /// Two of three members of etcd are killed, and started again soon.
    LoseQuorum,
}

impl Blow {
    #[cfg(feature = "postgres")]
    pub(super) fn draw_on_postgres(rng: &mut Rng, shared: bool) -> Blow {
        match rng.below(100) {
            0..45 => Blow::Kill,
            45..65 => Blow::Pause,
            // Where all serve, none waits.
            65..75 if shared => Blow::Kill,
            65..75 => Blow::KillWaiting,
            75..88 => Blow::KillClient,
            88..94 => Blow::Restart,
            _ => Blow::FailOver,
        }
    }

    #[cfg(feature = "etcd")]
    pub(super) fn draw_on_etcd(rng: &mut Rng) -> Blow {
        match rng.below(100) {
            0..28 => Blow::Kill,
            28..42 => Blow::Pause,
            42..50 => Blow::PauseShortly,
            50..57 => Blow::KillWaiting,
            57..70 => Blow::KillClient,
            70..78 => Blow::KillLeader,
            78..84 => Blow::KillFollower,
            84..91 => Blow::PauseLeader,
            91..95 => Blow::PauseFollower,
            _ => Blow::LoseQuorum,
        }
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Blow::Kill => "a server that serves killed",
            Blow::Pause => "a server that serves paused until another one serves",
            Blow::PauseShortly => "a server that serves paused for up to 1.5 s",
            Blow::KillWaiting => "a server that waits killed",
            Blow::KillClient => "a client killed",
            Blow::Restart => "the primary killed and started again",
            Blow::FailOver => "the primary killed, its stand-by promoted",
            Blow::KillLeader => "etcd's leader killed, and started again",
            Blow::KillFollower => "a follower of etcd's killed, and started again",
            Blow::PauseLeader => "etcd's leader paused",
            Blow::PauseFollower => "a follower of etcd's paused",
            Blow::LoseQuorum => "two of three members of etcd killed, and started again",
        }
    }
}
