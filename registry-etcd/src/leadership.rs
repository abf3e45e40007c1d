//! Being the leader: for how long, and by which number.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::Instant;

use crate::client::{Etcd, lock};
use crate::election::give_back;
use crate::error::{EtcdError, EtcdErrorKind};
use crate::kv::{Compare, Granted, LeaseId};
use crate::signal::Signal;
use crate::time::{self, Pauses};

/// A number that each leader of an election has for itself: greater than those of all leaders before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(NonZeroU64);

impl FencingToken {
    /// From a number that was kept, in a database say; `None` for 0.
    pub fn new(number: u64) -> Option<FencingToken> {
        NonZeroU64::new(number).map(FencingToken)
    }

    /// The number. One of an election fits into an `i64`: revisions of etcd do.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// This program leads, or did: made by [`Election::campaign`](crate::Election::campaign). Clones are the same leadership; when the last
/// one is dropped it is given up.
///
/// It is over, by this program's clock, a fifth of the lease before etcd would end it, and then for good.
///
/// **That is not enough.** Between the moment at which a program has looked and the moment of its effect it may be stopped for as long
/// as the machine likes, and a clock that stops or lags lies to it. So the place where the effect happens must refuse a token that is
/// lower than one that it has seen: [`fence`](Leadership::fence) for effects in etcd, [`Fence`] elsewhere.
#[derive(Clone)]
pub struct Leadership {
    shared: Arc<Shared>,
    /// Closed with the last clone.
    _alive: smol::channel::Sender<()>,
}

struct Shared {
    etcd: Etcd,
    key: String,
    token: FencingToken,
    lease: LeaseId,
    state: Mutex<State>,
    changed: Signal,
}

struct State {
    /// Until when it is held.
    until: Instant,
    ended: bool,
}

/// This program does not lead any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLeader;

impl fmt::Display for NotLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this program is not the leader")
    }
}

impl std::error::Error for NotLeader {}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("token", &self.token())
            .field("is_held", &self.is_held())
            .finish_non_exhaustive()
    }
}

/// What is left of a lease for this program: a fifth less, for clocks that differ.
fn usable(ttl: Duration) -> Duration {
    ttl - ttl / 5
}

impl Leadership {
    /// `lives_until`: when etcd may end the lease, counted from before it was asked.
    pub(crate) fn begin(
        etcd: Etcd,
        key: String,
        token: FencingToken,
        granted: Granted,
        lives_until: Instant,
    ) -> Leadership {
        let runtime = etcd.runtime().clone();
        let left = lives_until.since(runtime.now());
        let until = runtime.now() + left.saturating_sub(granted.ttl / 5);
        let state = Mutex::new(State { until, ended: false });
        let lease = granted.lease;
        let shared =
            Arc::new(Shared { etcd, key, token, lease, state, changed: Signal::default() });
        let (alive, dropped) = smol::channel::bounded::<()>(1);
        let held = shared.clone();
        runtime.spawn(Box::pin(async move {
            let resigned = async {
                // Nothing is ever sent: it ends when the channel does.
                let _closed = dropped.recv().await;
            };
            let over = held.changed.until(|| lock(&held.state).ended.then_some(()));
            let renewing = held.renew(granted.ttl);
            let ended = smol::future::or(resigned, smol::future::or(over, renewing));
            smol::future::or(ended, held.until_over()).await;
            held.end();
            give_back(&held.etcd, held.lease);
        }));
        Leadership { shared, _alive: alive }
    }

    /// Its token.
    pub fn token(&self) -> FencingToken {
        self.shared.token
    }

    /// Whether it is held, by this program's clock.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long it is held if etcd does not answer any more; zero if it is over. It is renewed meanwhile.
    pub fn remaining(&self) -> Duration {
        let now = self.shared.etcd.runtime().now();
        let state = lock(&self.shared.state);
        if state.ended { Duration::ZERO } else { state.until.since(now) }
    }

    /// The token, while it is held: what to do an effect with.
    ///
    /// # Errors
    /// It is over.
    pub fn check(&self) -> Result<FencingToken, NotLeader> {
        if self.is_held() { Ok(self.token()) } else { Err(NotLeader) }
    }

    /// For effects in the same etcd: a condition that holds only while this is the leadership, whatever the clocks say.
    ///
    /// ```no_run
    /// # async fn f(etcd: oncewire_etcd::Etcd, leadership: oncewire_etcd::Leadership) -> Result<(), oncewire_etcd::EtcdError> {
    /// use oncewire_etcd::{Op, Txn};
    ///
    /// let txn = Txn::new().when(leadership.fence()).then(Op::put("plan", "the next step", None));
    /// assert!(etcd.transact(&txn).await?.succeeded, "another one leads");
    /// # Ok(()) }
    /// ```
    pub fn fence(&self) -> Compare {
        Compare::create_revision(&self.shared.key, self.shared.token.get())
    }

    /// Waits until it is over.
    pub async fn ended(&self) {
        self.until_ended().await;
    }

    /// The same, without holding it.
    pub(crate) fn until_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move { shared.changed.until(|| lock(&shared.state).ended.then_some(())).await }
    }

    /// The key whose lease makes the leader.
    #[cfg(feature = "ledger")]
    pub(crate) fn key(&self) -> &str {
        &self.shared.key
    }

    /// Ends it for all clones, and the lease soon.
    pub(crate) fn give_up(&self) {
        self.shared.end();
    }

    /// Gives it up, for all clones, and lets another one lead at once. What is under way with its token must have ended before.
    ///
    /// # Errors
    /// etcd could not be reached: another one leads when the lease has ended.
    pub async fn resign(self) -> Result<(), EtcdError> {
        self.shared.end();
        self.shared.etcd.revoke(self.shared.lease).await
    }
}

impl Shared {
    fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify();
    }

    /// Waits until the time is over.
    async fn until_over(&self) {
        let runtime = self.etcd.runtime();
        loop {
            let until = lock(&self.state).until;
            if runtime.now() >= until {
                return;
            }
            time::sleep_until(&**runtime, until).await;
        }
    }

    /// Keeps the lease alive, until it cannot.
    async fn renew(&self, ttl: Duration) {
        let runtime = self.etcd.runtime();
        let mut pauses = Pauses::up_to(ttl / 5);
        time::sleep(&**runtime, ttl / 4).await;
        loop {
            let asked = runtime.now();
            match self.etcd.keep_alive(self.lease).await {
                Ok(ttl) => {
                    {
                        let mut state = lock(&self.state);
                        if runtime.now() >= state.until {
                            // It was over before the answer came, and others may have acted on that.
                            return;
                        }
                        state.until = state.until.max(asked + usable(ttl));
                    }
                    pauses.reset();
                    time::sleep(&**runtime, ttl / 4).await;
                }
                Err(error) if error.kind() == EtcdErrorKind::LeaseNotFound => return,
                Err(_) => pauses.pause(&**runtime).await,
            }
        }
    }
}

/// The check of tokens where effects happen, for what is not in etcd: lets none pass that is lower than one before. Keep the highest
/// beside what it protects, and in the same transaction; in SQL that is
/// `UPDATE fence SET token = $1 WHERE token <= $1`, which must hit one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    highest: Option<FencingToken>,
}

/// The token of a leader that has been followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleToken {
    /// The token of the later one.
    pub highest: FencingToken,
}

impl fmt::Display for StaleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a leader with the token {} has acted since", self.highest)
    }
}

impl std::error::Error for StaleToken {}

impl Fence {
    /// One that has seen this token.
    pub fn new(highest: Option<FencingToken>) -> Fence {
        Fence { highest }
    }

    /// The highest token that it has seen.
    pub fn highest(&self) -> Option<FencingToken> {
        self.highest
    }

    /// Lets an effect with this token happen, or not.
    ///
    /// # Errors
    /// A leader after this one has been here.
    pub fn admit(&mut self, token: FencingToken) -> Result<(), StaleToken> {
        match self.highest {
            Some(highest) if token < highest => Err(StaleToken { highest }),
            _ => {
                self.highest = Some(token);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_passes_after_a_higher_one() {
        let token = |number| FencingToken::new(number).unwrap();
        let mut fence = Fence::new(Some(token(7)));
        assert_eq!(fence.admit(token(6)), Err(StaleToken { highest: token(7) }));
        assert_eq!(fence.admit(token(7)), Ok(()));
        assert_eq!(fence.admit(token(9)), Ok(()));
        assert_eq!(fence.admit(token(7)), Err(StaleToken { highest: token(9) }));
        assert_eq!(fence.highest(), Some(token(9)));
        assert_eq!(FencingToken::new(0), None);
    }
}
