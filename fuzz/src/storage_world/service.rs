//! The service: a transactional method, a recorded one, and one that reads what is durable.
//!
//! How an execution ends is derived from its operation's number, so that it does not depend on when it runs.

use std::sync::Arc;
use std::time::Duration;

use oncewire_driver::ledger::{Ledger, Rollback};
use oncewire_driver::{BuildError, Context, Method, Server, Subject};
use oncewire_ledger_redb::redb::{ReadableTable, TableDefinition};
use oncewire_ledger_redb::{Snapshots, Transaction};

use super::model::{End, Name};
use super::profile::LEASE;
use super::{Broken, World};
use crate::driver_world::clocks::Clock;
use crate::driver_world::executor::{Group, Sleep, lock};
use crate::driver_world::handlers::{pad, yield_now};
use crate::driver_world::profile::MS;
use crate::rng::Rng;

/// A request: the operation's number and a pad.
pub type Request = (u64, Vec<u8>);
/// A reply: the operation's number, another one, and a pad.
pub type Reply = (u64, u64, Vec<u8>);

/// Transactional: notes the operation's payment.
pub const PAY: Method<Request, Reply> = Method::new("storage_world/pay").reply_len_max(600);
/// Recorded.
pub const NOTE: Method<Request, Reply> =
    Method::new("storage_world/note").reply_len_max(600).time_limit(Duration::from_millis(400));
/// Idempotent: whether the payment of another operation is durable, 1 or 0.
pub const PEEK: Method<(u64, u64), Reply> = Method::new("storage_world/peek").idempotent();

/// How often each operation was paid. More than once is a broken promise.
pub const PAYMENTS: TableDefinition<'_, u64, u64> = TableDefinition::new("payments");
/// How many payments there were, by account.
pub const ACCOUNTS: TableDefinition<'_, u64, u64> = TableDefinition::new("accounts");
/// Accounts.
pub const ACCOUNTS_LEN: u64 = 3;

/// What the handler of an operation does.
struct Plan {
    yields: u64,
    delay: u64,
    end: End,
    rolls_back: bool,
    pad: usize,
}

fn plan(world: &World, op: u64) -> Plan {
    let mut rng = Rng::apart(world.profile.seed, (op << 8) | 0x74);
    let pad = if rng.one_in(4) { rng.index(560) } else { rng.index(40) };
    let mut plan = Plan { yields: 0, delay: 0, end: End::Replied, rolls_back: false, pad };
    if !rng.one_in(world.profile.odd_in) {
        return plan;
    }
    match rng.below(6) {
        0 => plan.yields = rng.range(1, 3),
        1 => plan.delay = rng.delay(300 * MS),
        2 => plan.delay = rng.delay(600 * MS),
        3 => plan.end = End::Panicked,
        4 => plan.end = End::TooLarge,
        _ => plan.rolls_back = true,
    }
    if plan.end == End::TooLarge {
        plan.pad = 700;
    }
    plan
}

/// What a reply says.
pub fn read(reply: &Reply) -> Option<(u64, u64)> {
    let (op, number, bytes) = reply;
    (*bytes == pad(op ^ number, bytes.len())).then_some((*op, *number))
}

/// Whose call it is, by the client's name.
fn name(context: &Context) -> Name {
    let client = match &context.caller {
        Subject::Name(name) => name.parse().unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    (client, context.xid.get())
}

fn check_pad(world: &World, op: u64, bytes: &[u8]) {
    if bytes != pad(op, bytes.len()) {
        world.sim.fail(format!("operation {op} came with other bytes"));
    }
}

fn pay(
    world: &World,
    transaction: &mut Transaction,
    context: &Context,
    (op, bytes): Request,
) -> Result<Reply, Rollback> {
    check_pad(world, op, &bytes);
    world.sim.note(|| format!("payment {op} runs, xid {}", context.xid));
    let plan = plan(world, op);
    let mut payments = transaction.open_table(PAYMENTS)?;
    let times = payments.get(op)?.map_or(0, |times| times.value());
    if let Err(what) = lock(&world.model).run(op, name(context), times > 0) {
        world.sim.fail(what);
    }
    payments.insert(op, times + 1)?;
    drop(payments);
    let account = op % ACCOUNTS_LEN;
    // It stays open for the calls behind this one.
    let balance = transaction.with_table(ACCOUNTS, move |accounts| {
        let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + 1;
        accounts.insert(account, balance)?;
        Ok::<_, Rollback>(balance)
    })?;
    if plan.end == End::Panicked {
        // Without a word from the panic hook.
        std::panic::resume_unwind(Box::new("planned"));
    }
    if plan.rolls_back {
        return Err(Rollback::new("planned"));
    }
    Ok((op, balance, pad(op ^ balance, plan.pad)))
}

/// Notes how an execution ended, also when it is dropped.
struct Run {
    world: Arc<World>,
    op: u64,
    run: u64,
    end: End,
}

impl Drop for Run {
    fn drop(&mut self) {
        let (op, run, end) = (self.op, self.run, self.end);
        self.world.sim.note(|| format!("operation {op} ends: {end:?}"));
        lock(&self.world.model).end(op, run, end);
    }
}

async fn note(world: Arc<World>, context: Context, (op, bytes): Request) -> Reply {
    check_pad(&world, op, &bytes);
    world.sim.note(|| format!("operation {op} runs, xid {}", context.xid));
    let plan = plan(&world, op);
    let started = lock(&world.model).start(op, name(&context));
    let run = started.unwrap_or_else(|what| {
        world.sim.fail(what);
        0
    });
    let mut guard = Run { world: world.clone(), op, run, end: End::Dropped };
    for _ in 0..plan.yields {
        yield_now().await;
    }
    if plan.delay > 0 {
        Sleep::new(&world.sim, plan.delay).await;
    }
    if plan.end == End::Panicked {
        guard.end = End::Panicked;
        std::panic::resume_unwind(Box::new("planned"));
    }
    guard.end = plan.end;
    (op, run, pad(op ^ run, plan.pad))
}

fn peek(snapshots: &Snapshots, op: u64, paid: u64) -> Reply {
    let snapshot = snapshots.latest();
    // There is no table before the first payment.
    let there = snapshot
        .open_table(PAYMENTS)
        .ok()
        .and_then(|payments| payments.get(paid).ok().flatten())
        .is_some();
    (op, u64::from(there), pad(op ^ u64::from(there), 5))
}

/// The methods' names, for recordings.
pub const METHODS: [&str; 3] = ["storage_world/pay", "storage_world/note", "storage_world/peek"];

/// A server of the world on this ledger, whose tasks are `group`; its idempotent method reads `snapshots`.
pub fn server(
    world: &Arc<World>,
    group: Group,
    ledger: impl Ledger<Transaction = Transaction>,
    snapshots: Snapshots,
) -> Result<Server, BuildError> {
    let (payer, noter) = (world.clone(), world.clone());
    // The clock of a process that starts again may be behind that of the last one.
    let behind =
        Rng::apart(world.profile.seed, u64::from(group) << 8 | 0x71).below(world.sim.now());
    let mut builder = Server::builder("storage_world");
    if let Some(camera) = &world.camera {
        builder = builder.observe(camera.clone());
    }
    if let Some(fault) = world.broken.and_then(Broken::of_server) {
        builder = builder.fault(fault);
    }
    builder
        .instance("simulated")
        .runtime(world.sim.runtime_with(group, Clock::behind(behind)))
        .ledger(ledger)
        .transactional(&PAY, move |transaction, context, request| {
            pay(&payer, transaction, context, request)
        })
        .method(&NOTE, move |context, request| note(noter.clone(), context, request))
        .method(&PEEK, move |_, (op, paid)| {
            let reply = peek(&snapshots, op, paid);
            async move { reply }
        })
        .configure(|config| {
            config.slots = world.profile.slots;
            config.lease = LEASE;
        })
        .build()
}
