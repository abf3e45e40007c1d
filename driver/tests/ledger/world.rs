//! A server, its disk, and clients.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncewire_driver::ledger::Rollback;
use oncewire_driver::observe::{Event, Source};
use oncewire_driver::{Client, ClientOptions, Method, Outcome, Server, Ticket};
use serde::de::DeserializeOwned;

use super::disk::{Accounts, Disk, Mode, TestLedger};
use super::sim::{Group, Place, Sim, lock};

/// Recorded: says which run of it this was. A negative argument panics.
pub const ADD: Method<i32, u32> = Method::new("test/add");
/// Recorded, and never ends by itself.
pub const HANG: Method<(), ()> = Method::new("test/hang").time_limit(Duration::from_secs(3));
/// Recorded: a reply of so many bytes.
pub const LONG: Method<u32, Vec<u8>> = Method::new("test/long").reply_len_max(100);
/// Transactional: adds to an account and says what is on it. What leaves less than nothing is rolled back, a panic at
/// 13 too.
pub const PAY: Method<(u32, i64), i64> = Method::new("test/pay");
/// Idempotent: how often anything was run.
pub const COUNT: Method<(), usize> = Method::new("test/count").idempotent();

#[derive(Default)]
pub struct Ledgered {
    pub sim: Arc<Sim>,
    pub place: Place,
    pub ledger: TestLedger,
    pub group: Arc<Group>,
    clients: Arc<Group>,
    /// What recorded handlers were run with.
    pub runs: Arc<Mutex<Vec<i32>>>,
    /// What its servers mean by [`PAY`], if they have types.
    pub pay: Option<Method<(u32, i64), i64>>,
    /// Slots that the server grants.
    pub slots: Option<u32>,
    /// What its observer sees.
    pub seen: Arc<Mutex<Vec<String>>>,
}

/// A call that was begun.
pub struct Made<R>(Arc<Mutex<Option<Outcome<R>>>>);

impl<R> Made<R> {
    pub fn take(&self) -> Option<Outcome<R>> {
        lock(&self.0).take()
    }
}

impl<R: std::fmt::Debug> Made<R> {
    /// What it ended as, without its ticket; `None` while it has not.
    pub fn outcome(&self) -> Option<String> {
        lock(&self.0).as_ref().map(|outcome| match outcome {
            Outcome::Reply(reply) => format!("reply {reply:?}"),
            Outcome::NoReply(why) => format!("no reply: {why:?}"),
            Outcome::NotExecuted(why) => format!("not executed: {why:?}"),
            Outcome::Unknown(why, ticket) => format!("unknown: {why:?}, {}", ticket.is_some()),
        })
    }

    pub fn ticket(&self) -> Option<Ticket<R>> {
        match self.take() {
            Some(Outcome::Unknown(_, ticket)) => ticket,
            _ => None,
        }
    }
}

/// An event in a form that a test compares.
fn seen_as(event: &Event) -> String {
    match event {
        Event::CallStarted { call, .. } => format!("{} starts", call.method),
        Event::CallEnded { call, end, .. } => format!("{} ends: {}", call.method, end.status()),
        Event::CallRefused { call, why, .. } => format!("{} refused: {why:?}", call.method),
        Event::RolledBack { call, why, panicked, .. } => {
            format!("{} rolled back: {why}, {panicked}", call.method)
        }
        event => event.to_string(),
    }
}

impl Ledgered {
    pub fn new() -> Ledgered {
        let mut world = Ledgered::default();
        world.start(Disk::default());
        world
    }

    /// Its servers have types.
    pub fn meaning(pay: Method<(u32, i64), i64>) -> Ledgered {
        let mut world = Ledgered { pay: Some(pay), ..Ledgered::default() };
        world.start(Disk::default());
        world
    }

    /// Starts a server on what is on the disk.
    pub fn start(&mut self, disk: Disk) {
        self.ledger = TestLedger::on(disk);
        self.group = Arc::default();
        let server = self.build().expect("the server is built");
        *lock(&self.place.0) = Some(server);
        self.sim.run();
    }

    fn build(&self) -> Result<Server, oncewire_driver::BuildError> {
        let (runs, counted) = (self.runs.clone(), self.runs.clone());
        let (slots, seen) = (self.slots, self.seen.clone());
        Server::builder("test")
            .ledger(self.ledger.clone())
            .method(&ADD, move |_, n: i32| {
                let run = {
                    let mut runs = lock(&runs);
                    runs.push(n);
                    runs.len() as u32
                };
                async move {
                    assert!(n >= 0, "a handler that panics");
                    run
                }
            })
            .method(&HANG, |_, ()| std::future::pending())
            .method(&LONG, |_, len| async move { vec![7; len as usize] })
            .method(&COUNT, move |_, ()| {
                let counted = counted.clone();
                async move { lock(&counted).len() }
            })
            .transactional(
                &self.pay.unwrap_or(PAY),
                |accounts: &mut Accounts, _, (account, amount)| {
                    let balance = accounts.entry(account).or_default();
                    *balance += amount;
                    assert_ne!(amount, 13, "a transactional handler that panics");
                    if *balance < 0 {
                        return Err(Rollback::new("nothing is left"));
                    }
                    Ok(*balance)
                },
            )
            .configure(|config| config.slots = slots.unwrap_or(config.slots))
            .observe(move |_: &Source, event: &Event| lock(&seen).push(seen_as(event)))
            .runtime(self.sim.runtime(&self.group))
            .build()
    }

    pub fn server(&self) -> Server {
        lock(&self.place.0).clone().expect("a server runs")
    }

    /// Kills the server between two steps.
    pub fn crash(&self) {
        let server = lock(&self.place.0).take();
        self.group.kill();
        self.ledger.crash();
        drop(server);
        self.sim.run();
    }

    /// Kills the server, and starts another on what was on the disk.
    pub fn restart(&mut self) {
        self.crash();
        self.start(self.ledger.disk());
        // Clients pause before they dial again.
        self.sim.advance(Duration::from_secs(6));
    }

    /// Begins a drain of the server, beside the test.
    pub fn drain(&self, grace: Duration) -> Made<()> {
        let server = self.server();
        self.begin(async move {
            server.drain(grace).await;
            Outcome::Reply(())
        })
    }

    pub fn client(&self) -> Client {
        self.client_with(ClientOptions::default())
    }

    pub fn client_with(&self, options: ClientOptions) -> Client {
        let runtime = self.sim.runtime(&self.clients);
        Client::with_runtime(self.place.clone(), options, runtime)
    }

    /// Makes a call beside the test.
    pub fn call<A, R>(&self, client: &Client, method: &Method<A, R>, arguments: A) -> Made<R>
    where
        A: serde::Serialize + 'static,
        R: DeserializeOwned + Send + 'static,
    {
        self.begin(client.call(method, &arguments).start())
    }

    pub fn begin<R: Send + 'static>(
        &self,
        future: impl Future<Output = Outcome<R>> + Send + 'static,
    ) -> Made<R> {
        self.begin_in(&self.sim, future)
    }

    /// The same in a simulation of the test's own.
    pub fn begin_in<R: Send + 'static>(
        &self,
        sim: &Arc<Sim>,
        future: impl Future<Output = Outcome<R>> + Send + 'static,
    ) -> Made<R> {
        let made = Made(Arc::default());
        let learned = made.0.clone();
        sim.runtime(&self.clients).spawn(Box::pin(async move {
            let outcome = future.await;
            *lock(&learned) = Some(outcome);
        }));
        sim.run();
        made
    }

    /// A client whose session is open and recorded, on a server whose commits are held from now on.
    pub fn held(&self) -> Client {
        let client = self.client();
        assert_eq!(self.call(&client, &COUNT, ()).outcome(), Some("reply 0".to_owned()));
        self.ledger.mode(Mode::Hold);
        client
    }

    /// Lets the commits that are held through, one by one, until none comes any more.
    pub fn release_all(&self) {
        while self.ledger.held() > 0 {
            self.ledger.release();
            self.sim.run();
        }
    }

    pub fn ran(&self) -> Vec<i32> {
        lock(&self.runs).clone()
    }
}

/// Whether a future is ready at once.
pub fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// A reply, as [`Made::outcome`] has it.
pub fn reply<R: std::fmt::Debug>(value: R) -> Option<String> {
    Some(format!("reply {value:?}"))
}

pub fn text(what: &str) -> Option<String> {
    Some(what.to_owned())
}
