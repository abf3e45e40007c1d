//! Keys and values, transactions, leases.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base64;
use crate::client::{Etcd, Repeat};
use crate::error::{EtcdError, EtcdErrorKind};
use crate::json::{bytes, list, natural, number, revision};

/// Names a lease at etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub(crate) i64);

impl std::fmt::Display for LeaseId {
    /// As `etcdctl` writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A key, its value, and since when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that made the key: greater than that of every key before it.
    pub create_revision: u64,
    /// The revision that wrote the value.
    pub mod_revision: u64,
    /// The lease with which it goes.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    pub(crate) fn parse(value: &Value) -> Result<KeyValue, EtcdError> {
        let lease = number(&value["lease"])?;
        Ok(KeyValue {
            key: bytes(&value["key"])?,
            value: bytes(&value["value"])?,
            create_revision: natural(&value["create_revision"])?,
            mod_revision: natural(&value["mod_revision"])?,
            lease: (lease != 0).then_some(LeaseId(lease)),
        })
    }
}

/// The entries of the keys that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// In the order of their keys.
    pub entries: Vec<KeyValue>,
    /// The store's revision when it was read.
    pub revision: u64,
}

impl Found {
    fn parse(answer: &Value) -> Result<Found, EtcdError> {
        let entries = list(&answer["kvs"])?.iter().map(KeyValue::parse);
        Ok(Found { entries: entries.collect::<Result<_, _>>()?, revision: revision(answer)? })
    }
}

/// The first key behind all that begin with `prefix`, as etcd wants it.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // All keys from `prefix` on.
    vec![0]
}

/// A condition of a [`Txn`].
#[derive(Clone, Debug)]
pub struct Compare(Value);

impl Compare {
    fn new(key: impl AsRef<[u8]>, target: &str, field: &str, value: Value) -> Compare {
        let key = base64::encode(key.as_ref());
        Compare(json!({ "key": key, "target": target, "result": "EQUAL", field: value }))
    }

    /// The key was made at this revision; 0: there is no such key.
    pub fn create_revision(key: impl AsRef<[u8]>, revision: u64) -> Compare {
        Compare::new(key, "CREATE", "create_revision", revision.to_string().into())
    }

    /// The key was written last at this revision; 0: there is no such key.
    pub fn mod_revision(key: impl AsRef<[u8]>, revision: u64) -> Compare {
        Compare::new(key, "MOD", "mod_revision", revision.to_string().into())
    }

    /// The key has this value.
    pub fn value(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Compare {
        Compare::new(key, "VALUE", "value", base64::encode(value.as_ref()).into())
    }
}

/// A step of a [`Txn`].
#[derive(Clone, Debug)]
pub struct Op(Value);

impl Op {
    /// Writes a value, which goes with `lease` if there is one.
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, lease: Option<LeaseId>) -> Op {
        Op(json!({ "request_put": put_body(key.as_ref(), value.as_ref(), lease) }))
    }

    /// Removes a key.
    pub fn delete(key: impl AsRef<[u8]>) -> Op {
        Op(json!({ "request_delete_range": { "key": base64::encode(key.as_ref()) } }))
    }

    /// Reads a key.
    pub fn get(key: impl AsRef<[u8]>) -> Op {
        Op(json!({ "request_range": { "key": base64::encode(key.as_ref()) } }))
    }
}

fn put_body(key: &[u8], value: &[u8], lease: Option<LeaseId>) -> Value {
    let lease = lease.map_or(0, |lease| lease.0).to_string();
    json!({ "key": base64::encode(key), "value": base64::encode(value), "lease": lease })
}

/// Steps that are taken all or not at all, by conditions that are looked at in the same moment.
///
/// ```no_run
/// # async fn f(etcd: oncewire_etcd::Etcd, balance: &str) -> Result<(), oncewire_etcd::EtcdError> {
/// use oncewire_etcd::{Compare, Op, Txn};
///
/// let first = Txn::new()
///     .when(Compare::create_revision("accounts/7", 0))
///     .then(Op::put("accounts/7", balance, None))
///     .otherwise(Op::get("accounts/7"));
/// let done = etcd.transact(&first).await?;
/// println!("{}: {:?}", done.succeeded, done.found);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Txn {
    compares: Vec<Compare>,
    thens: Vec<Op>,
    elses: Vec<Op>,
}

/// Conditions of a [`Txn`], and steps of each kind: what etcd takes by default.
const TXN_OPS_MAX: usize = 128;

impl Txn {
    /// One that does nothing.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// A condition. All must hold.
    pub fn when(mut self, compare: Compare) -> Txn {
        self.compares.push(compare);
        self
    }

    /// A step, if all conditions hold. No key may be written twice.
    pub fn then(mut self, op: Op) -> Txn {
        self.thens.push(op);
        self
    }

    /// A step, if one of them does not hold.
    pub fn otherwise(mut self, op: Op) -> Txn {
        self.elses.push(op);
        self
    }
}

/// What became of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TxnDone {
    /// All conditions held.
    pub succeeded: bool,
    /// What the steps that read have read, in their order; nothing for one that found no such key.
    pub found: Vec<Option<KeyValue>>,
    /// The store's revision after it.
    pub revision: u64,
}

/// A lease, as etcd has granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Granted {
    /// Its name.
    pub lease: LeaseId,
    /// How long it lives without being kept alive, counted from a moment between the request and the answer. At least what was asked
    /// for, in whole seconds.
    pub ttl: Duration,
}

/// The longest lease, an hour: what is registered for longer is not registered but written.
const TTL_MAX: Duration = Duration::from_secs(3600);

impl Etcd {
    /// The entry of a key; `None` if there is none.
    ///
    /// # Errors
    /// As [`EtcdErrorKind`] has them; this holds for all requests.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyValue>, EtcdError> {
        let body = json!({ "key": base64::encode(key.as_ref()) });
        let answer = self.request("/v3/kv/range", &body, Repeat::Yes).await?;
        Ok(Found::parse(&answer)?.entries.into_iter().next())
    }

    /// The entries of the keys that begin so, up to so many of them. An answer of more than 4 MiB is an error.
    pub async fn get_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
        entries_max: u32,
    ) -> Result<Found, EtcdError> {
        let prefix = prefix.as_ref();
        self.get_range(prefix, &end_of(prefix), entries_max, 0).await
    }

    /// The same of the keys from one on and below another, as they were at a revision; 0: as they are.
    pub(crate) async fn get_range(
        &self,
        from: &[u8],
        end: &[u8],
        entries_max: u32,
        at: u64,
    ) -> Result<Found, EtcdError> {
        let body = json!({
            "key": base64::encode(from),
            "range_end": base64::encode(end),
            "limit": entries_max.to_string(),
            "revision": at.to_string(),
        });
        Found::parse(&self.request("/v3/kv/range", &body, Repeat::Yes).await?)
    }

    /// Writes a value, which goes with `lease` if there is one. Returns the revision that it has made.
    ///
    /// # Errors
    /// One whose [`executed`](EtcdError::executed) is unknown if it was sent and not answered. It is never sent twice: a copy that
    /// comes late would undo what others have written since.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        lease: Option<LeaseId>,
    ) -> Result<u64, EtcdError> {
        let body = put_body(key.as_ref(), value.as_ref(), lease);
        let answer = self.request("/v3/kv/put", &body, Repeat::No).await?;
        revision(&answer).map_err(EtcdError::in_doubt)
    }

    /// Removes a key; says whether it was there.
    ///
    /// # Errors
    /// As [`put`](Etcd::put)'s.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, EtcdError> {
        let body = json!({ "key": base64::encode(key.as_ref()) });
        let answer = self.request("/v3/kv/deleterange", &body, Repeat::No).await?;
        Ok(number(&answer["deleted"]).map_err(EtcdError::in_doubt)? > 0)
    }

    /// Takes the steps of a transaction.
    ///
    /// # Errors
    /// As [`put`](Etcd::put)'s. [`InvalidInput`](EtcdErrorKind::InvalidInput) for more than 128 conditions or steps, and more than
    /// 1.5 MiB.
    pub async fn transact(&self, txn: &Txn) -> Result<TxnDone, EtcdError> {
        let most = [txn.compares.len(), txn.thens.len(), txn.elses.len()].into_iter().max();
        if most > Some(TXN_OPS_MAX) {
            let message = format!("etcd takes {TXN_OPS_MAX} conditions and steps of each kind");
            return Err(EtcdError::invalid(message));
        }
        let values = |ops: &[Op]| -> Vec<Value> { ops.iter().map(|op| op.0.clone()).collect() };
        let compares: Vec<&Value> = txn.compares.iter().map(|compare| &compare.0).collect();
        let body = json!({
            "compare": compares, "success": values(&txn.thens), "failure": values(&txn.elses),
        });
        let answer = self.request("/v3/kv/txn", &body, Repeat::No).await?;
        parse_done(&answer).map_err(EtcdError::in_doubt)
    }

    /// A lease of at least this length, which is rounded up to whole seconds and at most an hour.
    pub async fn grant(&self, ttl: Duration) -> Result<Granted, EtcdError> {
        let ttl = ttl.clamp(Duration::from_secs(1), TTL_MAX);
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let body = json!({ "TTL": seconds.to_string() });
        // One that was granted and not answered ends by itself.
        let answer = self.request("/v3/lease/grant", &body, Repeat::Yes).await?;
        let (lease, ttl) = (number(&answer["ID"])?, natural(&answer["TTL"])?);
        if lease == 0 || ttl == 0 {
            return Err(EtcdError::malformed("etcd's answer has no lease"));
        }
        Ok(Granted { lease: LeaseId(lease), ttl: Duration::from_secs(ttl) })
    }

    /// Begins a lease's time from its start; says how long it is.
    ///
    /// # Errors
    /// [`LeaseNotFound`](EtcdErrorKind::LeaseNotFound) if it has ended.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, EtcdError> {
        let body = json!({ "ID": lease.0.to_string() });
        let answer = self.request("/v3/lease/keepalive", &body, Repeat::Yes).await?;
        if let Some(error) = error_in(&answer) {
            return Err(error);
        }
        match natural(&answer["result"]["TTL"])? {
            0 => {
                let message = format!("the lease {lease} has ended");
                Err(EtcdError::new(EtcdErrorKind::LeaseNotFound, message))
            }
            seconds => Ok(Duration::from_secs(seconds)),
        }
    }

    /// Ends a lease, and removes what goes with it. One that has ended already is no error.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), EtcdError> {
        let body = json!({ "ID": lease.0.to_string() });
        match self.request("/v3/lease/revoke", &body, Repeat::Yes).await {
            Err(error) if error.kind() == EtcdErrorKind::LeaseNotFound => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

/// The error that an answer of several messages has in the place of one.
pub(crate) fn error_in(answer: &Value) -> Option<EtcdError> {
    let error = &answer["error"];
    if error.is_null() {
        return None;
    }
    let code = error["grpc_code"].as_i64().or(error["code"].as_i64()).unwrap_or(2);
    Some(EtcdError::answered(code, error["message"].as_str().unwrap_or("it says no more")))
}

fn parse_done(answer: &Value) -> Result<TxnDone, EtcdError> {
    let succeeded = answer["succeeded"].as_bool().unwrap_or(false);
    let mut found = Vec::new();
    for response in list(&answer["responses"])? {
        let range = &response["response_range"];
        if !range.is_null() {
            found.push(list(&range["kvs"])?.first().map(KeyValue::parse).transpose()?);
        }
    }
    Ok(TxnDone { succeeded, found, revision: revision(answer)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(end_of(b"a/"), b"a0");
        assert_eq!(end_of(b"a\xff"), b"b");
        assert_eq!(end_of(b"\xff\xff"), [0]);
        assert_eq!(end_of(b""), [0]);
    }
}
