//! What the tables hold, read whole.

use oncewire_driver::ledger::{CallEntry, LedgerError, SessionEntry};
use oncewire_driver::protocol::{SessionId, SessionTag};

use crate::error::explain;
use crate::sql::Sql;

/// What the tables hold.
pub(crate) enum Kept<'a> {
    Session(&'a SessionEntry),
    Call(CallEntry<'a>),
    /// What it was, before its bytes were damaged.
    Broken(&'static str),
}

/// Reads every session, and then every call; of one owner, if one is named.
pub(crate) fn for_each(
    sql: &mut Sql,
    schema: &str,
    owner: Option<i64>,
    mut each: impl FnMut(Kept<'_>),
) -> Result<(), LedgerError> {
    let read = |error| explain("be read", &error);
    let own = owner.map_or_else(String::new, |owner| format!(" WHERE owner = {owner}"));
    let of = format!("SELECT session, tag, seen, entry FROM {schema}.oncewire_sessions{own}");
    let mut rows = sql.rows(&of).map_err(read)?;
    while let Some(row) = rows.next().map_err(read)? {
        let mut entry = session_of(row.get(0)).and_then(|id| SessionEntry::decode(id, row.get(3)));
        if let Some(entry) = &mut entry {
            entry.tag = SessionTag::from_number(row.get::<_, i64>(1) as u64);
            entry.seen = entry.seen.max(row.get::<_, i64>(2) as u64);
        }
        each(match &entry {
            Some(entry) => Kept::Session(entry),
            None => Kept::Broken("a session"),
        });
    }
    drop(rows);
    let own = owner.map_or_else(String::new, |owner| {
        format!(" JOIN {schema}.oncewire_sessions USING (session) WHERE owner = {owner}")
    });
    let of = format!("SELECT session, slot, xid, record FROM {schema}.oncewire_calls{own}");
    let mut rows = sql.rows(&of).map_err(read)?;
    while let Some(row) = rows.next().map_err(read)? {
        let name = session_of(row.get(0)).zip(u16::try_from(row.get::<_, i32>(1)).ok());
        let entry = name.and_then(|(id, slot)| CallEntry::decode(id, slot, row.get(3)));
        // The number has a column beside its record, for statements to compare.
        let is_right =
            |entry: &CallEntry<'_>| entry.record.xid.get() == row.get::<_, i64>(2) as u64;
        each(entry.filter(is_right).map_or(Kept::Broken("a call"), Kept::Call));
    }
    Ok(())
}

fn session_of(bytes: &[u8]) -> Option<SessionId> {
    bytes.try_into().map(SessionId::from_bytes).ok()
}

pub(crate) fn broken(what: &str) -> LedgerError {
    LedgerError::new(format!(
        "the ledger in PostgreSQL is corrupt: {what} in it cannot be decoded; restore a backup, and give it a new id with \
         `oncewire-ledger-postgres restore`"
    ))
}
