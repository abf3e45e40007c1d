//! A client that calls without end and journals each outcome.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Outcome, Runtime, SmolRuntime};
use oncewire_pipe::ChildConnector;
use oncewire_tcp::TcpConnector;
use oncewire_unix::UnixConnector;
use smol::lock::Semaphore;

use super::control::{Control, DONE, PROGRESS, QUIT, die_with_parent};
use super::journal::{Journal, Key, Links, Observed, Receipt, Said};
use super::service::{ADD, APPEND, Arguments, pause};
use super::{ROLE, stage};
use crate::history::cut::Switch;
use crate::mutant::{AnyConnector, Mutant, dial};
use crate::rng::{Rng, mix};

/// The most bytes that a connection carries before it breaks: some dozens of calls.
const CONNECTION_BYTES_MAX: u64 = 10_000;
/// Calls on their way at once.
const CALLS_MAX: usize = 8;
/// How often [`Mutant::Again`] repeats a call.
const AGAIN_MAX: u32 = 3;
/// How long a ticket is asked.
const TICKET_PATIENCE: Duration = Duration::from_millis(500);
/// After so many outcomes the counters are written down.
const LINKS_EVERY: u64 = 32;

/// Who a client is.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) client: u32,
    pub(super) generation: u32,
    /// What it dials.
    pub(super) place: String,
    pub(super) seed: u64,
    pub(super) mutant: Option<Mutant>,
}

struct Caller {
    part: Part,
    client: Client,
    journal: Journal,
    control: Control,
    runtime: Arc<SmolRuntime>,
    /// Elements whose call did not succeed: they are tried again, as new calls.
    failed: Mutex<Vec<u64>>,
    outcomes: AtomicU64,
}

/// How a caller bears with a call.
#[derive(Clone, Copy)]
enum Manner {
    /// Waits for the outcome.
    Patient,
    /// Does not wait for another connection.
    FailFast,
    /// Gives up soon.
    Hasty(Duration),
    /// Drops the call soon.
    Fickle(Duration),
}

/// Calls until the stage says that it is enough.
pub(super) fn play(dir: &Path, part: Part) -> Result<(), Box<dyn Error + Send + Sync>> {
    die_with_parent()?;
    let quit = Arc::new(AtomicBool::new(false));
    let asked = quit.clone();
    let name = format!("client {} {}", part.client, part.generation);
    let hear = move |line: &str| {
        asked.store(asked.load(Ordering::SeqCst) || line == QUIT, Ordering::SeqCst)
    };
    let control = Control::join(dir, &name, hear)?;
    let journal = Journal::create(&dir.join(format!("calls-{}-{}", part.client, part.generation)))?;
    let mut options = ClientOptions::default();
    options.backoff_max = Duration::from_millis(100);
    options.connect_timeout = Duration::from_secs(2);
    let runtime = SmolRuntime::global();
    let client = Client::new(connector(dir, &part, runtime.clone())?, options);
    let (failed, outcomes) = (Mutex::default(), AtomicU64::new(0));
    let caller = Caller { part, client, journal, control, runtime, failed, outcomes };
    smol::block_on(Arc::new(caller).call_until(&quit))
}

fn connector(
    dir: &Path,
    part: &Part,
    runtime: Arc<dyn Runtime>,
) -> Result<AnyConnector, Box<dyn Error + Send + Sync>> {
    let seed = mix(part.seed);
    let child = |role: &str| -> std::io::Result<ChildConnector> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).arg(role).arg(dir).arg(part.client.to_string());
        Ok(ChildConnector::new(command))
    };
    let inner = match part.place.split_once(':') {
        Some(("tcp", address)) => AnyConnector::new(TcpConnector::new(address)),
        _ if part.place == stage::RELAY => AnyConnector::new(child("relay")?),
        _ if part.place == stage::CHILD => AnyConnector::new(child("child")?),
        _ => AnyConnector::new(UnixConnector::new(PathBuf::from(&part.place))),
    };
    Ok(dial(Switch::new(inner, CONNECTION_BYTES_MAX, seed), part.mutant, seed, &runtime))
}

impl Caller {
    async fn call_until(
        self: Arc<Caller>,
        quit: &AtomicBool,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let permits = Arc::new(Semaphore::new(CALLS_MAX));
        let mut chance = Rng::new(self.part.seed);
        let mut call = 0;
        while !quit.load(Ordering::SeqCst) {
            let permit = permits.acquire_arc().await;
            call += 1;
            let element = self.element(&mut chance, call);
            self.journal.write(&Said::Call { call, element }.line())?;
            let one = self.clone().call(&mut chance, call, element);
            smol::spawn(async move {
                one.await;
                drop(permit);
            })
            .detach();
        }
        for _ in 0..CALLS_MAX {
            permits.acquire_arc().await.forget();
        }
        self.write_links();
        self.client.close().await;
        self.control.say(DONE)?;
        Ok(())
    }

    /// A new element, or one whose last call did not succeed.
    fn element(&self, chance: &mut Rng, call: u64) -> u64 {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let again = if chance.one_in(2) { failed.pop() } else { None };
        again.unwrap_or((u64::from(self.part.generation) << 32) + call)
    }

    /// Begins a call, now, and returns what waits for it.
    fn call(
        self: Arc<Caller>,
        chance: &mut Rng,
        call: u64,
        element: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        let method = if chance.one_in(3) { ADD } else { APPEND };
        let wait_ms = if chance.one_in(4) { chance.range(1, 20) as u32 } else { 0 };
        let (client, generation) = (self.part.client, self.part.generation);
        let key = Key { client, generation, call };
        let arguments = Arguments { key, element, wait_ms };
        let manner = match chance.below(20) {
            0..12 => Manner::Patient,
            12..16 => Manner::FailFast,
            16..19 => Manner::Hasty(Duration::from_millis(chance.range(1, 30))),
            _ => Manner::Fickle(Duration::from_micros(chance.range(0, 5000))),
        };
        let begin = move |caller: &Caller| {
            let call = caller.client.call(&method, &arguments);
            match manner {
                Manner::Patient | Manner::Fickle(_) => call.start(),
                Manner::FailFast => call.fail_fast(true).start(),
                Manner::Hasty(timeout) => call.timeout(timeout).start(),
            }
        };
        let first = begin(&self);
        async move {
            let outcome = match manner {
                Manner::Fickle(time) => {
                    let Some(outcome) = self.within(time, first).await else { return };
                    outcome
                }
                _ => first.await,
            };
            let mut outcome = outcome;
            if self.part.mutant == Some(Mutant::Again) {
                // Not for ever: a call may have less time than its execution takes.
                for _ in 0..AGAIN_MAX {
                    if matches!(outcome, Outcome::Unknown(..)) {
                        outcome = begin(&self).await;
                    }
                }
            }
            self.conclude(call, element, outcome).await;
        }
    }

    /// Writes down an outcome, and what its ticket tells later.
    async fn conclude(&self, call: u64, element: u64, outcome: Outcome<Receipt>) {
        let (mut observed, ticket) = split(outcome);
        self.write(Said::Observed { call, observed });
        if let Some(mut ticket) = ticket
            && let Some(outcome) = self.within(TICKET_PATIENCE, ticket.wait()).await
        {
            let (later, _) = split(outcome);
            if later != Observed::Unknown {
                observed = later;
                self.write(Said::Observed { call, observed });
            }
        }
        match observed {
            // If the stage is gone, so is this process soon.
            Observed::Reply(_) | Observed::NoReply => drop(self.control.say(PROGRESS)),
            Observed::NotExecuted | Observed::Unknown => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(element);
                // Else calls that fail fast would fail by the thousand.
                self.client.connected().await;
            }
        }
        if self.outcomes.fetch_add(1, Ordering::Relaxed) % LINKS_EVERY == LINKS_EVERY - 1 {
            self.write_links();
        }
    }

    fn write_links(&self) {
        let status = self.client.status();
        let counters = status.counters;
        self.write(Said::Links(Links {
            sessions: counters.sessions,
            reconnects: status.reconnects,
            asks: counters.asks,
            resends: counters.resends,
        }));
    }

    fn write(&self, said: Said) {
        self.journal.write(&said.line()).expect("a journal that cannot be written proves nothing");
    }

    /// Waits for `future`, but not for longer than `time`.
    async fn within<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        let late = async {
            pause(&self.runtime, time).await;
            None
        };
        smol::future::or(async { Some(future.await) }, late).await
    }
}

fn split(outcome: Outcome<Receipt>) -> (Observed, Option<oncewire_driver::Ticket<Receipt>>) {
    match outcome {
        Outcome::Reply(receipt) => (Observed::Reply(receipt), None),
        Outcome::NoReply(_) => (Observed::NoReply, None),
        Outcome::NotExecuted(_) => (Observed::NotExecuted, None),
        Outcome::Unknown(_, ticket) => (Observed::Unknown, ticket),
    }
}
