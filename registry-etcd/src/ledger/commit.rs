//! Writes steps, and finds out what became of a transaction whose answer was lost.

use std::collections::BTreeMap;
use std::time::Duration;

use oncewire_driver::ServerId;
use oncewire_driver::ledger::{Identity, LedgerError};

use super::keys::Keys;
use super::staged::{Place, Step};
use super::{Reads, failed};
use crate::client::Etcd;
use crate::error::{EtcdError, EtcdErrorKind};
use crate::kv::{Compare, Op, Txn, TxnDone};
use crate::leadership::Leadership;
use crate::time::Pauses;

/// Keys of a transaction; etcd takes 128, and one is the identity.
const OPS_MAX: usize = 120;
/// Bytes of a transaction: in base64 and JSON a third more, of 1.5 MiB.
const BYTES_MAX: usize = 900 << 10;
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(200);

pub(super) struct Writer {
    etcd: Etcd,
    keys: Keys,
    /// `None` is a planted bug: it writes whatever others have done.
    leadership: Option<Leadership>,
    identity: Identity,
    data: Reads,
}

type Changes = BTreeMap<Place, Option<Vec<u8>>>;

impl Writer {
    pub(super) fn new(
        etcd: Etcd,
        keys: Keys,
        leadership: Option<Leadership>,
        identity: Identity,
        data: Reads,
    ) -> Writer {
        Writer { etcd, keys, leadership, identity, data }
    }

    pub(super) fn commit(&self) -> u64 {
        self.identity.commit
    }

    pub(super) fn leadership_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.leadership.as_ref().map(Leadership::until_ended);
        async move {
            match ended {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Writes the identity of a new ledger.
    pub(super) async fn create(&mut self) -> Result<(), LedgerError> {
        let none = Compare::create_revision(self.keys.identity(), 0);
        self.transact(Changes::new(), Some(none)).await
    }

    /// Makes it the ledger of another server.
    #[cfg(feature = "tool")]
    pub(super) async fn rename(&mut self, server: ServerId) -> Result<(), LedgerError> {
        let before = Keys::identity_value(self.identity);
        let unchanged = Compare::value(self.keys.identity(), before);
        self.transact_as(server, Changes::new(), Some(unchanged)).await
    }

    /// Lets another one have the ledger at once.
    #[cfg(feature = "tool")]
    pub(super) async fn resign(self) {
        if let Some(leadership) = self.leadership {
            // Else it ends with its lease.
            let _resigned = leadership.resign().await;
        }
    }

    /// Writes all steps, and returns the number of the last commit.
    pub(super) async fn write(&mut self, steps: Vec<Step>) -> Result<u64, LedgerError> {
        let (mut changes, mut bytes) = (Changes::new(), 0);
        for step in steps {
            let len: usize =
                step.iter().map(|(place, value)| self.len(place, value.as_ref())).sum();
            if changes.len() + step.len() > OPS_MAX || bytes + len > BYTES_MAX {
                self.next(std::mem::take(&mut changes)).await?;
                bytes = 0;
            }
            changes.extend(step);
            bytes += len;
        }
        // A batch that changes nothing has a number too.
        self.next(changes).await?;
        Ok(self.identity.commit)
    }

    fn len(&self, place: &Place, value: Option<&Vec<u8>>) -> usize {
        self.keys.of(place).len() + value.map_or(0, Vec::len)
    }

    async fn next(&mut self, changes: Changes) -> Result<(), LedgerError> {
        let before = Keys::identity_value(self.identity);
        let unchanged = Compare::value(self.keys.identity(), before);
        let unchanged = self.leadership.is_some().then_some(unchanged);
        self.transact(changes, unchanged).await
    }

    /// One transaction, which takes effect once: only while we lead, and only behind the commit before.
    async fn transact(
        &mut self,
        changes: Changes,
        unchanged: Option<Compare>,
    ) -> Result<(), LedgerError> {
        self.transact_as(self.identity.server, changes, unchanged).await
    }

    async fn transact_as(
        &mut self,
        server: ServerId,
        changes: Changes,
        unchanged: Option<Compare>,
    ) -> Result<(), LedgerError> {
        let next = Identity { server, commit: self.identity.commit + 1 };
        let (identity_key, identity) = (self.keys.identity(), Keys::identity_value(next));
        let mut txn = Txn::new().then(Op::put(&identity_key, &identity, None));
        if let Some(leadership) = &self.leadership {
            txn = txn
                .when(leadership.fence())
                .otherwise(Op::get(&identity_key))
                .otherwise(Op::get(leadership.key()));
        }
        if let Some(unchanged) = unchanged {
            txn = txn.when(unchanged);
        }
        for (place, value) in &changes {
            let key = self.keys.of(place);
            txn = txn.then(match value {
                Some(value) => Op::put(key, value, None),
                None => Op::delete(key),
            });
        }
        self.until_done(&txn, identity.as_bytes()).await?;
        self.identity = next;
        self.data.apply(changes.into_iter().filter_map(|(place, value)| match place {
            Place::Data(key) => Some((key, value)),
            _ => None,
        }));
        Ok(())
    }

    /// Sends it until it is known what became of it.
    async fn until_done(&self, txn: &Txn, identity: &[u8]) -> Result<(), LedgerError> {
        let mut pauses = Pauses::up_to(PAUSE_MAX);
        loop {
            match self.etcd.transact(txn).await {
                Ok(done) if done.succeeded || self.was_first(&done, identity) => return Ok(()),
                Ok(_) => {
                    return Err(LedgerError::new(
                        "another server has the ledger in etcd: this one commits nothing any more, and answers nothing that has no \
                         record; end it, or open the ledger again to wait for its turn",
                    ));
                }
                // A second copy does no harm.
                Err(error) if may_pass(&error) && self.is_held() => {
                    pauses.pause(&**self.etcd.runtime()).await;
                }
                Err(error) => return Err(failed("be written", &error)),
            }
        }
    }

    fn is_held(&self) -> bool {
        self.leadership.as_ref().is_none_or(Leadership::is_held)
    }

    /// Whether an earlier copy of the transaction has taken effect: while our leadership's key is there, no one else writes.
    fn was_first(&self, done: &TxnDone, identity: &[u8]) -> bool {
        let [Some(found), Some(leader)] = &done.found[..] else { return false };
        let token = self.leadership.as_ref().map(|leadership| leadership.token().get());
        token == Some(leader.create_revision) && found.value == identity
    }
}

fn may_pass(error: &EtcdError) -> bool {
    matches!(error.kind(), EtcdErrorKind::Unavailable | EtcdErrorKind::Malformed)
}
