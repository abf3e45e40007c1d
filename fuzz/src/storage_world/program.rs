//! Programs with durable clients: they die anywhere, start again on their journals, and learn what became of each call.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use oncewire_driver::protocol::wire::Role;
use oncewire_driver::{DurableCall, DurableClient, RecoveredCall};
use oncewire_ledger_redb::RedbJournalStore;

use super::caller;
use super::disk::{Copied, Death, Disk};
use super::host::SimConnector;
use super::journal::SimJournal;
use super::model::Kind;
use super::service::{NOTE, PAY, Reply};
use super::{Broken, PROGRAMS, World};
use crate::driver_world::awaited::Awaited;
use crate::driver_world::clocks::Clock;
use crate::driver_world::executor::{Group, Sleep, lock};
use crate::driver_world::handlers::pad;
use crate::driver_world::net::Cut;
use crate::driver_world::profile::{MS, SECOND};
use crate::rng::Rng;

/// How long the calls that are left may take when nothing goes wrong any more.
const GIVE_UP_AFTER: u64 = 200 * SECOND;

/// A program, which outlives its processes.
pub struct Program {
    /// Where.
    pub world: Arc<World>,
    /// The number of its client.
    client: usize,
    disk: Disk,
    rng: Mutex<Rng>,
    life: Mutex<Life>,
    /// Calls of this life whose outcome has not been delivered.
    undelivered: AtomicU64,
}

#[derive(Default)]
struct Life {
    group: Group,
    lives: bool,
    waker: Option<Waker>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Program {
    /// The program of the client of this number.
    pub fn new(world: &Arc<World>, client: usize) -> Arc<Program> {
        let seed = world.profile.seed;
        let disk = Disk::new(Rng::apart(seed, (client as u64) << 8 | 0x7c).next_u64(), 0);
        Arc::new(Program {
            world: world.clone(),
            client,
            disk,
            rng: Mutex::new(Rng::apart(seed, (client as u64) << 8 | 0x7d)),
            life: Mutex::default(),
            undelivered: AtomicU64::new(0),
        })
    }

    fn rng(&self) -> std::sync::MutexGuard<'_, Rng> {
        lock(&self.rng)
    }

    /// Its lives, one after another, until one has seen the faults end.
    pub async fn run(self: Arc<Self>) -> Result<(), String> {
        // A new file takes its name when it is whole: nothing goes wrong here.
        drop(self.open().await?);
        self.disk.end_life(Death::Kill, true);
        self.disk.set_lies(self.world.broken == Some(Broken::HastyJournal));
        let mut copy = None;
        loop {
            let last = self.world.sim.is_calm();
            self.live(last).await?;
            if last {
                return Ok(());
            }
            self.copy_or_put_back(&mut copy);
            let downtime = self.rng().delay(self.world.profile.downtime);
            Sleep::new(&self.world.sim, downtime).await;
        }
    }

    /// Once, an old copy of the journal is put in place of the later one.
    fn copy_or_put_back(&self, copy: &mut Option<Copied>) {
        if !self.world.profile.old_journals {
            return;
        }
        match copy.take() {
            _ if lock(&self.world.model).was_put_back(self.client) => {}
            Some(old) if self.rng().one_in(2) => {
                self.world.sim.note(|| format!("the journal of {} is put back", self.client));
                lock(&self.world.host).put_back += 1;
                self.disk.put_back(old);
                lock(&self.world.model).put_back(self.client);
            }
            Some(old) => *copy = Some(old),
            None => *copy = Some(self.disk.copy()),
        }
    }

    async fn open(&self) -> Result<RedbJournalStore, String> {
        RedbJournalStore::with_backend(self.disk.handle())
            .map_err(|error| format!("a sound disk, and {error}"))
    }

    /// One process, from its start to its death; the last one ends by itself, when every outcome is delivered.
    async fn live(self: &Arc<Self>, last: bool) -> Result<(), String> {
        let (world, number) = (&self.world, self.world.sim.number());
        let group = PROGRAMS + number as Group;
        let store = self.open().await?;
        *lock(&self.life) = Life { group, lives: true, waker: None };
        lock(&world.host).program_lives += 1;
        let behind = self.rng().below(world.sim.now());
        let runtime = world.sim.runtime_with(group, Clock::behind(behind));
        let journal = SimJournal::new(self, group, &self.disk, store);
        let connector = SimConnector { world: world.clone(), client: self.client };
        let options = world.profile.options.clone();
        let (client, left) = DurableClient::with_runtime(connector, options, journal, runtime)
            .map_err(|error| format!("a journal that was written, and {error}"))?;
        self.undelivered.store(0, Ordering::Relaxed);
        self.take_left(group, left, last)?;
        for _ in 0..world.profile.actors.min(2) {
            let rng = Rng::new(self.rng().next_u64());
            let caller = Caller { program: self.clone(), client: client.clone(), group, rng, last };
            world.sim.spawn(group, caller.run());
        }
        if last {
            self.finish(&client).await;
        } else {
            let time = self.rng().pick(&[100, 1_000, 4_000]) * MS;
            let time = time / 4 + self.rng().delay(time);
            self.until_dead(time).await;
            let death = self.rng().pick(&[Death::Kill, Death::PowerCut]);
            self.end_life(death);
        }
        drop(client);
        Ok(())
    }

    /// What the last process left behind: it must be every call that was begun and whose outcome was not delivered.
    fn take_left(
        self: &Arc<Self>,
        group: Group,
        left: Vec<RecoveredCall>,
        last: bool,
    ) -> Result<(), String> {
        let op_of = |call: &RecoveredCall| {
            let tag = call.tag().as_ref().try_into().map_err(|_| "a tag of no operation")?;
            Ok::<u64, String>(u64::from_le_bytes(tag))
        };
        let ops = left.iter().map(op_of).collect::<Result<BTreeSet<u64>, String>>()?;
        self.world.sim.note(|| format!("client {} starts, and finds {ops:?}", self.client));
        lock(&self.world.model).reopened(self.client, &ops)?;
        for call in left {
            let op = op_of(&call)?;
            let call = match call.typed(&PAY) {
                Ok(call) => call,
                Err(call) => call.typed(&NOTE).map_err(|_| "a call of another method")?,
            };
            self.watch(group, op, call, last);
        }
        Ok(())
    }

    /// Waits for a call, notes what it came to, and confirms that, if the process gets so far.
    fn watch(self: &Arc<Self>, group: Group, op: u64, call: DurableCall<Reply>, confirms: bool) {
        let program = self.clone();
        let confirms = confirms || !self.rng().one_in(4);
        self.undelivered.fetch_add(1, Ordering::Relaxed);
        self.world.sim.spawn(group, async move {
            let delivery = call.await;
            let (observed, _) = caller::ended(delivery.outcome);
            program.world.observe(op, observed);
            program.undelivered.fetch_sub(1, Ordering::Relaxed);
            if confirms {
                delivery.receipt.confirm();
            }
        });
    }

    async fn until_dead(&self, time: u64) {
        let mut sleep = Sleep::new(&self.world.sim, time);
        std::future::poll_fn(|cx| {
            let mut life = lock(&self.life);
            if !life.lives {
                return Poll::Ready(());
            }
            life.waker = Some(cx.waker().clone());
            drop(life);
            Pin::new(&mut sleep).poll(cx)
        })
        .await;
    }

    /// The process dies, if it has not.
    pub fn end_life(&self, death: Death) {
        let (group, waker) = {
            let mut life = lock(&self.life);
            if !std::mem::replace(&mut life.lives, false) {
                return;
            }
            (life.group, life.waker.take())
        };
        self.world.sim.note(|| format!("the program of client {} dies: {death:?}", self.client));
        self.disk.end_life(death, true);
        // Nothing of it is sent any more.
        let link = lock(&self.world.host).last_links.remove(&self.client);
        let how = self.rng().pick(&[Cut::Clean, Cut::Reset]);
        if let Some(link) = link {
            link.cut(how, Role::Client);
        }
        self.world.sim.kill(group);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Every outcome is delivered and confirmed, and the session ends cleanly.
    async fn finish(&self, client: &DurableClient) {
        let world = &self.world;
        let due = world.sim.now() + GIVE_UP_AFTER;
        let name = format!("what the program of client {} has begun", self.client);
        let awaited = Awaited::new(&world.sim, due, name);
        // Its callers need some time to begin.
        Sleep::new(&world.sim, SECOND).await;
        while self.undelivered.load(Ordering::Relaxed) > 0 {
            Sleep::new(&world.sim, 50 * MS).await;
        }
        client.close().await;
        drop(awaited);
        if let Some(error) = client.journal_error() {
            world.sim.fail(format!("in peace, the journal has failed: {error}"));
        }
    }
}

/// Who makes calls in one life.
struct Caller {
    program: Arc<Program>,
    client: DurableClient,
    group: Group,
    rng: Rng,
    last: bool,
}

impl Caller {
    async fn run(mut self) {
        let steps = self.rng.range(1, 4);
        for _ in 0..steps {
            for _ in 0..self.rng.range(1, 4) {
                self.begin();
            }
            let max = if self.last { 100 } else { 400 };
            let pause = self.rng.delay(max * MS);
            Sleep::new(&self.program.world.sim, pause).await;
        }
    }

    fn begin(&mut self) {
        let world = &self.program.world;
        let kind = if self.rng.one_in(3) { Kind::Note } else { Kind::Pay };
        let timeout = world.profile.options.timeout.as_nanos() as u64;
        let op =
            lock(&world.model).begin_durable(world.sim.now(), kind, timeout, self.program.client);
        world.sim.note(|| format!("{op} begins in a journal: {kind:?}"));
        let len = if self.rng.one_in(8) { self.rng.index(3_000) } else { self.rng.index(60) };
        let (tag, request) = (op.to_le_bytes().to_vec(), (op, pad(op, len)));
        let method = if kind == Kind::Pay { &PAY } else { &NOTE };
        let call = self.client.call(tag, method, &request);
        if self.rng.one_in(20) {
            call.cancel();
        }
        self.program.watch(self.group, op, call, self.last);
    }
}
