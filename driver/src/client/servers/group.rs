//! The clients of several servers: which of them gets a call, which has the session, their close.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use oncewire_core::{Instant, NotBegun, NotExecuted, OnDialFailure, Token};

use super::{NoServers, Plan, ServerStatus};
use crate::caught::{caught, wake_all};
use crate::client::Handle;
use crate::client::call::CalledMethod;
use crate::client::connected::Connected;
use crate::client::options::{ClientOptions, CloseReport};
use crate::client::outcome::CallFailure;
use crate::client::report::CallReport;
use crate::client::retry::RetryBudget;
use crate::client::shared::Shared;
use crate::client::task::ClientTask;
use crate::runtime::Runtime;
use crate::sync::Lock;
use crate::transport::Connect;
use crate::waiters::{Place, Waiters};

/// No server has the session yet.
const NONE: usize = usize::MAX;

/// A client for each server of a list.
pub(in crate::client) struct Group {
    members: Box<[Member]>,
    plan: Plan,
    /// What the members are not given: they end their calls when a dial fails, and the group decides whether to wait.
    on_dial_failure: OnDialFailure,
    /// Which member has the session, or [`NONE`].
    home: AtomicUsize,
    /// Where the random numbers are.
    chance: AtomicU64,
    arrivals: Arc<Arrivals>,
    /// Of calls that are made elsewhere because a server is overloaded.
    budget: RetryBudget,
}

struct Member {
    handle: Handle,
    /// Until this moment, in nanoseconds, it comes last: it has failed a call.
    avoid_until: AtomicU64,
}

/// Calls that wait until a server is healthy. It is each member's watcher.
#[derive(Default)]
pub(super) struct Arrivals {
    wakers: Lock<Waiters>,
    /// How many calls wait, also those that were woken and not polled since.
    calls: AtomicUsize,
}

impl Wake for Arrivals {
    fn wake(self: Arc<Self>) {
        let waiting = self.wakers.lock().take();
        wake_all(waiting);
    }
}

/// One that waits for a server to be healthy.
pub(super) struct Arrival {
    arrivals: Arc<Arrivals>,
    place: Place,
}

impl Arrival {
    /// Has `cx` woken when something has changed. What has changed before was not seen by it: look afterwards.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        let dropped = self.arrivals.wakers.lock().wait(&mut self.place, cx);
        drop(dropped);
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.calls.fetch_sub(1, Ordering::Relaxed);
        let dropped = self.arrivals.wakers.lock().leave(&mut self.place);
        drop(dropped);
    }
}

/// What can be expected of a member that has no connection on which calls may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// It may be back soon: no dial has failed since it was connected, or it was not dialled yet.
    Soon,
    /// A dial has failed; with the same result each time if `permanent`.
    Unreachable {
        permanent: bool,
    },
    /// It refuses this client for good.
    Refused,
    Closed,
}

impl Member {
    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The calls that are pending there, if more may begin.
    fn load(&self) -> Option<usize> {
        self.shared()
            .with_quietly(|state| state.machine.may_begin_calls().then(|| state.machine.pending()))
    }

    fn away(&self) -> Away {
        self.shared().with_quietly(|state| {
            let lifecycle = &state.lifecycle;
            if state.machine.refusal().is_some() {
                Away::Refused
            } else if lifecycle.is_closed() || state.machine.is_closing() {
                Away::Closed
            } else if lifecycle.failed_attempts > 0 {
                Away::Unreachable { permanent: lifecycle.dial_is_hopeless }
            } else {
                Away::Soon
            }
        })
    }

    /// Whether the session should move on: it drains, or cannot be dialled.
    fn is_left(&self) -> bool {
        let is_connected = self.shared().with_quietly(|state| state.machine.is_connected());
        is_connected || self.away() != Away::Soon
    }

    fn is_avoided(&self, now: Instant) -> bool {
        now.as_nanos() < self.avoid_until.load(Ordering::Relaxed)
    }

    fn status(&self, has_session: bool) -> ServerStatus {
        let load = self.load();
        let pending = self.shared().with_quietly(|state| state.machine.pending());
        ServerStatus {
            address: caught(|| self.shared().connector.address()).unwrap_or_default(),
            has_session,
            healthy: load.is_some(),
            pending,
            client: self.shared().status(),
        }
    }
}

impl Group {
    pub(super) fn new(
        connectors: Vec<Box<dyn Connect>>,
        plan: Plan,
        options: ClientOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Arc<Group>, NoServers> {
        if connectors.is_empty() {
            return Err(NoServers);
        }
        let on_dial_failure = options.on_dial_failure;
        let options = options.with_on_dial_failure(OnDialFailure::End);
        let arrivals = Arc::new(Arrivals::default());
        let member = |connector| {
            let shared = Shared::new(connector, options.clone(), runtime.clone());
            let watcher = Waker::from(arrivals.clone());
            shared.with(|state, _| state.lifecycle.watcher = Some(watcher));
            runtime.spawn(Box::pin(ClientTask::new(shared.clone())));
            let handle = Handle { shared, group: None, member: None };
            Member { handle, avoid_until: AtomicU64::new(0) }
        };
        let members: Box<[Member]> = connectors.into_iter().map(member).collect();
        let mut seed = [0; 8];
        runtime.random(&mut seed);
        Ok(Arc::new(Group {
            members,
            plan,
            on_dial_failure,
            home: AtomicUsize::new(NONE),
            chance: AtomicU64::new(u64::from_le_bytes(seed)),
            arrivals,
            budget: RetryBudget::default(),
        }))
    }

    pub(super) fn first(&self) -> &Arc<Shared> {
        self.members[0].shared()
    }

    pub(in crate::client) fn shared(&self, member: usize) -> &Arc<Shared> {
        self.members[member].shared()
    }

    #[cfg(test)]
    pub(in crate::client) fn pretend_forked(&self) {
        self.members.iter().for_each(|member| member.shared().pretend_forked());
    }

    pub(super) fn plan(&self) -> Plan {
        self.plan
    }

    pub(super) fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    pub(super) fn arrival(&self) -> Arrival {
        self.arrivals.calls.fetch_add(1, Ordering::Relaxed);
        Arrival { arrivals: self.arrivals.clone(), place: None }
    }

    pub(super) fn is_healthy(&self, member: usize) -> bool {
        self.members[member].load().is_some()
    }

    /// A healthy member that is none of `tried`: of two, the one with fewer calls pending; one that has just failed a call only if
    /// there is no other.
    pub(super) fn pick(&self, now: Instant, tried: &[usize]) -> Option<usize> {
        let fine = |member: usize| !self.members[member].is_avoided(now);
        self.pick_of(tried, fine).or_else(|| self.pick_of(tried, |_| true))
    }

    fn pick_of(&self, tried: &[usize], may_be: impl Fn(usize) -> bool) -> Option<usize> {
        let random = self.random();
        let (one, load) =
            self.first_from(random as u32, |member| !tried.contains(&member) && may_be(member))?;
        let other = self.first_from((random >> 32) as u32, |member| {
            member != one && !tried.contains(&member) && may_be(member)
        });
        match other {
            Some((other, less)) if less < load => Some(other),
            _ => Some(one),
        }
    }

    /// The first healthy member behind a random one, and its load.
    fn first_from(&self, start: u32, may_be: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        let len = self.members.len();
        let start = start as usize % len;
        (start..len)
            .chain(0..start)
            .filter(|member| may_be(*member))
            .find_map(|member| Some((member, self.members[member].load()?)))
    }

    /// A number that spreads calls, and is no secret: splitmix64.
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.chance.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The member that has the session; another one if that is left, which has it from then on.
    pub(super) fn pick_home(&self, now: Instant, tried: &[usize]) -> Option<usize> {
        let home = self.home.load(Ordering::Acquire);
        if home != NONE {
            let is_fine = || self.members[home].load().is_some() || !self.members[home].is_left();
            if !tried.contains(&home) && is_fine() {
                return Some(home);
            }
        }
        let next = self.pick(now, tried)?;
        // Another call may have moved it meanwhile, which has looked at the same servers.
        let moved = self.home.compare_exchange(home, next, Ordering::AcqRel, Ordering::Acquire);
        Some(moved.map_or_else(|other| other, |_| next)).filter(|home| !tried.contains(home))
    }

    /// The same for what cannot wait: if no server is healthy, the one that has the session, or the first.
    pub(in crate::client) fn session(&self) -> &Arc<Shared> {
        let member = self.pick_home(self.first().runtime.now(), &[]);
        self.shared(member.unwrap_or_else(|| self.last_home()))
    }

    /// The client that has the session, or will have it if no server becomes healthy before.
    pub(in crate::client) fn home(&self) -> &Arc<Shared> {
        self.shared(self.last_home())
    }

    fn last_home(&self) -> usize {
        let home = self.home.load(Ordering::Acquire);
        if home == NONE { 0 } else { home }
    }

    /// This member has failed a call.
    pub(super) fn avoid(&self, member: usize, now: Instant) {
        let until = now + self.plan.avoid_for;
        self.members[member].avoid_until.fetch_max(until.as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn has_others(&self) -> bool {
        self.members.len() > 1
    }

    /// Why a call that has not left need not wait for a server, or for the `only` one that it may be made at; `None` if one may
    /// become healthy in time. `may_have_run`: an attempt of it may have been executed, so that it waits as calls in doubt do.
    pub(super) fn verdict(
        &self,
        only: Option<usize>,
        fail_fast: bool,
        may_have_run: bool,
    ) -> Option<NotExecuted> {
        let members = match only {
            Some(member) => &self.members[member..=member],
            None => &self.members,
        };
        let mut all = members.iter().map(Member::away);
        let is_over = |away| matches!(away, Away::Refused | Away::Closed);
        if all.clone().all(is_over) {
            let refused = all.any(|away| away == Away::Refused);
            let closed = NotExecuted::NotBegun(NotBegun::Closed);
            return Some(if refused { NotExecuted::SessionRefused } else { closed });
        }
        if fail_fast {
            return Some(NotExecuted::Disconnected);
        }
        let policy = self.on_dial_failure;
        let ends = |away| match away {
            Away::Unreachable { permanent } => {
                policy == OnDialFailure::End || policy == OnDialFailure::EndIfPermanent && permanent
            }
            Away::Refused | Away::Closed => true,
            Away::Soon => false,
        };
        (!may_have_run && all.all(ends)).then_some(NotExecuted::NeverConnected)
    }

    /// What is known of a call of which there was no attempt: why no server was healthy.
    pub(super) fn report(&self, method: CalledMethod, failure: CallFailure) -> CallReport {
        let reports = self.members.iter().map(|one| one.shared().report(method, failure, None));
        let together = reports.reduce(|mut together, report| {
            together.address = format!("{},{}", together.address, report.address);
            together.last_error = match (together.last_error, report.last_error) {
                (Some(one), Some(other)) => Some(format!("{one}; {other}")),
                (one, other) => one.or(other),
            };
            together.connections += report.connections;
            together.failed_attempts =
                together.failed_attempts.saturating_add(report.failed_attempts);
            together
        });
        // There is at least one.
        together.unwrap_or_else(|| self.first().report(method, failure, None))
    }

    /// Calls that wait for a server to be healthy.
    pub(super) fn waiting(&self) -> usize {
        self.arrivals.calls.load(Ordering::Relaxed)
    }

    /// Ends all sessions, and says how that went: together, and for the rest of the server that had the session.
    pub(in crate::client) async fn close(&self) -> CloseReport {
        let waiting = self.waiting() as u64;
        for member in &self.members {
            member.shared().close(true);
        }
        let home = self.last_home();
        let mut together = CloseReport { in_good_order: true, ..CloseReport::default() };
        for (at, member) in self.members.iter().enumerate() {
            let report = std::future::poll_fn(|cx| member.shared().poll_closed(cx)).await;
            together.in_good_order &= report.in_good_order;
            together.unfinished += report.unfinished;
            together.one_way_unconfirmed += report.one_way_unconfirmed;
            if at == home {
                let CloseReport { server, instance, session, .. } = report;
                (together.server, together.instance, together.session) =
                    (server, instance, session);
            }
        }
        together.unfinished += waiting;
        together
    }

    /// Waits until the session at one of the servers is open; false if none ever will be.
    pub(in crate::client) async fn connected(&self) -> bool {
        let mut waits: Vec<_> =
            self.members.iter().map(|member| Connected::new(member.shared())).collect();
        std::future::poll_fn(|cx| {
            let mut is_over = true;
            for wait in &mut waits {
                match Pin::new(wait).poll(cx) {
                    Poll::Ready(true) => return Poll::Ready(true),
                    Poll::Ready(false) => {}
                    Poll::Pending => is_over = false,
                }
            }
            if is_over { Poll::Ready(false) } else { Poll::Pending }
        })
        .await
    }

    pub(in crate::client) fn set_token(&self, token: Token) {
        for member in &self.members {
            member.shared().with(|state, _| state.lifecycle.next_token = Some(token));
        }
    }

    pub(in crate::client) fn statuses(&self) -> Vec<ServerStatus> {
        let home = self.home.load(Ordering::Acquire);
        self.members.iter().enumerate().map(|(at, member)| member.status(at == home)).collect()
    }
}
