//! What the ledger of a cluster is in.

use std::net::SocketAddr;

use super::blow::Blow;
#[cfg(feature = "postgres")]
use super::databases::Databases;
#[cfg(feature = "etcd")]
use super::quorum::Quorum;
use crate::address::Address;
use crate::chance::Rng;
use crate::cli;

/// It ends with its processes, or with this one.
pub(super) enum Store {
    #[cfg(feature = "postgres")]
    Postgres(Databases),
    #[cfg(feature = "etcd")]
    Etcd(Quorum),
}

impl Store {
    /// # Errors
    /// It could not be started, or was not built in.
    pub(super) fn start(store: cli::Store) -> Result<Store, String> {
        match store {
            #[cfg(feature = "postgres")]
            cli::Store::Postgres => Databases::start().map(Store::Postgres),
            #[cfg(not(feature = "postgres"))]
            cli::Store::Postgres => Err(cli::WITHOUT_POSTGRES.to_owned()),
            #[cfg(feature = "etcd")]
            cli::Store::Etcd => Quorum::start().map(Store::Etcd),
            #[cfg(not(feature = "etcd"))]
            cli::Store::Etcd => Err(cli::WITHOUT_ETCD.to_owned()),
        }
    }

    /// What every server is given.
    pub(super) fn arguments(&self) -> Vec<String> {
        match self {
            #[cfg(feature = "postgres")]
            Store::Postgres(databases) => {
                vec!["--ledger".to_owned(), format!("postgres:{}", databases.connection())]
            }
            #[cfg(feature = "etcd")]
            Store::Etcd(quorum) => quorum.arguments(),
        }
    }

    /// Where clients find servers that listen at these addresses.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(unused_variables, reason = "by name, clients find them without")
    )]
    pub(super) fn address(&self, servers: Vec<SocketAddr>) -> Address {
        match self {
            #[cfg(feature = "postgres")]
            Store::Postgres(_) => Address::AnyOf(servers),
            #[cfg(feature = "etcd")]
            Store::Etcd(quorum) => Address::Etcd(quorum.place()),
        }
    }

    #[cfg_attr(
        not(feature = "postgres"),
        expect(unused_variables, reason = "only PostgreSQL is shared")
    )]
    pub(super) fn draw(&self, rng: &mut Rng, shared: bool) -> Blow {
        match self {
            #[cfg(feature = "postgres")]
            Store::Postgres(_) => Blow::draw_on_postgres(rng, shared),
            #[cfg(feature = "etcd")]
            Store::Etcd(_) => Blow::draw_on_etcd(rng),
        }
    }

    /// What a server is given that takes over from one that hangs; `None` if it need only wait.
    pub(super) fn take_over(&self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "postgres")]
            Store::Postgres(_) => Some("--take-over"),
            #[cfg(feature = "etcd")]
            Store::Etcd(_) => None,
        }
    }

    /// Makes it whole after a blow.
    ///
    /// # Errors
    /// Something could not be started again.
    pub(super) async fn mend(&mut self) -> Result<(), String> {
        match self {
            #[cfg(feature = "postgres")]
            Store::Postgres(databases) => databases.renew_stand_by(),
            #[cfg(feature = "etcd")]
            Store::Etcd(quorum) => quorum.mend().await,
        }
    }

    /// Says what was done to it; `count` says how often these were.
    pub(super) fn describe(&self, count: impl Fn(&[Blow]) -> u64) -> String {
        match self {
            #[cfg(feature = "postgres")]
            Store::Postgres(_) => {
                format!("killed the primary {} times", count(&[Blow::Restart, Blow::FailOver]))
            }
            #[cfg(feature = "etcd")]
            Store::Etcd(_) => {
                let killed = count(&[Blow::KillLeader, Blow::KillFollower, Blow::LoseQuorum]);
                let paused = count(&[Blow::PauseLeader, Blow::PauseFollower]);
                format!("killed members of etcd {killed} times, paused them {paused} times")
            }
        }
    }
}
