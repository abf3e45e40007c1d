//! A ledger in etcd, for small state: feature `ledger`.
//!
//! ```no_run
//! use oncewire_driver::ledger::Rollback;
//! use oncewire_driver::{Context, Method, Server};
//! use oncewire_etcd::Registry;
//! use oncewire_etcd::ledger::{EtcdLedger, Transaction};
//! use oncewire_tcp::TcpAcceptor;
//!
//! const TAKE: Method<String, Option<String>> = Method::new("jobs/take");
//!
//! /// Serves whenever it is its turn, for ever.
//! async fn serve(registry: &Registry, address: &str) -> Result<(), Box<dyn std::error::Error>> {
//!     loop {
//!         // Waits, as a stand-by, while another server has it.
//!         let ledger = EtcdLedger::open(registry, "jobs").await?;
//!         let ended = ledger.ended();
//!         let server = Server::builder("jobs").ledger(ledger).transactional(&TAKE, take).build()?;
//!         let acceptor = TcpAcceptor::bind(address).await?;
//!         let registration = registry.register(&server, "jobs", address)?;
//!         smol::future::or(async { drop(server.serve(acceptor).await) }, ended).await;
//!         // Its clients continue at the next one; what is in doubt here would wait for ever.
//!         server.drain(std::time::Duration::ZERO).await;
//!         drop(registration);
//!     }
//! }
//!
//! /// Executed exactly once: the effect and the record of its reply are one transaction.
//! fn take(transaction: &mut Transaction, _: &Context, worker: String) -> Result<Option<String>, Rollback> {
//!     let Some((job, _)) = transaction.scan("open/").into_iter().next() else {
//!         return Ok(None);
//!     };
//!     transaction.delete(&job)?;
//!     transaction.put(["taken/".as_bytes(), &job].concat(), worker)?;
//!     Ok(Some(String::from_utf8_lossy(&job).into_owned()))
//! }
//! ```
//!
//! The state is a map from bytes to bytes. The server that has the ledger holds all of it in memory, so that handlers read without
//! asking etcd; what they write goes there with the record of their call, in one transaction.
//!
//! # One server at a time
//!
//! The ledger belongs to the leader of an election. Each of its transactions has two conditions: this leadership's key, and the number of
//! the commit before. So a server that was replaced writes nothing any more, whatever its clock says; and a transaction whose answer was
//! lost can be sent again, since only one of its copies can meet the second condition.
//!
//! # Limits
//!
//! | | |
//! |---|---|
//! | a name | 57 bytes |
//! | a value | 128 KiB, a key 1 KiB |
//! | what one call writes | 100 keys, 512 KiB |
//! | a reply | 128 KiB: a method that declares more is refused when the server is built |
//! | all of it | in memory; etcd takes 2 GiB with its history, and some hundred transactions a second |
//!
//! | file | what it does |
//! |---|---|
//! | `ledger.rs` | opens it, and gives it to a server |
//! | `ledger/transaction.rs` | what handlers are given |
//! | `ledger/staged.rs` | what a batch makes of the keys, and in which steps |
//! | `ledger/keys.rs` | what is where in etcd, and reads all of it |
//! | `ledger/commit.rs` | writes, and finds out what became of it |
//! | `ledger/tool.rs` | what the program `oncewire-etcd-ledger` does |

mod commit;
mod keys;
mod staged;
#[cfg(feature = "tool")]
pub mod tool;
mod transaction;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use oncewire_driver::ServerId;
use oncewire_driver::ledger::{
    Batch, CallEntry, Entry, Identity, Ledger, LedgerError, Restore, SessionEntry,
};
use oncewire_driver::protocol::{SessionId, SessionTag};
use sha2::{Digest, Sha256};

use crate::client::{Etcd, lock};
use crate::election::Election;
use crate::error::EtcdError;
use crate::leadership::Leadership;
use crate::registry::Registry;
use commit::Writer;
use keys::{Beside, Kept, Keys};
use staged::Staged;
pub use transaction::{LimitExceeded, Transaction};

/// Bytes of the longest name: with what the election's has in front of it, 64.
const NAME_LEN_MAX: usize = 57;
/// Bytes of the longest reply.
const REPLY_LEN_MAX: u32 = 128 << 10;

/// A ledger in etcd: see the [module](self).
///
/// It ends when etcd cannot be reached for longer than the registry's lease, and when another server has it: then the server answers
/// nothing that has no record, and [`Server::serve`](oncewire_driver::Server::serve) ends. Open it again to wait for its turn.
pub struct EtcdLedger {
    shared: Arc<Shared>,
    identity: Identity,
}

struct Shared {
    etcd: Etcd,
    data: Reads,
    /// `None` while a batch is under way, and after an error.
    state: Mutex<Option<State>>,
    /// What was found when it was opened; given to the server once.
    found: Mutex<Option<Found>>,
}

/// What belongs to the batch that is under way.
struct State {
    writer: Writer,
    staged: Staged,
}

struct Found {
    sessions: BTreeMap<[u8; 16], Vec<u8>>,
    calls: BTreeMap<([u8; 16], u16), Vec<u8>>,
}

impl fmt::Debug for EtcdLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLedger").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl EtcdLedger {
    /// Opens the ledger of this name, and waits for its turn while another server has it. It is made where there is none.
    ///
    /// # Errors
    /// etcd refuses it, what is there cannot be read, or the name is too long.
    pub async fn open(registry: &Registry, name: &str) -> Result<EtcdLedger, LedgerError> {
        let leadership = election(registry, name)?.campaign("a ledger").await;
        let leadership = leadership.map_err(|error| failed("be opened", &error))?;
        // From here on no other server's transaction takes effect.
        EtcdLedger::read(registry, name, Some(leadership)).await
    }

    /// Plants a bug: opens the ledger without waiting for its turn, and commits although another server has it. A test that kills
    /// servers must fail with it.
    ///
    /// # Errors
    /// As [`open`](EtcdLedger::open)'s.
    #[cfg(feature = "faults")]
    pub async fn open_without_fence(
        registry: &Registry,
        name: &str,
    ) -> Result<EtcdLedger, LedgerError> {
        match EtcdLedger::read(registry, name, None).await {
            // Another one may have made it meanwhile.
            Err(_) => EtcdLedger::read(registry, name, None).await,
            opened => opened,
        }
    }

    async fn read(
        registry: &Registry,
        name: &str,
        leadership: Option<Leadership>,
    ) -> Result<EtcdLedger, LedgerError> {
        let (etcd, keys) = (registry.etcd().clone(), keys(registry, name)?);
        let kept = keys.read_all(&etcd, Beside::NoOne).await?;
        let Kept { identity, sessions, calls, data } = kept;
        let mut random = [0; 16];
        etcd.runtime().random(&mut random);
        let is_new = identity.is_none();
        let identity =
            identity.unwrap_or(Identity { server: ServerId::from_bytes(random), commit: 0 });
        if is_new && !(sessions.is_empty() && calls.is_empty() && data.is_empty()) {
            let text = "the ledger in etcd is corrupt: it has lost its identity; remove what is left of it";
            return Err(LedgerError::new(text));
        }
        let data = Reads::new(data);
        let mut writer = Writer::new(etcd.clone(), keys, leadership, identity, data.clone());
        if is_new {
            writer.create().await?;
        }
        let staged = Staged::new(&sessions, &calls);
        let identity = Identity { commit: writer.commit(), ..identity };
        let found = Mutex::new(Some(Found { sessions, calls }));
        let state = Mutex::new(Some(State { writer, staged }));
        Ok(EtcdLedger { shared: Arc::new(Shared { etcd, data, state, found }), identity })
    }

    /// Where idempotent methods read: what is durable, as this server knows it.
    pub fn reads(&self) -> Reads {
        self.shared.data.clone()
    }

    /// Waits until this server has the ledger no more, even if it writes nothing: end it then, or open the ledger again.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let state = lock(&self.shared.state);
        let ended = state.as_ref().map(|state| state.writer.leadership_ended());
        async move {
            if let Some(ended) = ended {
                ended.await;
            }
        }
    }
}

/// What a ledger in etcd holds, without asking etcd. Cheap to clone.
///
/// It is what the server that has the ledger has committed. One that was replaced and does not know may be behind.
#[derive(Clone)]
pub struct Reads {
    data: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}

impl Reads {
    fn new(data: BTreeMap<Vec<u8>, Vec<u8>>) -> Reads {
        Reads { data: Arc::new(Mutex::new(data)) }
    }

    /// The value of a key; `None` if there is none.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        lock(&self.data).get(key.as_ref()).cloned()
    }

    /// The keys that begin so and their values, in their order.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let prefix = prefix.as_ref();
        let data = lock(&self.data);
        let from = data.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        from.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn apply(&self, changes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) {
        let mut data = lock(&self.data);
        for (key, value) in changes {
            match value {
                Some(value) => data.insert(key, value),
                None => data.remove(&key),
            };
        }
    }
}

impl Ledger for EtcdLedger {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn session_hash(&self) -> Option<fn(SessionId) -> SessionId> {
        Some(hash)
    }

    fn reply_len_max(&self) -> Option<u32> {
        Some(REPLY_LEN_MAX)
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        let used = || LedgerError::new("the ledger is in use: one ledger serves one server");
        let found = lock(&self.shared.found).take().ok_or_else(used)?;
        for (id, bytes) in &found.sessions {
            restore.session(&decode_session(*id, bytes).ok_or_else(|| broken("a session"))?);
        }
        for ((id, slot), bytes) in &found.calls {
            // What was left behind by a session that had ended.
            if !found.sessions.contains_key(id) {
                continue;
            }
            let entry = CallEntry::decode(SessionId::from_bytes(*id), *slot, bytes);
            restore.call(entry.ok_or_else(|| broken("a call"))?);
        }
        Ok(())
    }

    fn commit(&self, batch: Batch<Transaction>) {
        let shared = self.shared.clone();
        let runtime = shared.etcd.runtime().clone();
        runtime.spawn(Box::pin(async move { shared.commit(batch).await }));
    }
}

impl Shared {
    async fn commit(&self, mut batch: Batch<Transaction>) {
        let state = lock(&self.state).take();
        let Some(mut state) = state else {
            let text = "the ledger in etcd has failed before: open it again";
            return batch.finish(Err(LedgerError::new(text)));
        };
        let mut transaction = Transaction::new(self.data.clone());
        for entry in batch.entries() {
            match entry {
                Entry::Transaction(call) => {
                    transaction.begin_call();
                    let record = call.run(&mut transaction);
                    let effects = transaction.end_call(record.is_some());
                    if let Some(record) = record {
                        state.staged.call(record, effects);
                    }
                }
                Entry::SessionOpened(session) => state.staged.open(session),
                Entry::SessionEnded(session) => state.staged.end(session),
                Entry::Call(record) => state.staged.call(record, BTreeMap::new()),
                Entry::Withdrawn(name) => state.staged.withdraw(name),
                Entry::Settled { session, seen, held } => state.staged.settle(session, seen, held),
            }
        }
        let steps = state.staged.take();
        match state.writer.write(steps).await {
            Ok(commit) => {
                *lock(&self.state) = Some(state);
                batch.finish(Ok(commit));
            }
            // The leadership ends with the writer, so that a stand-by need not wait.
            Err(error) => {
                drop(state);
                batch.finish(Err(error));
            }
        }
    }
}

/// The tag of a session and its entry, as they are kept.
fn encode_session(session: &SessionEntry) -> Vec<u8> {
    [&session.tag.number().to_le_bytes()[..], &session.encode()].concat()
}

fn decode_session(id: [u8; 16], bytes: &[u8]) -> Option<SessionEntry> {
    let (tag, entry) = bytes.split_first_chunk::<8>()?;
    let mut entry = SessionEntry::decode(SessionId::from_bytes(id), entry)?;
    entry.tag = SessionTag::from_number(u64::from_le_bytes(*tag));
    Some(entry)
}

/// The first half of the SHA-256 of a session's id: it names the session in etcd, and no one who reads it can resume it.
fn hash(id: SessionId) -> SessionId {
    let whole: [u8; 32] = Sha256::digest(id.to_bytes()).into();
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    SessionId::from_bytes(half)
}

/// What decides whose turn it is.
fn election(registry: &Registry, name: &str) -> Result<Election, LedgerError> {
    if name.len() > NAME_LEN_MAX {
        let text = format!("the name of a ledger in etcd has {NAME_LEN_MAX} bytes at most");
        return Err(LedgerError::new(text));
    }
    registry.election(&format!("ledger-{name}")).map_err(|error| failed("be opened", &error))
}

fn keys(registry: &Registry, name: &str) -> Result<Keys, LedgerError> {
    let folder = registry.folder("ledgers", name);
    folder.map(Keys::new).map_err(|error| failed("be opened", &error))
}

fn broken(what: &str) -> LedgerError {
    LedgerError::new(format!("the ledger in etcd is corrupt: {what} in it cannot be decoded"))
}

fn failed(what: &str, error: &EtcdError) -> LedgerError {
    LedgerError::new(format!("the ledger in etcd cannot {what}: {error}"))
}
