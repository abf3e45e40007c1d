//! Tasks that make calls.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oncewire_driver::{Call, Client, Outcome, Ticket};

use super::World;
use super::model::{Kind, Observed};
use super::service::{self, NOTE, PAY, PEEK, Reply};
use crate::driver_world::awaited::Awaited;
use crate::driver_world::executor::{Sleep, lock};
use crate::driver_world::handlers::pad;
use crate::driver_world::profile::{MS, SECOND};
use crate::rng::Rng;

/// An outcome without its ticket, and the ticket.
pub type Ended = (Observed, Option<Ticket<Reply>>);

/// A call under way.
struct Pending {
    op: u64,
    due: u64,
    call: Pin<Box<dyn Future<Output = Ended> + Send>>,
}

/// One task that makes calls.
pub struct Caller {
    world: Arc<World>,
    rng: Rng,
    client: Client,
    tickets: Vec<(u64, Ticket<Reply>)>,
    /// Its payments.
    paid: Vec<u64>,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("paid", &self.paid).finish_non_exhaustive()
    }
}

/// An outcome, and the ticket that came with it.
pub fn ended(outcome: Outcome<Reply>) -> Ended {
    match outcome {
        Outcome::Reply(reply) => (Observed::Reply(service::read(&reply)), None),
        Outcome::NoReply(why) => (Observed::NoReply(why), None),
        Outcome::NotExecuted(why) => (Observed::NotExecuted(why), None),
        Outcome::Unknown(why, ticket) => (Observed::Unknown(why, ticket.is_some()), ticket),
    }
}

impl World {
    /// The caller of `op` gets its outcome.
    pub fn observe(&self, op: u64, observed: Observed) {
        self.sim.note(|| format!("{op} ends as {observed:?}"));
        if let Err(what) = lock(&self.model).observe(self.sim.now(), op, observed) {
            self.sim.fail(format!("operation {op}: {what}"));
        }
    }
}

impl Caller {
    /// One that uses this client.
    pub fn new(world: &Arc<World>, number: u64, client: Client) -> Caller {
        let rng = Rng::apart(world.profile.seed, (number << 8) | 0x78);
        Caller { world: world.clone(), rng, client, tickets: Vec::new(), paid: Vec::new() }
    }

    /// All that it does.
    pub async fn run(mut self) {
        for _ in 0..self.world.profile.steps {
            match self.rng.below(8) {
                0..=2 => self.together(1).await,
                3 | 4 => {
                    let many = self.rng.range(2, 9);
                    self.together(many).await;
                }
                5 => self.drop_some().await,
                _ => {
                    let pause = self.rng.pick(&[MS, 50 * MS, 1_000 * MS]);
                    Sleep::new(&self.world.sim, self.rng.delay(pause)).await;
                }
            }
        }
        while !self.world.sim.is_calm() {
            Sleep::new(&self.world.sim, 100 * MS).await;
        }
        // Whatever is in doubt can be learnt now.
        for (op, mut ticket) in std::mem::take(&mut self.tickets) {
            let due = self.world.sim.now() + 120 * SECOND;
            let awaited = Awaited::new(&self.world.sim, due, format!("the ticket of {op}"));
            let (observed, _) = ended(ticket.wait().await);
            drop(awaited);
            self.world.observe(op, observed);
        }
    }

    fn begin(&mut self) -> Pending {
        let kind = match self.rng.below(8) {
            0..=3 => Kind::Pay,
            4..=6 => Kind::Note,
            _ if self.paid.is_empty() => Kind::Note,
            _ => Kind::Peek(self.paid[self.rng.index(self.paid.len())]),
        };
        let default = self.world.profile.options.timeout.as_nanos() as u64;
        let timeout = if self.rng.one_in(6) { self.rng.delay(400 * MS) } else { default };
        let now = self.world.sim.now();
        let op = lock(&self.world.model).begin(now, kind, timeout);
        if kind == Kind::Pay {
            self.paid.push(op);
        }
        self.world.sim.note(|| format!("{op} begins: {kind:?}"));
        let len = if self.rng.one_in(8) { self.rng.index(3_000) } else { self.rng.index(60) };
        let request = (op, pad(op, len));
        let call = match kind {
            Kind::Pay => begin_call(self.client.call(&PAY, &request), timeout),
            Kind::Note => begin_call(self.client.call(&NOTE, &request), timeout),
            Kind::Peek(paid) => begin_call(self.client.call(&PEEK, &(op, paid)), timeout),
        };
        // Slow processors need some more.
        Pending { op, due: now + timeout + 100 * MS, call }
    }

    fn take(&mut self, op: u64, (observed, ticket): Ended) {
        self.world.observe(op, observed);
        self.tickets.extend(ticket.map(|ticket| (op, ticket)));
    }

    /// So many calls at once: they may share a commit.
    async fn together(&mut self, many: u64) {
        let mut all: Vec<_> = (0..many).map(|_| self.begin()).collect();
        let waits = |pending: &Pending| {
            Awaited::new(&self.world.sim, pending.due, format!("operation {}", pending.op))
        };
        let mut awaited: Vec<_> = all.iter().map(waits).collect();
        while !all.is_empty() {
            let (at, ended) = next_of(&mut all).await;
            let pending = all.swap_remove(at);
            drop(awaited.swap_remove(at));
            self.take(pending.op, ended);
        }
    }

    /// S19: a call whose outcome is not wanted any more.
    async fn drop_some(&mut self) {
        let mut pending = self.begin();
        let mut pause = Sleep::new(&self.world.sim, self.rng.delay(50 * MS));
        let ended = std::future::poll_fn(|cx| {
            if let Poll::Ready(ended) = pending.call.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            Pin::new(&mut pause).poll(cx).map(|()| None)
        });
        match ended.await {
            Some(ended) => self.take(pending.op, ended),
            None => self.world.sim.note(|| format!("{} is dropped", pending.op)),
        }
    }
}

fn next_of(all: &mut [Pending]) -> impl Future<Output = (usize, Ended)> + Send + '_ {
    std::future::poll_fn(move |cx| {
        for (at, pending) in all.iter_mut().enumerate() {
            if let Poll::Ready(ended) = pending.call.as_mut().poll(cx) {
                return Poll::Ready((at, ended));
            }
        }
        Poll::Pending
    })
}

fn begin_call(call: Call<Reply>, timeout: u64) -> Pin<Box<dyn Future<Output = Ended> + Send>> {
    let future = call.timeout(Duration::from_nanos(timeout)).into_future();
    Box::pin(async move { ended(future.await) })
}
