//! The service of the world: its methods, and what their handlers do.
//!
//! How an execution ends is derived from its operation's number, so that it does not depend on when it runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oncewire_driver::protocol::{MethodId, MethodSpec, NotExecuted};
use oncewire_driver::{Bytes, Context, Metadata, MetadataKey, Method, Server};

use super::World;
use super::clocks::Clock;
use super::executor::{Group, Sleep, lock};
use super::model::{End, Observed};
use super::profile::{MS, Profile, SECOND};
use crate::mutant::Mutant;
use crate::rng::{Rng, mix};

/// A request: the operation's number and a pad.
pub type Request = (u64, Vec<u8>);
/// A reply: the operation's number, the execution's, and a pad.
pub type Reply = (u64, u64, Vec<u8>);

/// Answers.
pub const ECHO: Method<Request, Reply> = Method::new("driver_world/echo").reply_len_max(2_000);
/// Answers, or is aborted when it takes too long.
pub const LIMITED: Method<Request, Reply> =
    Method::new("driver_world/limited").reply_len_max(2_000).time_limit(Duration::from_millis(50));
/// Answers as often as it is asked.
pub const IDEM: Method<Request, Reply> =
    Method::new("driver_world/idem").reply_len_max(2_000).idempotent();
/// Answers when its caller has given up, or after a while.
pub const LISTENS: Method<Request, Reply> =
    Method::new("driver_world/listens").reply_len_max(2_000);
/// The same, without hearing of it: it is dropped.
pub const DROPPED: Method<Request, Reply> =
    Method::new("driver_world/dropped").reply_len_max(2_000).drop_on_cancel();
/// Answers nothing to floods of calls.
pub const FLOODED: MethodId = MethodId::of("driver_world/flooded");
/// Answers in bytes.
pub const RAW: MethodId = MethodId::of("driver_world/raw");
/// Is not offered.
pub const NOWHERE: Method<Request, Reply> = Method::new("driver_world/nowhere");

/// Their names, for recordings.
pub const METHODS: [&str; 8] = [
    "driver_world/echo",
    "driver_world/limited",
    "driver_world/idem",
    "driver_world/listens",
    "driver_world/dropped",
    "driver_world/flooded",
    "driver_world/raw",
    "driver_world/nowhere",
];

/// The place of [`RAW`], as the model knows it.
pub const RAW_PLACE: usize = 3;
/// The place of [`IDEM`].
pub const IDEM_PLACE: usize = 2;
/// The place of [`NOWHERE`].
pub const ABSENT: usize = 4;
/// The place of arguments that cannot be decoded.
pub const GARBLED: usize = 5;

/// The place of [`LISTENS`].
pub const LISTENS_PLACE: usize = 6;
/// The place of [`DROPPED`].
pub const DROPPED_PLACE: usize = 7;

/// Bytes of the largest bodies, where a world has large ones.
pub const LARGE_MAX: usize = 100_000;

/// The pad of an operation.
pub fn pad(op: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (mix(op ^ at as u64 >> 3) >> (8 * (at % 8))) as u8).collect()
}

const OP: MetadataKey<u64> = MetadataKey::new("op");
const PAD: MetadataKey<Bytes> = MetadataKey::new("pad");

/// What the calls of an operation carry beside their arguments: nothing in most.
pub fn metadata_of(op: u64) -> Metadata {
    let metadata = Metadata::new();
    if op % 4 == 1 {
        metadata.with(&OP, op).with(&PAD, pad(op, op as usize % 300))
    } else {
        metadata
    }
}

fn check_metadata(world: &World, context: &Context, op: u64) {
    if context.all_metadata().cloned().unwrap_or_default() != metadata_of(op) {
        world.sim.fail(format!("operation {op} came with {:?}", context.all_metadata()));
    }
}

/// A raw reply.
pub fn raw_reply(op: u64, run: u64, len: usize) -> Bytes {
    let mut body = op.to_le_bytes().to_vec();
    body.extend(run.to_le_bytes());
    body.extend(pad(op ^ run, len));
    body.into()
}

/// What callers mean by a typed method, where methods are compared (S33): its signature has the names of its parameters.
pub fn meant(world: &World, method: Method<Request, Reply>) -> Method<Request, Reply> {
    match world.profile.compares && world.mutant != Some(Mutant::GateOpen) {
        true => method.parameters(&["op", "pad"]),
        false => method,
    }
}

/// Whether a server means something else by the methods that are compared. Where nothing goes wrong, none does.
fn means_another(world: &World, server: Group) -> bool {
    let Profile { seed, compares, brisk, .. } = world.profile;
    compares && !brisk && Rng::apart(seed, (u64::from(server) << 8) | 0x79).one_in(3)
}

/// What a server means by a method that is compared.
fn offered(world: &World, server: Group, method: Method<Request, Reply>) -> Method<Request, Reply> {
    match (world.profile.compares, means_another(world, server)) {
        (false, _) => method,
        (true, false) => method.parameters(&["op", "pad"]),
        (true, true) => method.parameters(&["pad", "op"]),
    }
}

/// Counts what comparisons did to calls.
pub fn count_comparison(world: &World, observed: Observed) {
    match observed {
        Observed::NotExecuted(NotExecuted::SignatureMismatch) => world.count("signature differs"),
        Observed::NotExecuted(NotExecuted::NotCompared) => world.count("not compared"),
        _ => {}
    }
}

/// What a raw reply says.
pub fn read_raw(body: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let (op, run) = (number(0)?, number(8)?);
    (body[16..] == pad(op ^ run, body.len() - 16)).then_some((op, run))
}

/// What a typed reply says.
pub fn read_typed(reply: &Reply) -> Option<(u64, u64)> {
    let (op, run, bytes) = reply;
    (*bytes == pad(op ^ run, bytes.len())).then_some((*op, *run))
}

/// What the handler of an operation does.
struct Plan {
    yields: u64,
    delay: u64,
    panic_first: bool,
    end: End,
    pad: usize,
}

fn plan(world: &World, op: u64) -> Plan {
    let profile = &world.profile;
    let mut rng = Rng::apart(profile.seed, (op << 8) | 0x50);
    let mut plan =
        Plan { yields: 0, delay: 0, panic_first: false, end: End::Replied, pad: rng.index(40) };
    if !rng.one_in(profile.odd_in) {
        return plan;
    }
    match rng.below(8) {
        0 | 1 => plan.yields = rng.range(1, 3),
        2..=4 => plan.delay = rng.delay(profile.handler_delay_max),
        _ => {}
    }
    match rng.below(12) {
        0 => plan.end = End::Panicked,
        1 => plan.end = End::TooLarge,
        2 => plan.pad = rng.index(1_900),
        _ => {}
    }
    plan.panic_first = rng.one_in(2);
    plan
}

/// How long the handler of an operation waits for its caller to give up; `None` for as long as it takes.
fn time_limit_of(world: &World, op: u64) -> Option<u64> {
    let profile = &world.profile;
    let mut rng = Rng::apart(profile.seed, (op << 8) | 0x52);
    // Where few may run, the others would wait for ever.
    let ever = rng.one_in(2) && profile.limits.is_none();
    (!ever).then(|| rng.delay(profile.handler_delay_max.min(500 * MS)))
}

/// Whether the handler of an operation ends by itself.
pub fn ends(world: &World, op: u64, method: usize) -> bool {
    !matches!(method, LISTENS_PLACE | DROPPED_PLACE) || time_limit_of(world, op).is_some()
}

/// Notes how an execution ended, also when it is dropped.
struct Run {
    world: Arc<World>,
    server: Group,
    method: usize,
    op: u64,
    run: u64,
    end: End,
}

impl Drop for Run {
    fn drop(&mut self) {
        let (op, run, end) = (self.op, self.run, self.end);
        self.world.sim.note(|| format!("operation {op} execution {run} ends: {end:?}"));
        if self.method == DROPPED_PLACE && end == End::Dropped {
            self.world.count("handler dropped");
        }
        let mut model = lock(&self.world.model);
        model.load.leave(self.server, self.method);
        model.end(op, run, end);
    }
}

/// A run of the operation begins; it ends when this is dropped.
fn start(world: &Arc<World>, server: Group, method: usize, op: u64) -> Run {
    let mut model = lock(&world.model);
    let entered = model.load.enter(&world.profile, server, method);
    let started = model.start(op);
    drop(model);
    for what in [entered.err(), started.clone().err()].into_iter().flatten() {
        world.sim.fail(what);
    }
    let run = started.unwrap_or(0);
    Run { world: world.clone(), server, method, op, run, end: End::Dropped }
}

/// The handler of [`LISTENS`] or [`DROPPED`].
async fn wait(
    world: Arc<World>,
    server: Group,
    context: Context,
    method: usize,
    op: u64,
) -> (u64, usize) {
    world.sim.note(|| format!("server {server} runs operation {op}, which waits"));
    check_metadata(&world, &context, op);
    let mut guard = start(&world, server, method, op);
    let mut time = time_limit_of(&world, op).map(|time| Sleep::new(&world.sim, time));
    let mut cancelled = std::pin::pin!(context.cancelled());
    let heard = std::future::poll_fn(|cx| {
        if method == LISTENS_PLACE && cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        match &mut time {
            Some(time) => Pin::new(time).poll(cx).map(|()| false),
            None => Poll::Pending,
        }
    });
    if heard.await {
        world.count("cancel heard");
        if !context.is_cancelled() {
            world.sim.fail(format!("operation {op} heard of a cancel, and is not cancelled"));
        }
        if world.profile.brisk && !lock(&world.model).may_be_cancelled(op) {
            world.sim.fail(format!("operation {op} is cancelled, and its caller waits for it"));
        }
    }
    guard.end = End::Replied;
    (guard.run, 5)
}

async fn execute(
    world: Arc<World>,
    server: Group,
    context: Context,
    method: usize,
    op: u64,
) -> (u64, usize) {
    let plan = plan(&world, op);
    world.sim.note(|| format!("server {server} runs operation {op}, xid {}", context.xid));
    check_metadata(&world, &context, op);
    let mut guard = start(&world, server, method, op);
    let run = guard.run;
    if plan.end == End::Panicked && plan.panic_first {
        panic_quietly(&mut guard, server);
    }
    for _ in 0..plan.yields {
        yield_now().await;
    }
    if plan.delay > 0 {
        Sleep::new(&world.sim, plan.delay).await;
    }
    let _seen = context.is_cancelled();
    if plan.end == End::Panicked {
        panic_quietly(&mut guard, server);
    }
    guard.end = plan.end;
    let too_large = if world.profile.large { 2 * LARGE_MAX + 1 } else { 2_500 };
    let len = if plan.end == End::TooLarge { too_large } else { plan.pad };
    (run, len)
}

/// Panics without a word from the panic hook.
fn panic_quietly(guard: &mut Run, server: Group) -> ! {
    guard.end = End::Panicked;
    *lock(&guard.world.model).panics.entry(server).or_default() += 1;
    std::panic::resume_unwind(Box::new(Planned))
}

/// The payload of a planned panic. Its drop panics too: it must end there, and not take a connection with it.
struct Planned;

impl Drop for Planned {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("planned"))
    }
}

/// Lets others go first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// A server of the world, whose tasks are `group`.
pub fn server(world: &Arc<World>, group: Group, clock: &Arc<Clock>) -> Server {
    let typed = |world: &Arc<World>, method: usize| {
        let world = world.clone();
        move |context: Context, (op, bytes): Request| {
            let world = world.clone();
            async move {
                if bytes != pad(op, bytes.len()) {
                    world.sim.fail(format!("operation {op} came with other bytes"));
                }
                if method <= IDEM_PLACE && means_another(&world, group) {
                    world.sim.fail(format!("operation {op} runs where it means something else"));
                }
                let (run, len) = match method {
                    LISTENS_PLACE | DROPPED_PLACE => wait(world, group, context, method, op).await,
                    _ => execute(world, group, context, method, op).await,
                };
                (op, run, pad(op ^ run, len))
            }
        }
    };
    let raw_world = world.clone();
    let raw = move |context: Context, body: Bytes| {
        let world = raw_world.clone();
        async move {
            let op = u64::from_le_bytes(body[..8].try_into().unwrap_or_default());
            if body[8..] != pad(op, body.len() - 8) {
                world.sim.fail(format!("operation {op} came with other bytes"));
            }
            let large = world.profile.large && op % 3 == 0;
            let (run, len) = execute(world, group, context, RAW_PLACE, op).await;
            // As long as its request, at most so long that it leaves in one piece of its own.
            raw_reply(op, run, if large { len + body.len() } else { len })
        }
    };
    let mut spec = MethodSpec::new(RAW);
    spec.reply_len_max = if world.profile.large { 2 * LARGE_MAX as u32 } else { 2_000 };
    let mut builder = Server::builder("driver_world").instance("simulated");
    if let Some(camera) = &world.camera {
        builder = builder.observe(camera.clone());
    }
    let limited = |method: Method<Request, Reply>| match &world.profile.limits {
        Some(limits) => method.concurrency(limits.method).queue_max(limits.method_queue),
        None => method,
    };
    let offered = |method| offered(world, group, limited(method));
    if let Some(limits) = &world.profile.limits {
        builder = builder.concurrency(limits.server).queue_max(limits.server_queue);
    }
    if world.profile.tokens {
        builder = builder.tokens(&super::profile::tokens());
    }
    if let Some(fault) = world.mutant.and_then(Mutant::fault) {
        builder = builder.fault(fault);
    }
    super::streams::offer(builder, world, group)
        .runtime(world.sim.runtime_with(group, clock.clone()))
        .configure(|config| world.profile.configure(config))
        .method(&offered(ECHO), typed(world, 0))
        .method(&offered(LIMITED), typed(world, 1))
        .method(&offered(IDEM), typed(world, IDEM_PLACE))
        .method(&LISTENS, typed(world, LISTENS_PLACE))
        .method(&DROPPED, typed(world, DROPPED_PLACE))
        .method_raw(MethodSpec::new(FLOODED), |_, _| std::future::ready(Bytes::new()))
        .method_raw(spec, raw)
        .build()
        .expect("the description is sound")
}

/// How long the handler of an operation takes, if its caller does not give up.
pub fn delay_of(world: &World, op: u64, method: usize) -> u64 {
    match method {
        LISTENS_PLACE | DROPPED_PLACE => time_limit_of(world, op).unwrap_or(3_600 * SECOND),
        _ => plan(world, op).delay,
    }
}

/// The longest that a handler takes, and a little more.
pub fn longest(world: &World) -> u64 {
    world.profile.handler_delay_max + MS
}
