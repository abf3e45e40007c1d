//! A client that finds out how long no server answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire::{Outcome, Runtime, SmolRuntime};

use super::blow::Blow;
use crate::address::Address;
use crate::chance::unique;
use crate::client::connect;
use crate::clients::{Clients, GIVE_UP_AFTER};
use crate::service::{AccountId, BankClient, Change, Open, Operation};

/// A client of the test's own that pays in one cent after another, and notes how long it had no answer.
pub(super) struct Probe {
    shared: Arc<Shared>,
    task: smol::Task<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answers: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was done first since the last payment that was both begun and answered behind a blow.
    blow: Option<Blow>,
    longest: BTreeMap<Blow, Duration>,
    faults: Vec<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    pub(super) async fn start(address: &Address) -> Result<Probe, String> {
        let (client, shared) = (connect(address).await?, Arc::<Shared>::default());
        let operation = Operation { client: unique(), number: 0 };
        let opened = BankClient(client.clone()).open(Open { operation, opening: 0 }).await.ok();
        let account = opened.map_err(|why| format!("no account was opened: {why}"))?;
        let bank = BankClient(client);
        let task = smol::spawn(pay_in(bank, account, operation, shared.clone()));
        Ok(Probe { shared, task })
    }

    pub(super) fn note(&self, blow: Blow) {
        self.shared.state().blow.get_or_insert(blow);
    }

    /// Payments that were answered.
    #[cfg(feature = "etcd")]
    pub(super) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::SeqCst)
    }

    /// Whether it has met with a fault, and pays no more.
    #[cfg(feature = "etcd")]
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it; the longest times without an answer.
    pub(super) async fn finish(self, clients: &mut Clients) -> BTreeMap<Blow, Duration> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.task.await;
        let mut state = self.shared.state();
        state.faults.drain(..).for_each(|why| clients.add_fault(why));
        std::mem::take(&mut state.longest)
    }
}

async fn pay_in(bank: BankClient, account: AccountId, first: Operation, shared: Arc<Shared>) {
    let (runtime, mut operation, mut balance) = (SmolRuntime::global(), first, 0);
    let mut answered = runtime.now();
    while !shared.stop.load(Ordering::SeqCst) {
        operation.number += 1;
        // One that was on its way when the blow fell says nothing.
        let struck = shared.state().blow;
        let change = Change { operation, account, amount: 1 };
        match bank.deposit(change).timeout(GIVE_UP_AFTER).await {
            Outcome::Reply(Ok(after)) => {
                balance += 1;
                if after != balance {
                    let why = format!("a balance is {after}, and must be {balance}");
                    shared.state().faults.push(why);
                    balance = after;
                }
                let now = runtime.now();
                let mut state = shared.state();
                if let Some(blow) = state.blow {
                    let longest = state.longest.entry(blow).or_default();
                    *longest = now.since(answered).max(*longest);
                }
                if struck.is_some() {
                    state.blow = None;
                }
                answered = now;
                shared.answers.fetch_add(1, Ordering::SeqCst);
            }
            // By a server that was losing its ledger.
            Outcome::NotExecuted(_) => {}
            other => {
                shared.state().faults.push(format!("a payment ended as {other:?}"));
                break;
            }
        }
    }
    bank.0.close().await;
}
