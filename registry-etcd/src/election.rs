//! One leader at a time, as far as a lease can see to that, and a number that sets its effects apart from those of the next.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{BoxFuture, Context, Handled, Next, NextTransactional, Refusal, Runtime};

use crate::client::{Etcd, lock};
use crate::error::{EtcdError, EtcdErrorKind};
use crate::kv::{Compare, Granted, KeyValue, LeaseId, Op, Txn};
use crate::leadership::{FencingToken, Leadership};
use crate::signal::Signal;
use crate::time::{self, Pauses};
use crate::watch::Change;

/// An election: made by [`Registry::election`](crate::Registry::election). Cheap to clone.
///
/// The leader is the program whose lease is on the key `oncewire/elections/NAME`; its fencing token is the revision that made the key.
#[derive(Clone, Debug)]
pub struct Election {
    etcd: Etcd,
    key: String,
    lease: Duration,
}

/// Who leads, as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// What it says of itself.
    pub value: Vec<u8>,
    /// Its token.
    pub token: FencingToken,
}

/// How long the key is waited for before it is read again, in case the watch is at a member that hangs.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// The longest pause between attempts while etcd cannot be reached.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Election {
    pub(crate) fn new(etcd: Etcd, key: String, lease: Duration) -> Election {
        Election { etcd: etcd.hurried(lease / 4), key, lease }
    }

    /// Who leads now; `None` if there is no leader.
    ///
    /// # Errors
    /// etcd could not be asked.
    pub async fn leader(&self) -> Result<Option<Leader>, EtcdError> {
        let Some(found) = self.etcd.get(&self.key).await? else { return Ok(None) };
        let token = FencingToken::new(found.create_revision);
        Ok(token.map(|token| Leader { value: found.value, token }))
    }

    /// Waits until this program leads. `value` says who that is, an address say. May be dropped while it waits.
    ///
    /// It tries again while etcd cannot be reached.
    ///
    /// # Errors
    /// etcd refuses it: the rights do not suffice, or it is full.
    pub async fn campaign(&self, value: &str) -> Result<Leadership, EtcdError> {
        let mut pauses = Pauses::up_to(PAUSE_MAX);
        loop {
            match self.attempt(value).await {
                Ok(leadership) => return Ok(leadership),
                Err(error) if is_passing(&error) => pauses.pause(&**self.etcd.runtime()).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Leads whenever it can, from now on: campaigns, and campaigns again when the leadership has ended.
    pub fn stand(&self, value: &str) -> Candidate {
        let shared = Arc::<CandidateShared>::default();
        let (alive, ended) = smol::channel::bounded::<()>(1);
        let (election, standing, value) = (self.clone(), shared.clone(), value.to_owned());
        let runtime = self.etcd.runtime().clone();
        runtime.spawn(Box::pin(async move {
            let dropped = async {
                // Nothing is ever sent: it ends when the channel does.
                let _closed = ended.recv().await;
            };
            smol::future::or(dropped, standing.stand(&election, &value)).await;
            if let Some(leadership) = lock(&standing.state).leadership.take() {
                leadership.give_up();
            }
        }));
        Candidate { shared, _alive: alive }
    }

    /// With a lease of its own: waits for the key, and takes it.
    async fn attempt(&self, value: &str) -> Result<Leadership, EtcdError> {
        let runtime = self.etcd.runtime().clone();
        let asked = runtime.now();
        let granted = self.etcd.grant(self.lease).await?;
        // While it waits, the lease is kept alive: it is short.
        let mut held = Held::new(self, granted, asked + granted.ttl);
        loop {
            if let Some(own) = self.take(granted.lease, value).await? {
                let token = FencingToken::new(own.create_revision);
                let token =
                    token.ok_or_else(|| EtcdError::malformed("a key without a revision"))?;
                held.disarm();
                let (etcd, key) = (self.etcd.clone(), self.key.clone());
                let until = held.lives_until;
                return Ok(Leadership::begin(etcd, key, token, granted, until));
            }
            let vacant = self.until_vacant();
            let lost = held.keep_alive();
            let vacant = async { vacant.await.map(|()| None) };
            let lost = async { Ok(Some(lost.await)) };
            if let Some(error) = smol::future::or(vacant, lost).await? {
                return Err(error);
            }
        }
    }

    /// Takes the key if there is none. Returns it if it is ours: also where an earlier attempt of ours, whose answer was lost, has
    /// made it.
    async fn take(&self, lease: LeaseId, value: &str) -> Result<Option<KeyValue>, EtcdError> {
        let txn = Txn::new()
            .when(Compare::create_revision(&self.key, 0))
            .then(Op::put(&self.key, value, Some(lease)))
            .then(Op::get(&self.key))
            .otherwise(Op::get(&self.key));
        let found = match self.etcd.transact(&txn).await {
            Ok(done) => done.found.into_iter().next().flatten(),
            // It may take effect later still: then the next turn finds it.
            Err(error) if error.kind() == EtcdErrorKind::Unavailable => {
                self.etcd.get(&self.key).await?
            }
            Err(error) => return Err(error),
        };
        Ok(found.filter(|found| found.lease == Some(lease)))
    }

    /// Waits until the key may have gone.
    async fn until_vacant(&self) -> Result<(), EtcdError> {
        let found = self.etcd.get_prefix(&self.key, 1).await?;
        if !found.entries.iter().any(|entry| entry.key == self.key.as_bytes()) {
            return Ok(());
        }
        let mut watch = self.etcd.watch_prefix(&self.key, found.revision + 1).await?;
        let gone = Change::Delete(self.key.clone().into_bytes());
        let changed = async {
            while !watch.next().await?.contains(&gone) {}
            Ok(())
        };
        time::within(&**self.etcd.runtime(), READ_AGAIN, changed).await.unwrap_or(Ok(()))
    }
}

/// Whether another attempt may succeed.
fn is_passing(error: &EtcdError) -> bool {
    use EtcdErrorKind::{Compacted, LeaseNotFound, Unavailable};
    matches!(error.kind(), Unavailable | LeaseNotFound | Compacted)
}

/// A candidate's lease, which ends with it.
struct Held<'a> {
    election: &'a Election,
    lease: LeaseId,
    lives_until: oncewire_driver::Instant,
    armed: bool,
}

impl<'a> Held<'a> {
    fn new(
        election: &'a Election,
        granted: Granted,
        lives_until: oncewire_driver::Instant,
    ) -> Held<'a> {
        Held { election, lease: granted.lease, lives_until, armed: true }
    }

    fn disarm(&mut self) {
        self.armed = false;
    }

    /// Keeps the lease alive, until it cannot.
    async fn keep_alive(&mut self) -> EtcdError {
        let etcd = &self.election.etcd;
        let runtime = etcd.runtime().clone();
        let mut pauses = Pauses::up_to(self.election.lease / 4);
        loop {
            let asked = runtime.now();
            match etcd.keep_alive(self.lease).await {
                Ok(ttl) => {
                    self.lives_until = asked + ttl;
                    pauses.reset();
                    time::sleep(&*runtime, ttl / 3).await;
                }
                Err(error) if error.kind() == EtcdErrorKind::Unavailable => {
                    pauses.pause(&*runtime).await;
                }
                Err(error) => return error,
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.armed {
            give_back(&self.election.etcd, self.lease);
        }
    }
}

/// Ends a lease, in a task of its own. If that fails, it ends by itself.
pub(crate) fn give_back(etcd: &Etcd, lease: LeaseId) {
    let revoking = etcd.clone();
    etcd.runtime().spawn(Box::pin(async move {
        let _ended_by_itself = revoking.revoke(lease).await;
    }));
}

/// A program that leads whenever it can: made by [`Election::stand`]. Dropping it ends the leadership.
pub struct Candidate {
    shared: Arc<CandidateShared>,
    /// Closed with it.
    _alive: smol::channel::Sender<()>,
}

#[derive(Default)]
struct CandidateShared {
    state: Mutex<CandidateState>,
    changed: Signal,
}

#[derive(Default)]
struct CandidateState {
    leadership: Option<Leadership>,
    last_error: Option<EtcdError>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("leadership", &self.leadership()).finish_non_exhaustive()
    }
}

impl Candidate {
    /// The leadership, if it is held now: what a handler asks before it does what only the leader may.
    pub fn leadership(&self) -> Option<Leadership> {
        self.shared.leadership()
    }

    /// A hook for [`ServerBuilder::around`](oncewire_driver::ServerBuilder::around): while this program leads, handlers find the
    /// [`Leadership`] in their [`Context`]; otherwise their calls are refused, for this reason. A client's
    /// [`Retry`](oncewire_driver::Retry) makes a call again that was refused as [`Refusal::Overloaded`].
    ///
    /// That a handler was begun is not enough: it does its effect with the leadership's [`token`](Leadership::token) or
    /// [`fence`](Leadership::fence), and the place where it happens checks that.
    ///
    /// ```
    /// use oncewire_driver::{Context, Method, Refusal, Server, ServerBuilder};
    /// use oncewire_etcd::{Candidate, Etcd, Leadership, Op, Txn};
    ///
    /// const PLAN: Method<String, bool> = Method::new("planner/plan");
    ///
    /// fn planner(etcd: Etcd, candidate: &Candidate) -> ServerBuilder {
    ///     let plan = move |context: Context, next: String| {
    ///         let etcd = etcd.clone();
    ///         async move {
    ///             let Some(leadership) = context.provided::<Leadership>() else { return false };
    ///             let txn = Txn::new().when(leadership.fence()).then(Op::put("plan", next, None));
    ///             etcd.transact(&txn).await.is_ok_and(|done| done.succeeded)
    ///         }
    ///     };
    ///     Server::builder("planner").method(&PLAN, plan).around(candidate.guard(Refusal::Overloaded))
    /// }
    /// ```
    ///
    /// All methods are guarded. Where some are not for the leader alone, write the hook, with
    /// [`leadership`](Candidate::leadership) and [`Next::provide`], and look at [`Next::method`].
    pub fn guard(
        &self,
        refusal: Refusal,
    ) -> impl Fn(Context, Next) -> BoxFuture<'static, Handled> + Send + Sync + use<> {
        let shared = self.shared.clone();
        move |_context, next| {
            let leadership = shared.leadership();
            Box::pin(async move {
                match leadership {
                    Some(leadership) => next.provide(leadership).run().await,
                    None => next.refuse(refusal),
                }
            })
        }
    }

    /// The same for transactional methods, which
    /// [`ServerBuilder::around_transactional`](oncewire_driver::ServerBuilder::around_transactional) takes.
    pub fn guard_transactional(
        &self,
        refusal: Refusal,
    ) -> impl Fn(&Context, NextTransactional<'_>) -> Handled + Send + Sync + use<> {
        let shared = self.shared.clone();
        move |_context, next| match shared.leadership() {
            Some(leadership) => next.provide(leadership).run(),
            None => next.refuse(refusal),
        }
    }

    /// Waits until this program leads.
    pub async fn elected(&self) -> Leadership {
        self.shared.changed.until(|| self.leadership()).await
    }

    /// Why the last campaign has failed, if it did: it is tried again.
    pub fn last_error(&self) -> Option<EtcdError> {
        lock(&self.shared.state).last_error.clone()
    }
}

impl CandidateShared {
    fn leadership(&self) -> Option<Leadership> {
        let leadership = lock(&self.state).leadership.clone();
        leadership.filter(|leadership| leadership.is_held())
    }

    async fn stand(&self, election: &Election, value: &str) {
        let runtime: Arc<dyn Runtime> = election.etcd.runtime().clone();
        let mut pauses = Pauses::up_to(election.lease);
        loop {
            match election.campaign(value).await {
                Ok(leadership) => {
                    {
                        let mut state = lock(&self.state);
                        state.leadership = Some(leadership.clone());
                        state.last_error = None;
                    }
                    self.changed.notify();
                    pauses.reset();
                    leadership.ended().await;
                    lock(&self.state).leadership = None;
                    self.changed.notify();
                }
                Err(error) => {
                    lock(&self.state).last_error = Some(error);
                    pauses.pause(&*runtime).await;
                }
            }
        }
    }
}
