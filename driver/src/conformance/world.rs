//! What a case works with: places to listen, servers, clients, time, and a watchdog over every wait.

use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire_core::{ServerConfig, ServerCounters};

use super::clock::{Clock, TestRuntime};
use super::faulty_link::FaultyLink;
use super::service::Service;
use super::{Endpoint, Fixture};
use crate::client::{Client, ClientOptions};
use crate::runtime::{Runtime, SmolRuntime};
use crate::server::{Server, ServerBuilder};
use crate::transport::{Accept, BoxFuture, BoxStream, Connect, Subject};

/// How long a test waits for anything, in real time. Only a case that hangs gets there: on a machine whose cores others
/// want, a case that takes a second alone has taken a minute.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// How often a case's tasks have their turn before a step of time is over: a timer wakes a task, which may wake another one.
const TURNS: usize = 4;
/// How long a whole case may take, in real time.
const CASE_PATIENCE: Duration = Duration::from_secs(600);

/// Everything that one case works with.
#[derive(Clone)]
pub struct World {
    fixture: Arc<dyn Fixture>,
    executor: Arc<smol::Executor<'static>>,
    real: Arc<SmolRuntime>,
    clock: Arc<Clock>,
    pub(crate) service: Arc<Service>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

/// A server that listens at a place of its own. Dropping it stops the listening, not the connections.
pub(crate) struct Host {
    pub(crate) server: Server,
    pub(crate) connector: Arc<dyn Connect>,
    _serving: smol::Task<()>,
}

/// Runs a case to its end, on threads of its own.
pub(super) fn run<Fut: Future<Output = ()>>(
    name: &'static str,
    fixture: Arc<dyn Fixture>,
    case: impl FnOnce(World) -> Fut,
) {
    let executor = Arc::new(smol::Executor::new());
    let spawner = Arc::downgrade(&executor);
    let real = SmolRuntime::with_spawner(move |task| {
        if let Some(executor) = spawner.upgrade() {
            executor.spawn(task).detach();
        }
    });
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let works = executor.clone();
    let worker = std::thread::Builder::new().name(format!("{name}'s tasks")).spawn(move || {
        // Ends when the sender is gone.
        let _end = smol::block_on(works.run(stopped.recv()));
    });
    let worker = worker.expect("a thread for the case's tasks");
    let world = World {
        fixture,
        executor,
        real,
        clock: Arc::new(Clock::default()),
        service: Service::new(),
    };
    smol::block_on(world.bounded(CASE_PATIENCE, "the end of the case", || 0, case(world.clone())));
    drop(stop);
    worker.join().expect("the case's tasks end cleanly");
}

impl World {
    /// Time for clients and servers.
    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime_ahead(Duration::ZERO)
    }

    /// The same, with a clock that is ahead of the others.
    pub(crate) fn runtime_ahead(&self, skew: Duration) -> Arc<dyn Runtime> {
        Arc::new(TestRuntime { clock: self.clock.clone(), real: self.real.clone(), skew })
    }

    /// Moves time forward, at once, for all tasks.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// From now on no timer of a client or a server fires, and no time passes that is not added.
    pub(crate) fn freeze_timers(&self) {
        self.clock.freeze();
    }

    pub(crate) fn thaw_timers(&self) {
        self.clock.thaw();
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> smol::Task<T> {
        self.executor.spawn(task)
    }

    /// Random bits, which say in a failure's message what they were.
    pub(crate) fn seed(&self) -> u64 {
        let mut seed = [0; 8];
        self.real.random(&mut seed);
        u64::from_le_bytes(seed)
    }

    /// Waits for a future, but not for ever.
    pub(crate) async fn within<F: IntoFuture>(&self, what: &str, future: F) -> F::Output {
        self.while_progress(what, || 0, future.into_future()).await
    }

    /// Waits for a future as long as `progress` changes from time to time: for long work whose time depends on the machine.
    pub(crate) async fn while_progress<T>(
        &self,
        what: &str,
        progress: impl Fn() -> u64,
        future: impl Future<Output = T>,
    ) -> T {
        self.bounded(GIVE_UP_AFTER, what, progress, future).await
    }

    async fn bounded<T>(
        &self,
        limit: Duration,
        what: &str,
        progress: impl Fn() -> u64,
        future: impl Future<Output = T>,
    ) -> T {
        let mut timer = self.real.timer();
        timer.set(self.real.now() + limit);
        let mut seen = progress();
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(result) = future.as_mut().poll(cx) {
                return std::task::Poll::Ready(result);
            }
            if progress() != seen {
                seen = progress();
                timer.set(self.real.now() + limit);
            }
            assert!(timer.poll(cx).is_pending(), "waited {limit:?} for {what}");
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits until a condition holds that no event reports.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let poll = async {
            while !holds() {
                self.moment().await;
            }
        };
        self.within(what, poll).await;
    }

    /// Lets the tasks that are ready run, and those that they wake: also where their thread is late.
    pub(crate) async fn settle(&self) {
        for _ in 0..TURNS {
            // Behind all that is ready now.
            self.spawn(async {}).await;
        }
    }

    /// Moves time forward step by step until a condition holds: what is due at one moment is done before the next.
    pub(crate) async fn advance_until(
        &self,
        step: Duration,
        what: &str,
        mut holds: impl FnMut() -> bool,
    ) {
        let advance = async {
            while !holds() {
                self.advance(step);
                self.settle().await;
                self.moment().await;
                self.moment().await;
            }
        };
        self.within(what, advance).await;
    }

    /// A pause between two looks.
    pub(crate) async fn moment(&self) {
        let mut timer = self.real.timer();
        timer.set(self.real.now() + Duration::from_millis(1));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
    }

    /// A fresh place to listen.
    pub(crate) async fn listen(&self) -> (Arc<dyn Connect>, Box<dyn Accept>) {
        let bound = self.within("the transport to listen", self.fixture.bind()).await;
        let Endpoint { connector, acceptor } = bound.expect("the transport can listen");
        (Arc::from(connector), acceptor)
    }

    /// A server with the suite's service and the default limits.
    pub(crate) async fn host(&self) -> Host {
        self.host_with(|_| {}).await
    }

    /// The same, with other limits.
    pub(crate) async fn host_with(&self, configure: impl FnOnce(&mut ServerConfig)) -> Host {
        self.host_of(self.service.offer("suite").configure(configure)).await
    }

    /// A server that the test has described.
    pub(crate) async fn host_of(&self, builder: ServerBuilder) -> Host {
        let server = builder.runtime(self.runtime()).build().expect("a server of the suite");
        let (connector, acceptor) = self.listen().await;
        self.host_at(server, connector, acceptor)
    }

    pub(crate) fn host_at(
        &self,
        server: Server,
        connector: Arc<dyn Connect>,
        acceptor: impl Accept,
    ) -> Host {
        let serves = server.clone();
        let serving = async move { serves.serve(acceptor).await.expect("the transport accepts") };
        Host { server, connector, _serving: self.executor.spawn(serving) }
    }

    /// A client on a link.
    pub(crate) fn client(&self, link: &FaultyLink) -> Client {
        self.client_with(link, |_| {})
    }

    /// The same, with other options.
    pub(crate) fn client_with(
        &self,
        link: &FaultyLink,
        change: impl FnOnce(&mut ClientOptions),
    ) -> Client {
        let mut options = ClientOptions {
            timeout: Duration::from_secs(100_000),
            // Attempts follow each other quickly, so that cases need not wait.
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            ..ClientOptions::default()
        };
        change(&mut options);
        Client::with_runtime(link.clone(), options, self.runtime())
    }

    /// A client whose session is open.
    pub(crate) async fn connected(&self, link: &FaultyLink) -> Client {
        let client = self.client(link);
        assert!(self.within("the handshake", client.connected()).await);
        client
    }

    /// Waits until a server's counters are so.
    pub(crate) async fn counted(
        &self,
        host: &Host,
        what: &str,
        holds: impl Fn(&ServerCounters) -> bool,
    ) {
        self.until(what, || holds(&host.server.counters())).await;
    }

    /// Waits until so many handlers, of all time, have begun to wait.
    pub(crate) async fn waiting(&self, handlers: u64) {
        self.until("a handler to begin", || self.service.waiting() >= handlers).await;
    }
}

/// An acceptor that says who is calling: the next one of a list, and its last one from then on.
pub(crate) struct NamingAcceptor {
    acceptor: Box<dyn Accept>,
    names: Mutex<VecDeque<&'static str>>,
}

impl NamingAcceptor {
    pub(crate) fn new(acceptor: Box<dyn Accept>, names: &[&'static str]) -> NamingAcceptor {
        NamingAcceptor { acceptor, names: Mutex::new(names.iter().copied().collect()) }
    }
}

impl Accept for NamingAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let (stream, _) = self.acceptor.accept().await?;
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let name = names.front().copied().unwrap_or("no one in particular");
            if names.len() > 1 {
                names.pop_front();
            }
            Ok((stream, Subject::Name(name.into())))
        })
    }

    fn address(&self) -> String {
        self.acceptor.address()
    }
}
