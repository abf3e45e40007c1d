//! One server: pings the view service, and is what the views say.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire::{
    Accept, BoxFuture, Client, ClientOptions, Connect, Outcome, Runtime, Server, ServerId,
};
use smol::future::{or, poll_fn};
use viewservice::{DEAD_PINGS, Member, View, ViewsClient};

use crate::primary::{Input, Primary, Replicated};
use crate::replica::{AtBackup, Replica, ReplicasServer};
use crate::{KvServer, Store};

/// What a server needs of its surroundings: real sockets, or a simulated network.
pub trait Net: Send + Sync + 'static {
    /// Clock, timers, tasks.
    fn runtime(&self) -> Arc<dyn Runtime>;
    /// Dials the view service.
    fn views(&self) -> Box<dyn Connect>;
    /// Dials the server of this name, to replicate to it.
    fn replica(&self, name: &str) -> Box<dyn Connect>;
    /// Where the primary of this server reaches it.
    fn listen_to_primary(&self) -> BoxFuture<'_, io::Result<Box<dyn Accept>>>;
    /// Where clients reach it, while it is primary.
    fn listen_to_clients(&self) -> BoxFuture<'_, io::Result<Box<dyn Accept>>>;
    /// A line for its log.
    fn log(&self, line: &str);
}

/// Why a server has ended. Its memory goes with it; started again, it is a new member.
#[derive(Debug)]
pub enum Stopped {
    /// Another server is primary.
    Deposed(View),
    /// It cannot listen.
    CannotListen(io::Error),
    /// A part of it has ended.
    Closed,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Deposed(view) => write!(f, "deposed: {view}"),
            Stopped::CannotListen(error) => write!(f, "cannot listen: {error}"),
            Stopped::Closed => f.write_str("a part of it has ended"),
        }
    }
}

impl std::error::Error for Stopped {}

/// Runs one server, until it must end. `name` is how others reach it; pings are `interval` apart, as the view service expects.
pub async fn run(net: Arc<dyn Net>, name: &str, interval: Duration) -> Stopped {
    let runtime = net.runtime();
    let mut random = [0; 24];
    runtime.random(&mut random);
    let (start, id) = random.split_at(8);
    let start = u64::from_le_bytes(start.try_into().unwrap_or_default());
    let id = ServerId::from_bytes(id.try_into().unwrap_or_default());
    let me = Member { name: name.to_owned(), start };
    let replica = Arc::new(Replica::new(me.clone()));
    if let Err(error) = listen_to_primary(&*net, &replica, interval).await {
        return Stopped::CannotListen(error);
    }
    let options = ClientOptions::default()
        .with_connect_timeout(interval * DEAD_PINGS)
        .with_backoff_max(interval);
    let views = ViewsClient(Client::with_runtime(net.views(), options, runtime.clone()));
    let node = Node { net, me, id, replica, interval, acknowledged: Arc::default() };
    let (stop, stopped) = smol::channel::bounded(2);
    let mut primary: Option<smol::channel::Sender<Input>> = None;
    loop {
        let ping = views.ping(node.me.clone(), node.acknowledged.load(Ordering::Relaxed));
        if let Outcome::Reply(view) = ping.timeout(interval * DEAD_PINGS).await {
            node.replica.learn(&view);
            let is_primary = view.primary.as_ref() == Some(&node.me);
            match &primary {
                // It decides itself what the view means, after what it is doing.
                Some(inputs) => drop(inputs.try_send(Input::View(view))),
                None if is_primary => match node.serve(view, &stop).await {
                    Ok(inputs) => primary = inputs,
                    Err(error) => return Stopped::CannotListen(error),
                },
                None => node.acknowledged.store(view.number, Ordering::Relaxed),
            }
        }
        let pause = async {
            sleep(&*runtime, interval).await;
            None
        };
        if let Some(stopped) = or(async { stopped.recv().await.ok() }, pause).await {
            return stopped;
        }
    }
}

async fn listen_to_primary(
    net: &dyn Net,
    replica: &Arc<Replica>,
    interval: Duration,
) -> io::Result<()> {
    let runtime = net.runtime();
    let service = ReplicasServer(AtBackup(replica.clone()));
    let server = Server::builder("replica")
        .runtime(runtime.clone())
        .service(service)
        .configure(|config| config.keepalive = keepalive(interval))
        .build()
        .map_err(io::Error::other)?;
    let acceptor = net.listen_to_primary().await?;
    runtime.spawn(Box::pin(async move { drop(server.serve(acceptor).await) }));
    Ok(())
}

struct Node {
    net: Arc<dyn Net>,
    me: Member,
    /// Names the records, if this server is the first primary.
    id: ServerId,
    replica: Arc<Replica>,
    interval: Duration,
    acknowledged: Arc<AtomicU64>,
}

impl Node {
    /// Becomes the primary of a view: what comes next is given to the sender. `None` if it has not what a primary must have.
    async fn serve(
        &self,
        view: View,
        stop: &smol::channel::Sender<Stopped>,
    ) -> io::Result<Option<smol::channel::Sender<Input>>> {
        if !self.replica.promote(&view, self.id) {
            self.net.log(&format!("{view}, and this server has not its state: it does not serve"));
            return Ok(None);
        }
        let records = self.replica.with_state(|state| state.records.clone());
        let Some(records) = records else { return Ok(None) };
        let runtime = self.net.runtime();
        let (inputs, receiver) = smol::channel::unbounded();
        let ledger = Replicated { records, inputs: inputs.clone() };
        let server = Server::builder("kv")
            .runtime(runtime.clone())
            .instance(self.me.name.clone())
            .ledger(ledger)
            .service(KvServer(Store))
            .configure(|config| config.keepalive = keepalive(self.interval))
            .build()
            .map_err(io::Error::other)?;
        let acceptor = self.net.listen_to_clients().await?;
        drop(inputs.try_send(Input::View(view)));
        let primary = Primary {
            net: self.net.clone(),
            me: self.me.clone(),
            replica: self.replica.clone(),
            inputs: receiver,
            acknowledged: self.acknowledged.clone(),
            forward_timeout: self.interval * DEAD_PINGS,
            view: View::default(),
            backup: None,
        };
        let stop_primary = stop.clone();
        runtime.spawn(Box::pin(async move {
            let stopped = primary.run().await;
            drop(stop_primary.try_send(stopped));
        }));
        let stop = stop.clone();
        runtime.spawn(Box::pin(async move {
            drop(server.serve(acceptor).await);
            drop(stop.try_send(Stopped::Closed));
        }));
        Ok(Some(inputs))
    }
}

/// How long a peer that is cut off is waited for.
fn keepalive(interval: Duration) -> Duration {
    interval * DEAD_PINGS * 2
}

/// A pause on a runtime's clock.
async fn sleep(runtime: &dyn Runtime, time: Duration) {
    let mut timer = runtime.timer();
    timer.set(runtime.now() + time);
    poll_fn(|cx| timer.poll(cx)).await;
}
