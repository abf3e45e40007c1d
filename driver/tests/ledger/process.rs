//! A program with a durable client, which can be killed between any two steps and started again on its journal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{ClientOptions, DurableCall, DurableClient, Method, Outcome, Runtime};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::journal::{Pages, TestJournal};
use super::sim::{Group, lock};
use super::world::{Ledgered, PAY};

/// What the program learned of each call, by tag. It outlives the program: the place where it records what it acts on.
pub type Notes = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// What it does with an outcome after it has noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Confirms,
    Forgets,
}

pub struct Process {
    pub client: DurableClient,
    pub journal: TestJournal,
    pub group: Arc<Group>,
    pub notes: Notes,
    runtime: Arc<dyn Runtime>,
}

fn say<R: std::fmt::Debug>(outcome: &Outcome<R>) -> String {
    match outcome {
        Outcome::Reply(reply) => format!("reply {reply:?}"),
        Outcome::NoReply(why) => format!("no reply: {why:?}"),
        Outcome::NotExecuted(why) => format!("not executed: {why:?}"),
        Outcome::Unknown(why, ticket) => format!("unknown: {why:?}, {}", ticket.is_some()),
    }
}

impl Process {
    pub fn start(world: &Ledgered, pages: Pages, notes: Notes, then: Then) -> Process {
        let (process, left) = Process::start_quietly(world, TestJournal::on(pages), notes);
        for (tag, call) in left {
            process.watch(tag, call, then);
        }
        world.sim.run();
        process
    }

    /// What the last one left behind is not awaited.
    pub fn start_quietly(
        world: &Ledgered,
        journal: TestJournal,
        notes: Notes,
    ) -> (Process, Vec<(String, DurableCall<i64>)>) {
        let group: Arc<Group> = Arc::default();
        let runtime = world.sim.runtime(&group);
        let (client, left) = DurableClient::with_runtime(
            world.place.clone(),
            ClientOptions::default(),
            journal.clone(),
            runtime.clone(),
        )
        .expect("the journal can be read");
        let left = left
            .into_iter()
            .map(|call| {
                let tag = String::from_utf8(call.tag().to_vec()).expect("text");
                (tag, call.typed(&PAY).expect("a payment"))
            })
            .collect();
        (Process { client, journal, group, notes, runtime }, left)
    }

    /// Begins a call, and records its outcome under its tag when it is delivered.
    pub fn call<A: Serialize, R>(&self, tag: &str, method: &Method<A, R>, arguments: A, then: Then)
    where
        R: DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let call = self.client.call(tag.to_owned(), method, &arguments);
        self.watch(tag.to_owned(), call, then);
    }

    pub fn pay(&self, world: &Ledgered, account: u32, then: Then) {
        self.call(&account.to_string(), &PAY, (account, 1), then);
        world.sim.run();
    }

    pub fn watch<R>(&self, tag: String, call: DurableCall<R>, then: Then)
    where
        R: DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let notes = self.notes.clone();
        self.runtime.spawn(Box::pin(async move {
            let learned = call.await;
            lock(&notes).entry(tag).or_default().push(say(&learned.outcome));
            match then {
                Then::Confirms => learned.receipt.confirm(),
                Then::Forgets => drop(learned.receipt),
            }
        }));
    }

    /// Kills the program. What is on its disk stays.
    pub fn kill(self, world: &Ledgered) -> (Pages, Notes) {
        let pages = self.journal.pages();
        let held = self.journal.crash();
        self.group.kill();
        drop(held);
        let Process { client, notes, .. } = self;
        drop(client);
        world.sim.run();
        (pages, notes)
    }

    /// Lets the commits that are held through, one by one, until none comes any more.
    pub fn release_all(&self, world: &Ledgered) {
        while self.journal.held() > 0 {
            self.journal.release();
            world.sim.run();
        }
    }

    pub fn learned(&self, tag: &str) -> Vec<String> {
        lock(&self.notes).get(tag).cloned().unwrap_or_default()
    }
}

/// Clients pause before they dial again.
pub fn settle_down(world: &Ledgered) {
    world.sim.advance(Duration::from_secs(6));
}
