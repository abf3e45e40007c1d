//! The real client and server over memory: connections are cut, servers replaced, callers give up; every call
//! and its outcome are recorded.
//!
//! Several threads run it, so the seed replays the faults and the calls, not the interleaving.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Method, Outcome, Runtime, Server, SmolRuntime};
use oncewire_pipe::memory;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::check::{Model, Verdict, check};
use super::cut::Switch;
use super::model::{Log, LogCall, LogReturn, Register, RegisterCall};
use super::{Begun, Operation, Recorder};
use crate::mutant::{AnyConnector, Mutant, dial};
use crate::rng::{Rng, mix};

const REGISTERS: usize = 2;
const REGISTER: Method<(u8, RegisterCall), u64> = Method::new("history/register");
const LOG: Method<LogCall, LogReturn> = Method::new("history/log");

/// How the callers and the connections are.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where chance comes from.
    pub seed: u64,
    /// Clients, each with a session of its own.
    pub clients: u64,
    /// Tasks that call through one client.
    pub tasks: u64,
    /// Calls of each task.
    pub calls: u64,
    /// The most bytes that a connection carries; 0: none is cut.
    pub bytes_max: u64,
    /// How often the server is replaced by a new one, with the same registers and the same log.
    pub restarts: u64,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
}

impl Plan {
    /// Three clients of two tasks each that make 240 calls in all, over connections that carry at most 4,000 bytes, at
    /// three servers one after another.
    pub const fn new(seed: u64) -> Plan {
        let (clients, tasks, calls, bytes_max, restarts) = (3, 2, 40, 4000, 2);
        Plan { seed, clients, tasks, calls, bytes_max, restarts, mutant: None }
    }
}

/// What a run was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls with a reply.
    pub replies: u64,
    /// Calls that were not executed.
    pub not_executed: u64,
    /// Calls of unknown outcome.
    pub unknown: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// The histories of one run, one an object: a history is linearizable if each object's is.
#[derive(Debug)]
pub struct Histories {
    /// Of each register.
    pub registers: Vec<Vec<Operation<RegisterCall, u64>>>,
    /// Of the log.
    pub log: Vec<Operation<LogCall, LogReturn>>,
    /// What the run was like.
    pub tally: Tally,
}

impl Histories {
    /// The worst of the verdicts on the objects.
    pub fn verdict(&self, steps_max: usize) -> Verdict {
        let registers = self.registers.iter().map(|one| check::<Register>(one, steps_max));
        let verdicts: Vec<_> = registers.chain([check::<Log>(&self.log, steps_max)]).collect();
        let bad = verdicts.iter().find(|one| matches!(one, Verdict::NotLinearizable { .. }));
        let worst = bad.or(verdicts.iter().find(|one| **one == Verdict::Undecided));
        worst.copied().unwrap_or(Verdict::Linearizable)
    }
}

/// What outlives a server that is replaced.
#[derive(Debug, Default)]
struct Objects {
    registers: [u64; REGISTERS],
    log: LogReturn,
}

struct Run {
    plan: Plan,
    objects: Mutex<Objects>,
    registers: [Recorder<RegisterCall, u64>; REGISTERS],
    log: Recorder<LogCall, LogReturn>,
    tally: Mutex<Tally>,
    /// Calls that have ended.
    ended: AtomicU64,
    switch: Switch,
    runtime: Arc<SmolRuntime>,
    executor: Arc<smol::Executor<'static>>,
}

/// The last outcome that a caller saw.
enum Observed<R> {
    Value(R),
    NotExecuted,
    Unknown,
}

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Histories {
    let executor = Arc::new(smol::Executor::new());
    let spawner = executor.clone();
    let runtime = SmolRuntime::with_spawner(move |task| spawner.spawn(task).detach());
    let (nowhere, _) = memory::listener();
    let run = Arc::new(Run {
        plan,
        objects: Mutex::default(),
        registers: std::array::from_fn(|_| Recorder::default()),
        log: Recorder::default(),
        tally: Mutex::default(),
        ended: AtomicU64::new(0),
        switch: Switch::new(AnyConnector::new(nowhere), plan.bytes_max, mix(plan.seed)),
        runtime,
        executor: executor.clone(),
    });
    // Dropped last: the threads go home then.
    let (home, gone) = smol::channel::bounded::<()>(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (executor, gone) = (executor.clone(), gone.clone());
            scope.spawn(move || smol::block_on(executor.run(gone.recv())));
        }
        smol::block_on(executor.run(run.clone().play()));
        drop(home);
    });
    let mut tally = *run.tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.connections = run.switch.connections();
    let registers = run.registers.iter().map(Recorder::history).collect();
    Histories { registers, log: run.log.history(), tally }
}

impl Run {
    async fn play(self: Arc<Run>) {
        self.switch.replace(self.clone().serve());
        let mut tasks = Vec::new();
        let runtime: Arc<dyn Runtime> = self.runtime.clone();
        for client in 0..self.plan.clients {
            let seed = mix(self.plan.seed ^ (client << 8));
            let connector = dial(self.switch.clone(), self.plan.mutant, seed, &runtime);
            let mut options = ClientOptions::default();
            options.backoff_min = Duration::from_millis(1);
            options.backoff_max = Duration::from_millis(4);
            let client = Client::with_runtime(connector, options, runtime.clone());
            for task in 0..self.plan.tasks {
                let chance = Rng::new(seed + 1 + task);
                let calls = self.clone().call_all(client.clone(), chance, seed + (task << 20));
                tasks.push(self.executor.spawn(calls));
            }
        }
        let all = self.plan.clients * self.plan.tasks * self.plan.calls;
        for restart in 1..=self.plan.restarts {
            while self.ended.load(Ordering::Relaxed) < all * restart / (self.plan.restarts + 1) {
                smol::future::yield_now().await;
            }
            self.switch.replace(self.clone().serve());
        }
        for task in tasks {
            task.await;
        }
    }

    /// A new server of the same objects; it ends when no client can dial it any more.
    fn serve(self: Arc<Run>) -> AnyConnector {
        let (connector, acceptor) = memory::listener();
        let (one, other) = (self.clone(), self.clone());
        let server = Server::builder("history")
            .runtime(self.runtime.clone())
            .method(&REGISTER, move |context, (which, call)| {
                let run = one.clone();
                async move {
                    run.linger(context.xid.get()).await;
                    let value = run.with(|objects| {
                        let register = &mut objects.registers[usize::from(which) % REGISTERS];
                        let (after, value) = Register::step(register, &call);
                        *register = after;
                        value
                    });
                    run.linger(!context.xid.get()).await;
                    value
                }
            })
            .method(&LOG, move |context, call| {
                let run = other.clone();
                async move {
                    run.linger(context.xid.get()).await;
                    let value = run.with(|objects| {
                        let (after, value) = Log::step(&objects.log, &call);
                        objects.log = after;
                        value
                    });
                    run.linger(!context.xid.get()).await;
                    value
                }
            })
            .build();
        let server = server.expect("its name is short and its methods differ");
        // It never fails: the listener is in memory.
        let serve = async move { server.serve(acceptor).await.unwrap_or(()) };
        self.executor.spawn(serve).detach();
        AnyConnector::new(connector)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Objects) -> T) -> T {
        f(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets others go first, mostly few, at times many.
    async fn linger(&self, salt: u64) {
        let mut chance = Rng::new(self.plan.seed ^ mix(salt));
        let most = if chance.one_in(8) { 60 } else { 3 };
        for _ in 0..chance.below(most) {
            smol::future::yield_now().await;
        }
    }

    async fn call_all(self: Arc<Run>, client: Client, mut chance: Rng, first: u64) {
        for number in 0..self.plan.calls {
            let value = first + number;
            match chance.below(2 * REGISTERS as u64) {
                which @ 0..2 => {
                    let recorder = &self.registers[which as usize];
                    let call = match chance.below(3) {
                        0 => RegisterCall::Read,
                        1 => RegisterCall::Write(value),
                        _ => RegisterCall::Swap(value),
                    };
                    let begun = recorder.invoke(call);
                    let arguments = (which as u8, call);
                    let observed = self.call(&client, &mut chance, &REGISTER, &arguments).await;
                    self.record(recorder, begun, observed);
                }
                _ => {
                    let read = chance.one_in(3);
                    let call = if read { LogCall::Read } else { LogCall::Append(value) };
                    let begun = self.log.invoke(call);
                    let observed = self.call(&client, &mut chance, &LOG, &call).await;
                    self.record(&self.log, begun, observed);
                }
            }
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes a call and bears with it for as long as chance wants.
    async fn call<A: Serialize + 'static, R: DeserializeOwned + 'static>(
        &self,
        client: &Client,
        chance: &mut Rng,
        method: &Method<A, R>,
        arguments: &A,
    ) -> Observed<R> {
        loop {
            let (fail_fast, hasty) = (chance.one_in(3), chance.one_in(5));
            let timeout = match hasty {
                true => Duration::from_micros(chance.range(50, 2000)),
                false => Duration::from_secs(20),
            };
            let call = client.call(method, arguments).fail_fast(fail_fast).timeout(timeout);
            let observed = match call.await {
                Outcome::Reply(value) => Observed::Value(value),
                Outcome::NoReply(_) => Observed::Unknown,
                Outcome::NotExecuted(_) => Observed::NotExecuted,
                Outcome::Unknown(_, Some(mut ticket)) if chance.one_in(2) => {
                    match self.within(ticket.wait()).await {
                        Some(Outcome::Reply(value)) => Observed::Value(value),
                        Some(Outcome::NotExecuted(_)) => Observed::NotExecuted,
                        _ => Observed::Unknown,
                    }
                }
                Outcome::Unknown(..) => Observed::Unknown,
            };
            if self.plan.mutant == Some(Mutant::Again) && matches!(observed, Observed::Unknown) {
                continue;
            }
            return observed;
        }
    }

    /// Waits for `future`, not for ever.
    async fn within<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut timer = self.runtime.timer();
        timer.set(self.runtime.now() + Duration::from_millis(200));
        let late = async {
            std::future::poll_fn(|cx| timer.poll(cx)).await;
            None
        };
        smol::future::or(async { Some(future.await) }, late).await
    }

    fn record<C: Clone, R: Clone>(
        &self,
        recorder: &Recorder<C, R>,
        begun: Begun,
        observed: Observed<R>,
    ) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match observed {
            Observed::Value(value) => {
                recorder.returned(begun, value);
                tally.replies += 1;
            }
            Observed::NotExecuted => {
                recorder.not_executed(begun);
                tally.not_executed += 1;
            }
            Observed::Unknown => tally.unknown += 1,
        }
    }
}
