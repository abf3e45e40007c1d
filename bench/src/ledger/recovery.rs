//! How long a server takes until it can answer again.

use std::path::Path;

use oncewire_driver::Subject;
use oncewire_driver::ledger::{CallEntry, SessionEntry};
use oncewire_driver::protocol::wire::Grants;
use oncewire_driver::protocol::{CallRecord, RecordState, SessionId, Xid};
use oncewire_ledger_redb::RedbLedger;
use oncewire_ledger_redb::redb::{Database, TableDefinition};

use super::service::ledgered;
use crate::Result;
use crate::clock::now;

const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("oncewire.sessions");
const CALLS: TableDefinition<'_, &[u8; 18], &[u8]> = TableDefinition::new("oncewire.calls");
/// Records of a session.
const SLOTS: u16 = 1000;

/// Makes a ledger with so many records, as a crash leaves it.
pub(super) fn fill(path: &Path, records: u64) -> Result<()> {
    let made = path.with_extension("made");
    drop(RedbLedger::open(&made)?);
    let database = Database::open(&made)?;
    let transaction = database.begin_write()?;
    let grants = Grants {
        slots: 1024,
        request_len_max: 1 << 20,
        reply_len_max: 1 << 20,
        lease_ms: 300_000,
        keepalive_ms: 10_000,
    };
    {
        let mut sessions = transaction.open_table(SESSIONS)?;
        let mut calls = transaction.open_table(CALLS)?;
        for session in 0..u128::from(records / u64::from(SLOTS)) {
            let id = session.wrapping_mul(0x9e37_79b9_7f4a_7c15_d6e8_feb8_6659_fd93).to_be_bytes();
            let id = SessionId::from_bytes(id);
            let entry =
                SessionEntry { id, tag: id.tag(), subject: Subject::Anonymous, grants, seen: 0 };
            sessions.insert(&id.to_bytes(), &entry.encode()[..])?;
            for slot in 0..SLOTS {
                let xid = Xid::new(u64::from(slot) + 1024).ok_or("an xid")?;
                let record = CallRecord { xid, digest: 7, state: RecordState::Done(&[7; 32]) };
                let mut bytes = Vec::new();
                CallEntry { session: id, slot, record }.encode(&mut bytes);
                let mut key = [0; 18];
                key[..16].copy_from_slice(&id.to_bytes());
                key[16..].copy_from_slice(&slot.to_be_bytes());
                calls.insert(&key, &bytes[..])?;
            }
        }
    }
    transaction.commit()?;
    // It was not closed.
    std::fs::copy(&made, path)?;
    drop(database);
    Ok(())
}

/// Seconds until a server is there, after a crash and after an end in good order.
pub(super) fn measure(path: &Path, folder: &Path) -> Result<Vec<(String, f64)>> {
    let copy = folder.join("recovered");
    std::fs::copy(path, &copy)?;
    // What a copy leaves unwritten is not the recovery's to write.
    std::fs::File::open(&copy)?.sync_all()?;
    let mut found = Vec::new();
    for how in ["after a crash", "after an end in good order"] {
        let begun = now();
        let server = ledgered(RedbLedger::open(&copy)?)?;
        found.push((how.to_owned(), now().duration_since(begun).as_secs_f64()));
        if server.counters().kept_bytes == 0 {
            return Err("nothing was recovered".into());
        }
        close(server, &copy)?;
    }
    Ok(found)
}

/// Waits until the server's tasks, which look once a second, have let go of the file.
fn close(server: oncewire_driver::Server, path: &Path) -> Result<()> {
    drop(server);
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    Ok(std::fs::File::open(lock)?.lock()?)
}
