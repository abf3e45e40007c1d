//! What tests want of a cluster; they are left out where there is no PostgreSQL.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use oncewire_ledger_postgres::postgres::{self, NoTls};

use super::{Cluster, StartError};

/// A cluster of the test's own; `None`, and said so, where there is no PostgreSQL.
pub fn start(name: &str) -> Option<Cluster> {
    match Cluster::start(name, "") {
        Ok(cluster) => Some(cluster),
        Err(StartError::Absent) => {
            eprintln!("skipped: {}", StartError::Absent);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The one of all tests of a program that do not harm it.
pub fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| start("shared")).as_ref()
}

impl Cluster {
    /// How to connect to a new database of it.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.admin().batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.connection(&name)
    }

    /// A connection of the superuser.
    pub fn admin(&self) -> postgres::Client {
        connect(&self.connection("postgres"))
    }
}

/// A connection beside the ledger's.
pub fn connect(connection: &str) -> postgres::Client {
    postgres::Client::connect(connection, NoTls).unwrap()
}
