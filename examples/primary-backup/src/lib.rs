//! A key/value service in memory, with a backup that takes over. It teaches how at-most-once survives the death of a server: **the
//! backup gets the records of calls with the operations, and with the whole state**, so that a call that the primary has
//! executed and not answered is answered by the backup, and not executed again.
//!
//! | file | what it does |
//! |---|---|
//! | `lib.rs` | the service as its clients call it |
//! | `state.rs` | values and records: what is executed, shipped and copied |
//! | `replica.rs` | a backup's side: takes batches and whole states, and refuses those of a primary that is none any more |
//! | `primary.rs` | a primary's side: a ledger whose commit ships each batch, and what it does when that fails |
//! | `node.rs` | one server: pings, becomes backup or primary, or ends |
//! | `client.rs` | finds the primary, and keeps the view |
//! | `naive.rs` | the story: forward and wait, over plain sockets |
//! | `processes.rs`, `story.rs` | the demonstration, with processes that are killed |
//! | `main.rs` | the program |
//!
//! Who serves is decided by [`viewservice`].

use oncewire::Context;
use oncewire::ledger::Rollback;

mod client;
pub mod naive;
mod node;
mod primary;
pub mod processes;
mod replica;
mod state;
pub mod story;

pub use client::{Dial, ViewConnector, kv_client};
pub use node::{Net, Stopped, run};
pub use state::{State, Transaction};

/// Bytes of the longest reply: a value is as long as what was appended to it.
const VALUE_LEN_MAX: u32 = 4 << 20;

/// The service that clients call. Its methods are transactional: they run in the ledger's commit, which ships what they did to the
/// backup before it is answered. `get` too, so that a primary that was deposed and does not know it answers nothing: its backup
/// refuses the batch.
#[oncewire::service(name = "kv")]
pub trait Kv {
    /// Sets a value.
    #[rpc(transactional)]
    fn put(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        key: String,
        value: String,
    ) -> Result<(), Rollback>;
    /// Adds to the end of a value.
    #[rpc(transactional)]
    fn append(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        key: String,
        value: String,
    ) -> Result<(), Rollback>;
    /// A value; empty where there is none.
    #[rpc(transactional, reply_len_max = VALUE_LEN_MAX)]
    fn get(
        &self,
        transaction: &mut Transaction,
        context: &Context,
        key: String,
    ) -> Result<String, Rollback>;
}

/// The service on this server's values.
#[derive(Clone, Copy, Debug)]
pub struct Store;

impl Kv for Store {
    fn put(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        key: String,
        value: String,
    ) -> Result<(), Rollback> {
        transaction.put(key, value);
        Ok(())
    }

    fn append(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        key: String,
        value: String,
    ) -> Result<(), Rollback> {
        let mut whole = transaction.get(&key).to_owned();
        whole.push_str(&value);
        transaction.put(key, whole);
        Ok(())
    }

    fn get(
        &self,
        transaction: &mut Transaction,
        _: &Context,
        key: String,
    ) -> Result<String, Rollback> {
        Ok(transaction.get(&key).to_owned())
    }
}
