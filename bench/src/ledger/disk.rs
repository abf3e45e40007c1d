//! The disk by itself, and redb by itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use oncewire_ledger_redb::redb::{Database, TableDefinition};

use super::{micros, quantile};
use crate::Result;
use crate::clock::{Duration, now};

const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("accounts");

/// A file that is overwritten in place.
pub(super) struct Raw(File);

/// A database with one small table.
pub(super) struct Redb {
    database: Database,
    commits: u64,
}

pub(super) struct Bare {
    pub(super) raw: Raw,
    pub(super) redb: Redb,
}

impl Raw {
    /// One write of a page, and one sync.
    pub(super) fn sync(&self) -> Result<()> {
        self.0.write_all_at(&[1; 4096], 0)?;
        Ok(self.0.sync_data()?)
    }
}

impl Redb {
    /// One commit of one record.
    pub(super) fn commit(&mut self) -> Result<()> {
        self.commits += 1;
        let transaction = self.database.begin_write()?;
        transaction.open_table(TABLE)?.insert(self.commits % 1000, self.commits)?;
        Ok(transaction.commit()?)
    }
}

impl Bare {
    pub(super) fn new(folder: &Path) -> Result<Bare> {
        let raw = File::create(folder.join("raw"))?;
        raw.write_all_at(&[0; 65536], 0)?;
        raw.sync_all()?;
        let database = Database::create(folder.join("redb"))?;
        Ok(Bare { raw: Raw(raw), redb: Redb { database, commits: 0 } })
    }

    /// Microseconds of a sync and of a commit, by turns for this long.
    pub(super) fn medians(&mut self, time: Duration) -> Result<[f64; 2]> {
        let (mut syncs, mut commits) = (Vec::new(), Vec::new());
        let begun = now();
        while now().duration_since(begun) < time {
            let start = now();
            self.raw.sync()?;
            syncs.push(micros(start));
            let start = now();
            self.redb.commit()?;
            commits.push(micros(start));
        }
        Ok([quantile(&mut syncs, 0.5), quantile(&mut commits, 0.5)])
    }
}
