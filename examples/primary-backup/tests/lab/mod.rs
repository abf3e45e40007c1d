//! The lab's bench: a view service, servers and clients in a simulated world.

mod history;
mod unreliable;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire::{Accept, BoxFuture, Client, ClientOptions, Connect, Outcome, Runtime};
use oncewire_sim::{Death, Faults, Host, ServerHandle, Sim};
use primary_backup::{KvClient, Net, kv_client};
use smol::channel::Receiver;
use smol::future::or;
use viewservice::{DEAD_PINGS, View, ViewService, ViewsClient, ViewsServer};

pub use history::History;
use unreliable::Unreliable;

/// Between two pings.
pub const INTERVAL: Duration = Duration::from_millis(20);

/// After which a silent server is dead.
pub fn dead_time() -> Duration {
    INTERVAL * DEAD_PINGS
}

/// The simulated network, for one server.
struct SimNet {
    host: Host,
    unreliable: Arc<AtomicBool>,
    name: String,
}

impl SimNet {
    fn listen(&self, port: &str) -> io::Result<Box<dyn Accept>> {
        let acceptor = self.host.listen(port)?;
        let mut seed = [0; 8];
        self.host.runtime().random(&mut seed);
        let unreliable = self.unreliable.clone();
        Ok(Box::new(Unreliable::new(acceptor, unreliable, u64::from_le_bytes(seed))))
    }
}

impl Net for SimNet {
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.host.runtime()
    }

    fn views(&self) -> Box<dyn Connect> {
        Box::new(self.host.dial("views", "views"))
    }

    fn replica(&self, name: &str) -> Box<dyn Connect> {
        Box::new(self.host.dial(name, "replica"))
    }

    fn listen_to_primary(&self) -> BoxFuture<'_, io::Result<Box<dyn Accept>>> {
        Box::pin(async { self.listen("replica") })
    }

    fn listen_to_clients(&self) -> BoxFuture<'_, io::Result<Box<dyn Accept>>> {
        Box::pin(async { self.listen("kv") })
    }

    fn log(&self, line: &str) {
        self.host.sim().note(|| format!("{}: {line}", self.name));
    }
}

/// The world of one test.
pub struct Lab {
    sim: Sim,
    service: ServerHandle,
    views: ViewsClient,
    servers: Mutex<Vec<(u64, ServerHandle)>>,
    unreliable: Arc<AtomicBool>,
}

impl Lab {
    pub fn new(sim: &Sim) -> Lab {
        sim.set_faults(Faults::NONE);
        let service = sim.daemon("views", |host| async move {
            let service = ViewService::new(INTERVAL, host.runtime());
            let server = host
                .builder("views")
                .service(ViewsServer(service))
                .configure(|config| config.keepalive = dead_time() * 2)
                .build()?;
            server.serve(host.listen("views")?).await?;
            Ok(())
        });
        let connector = sim.dial("lab", "views", "views");
        let client = Client::with_runtime(connector, ClientOptions::default(), sim.runtime());
        Lab {
            sim: sim.clone(),
            service,
            views: ViewsClient(client),
            servers: Mutex::default(),
            unreliable: Arc::default(),
        }
    }

    /// From now on one request in ten is dropped before it is read, and two replies in ten after the execution.
    pub fn unreliable(&self) {
        self.unreliable.store(true, Ordering::Relaxed);
    }

    /// Starts a server, for the first time or again.
    pub fn start(&self, number: u64) {
        let mut servers = self.servers.lock().unwrap();
        if let Some((_, server)) = servers.iter().find(|(of, _)| *of == number) {
            return server.restart();
        }
        let (name, unreliable) = (format!("s{number}"), self.unreliable.clone());
        let of_daemon = name.clone();
        let server = self.sim.daemon(&name, move |host| {
            let (unreliable, name) = (unreliable.clone(), of_daemon.clone());
            async move {
                let net = SimNet { host, unreliable, name: name.clone() };
                Err(primary_backup::run(Arc::new(net), &name, INTERVAL).await.into())
            }
        });
        servers.push((number, server));
    }

    /// Kills a server: it stays down until it is started.
    pub fn kill(&self, number: u64) {
        self.handle(&format!("s{number}")).expect("it was started").stop(Death::Kill);
    }

    fn handle(&self, name: &str) -> Option<ServerHandle> {
        if name == "views" {
            return Some(self.service.clone());
        }
        let servers = self.servers.lock().unwrap();
        let named = |(number, _): &&(u64, ServerHandle)| format!("s{number}") == name;
        servers.iter().find(named).map(|(_, server)| server.clone())
    }

    /// Servers one and two, primary and backup, which has the whole state.
    pub async fn start_pair(&self) {
        self.start(1);
        self.until_view("s1", None).await;
        self.start(2);
        self.until_view("s1", Some("s2")).await;
        self.until_acknowledged().await;
    }

    /// Nothing passes between these any more, and neither learns that.
    pub fn cut(&self, one: &str, other: &str) {
        for (client, server) in [(one, other), (other, one)] {
            if let Some(server) = self.handle(server) {
                self.sim.partition(client, &server);
            }
        }
    }

    /// It does again.
    pub fn mend(&self, one: &str, other: &str) {
        for (client, server) in [(one, other), (other, one)] {
            if let Some(server) = self.handle(server) {
                self.sim.heal(client, &server);
            }
        }
    }

    /// Waits for a view, and whether it is acknowledged.
    async fn until(&self, what: &str, is: impl Fn(&View, bool) -> bool) {
        for _ in 0..500 {
            let view = self.views.get().await.ok().expect("the view service is there");
            let acknowledged = self.views.acknowledged().await.ok() == Ok(view.number);
            if is(&view, acknowledged) {
                return;
            }
            self.sim.sleep(INTERVAL).await;
        }
        panic!("this did not come: {what}");
    }

    pub async fn until_view(&self, primary: &str, backup: Option<&str>) {
        let what = format!("primary {primary}, backup {backup:?}");
        self.until(&what, |view, _| {
            view.primary.as_ref().is_some_and(|of| of.name == primary)
                && view.backup.as_ref().map(|of| &*of.name) == backup
        })
        .await;
    }

    /// Waits until the primary has done what the view asks of it: its backup has the whole state.
    pub async fn until_acknowledged(&self) {
        self.until("the primary acknowledges", |_, acknowledged| acknowledged).await;
    }

    /// The same, with a backup.
    pub async fn until_in_sync(&self) {
        let is = |view: &View, acknowledged| view.backup.is_some() && acknowledged;
        self.until("a backup in sync", is).await;
    }

    /// How often clients asked the view service, and this bench did not.
    pub async fn gets(&self) -> u64 {
        self.views.gets().await.ok().expect("the view service is there")
    }

    pub fn clerk(&self, name: &str) -> Clerk {
        let options = ClientOptions::default()
            .with_timeout(Duration::from_secs(600))
            .with_connect_timeout(dead_time() * 2)
            .with_backoff_max(dead_time());
        let (sim, of_dial) = (self.sim.clone(), name.to_owned());
        let views = Box::new(sim.dial(name, "views", "views"));
        let dial = Box::new(move |server: &str| {
            Box::new(sim.dial(&of_dial, server, "kv")) as Box<dyn Connect>
        });
        Clerk(kv_client(views, dial, options, self.sim.runtime()))
    }
}

/// A client. It waits as long as it takes.
pub struct Clerk(KvClient);

impl Clerk {
    pub async fn put(&self, key: &str, value: &str) {
        let outcome = self.0.put(key.to_owned(), value.to_owned()).await;
        outcome.ok().unwrap_or_else(|why| panic!("put {key} {value}: {why}"));
    }

    pub async fn append(&self, key: &str, value: &str) {
        let outcome = self.0.append(key.to_owned(), value.to_owned()).await;
        outcome.ok().unwrap_or_else(|why| panic!("append {key} {value}: {why}"));
    }

    pub async fn get(&self, key: &str) -> String {
        let outcome = self.0.get(key.to_owned()).await;
        outcome.ok().unwrap_or_else(|why| panic!("get {key}: {why}"))
    }

    /// Begins at once.
    pub fn get_within(
        &self,
        key: &str,
        time: Duration,
    ) -> impl Future<Output = Outcome<String>> + Send + use<> {
        self.0.get(key.to_owned()).timeout(time).start()
    }

    pub async fn check(&self, key: &str, value: &str) {
        assert_eq!(self.get(key).await, value, "the value of {key}");
    }

    /// Puts or gets, and records it.
    pub async fn recorded(&self, history: &History, key: u64, value: u64, puts: bool) {
        let begun = history.invoke(key, puts.then(|| value.to_string()));
        let key = key.to_string();
        if puts {
            history.returned(begun, self.0.put(key, value.to_string()).await.ok().map(|()| None));
        } else {
            history.returned(begun, self.0.get(key).await.ok().map(Some));
        }
    }
}

/// Each client's pieces are there once, and in order.
pub fn check_appends(value: &str, clients: u64, count: u64) {
    (0..clients).for_each(|client| check_appends_of(value, client, count));
    assert_eq!(value.matches('y').count() as u64, clients * count, "{value}");
}

/// The same of one client.
pub fn check_appends_of(value: &str, client: u64, count: u64) {
    let mut last = None;
    for number in 0..count {
        let piece = format!("x {client} {number} y");
        let at = value.find(&piece);
        assert!(at.is_some() && at > last, "{piece} is missing, or out of order: {value}");
        assert_eq!(at, value.rfind(&piece), "{piece} is there twice: {value}");
        last = at;
    }
}

/// Runs a task of the test; what is returned is ready when it has ended.
pub fn spawn(sim: &Sim, task: impl Future<Output = ()> + Send + 'static) -> Receiver<()> {
    let (ended, end) = smol::channel::bounded(1);
    sim.spawn(async move {
        task.await;
        let _ = ended.send(()).await;
    });
    end
}

pub async fn all(tasks: Vec<Receiver<()>>) {
    for task in tasks {
        task.recv().await.expect("a task of the test has panicked");
    }
}

/// What a future comes to, if it does in time.
pub async fn within<T>(sim: &Sim, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        sim.sleep(time).await;
        None
    };
    or(async { Some(future.await) }, late).await
}

/// Set once.
#[derive(Clone, Default)]
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
