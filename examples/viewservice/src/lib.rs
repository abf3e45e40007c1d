//! A view service: says which server is primary and which is backup. It teaches how two servers that cannot hear each other are kept
//! from both serving, and why a *start* of a server, and not its name, is the member of a view.
//!
//! | file | what it does |
//! |---|---|
//! | `lib.rs` | the service as its clients call it |
//! | `table.rs` | decides the next view: a pure function of pings and time |
//! | `address.rs` | addresses on the command line |
//! | `demo.rs` | the demonstration: three servers, and what happens when they die |
//! | `main.rs` | the program |
//!
//! The rules are those of the lab that it comes from:
//!
//! 1. A view has a number, a primary, and perhaps a backup. Servers ping, and are dead when they have not for five intervals.
//! 2. Only the primary or the backup of a view becomes primary of the next: no other one has the state.
//! 3. **There is no next view before the primary has acknowledged this one.** It does so with a ping that carries the number,
//!    when its backup has the whole state. So the service never makes a primary of a backup that may be incomplete.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire::{Context, Runtime};
use serde::{Deserialize, Serialize};

mod address;
pub mod demo;
mod table;

pub use address::Address;
pub use table::{DEAD_PINGS, ViewTable};

/// The view service.
#[oncewire::service(name = "views")]
pub trait Views {
    /// "I live, and I have done what view `knows` asks of me." The reply is the present view.
    ///
    /// Not idempotent: a late copy of the ping of a server that has started again since would end the newer start's membership.
    async fn ping(&self, context: Context, member: Member, knows: u64) -> View;
    /// The present view.
    #[rpc(idempotent)]
    async fn get(&self, context: Context) -> View;
    /// The last view that its primary has acknowledged.
    #[rpc(idempotent)]
    async fn acknowledged(&self, context: Context) -> u64;
    /// How often [`get`](Views::get) was called: a client that keeps the view asks rarely.
    #[rpc(idempotent)]
    async fn gets(&self, context: Context) -> u64;
}

/// One start of a server. A server that has started again has an empty memory: it is another member with the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Where it is reached.
    pub name: String,
    /// Random, and another one for each start.
    pub start: u64,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// Who serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// 0 before the first server came.
    pub number: u64,
    /// Serves clients.
    pub primary: Option<Member>,
    /// Gets all that the primary executes.
    pub backup: Option<Member>,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |member: &Option<Member>| match member {
            Some(member) => member.name.clone(),
            None => "none".to_owned(),
        };
        let (primary, backup) = (name(&self.primary), name(&self.backup));
        write!(f, "view {}: primary {primary}, backup {backup}", self.number)
    }
}

/// The service on a clock: offer it with [`ViewsServer`].
pub struct ViewService {
    table: Mutex<ViewTable>,
    runtime: Arc<dyn Runtime>,
    gets: AtomicU64,
}

impl fmt::Debug for ViewService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewService").finish_non_exhaustive()
    }
}

impl ViewService {
    /// Servers ping once in each `interval`.
    pub fn new(interval: Duration, runtime: Arc<dyn Runtime>) -> ViewService {
        let table = Mutex::new(ViewTable::new(interval));
        ViewService { table, runtime, gets: AtomicU64::new(0) }
    }

    fn table(&self) -> MutexGuard<'_, ViewTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Views for ViewService {
    async fn ping(&self, _: Context, member: Member, knows: u64) -> View {
        self.table().ping(self.runtime.now(), member, knows)
    }

    async fn get(&self, _: Context) -> View {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.table().get(self.runtime.now())
    }

    async fn acknowledged(&self, _: Context) -> u64 {
        self.table().acknowledged()
    }

    async fn gets(&self, _: Context) -> u64 {
        self.gets.load(Ordering::Relaxed)
    }
}
