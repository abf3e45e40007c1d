//! Tasks that make calls, in every way in which a call can be made, awaited, held and dropped.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oncewire_driver::protocol::NotExecuted;
use oncewire_driver::{Bytes, Call, Client, Metadata, Outcome, Ticket};

use super::awaited::Awaited;
use super::executor::{Sleep, lock};
use super::handlers::{self, Reply, Request};
use super::model::{Kind, Observed};
use super::place::USERS;
use super::profile::{MS, SECOND};
use super::{SLACK, World};
use crate::rng::Rng;

/// A ticket of any method.
enum AnyTicket {
    Typed(Ticket<Reply>),
    Raw(Ticket<Bytes>),
}

type Ended = (Observed, Option<AnyTicket>);

/// A call that was made.
struct Pending {
    op: u64,
    /// It was started or polled: its time runs.
    begun: bool,
    kind: Kind,
    /// When it must have ended, if its caller waits for it.
    due: u64,
    call: Pin<Box<dyn Future<Output = Ended> + Send>>,
}

/// One task that makes calls.
pub struct Actor {
    world: Arc<World>,
    rng: Rng,
    number: u64,
    at: usize,
    client: Option<Client>,
    tickets: Vec<(u64, AnyTicket)>,
}

impl std::fmt::Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actor").field("number", &self.number).finish_non_exhaustive()
    }
}

fn typed(outcome: Outcome<Reply>) -> Ended {
    let (observed, ticket) = split(outcome, handlers::read_typed);
    (observed, ticket.map(AnyTicket::Typed))
}

fn raw(outcome: Outcome<Bytes>) -> Ended {
    let (observed, ticket) = split(outcome, |reply| handlers::read_raw(reply));
    (observed, ticket.map(AnyTicket::Raw))
}

fn split<R>(
    outcome: Outcome<R>,
    read: impl Fn(&R) -> Option<(u64, u64)>,
) -> (Observed, Option<Ticket<R>>) {
    match outcome {
        Outcome::Reply(reply) => (Observed::Reply(read(&reply)), None),
        Outcome::NoReply(why) => (Observed::NoReply(why), None),
        Outcome::NotExecuted(why) => (Observed::NotExecuted(why), None),
        Outcome::Unknown(why, ticket) => (Observed::Unknown(why, ticket.is_some()), ticket),
    }
}

impl AnyTicket {
    async fn wait(&mut self) -> Ended {
        match self {
            AnyTicket::Typed(ticket) => typed(ticket.wait().await),
            AnyTicket::Raw(ticket) => raw(ticket.wait().await),
        }
    }
}

impl Actor {
    /// One that uses the client number `at`.
    pub fn new(world: &Arc<World>, number: u64, at: usize, client: Client) -> Actor {
        let rng = Rng::apart(world.profile.seed, (number << 8) | 0x60);
        let world = world.clone();
        Actor { world, rng, number, at, client: Some(client), tickets: Vec::new() }
    }

    /// All that it does.
    pub async fn run(mut self) {
        for _ in 0..self.world.profile.steps {
            self.step().await;
        }
        if self.rng.one_in(2) {
            self.let_handle_go();
        }
        while !self.world.sim.is_calm() {
            Sleep::new(&self.world.sim, 100 * MS).await;
        }
        // Whatever is in doubt can be learnt now.
        let due = self.world.sim.now() + 120 * SECOND + handlers::longest(&self.world);
        for (op, mut ticket) in std::mem::take(&mut self.tickets) {
            let awaited = Awaited::new(&self.world.sim, due, format!("the ticket of {op}"));
            let (observed, _) = ticket.wait().await;
            drop(awaited);
            self.observe(op, observed);
        }
        self.let_handle_go();
    }

    fn let_handle_go(&mut self) {
        if self.client.take().is_some() && !self.world.keeps_handles {
            // This may have been the last one.
            lock(&self.world.model).closing[self.at] = true;
        }
    }

    async fn step(&mut self) {
        match self.rng.below(24) {
            0..=5 => {
                let call = self.begin();
                self.wait(call).await;
            }
            6..=8 => self.join().await,
            9..=11 => self.drop_after_polls().await,
            12 | 13 => self.drop_after_time().await,
            14 => {
                let pending = self.begin();
                self.take_or_drop(pending, None);
            }
            15 | 16 if self.world.profile.holds => self.hold().await,
            15..=17 => self.start_and_come_back().await,
            18 => self.send(),
            19 | 20 => self.look_at_tickets().await,
            21 => self.use_handle().await,
            22 if self.world.profile.closes && self.rng.one_in(3) => self.close().await,
            _ => {
                let pause = self.rng.pick(&[MS, 10 * MS, 80 * MS, 2_000 * MS]);
                Sleep::new(&self.world.sim, self.rng.delay(pause)).await;
            }
        }
    }

    fn client(&self) -> Client {
        self.client.clone().expect("it is let go only after the last step")
    }

    fn kind(&mut self) -> Kind {
        let waits = self.world.profile.waits && self.rng.one_in(4);
        let method = match self.rng.below(20) {
            at if waits => [handlers::LISTENS_PLACE, handlers::DROPPED_PLACE][at as usize % 2],
            0 => handlers::ABSENT,
            1 => handlers::GARBLED,
            other => other as usize % 4,
        };
        let profile = &self.world.profile;
        let default = profile.options.timeout.as_nanos() as u64;
        let timeout = match self.rng.below(8) {
            0 | 1 => self.rng.delay(profile.short_timeout_max),
            2 => self.rng.range(1, 3_000) * MS,
            _ => default,
        };
        let idempotent =
            if method == handlers::IDEM_PLACE { !self.rng.one_in(6) } else { self.rng.one_in(20) };
        let fail_fast = profile.options.fail_fast || self.rng.one_in(8);
        Kind { method, idempotent, one_way: false, fail_fast, timeout }
    }

    fn begin(&mut self) -> Pending {
        let kind = self.kind();
        let (world, client) = (&self.world, self.client());
        let now = world.sim.now();
        let op = lock(&world.model).begin(now, self.at, kind);
        let len = if self.rng.one_in(10) { self.rng.index(5_000) } else { self.rng.index(60) };
        let large = world.profile.large && kind.method == handlers::RAW_PLACE && op % 4 == 0;
        let len = if large { handlers::LARGE_MAX / (1 + op as usize % 5) } else { len };
        world.sim.note(|| format!("actor {} begins {op}: {kind:?}", self.number));
        let request: Request = (op, handlers::pad(op, len));
        let starts = self.rng.one_in(4);
        let begun = Begun { metadata: handlers::metadata_of(op), kind, starts };
        let meant = |method| handlers::meant(world, method);
        let call = match kind.method {
            handlers::RAW_PLACE => {
                let mut body = op.to_le_bytes().to_vec();
                body.extend(&request.1);
                begin_call(client.call_raw(handlers::RAW, body), begun, raw)
            }
            handlers::GARBLED => {
                begin_call(client.call_raw(handlers::ECHO.id(), vec![0x80]), begun, raw)
            }
            handlers::ABSENT => begin_call(client.call(&handlers::NOWHERE, &request), begun, typed),
            0 => begin_call(client.call(&meant(handlers::ECHO), &request), begun, typed),
            1 => begin_call(client.call(&meant(handlers::LIMITED), &request), begun, typed),
            handlers::LISTENS_PLACE => {
                begin_call(client.call(&handlers::LISTENS, &request), begun, typed)
            }
            handlers::DROPPED_PLACE => {
                begin_call(client.call(&handlers::DROPPED, &request), begun, typed)
            }
            _ => begin_call(client.call(&meant(handlers::IDEM), &request), begun, typed),
        };
        Pending { op, begun: starts, kind, due: self.due(now, op, kind), call }
    }

    fn due(&self, now: u64, op: u64, kind: Kind) -> u64 {
        let deadline = now + kind.timeout + SLACK;
        match self.brisk() {
            Some(slack) => {
                deadline.min(now + handlers::delay_of(&self.world, op, kind.method) + slack)
            }
            None => deadline,
        }
    }

    /// How long a call may take apart from its handler, if nothing goes wrong in this world.
    fn brisk(&self) -> Option<u64> {
        let profile = &self.world.profile;
        // One that is held and not polled may lead until the client's task looks.
        let slack = if profile.holds { super::BRISK_HELD } else { super::BRISK };
        profile.brisk.then_some(slack)
    }

    fn observe(&self, op: u64, observed: Observed) {
        let now = self.world.sim.now();
        self.world.sim.note(|| format!("actor {} sees {op} end as {observed:?}", self.number));
        handlers::count_comparison(&self.world, observed);
        if let Err(what) = lock(&self.world.model).observe(&self.world.profile, now, op, observed) {
            self.world.sim.fail(what);
        }
    }

    fn take(&mut self, op: u64, (observed, ticket): Ended) {
        self.observe(op, observed);
        let method = lock(&self.world.model).method_of(op);
        if let Some(ticket) = ticket {
            // What does not end is not waited for.
            if self.rng.one_in(4) || !handlers::ends(&self.world, op, method) {
                self.give_up(op, ticket);
            } else {
                self.tickets.push((op, ticket));
            }
        }
    }

    async fn wait(&mut self, mut pending: Pending) {
        let (op, now) = (pending.op, self.world.sim.now());
        // It may have been begun long ago, and leaves only now.
        let due = match self.brisk() {
            Some(slack) => {
                let delay = handlers::delay_of(&self.world, op, pending.kind.method);
                now + delay.min(pending.kind.timeout + SLACK) + slack
            }
            None => now + SLACK,
        };
        let due = match pending.begun {
            true => due.max(pending.due),
            false => due.max(self.due(now, op, pending.kind)),
        };
        let awaited = Awaited::new(&self.world.sim, due, format!("operation {op}"));
        let ended = pending.call.as_mut().await;
        drop(awaited);
        self.take(op, ended);
    }

    /// Several calls in one task.
    async fn join(&mut self) {
        let mut all = Vec::new();
        for _ in 0..self.rng.range(2, 8) {
            let pending = self.begin();
            let op = pending.op;
            let name = format!("operation {op}, joined");
            let awaited = Awaited::new(&self.world.sim, pending.due, name);
            all.push((pending, awaited));
        }
        let step = self.rng.range(1, all.len() as u64) as usize;
        while !all.is_empty() {
            let (at, ended) = next_of(&mut all, step).await;
            let (pending, awaited) = all.remove(at);
            drop(awaited);
            self.take(pending.op, ended);
        }
    }

    /// S19: the future is dropped at any of its awaits, also while it reads for the others.
    async fn drop_after_polls(&mut self) {
        let mut pending = self.begin();
        let (op, due) = (pending.op, pending.due);
        let mut left = self.rng.range(1, 4);
        let awaited = Awaited::new(&self.world.sim, due, format!("operation {op}, polled"));
        let ended = std::future::poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            match pending.call.as_mut().poll(cx) {
                Poll::Pending if left == 0 => Poll::Ready(None),
                other => other.map(Some),
            }
        });
        let ended = ended.await;
        drop(awaited);
        self.take_or_drop(pending, ended);
    }

    async fn drop_after_time(&mut self) {
        let mut pending = self.begin();
        let max = self.rng.pick(&[MS / 4, 3 * MS, 90 * MS, 2_000 * MS]);
        let sleep = Sleep::new(&self.world.sim, self.rng.delay(max));
        let ended = before(pending.call.as_mut(), sleep).await;
        self.take_or_drop(pending, ended);
    }

    /// S19: a handler that waits for its cancel hears of it soon, where nothing goes wrong.
    fn give_up<T>(&self, op: u64, what: T) {
        lock(&self.world.model).give_up(op);
        drop(what);
        if !self.world.profile.brisk {
            return;
        }
        let world = self.world.clone();
        self.world.sim.spawn(USERS, async move {
            Sleep::new(&world.sim, super::BRISK_HELD).await;
            let model = lock(&world.model);
            let waits = !handlers::ends(&world, op, model.method_of(op));
            if waits && model.runs_now(op) {
                drop(model);
                world.sim.fail(format!("operation {op} was given up, and its handler still waits"));
            }
        });
    }

    fn take_or_drop(&mut self, pending: Pending, ended: Option<Ended>) {
        match ended {
            Some(ended) => self.take(pending.op, ended),
            None => {
                let (op, number) = (pending.op, self.number);
                self.world.sim.note(|| format!("actor {number} drops {op}"));
                self.give_up(op, pending);
            }
        }
    }

    /// Futures that were polled are held and not polled while others are waited for.
    async fn hold(&mut self) {
        let mut all: Vec<Pending> = (0..self.rng.range(1, 4)).map(|_| self.begin()).collect();
        let mut ended = Vec::new();
        for pending in &mut all {
            ended.push(poll_once(pending.call.as_mut()).await);
            pending.begun = true;
        }
        for _ in 0..self.rng.range(0, 3) {
            let call = self.begin();
            self.wait(call).await;
        }
        let mut all: Vec<_> = all.into_iter().zip(ended).collect();
        while !all.is_empty() {
            let (pending, ended) = all.swap_remove(self.rng.index(all.len()));
            match ended {
                Some(ended) => self.take(pending.op, ended),
                None if self.rng.one_in(4) => self.take_or_drop(pending, None),
                None => self.wait(pending).await,
            }
        }
    }

    async fn start_and_come_back(&mut self) {
        let all: Vec<Pending> = (0..self.rng.range(1, 5)).map(|_| self.begin()).collect();
        let pause = self.rng.pick(&[0, MS, 100 * MS]);
        Sleep::new(&self.world.sim, self.rng.delay(pause)).await;
        for pending in all {
            self.wait(pending).await;
        }
    }

    fn send(&mut self) {
        let method = self.rng.index(3);
        let timeout = self.world.profile.options.timeout.as_nanos() as u64;
        let kind =
            Kind { method, idempotent: method == 2, one_way: true, fail_fast: false, timeout };
        let op = lock(&self.world.model).begin(self.world.sim.now(), self.at, kind);
        let len = self.rng.index(100);
        let request: Request = (op, handlers::pad(op, len));
        let method = [handlers::ECHO, handlers::LIMITED, handlers::IDEM][method];
        let method = handlers::meant(&self.world, method);
        let metadata = handlers::metadata_of(op);
        let sent = match metadata.is_empty() {
            true => self.client().send(&method, &request),
            false => self.client().send_with_metadata(&method, &request, &metadata),
        };
        self.world.sim.note(|| format!("actor {} sends {op}: {sent:?}", self.number));
        if let Err(why) = sent {
            let mut model = lock(&self.world.model);
            model.not_begun(op, NotExecuted::NotBegun(why));
        }
    }

    async fn look_at_tickets(&mut self) {
        if self.tickets.is_empty() {
            return;
        }
        let (op, mut ticket) = self.tickets.swap_remove(self.rng.index(self.tickets.len()));
        if self.rng.one_in(4) {
            let number = self.number;
            self.world.sim.note(|| format!("actor {number} drops the ticket of {op}"));
            self.give_up(op, ticket);
            return;
        }
        let pause = self.rng.delay(500 * MS);
        let observed = {
            let wait = std::pin::pin!(ticket.wait());
            before(wait, Sleep::new(&self.world.sim, pause)).await
        };
        match observed {
            Some((observed, _)) => self.observe(op, observed),
            None => self.tickets.push((op, ticket)),
        }
    }

    async fn use_handle(&mut self) {
        let client = self.client();
        let before_drop = format!("{:?}", client.status().connected);
        self.world.sim.note(|| before_drop);
        let pause = self.rng.delay(100 * MS);
        let connected = std::pin::pin!(client.connected());
        before(connected, Sleep::new(&self.world.sim, pause)).await;
    }

    async fn close(&mut self) {
        lock(&self.world.model).closing[self.at] = true;
        let number = self.at;
        self.world.sim.note(|| format!("client {number} is closed"));
        let limit = self.world.profile.options.close_timeout.as_nanos() as u64 + SLACK;
        let due = self.world.sim.now() + limit;
        let awaited = Awaited::new(&self.world.sim, due, format!("the close of client {number}"));
        self.client().close().await;
        drop(awaited);
    }
}

/// The first of them to end.
fn next_of<'a>(
    all: &'a mut [(Pending, Awaited)],
    step: usize,
) -> impl Future<Output = (usize, Ended)> + Send + 'a {
    std::future::poll_fn(move |cx| {
        let len = all.len();
        for at in (0..len).map(|at| (at + step) % len) {
            if let Poll::Ready(ended) = all[at].0.call.as_mut().poll(cx) {
                return Poll::Ready((at, ended));
            }
        }
        Poll::Pending
    })
}

/// What a future comes to, if it comes to it before the time.
async fn before<F: Future + Unpin>(mut future: F, mut time: Sleep) -> Option<F::Output> {
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
            return Poll::Ready(Some(output));
        }
        Pin::new(&mut time).poll(cx).map(|()| None)
    })
    .await
}

async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(move |cx| match Pin::new(&mut future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// How a call is begun.
struct Begun {
    metadata: Metadata,
    kind: Kind,
    /// Before it is polled.
    starts: bool,
}

fn begin_call<R: Send + 'static>(
    call: Call<R>,
    begun: Begun,
    observed: fn(Outcome<R>) -> Ended,
) -> Pin<Box<dyn Future<Output = Ended> + Send>> {
    let Begun { metadata, kind, starts } = begun;
    let call = call.with_metadata(metadata);
    let mut call = call.timeout(Duration::from_nanos(kind.timeout)).fail_fast(kind.fail_fast);
    call = if kind.idempotent { call.idempotent() } else { call.at_most_once() };
    let future = if starts { call.start() } else { call.into_future() };
    Box::pin(async move { observed(future.await) })
}
