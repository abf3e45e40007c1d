//! What a transactional handler is given.

use std::collections::BTreeMap;
use std::fmt;

use super::Reads;

/// Bytes of the longest key.
const KEY_LEN_MAX: usize = 1 << 10;
/// Bytes of the longest value.
const VALUE_LEN_MAX: usize = 128 << 10;
/// Keys that one call may write.
const CALL_KEYS_MAX: usize = 100;
/// Bytes that one call may write, keys and values.
const CALL_BYTES_MAX: usize = 512 << 10;

pub(super) type Effects = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A map from bytes to bytes, in which the calls of a batch write one after the other. What a call has written goes with the record of
/// its reply, or not at all.
pub struct Transaction {
    committed: Reads,
    /// What the calls before this one have written.
    batch: Effects,
    call: Effects,
    call_bytes: usize,
}

/// A call wants to write more than a transaction of etcd's takes: its effects are rolled back if it returns this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitExceeded {
    /// The key is longer than 1 KiB.
    Key,
    /// The value is longer than 128 KiB.
    Value,
    /// More than 100 keys, or 512 KiB.
    Call,
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitExceeded::Key => "a key has 1 KiB at most",
            LimitExceeded::Value => "a value has 128 KiB at most",
            LimitExceeded::Call => "a call writes 100 keys and 512 KiB at most",
        })
    }
}

impl std::error::Error for LimitExceeded {}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("writes", &self.call.len()).finish_non_exhaustive()
    }
}

impl Transaction {
    pub(super) fn new(committed: Reads) -> Transaction {
        Transaction { committed, batch: Effects::new(), call: Effects::new(), call_bytes: 0 }
    }

    pub(super) fn begin_call(&mut self) {
        self.call.clear();
        self.call_bytes = 0;
    }

    /// What the call has written, if it remains.
    pub(super) fn end_call(&mut self, remains: bool) -> Effects {
        let effects = std::mem::take(&mut self.call);
        if !remains {
            return Effects::new();
        }
        self.batch.extend(effects.iter().map(|(key, value)| (key.clone(), value.clone())));
        effects
    }

    /// The value of a key; `None` if there is none.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let key = key.as_ref();
        match self.call.get(key).or_else(|| self.batch.get(key)) {
            Some(written) => written.clone(),
            None => self.committed.get(key),
        }
    }

    /// The keys that begin so and their values, in their order.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let prefix = prefix.as_ref();
        let mut found: BTreeMap<_, _> = self.committed.scan(prefix).into_iter().collect();
        for written in [&self.batch, &self.call] {
            let range = written.range(prefix.to_vec()..);
            for (key, value) in range.take_while(|(key, _)| key.starts_with(prefix)) {
                match value {
                    Some(value) => found.insert(key.clone(), value.clone()),
                    None => found.remove(key),
                };
            }
        }
        found.into_iter().collect()
    }

    /// Writes a value.
    ///
    /// # Errors
    /// It is too long, or the call has written too much. Nothing was written.
    pub fn put(
        &mut self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), LimitExceeded> {
        let value = value.into();
        if value.len() > VALUE_LEN_MAX {
            return Err(LimitExceeded::Value);
        }
        self.write(key.into(), Some(value))
    }

    /// Removes a key.
    ///
    /// # Errors
    /// The call has written too much. Nothing was removed.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<(), LimitExceeded> {
        self.write(key.as_ref().to_vec(), None)
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), LimitExceeded> {
        if key.len() > KEY_LEN_MAX {
            return Err(LimitExceeded::Key);
        }
        let len = |value: Option<&Option<Vec<u8>>>| {
            value.map_or(0, |value| key.len() + value.as_ref().map_or(0, Vec::len))
        };
        let before = self.call.get(&key);
        let bytes = self.call_bytes - len(before) + len(Some(&value));
        let keys = self.call.len() + usize::from(before.is_none());
        if bytes > CALL_BYTES_MAX || keys > CALL_KEYS_MAX {
            return Err(LimitExceeded::Call);
        }
        self.call_bytes = bytes;
        self.call.insert(key, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_sees_what_was_written_before_it_and_leaves_nothing_when_it_is_rolled_back() {
        let pair = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        let committed = [pair("a/1", "x"), pair("a/2", "y"), pair("b", "z")];
        let mut transaction = Transaction::new(Reads::new(committed.into()));
        transaction.begin_call();
        transaction.put("a/3", "new").unwrap();
        transaction.delete("a/1").unwrap();
        assert_eq!(transaction.scan("a/"), [pair("a/2", "y"), pair("a/3", "new")]);
        assert_eq!(transaction.end_call(true).len(), 2);
        transaction.begin_call();
        transaction.put("a/1", "again").unwrap();
        assert_eq!(transaction.scan("a/").len(), 3);
        assert!(transaction.end_call(false).is_empty());
        transaction.begin_call();
        assert_eq!(transaction.get("a/1"), None);
        assert_eq!(transaction.get("a/3").as_deref(), Some(&b"new"[..]));
        assert_eq!(transaction.get("b").as_deref(), Some(&b"z"[..]));
    }

    #[test]
    fn a_call_that_writes_too_much_is_refused_what_is_too_much() {
        let mut transaction = Transaction::new(Reads::new(BTreeMap::new()));
        transaction.begin_call();
        assert_eq!(transaction.put("a", vec![0; VALUE_LEN_MAX + 1]), Err(LimitExceeded::Value));
        assert_eq!(transaction.put(vec![0; KEY_LEN_MAX + 1], ""), Err(LimitExceeded::Key));
        for key in 0..4_u8 {
            // What is written again counts once.
            for _ in 0..3 {
                transaction.put([key], vec![0; VALUE_LEN_MAX - 1]).unwrap();
            }
        }
        assert_eq!(transaction.put("e", "x"), Err(LimitExceeded::Call));
        transaction.begin_call();
        for key in 0..100_u8 {
            transaction.put([key], "x").unwrap();
        }
        assert_eq!(
            transaction.put("e", "x").and(transaction.delete([101])),
            Err(LimitExceeded::Call)
        );
        transaction.put([99], "y").unwrap();
    }
}
