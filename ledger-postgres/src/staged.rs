//! What a batch makes of the ledger's tables, until it is written: few statements, however many entries.

use std::collections::{BTreeMap, BTreeSet};

use oncewire_driver::ledger::{CallEntry, CallName, SessionEntry};
use oncewire_driver::protocol::{SessionId, SessionTag};

use crate::sql::Sql;

/// A session as the tables name it.
pub(crate) type Hash = [u8; 16];

/// What will be written. What is removed goes first, then sessions, then records of calls: each step in memory leaves out what a
/// later entry makes void, so that the order of the entries is kept.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    opened: BTreeMap<Hash, (SessionTag, Vec<u8>)>,
    ended: BTreeSet<Hash>,
    calls: BTreeMap<(Hash, i32), (u64, Vec<u8>)>,
    withdrawn: Vec<(Hash, i32, u64)>,
    /// The highest xid seen, and the calls up to it that stay.
    settled: BTreeMap<Hash, (u64, Vec<u64>)>,
}

/// Records of calls, in columns.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) sessions: Vec<Vec<u8>>,
    pub(crate) slots: Vec<i32>,
    pub(crate) xids: Vec<i64>,
    pub(crate) records: Vec<Vec<u8>>,
}

impl Staged {
    pub(crate) fn open(&mut self, session: &SessionEntry) {
        let hash = session.id.to_bytes();
        self.ended.remove(&hash);
        self.opened.insert(hash, (session.tag, session.encode()));
    }

    pub(crate) fn end(&mut self, session: SessionId) {
        let hash = session.to_bytes();
        self.opened.remove(&hash);
        self.settled.remove(&hash);
        self.calls.retain(|(of, _), _| *of != hash);
        self.ended.insert(hash);
    }

    /// A record replaces none of a later call on its slot (C76).
    pub(crate) fn put(&mut self, call: CallEntry<'_>) {
        let (key, xid) = (key_of(call.session, call.slot), call.record.xid.get());
        if self.calls.get(&key).is_none_or(|(there, _)| *there <= xid) {
            let mut bytes = Vec::new();
            call.encode(&mut bytes);
            self.calls.insert(key, (xid, bytes));
        }
    }

    pub(crate) fn withdraw(&mut self, name: CallName) {
        let (key, xid) = (key_of(name.session, name.slot), name.xid.get());
        if self.calls.get(&key).is_some_and(|(there, _)| *there == xid) {
            self.calls.remove(&key);
        }
        self.withdrawn.push((key.0, key.1, xid));
    }

    /// `held` is in order.
    pub(crate) fn settle(&mut self, session: SessionId, seen: u64, held: Vec<u64>) {
        let hash = session.to_bytes();
        let stays = |xid: u64| xid > seen || held.binary_search(&xid).is_ok();
        self.calls.retain(|(of, _), (xid, _)| *of != hash || stays(*xid));
        self.settled.insert(hash, (seen, held));
    }

    /// Sessions that are opened, and that are ended.
    pub(crate) fn opened_and_ended(&self) -> (Vec<Hash>, Vec<Hash>) {
        (self.opened.keys().copied().collect(), self.ended.iter().copied().collect())
    }

    /// Writes all but the records of calls, and returns those. `schema` is where the tables are, `owner` whose new sessions are.
    pub(crate) fn write(
        &mut self,
        sql: &mut Sql,
        schema: &str,
        owner: i64,
    ) -> Result<Columns, postgres::Error> {
        if !self.ended.is_empty() {
            let hashes: Vec<Vec<u8>> = self.ended.iter().map(|hash| hash.to_vec()).collect();
            let end = format!(
                "WITH calls AS (DELETE FROM {schema}.oncewire_calls WHERE session = ANY($1)) \
                 DELETE FROM {schema}.oncewire_sessions WHERE session = ANY($1)"
            );
            sql.execute(&end, &[&hashes])?;
        }
        if !self.settled.is_empty() {
            self.write_settled(sql, schema)?;
        }
        if !self.withdrawn.is_empty() {
            let (mut sessions, mut slots, mut xids) = (Vec::new(), Vec::new(), Vec::new());
            for (hash, slot, xid) in &self.withdrawn {
                sessions.push(hash.to_vec());
                slots.push(*slot);
                xids.push(*xid as i64);
            }
            let withdraw = format!(
                "DELETE FROM {schema}.oncewire_calls c \
                 USING unnest($1::bytea[], $2::int[], $3::bigint[]) AS w (session, slot, xid) \
                 WHERE c.session = w.session AND c.slot = w.slot AND c.xid = w.xid"
            );
            sql.execute(&withdraw, &[&sessions, &slots, &xids])?;
        }
        if !self.opened.is_empty() {
            let (mut sessions, mut tags, mut entries) = (Vec::new(), Vec::new(), Vec::new());
            for (hash, (tag, entry)) in &self.opened {
                sessions.push(hash.to_vec());
                tags.push(tag.number() as i64);
                entries.push(&entry[..]);
            }
            let open = format!(
                "INSERT INTO {schema}.oncewire_sessions (session, tag, seen, entry, owner, epoch) \
                 SELECT session, tag, 0, entry, $4, 1 FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS o (session, tag, entry) \
                 ON CONFLICT (session) DO UPDATE SET entry = excluded.entry, owner = excluded.owner, epoch = 1"
            );
            sql.execute(&open, &[&sessions, &tags, &entries, &owner])?;
        }
        let mut columns = Columns::default();
        for ((hash, slot), (xid, record)) in std::mem::take(&mut self.calls) {
            columns.sessions.push(hash.to_vec());
            columns.slots.push(slot);
            columns.xids.push(xid as i64);
            columns.records.push(record);
        }
        Ok(columns)
    }

    fn write_settled(&self, sql: &mut Sql, schema: &str) -> Result<(), postgres::Error> {
        let (mut sessions, mut seens) = (Vec::new(), Vec::new());
        let (mut holders, mut held) = (Vec::new(), Vec::new());
        for (hash, (seen, stay)) in &self.settled {
            sessions.push(hash.to_vec());
            seens.push(*seen as i64);
            for xid in stay {
                holders.push(hash.to_vec());
                held.push(*xid as i64);
            }
        }
        // Numbers of calls have no sign: with the top bit turned over, signed ones are in the same order.
        let settle = format!(
            "WITH s AS (SELECT * FROM unnest($1::bytea[], $2::bigint[]) AS s (session, seen)), \
             h AS (SELECT * FROM unnest($3::bytea[], $4::bigint[]) AS h (session, xid)), \
             gone AS (DELETE FROM {schema}.oncewire_calls c USING s WHERE c.session = s.session \
                 AND (c.xid # {TOP}) <= (s.seen # {TOP}) \
                 AND NOT EXISTS (SELECT 1 FROM h WHERE h.session = c.session AND h.xid = c.xid)) \
             UPDATE {schema}.oncewire_sessions o SET seen = s.seen FROM s WHERE o.session = s.session"
        );
        sql.execute(&settle, &[&sessions, &seens, &holders, &held])?;
        Ok(())
    }
}

/// The top bit of a bigint.
pub(crate) const TOP: &str = "'-9223372036854775808'::bigint";

fn key_of(session: SessionId, slot: u16) -> (Hash, i32) {
    (session.to_bytes(), i32::from(slot))
}

#[cfg(test)]
mod tests {
    use oncewire_driver::protocol::{CallRecord, RecordState, Xid};

    use super::*;

    const ALICE: SessionId = SessionId::from_bytes([1; 16]);
    const BOB: SessionId = SessionId::from_bytes([2; 16]);

    fn call(session: SessionId, slot: u16, xid: u64) -> CallEntry<'static> {
        let xid = Xid::new(xid).unwrap();
        CallEntry {
            session,
            slot,
            record: CallRecord { xid, digest: 0, state: RecordState::Done(b"") },
        }
    }

    fn xids(staged: &Staged) -> Vec<u64> {
        staged.calls.values().map(|(xid, _)| *xid).collect()
    }

    #[test]
    fn what_a_later_entry_makes_void_is_not_written() {
        let mut staged = Staged::default();
        staged.put(call(ALICE, 1, 5));
        staged.put(call(ALICE, 1, 3));
        assert_eq!(xids(&staged), [5], "a later call stays");
        staged.put(call(ALICE, 2, 6));
        staged.put(call(BOB, 1, 2));
        staged.settle(ALICE, 6, vec![6]);
        assert_eq!(xids(&staged), [6, 2], "what is held stays, and another session's");
        staged.put(call(ALICE, 1, 9));
        staged.withdraw(CallName { session: ALICE, slot: 1, xid: Xid::new(8).unwrap() });
        assert_eq!(xids(&staged), [9, 6, 2]);
        staged.withdraw(CallName { session: ALICE, slot: 1, xid: Xid::new(9).unwrap() });
        assert_eq!(xids(&staged), [6, 2]);
        staged.end(ALICE);
        assert_eq!(xids(&staged), [2]);
        assert!(staged.settled.is_empty() && staged.ended.contains(&ALICE.to_bytes()));
    }
}
