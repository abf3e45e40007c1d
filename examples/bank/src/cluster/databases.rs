//! The databases of a cluster, and what happens to them.

use oncewire_ledger_postgres::postgres::{Client, NoTls};

use super::blow::Blow;
use crate::database::Cluster;

/// A primary and its synchronous stand-by.
pub(super) struct Databases {
    primary: Cluster,
    stand_by: Option<Cluster>,
    /// Which of the two folders the primary has.
    at: usize,
    folders: [String; 2],
}

const NAMES: [&str; 2] = ["bank-a", "bank-b"];

impl Databases {
    pub(super) fn start() -> Result<Databases, String> {
        let primary = Cluster::start(NAMES[0], "").map_err(|error| error.to_string())?;
        let stand_by = primary.stand_by(NAMES[1])?;
        let folders = [primary.host(), stand_by.host()];
        let mut databases = Databases { primary, stand_by: Some(stand_by), at: 0, folders };
        databases.replicate()?;
        Ok(databases)
    }

    /// Finds whichever of the two takes writes.
    pub(super) fn connection(&self) -> String {
        let [a, b] = &self.folders;
        format!("host={a},{b} user=postgres dbname=postgres target_session_attrs=read-write")
    }

    /// From now on no commit succeeds that is not in the stand-by as well.
    fn replicate(&mut self) -> Result<(), String> {
        let explain = |error: oncewire_ledger_postgres::postgres::Error| error.to_string();
        let connection = self.primary.connection("postgres");
        let mut admin = Client::connect(&connection, NoTls).map_err(explain)?;
        admin
            .batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            .and_then(|()| admin.batch_execute("SELECT pg_reload_conf()"))
            .map_err(explain)?;
        let is_sync = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
        while admin.query_opt(is_sync, &[]).map_err(explain)?.is_none() {
            std::thread::yield_now();
        }
        Ok(())
    }

    pub(super) fn strike(&mut self, blow: Blow) -> Result<(), String> {
        match blow {
            Blow::Restart => self.restart(),
            Blow::FailOver => self.fail_over(),
            other => Err(format!("{other:?} is nothing that is done to a database")),
        }
    }

    fn restart(&mut self) -> Result<(), String> {
        self.primary.end("KILL")?;
        self.primary.resume()
    }

    /// The stand-by is the primary, and commits alone until it has a stand-by: what was answered before is in it.
    fn fail_over(&mut self) -> Result<(), String> {
        self.primary.end("KILL")?;
        let stand_by = self.stand_by.take().ok_or("there is no stand-by")?;
        stand_by.promote()?;
        // Its drop removes the files of the one that was killed.
        self.primary = stand_by;
        self.at = 1 - self.at;
        Ok(())
    }

    /// Gives the primary a stand-by, if it has none any more.
    pub(super) fn renew_stand_by(&mut self) -> Result<(), String> {
        if self.stand_by.is_some() {
            return Ok(());
        }
        self.stand_by = Some(self.primary.stand_by(NAMES[1 - self.at])?);
        self.replicate()
    }
}
