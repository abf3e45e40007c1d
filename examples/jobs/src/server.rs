//! A server. One of them owns the spool: it takes jobs, and submits what is in the spool. The others stand by, and ask for the lease
//! again and again.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire::{
    Client, Context, FailedCall, Instant, OnDialFailure, Server, TcpAcceptor, TcpConnector,
};
use smol::future::or;

use crate::naive::{self, Naive};
use crate::spool::Spool;
use crate::{
    Fenced, Job, Jobs, JobsServer, Lease, Refused, RunnerClient, Taken, Token, certain, now,
    options, sleep,
};

/// Between two looks into the spool.
pub(crate) const LOOK: Duration = Duration::from_millis(5);
/// Between two attempts to become owner, or to reach a runner that is not there.
const RETRY: Duration = Duration::from_millis(50);
/// Jobs that one look finds, at most.
const AT_ONCE: usize = 64;

/// Runs a server of this name at this address, on a spool directory that all servers share. Beside its name the number of its process
/// says which start of it this is. A naive one is as in the story.
///
/// # Errors
/// Why it cannot: the port is taken, say.
pub async fn serve(
    name: &str,
    address: &str,
    dir: &Path,
    runner: &str,
    naive: bool,
) -> Result<(), String> {
    let instance = format!("{name}:{}", std::process::id());
    let spool = Spool::open(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let spool = Arc::new(spool);
    // A runner that is not there is no reason to wait without a word: each attempt says what became of it.
    let options = options().with_on_dial_failure(OnDialFailure::End);
    let runner = RunnerClient(Client::new(TcpConnector::new(runner), options));
    let builder = Server::builder("jobs").instance(&*instance);
    let role = Role::StandsBy("it has not heard from the runner yet".to_owned());
    let shared = Arc::new(Mutex::new(State { role, said: String::new() }));
    let node = Node { instance, spool: spool.clone(), runner, shared };
    let built = match naive {
        true => builder.service(JobsServer(Naive(spool))).build(),
        false => builder.service(JobsServer(node.clone())).build(),
    };
    let server = built.map_err(|error| error.to_string())?;
    let cannot = |error| format!("cannot listen at {address}: {error}");
    let acceptor = TcpAcceptor::bind(address).await.map_err(cannot)?;
    output::show!("{}: serving at {}", node.instance, acceptor.local_addr());
    let serving = async { server.serve(acceptor).await.map_err(|error| error.to_string()) };
    match naive {
        true => or(serving, naive::work(&node.spool, &node.runner)).await,
        false => or(serving, or(node.keep_lease(), node.submit_all())).await,
    }
}

/// What this server is at the moment.
#[derive(Debug)]
enum Role {
    /// Another owns the spool, or none does, as far as it knows.
    StandsBy(String),
    /// It owns the spool. The clock only says whether it takes jobs: that an owner is one of the past, the runner says.
    Owns { token: Token, until: Instant },
}

#[derive(Debug)]
struct State {
    role: Role,
    /// What was said last: the same is not said twice.
    said: String,
}

#[derive(Clone, Debug)]
struct Node {
    instance: String,
    spool: Arc<Spool>,
    runner: RunnerClient,
    shared: Arc<Mutex<State>>,
}

impl Node {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the log, which names this instance.
    fn say(&self, line: String) {
        if self.state().said != line {
            output::show!("{}: {line}", self.instance);
            self.state().said = line;
        }
    }

    /// The same of a call that has failed, once as long as it fails alike.
    fn say_failed<R>(&self, what: &str, failed: &FailedCall<R>) {
        let kind = format!("{what}: {}", failed.failure());
        if self.state().said != kind {
            self.say(format!("{what}: {failed}"));
            self.state().said = kind;
        }
    }

    /// The token, if this server has been the owner and has not heard otherwise.
    fn token(&self) -> Option<Token> {
        match self.state().role {
            Role::Owns { token, .. } => Some(token),
            Role::StandsBy(_) => None,
        }
    }

    fn stand_by(&self, why: String) {
        self.state().role = Role::StandsBy(why);
    }

    /// Stands by from now on, unless it has become owner again meanwhile.
    fn step_down(&self, token: Token, Fenced(lease): &Fenced) {
        if self.token() == Some(token) {
            self.stand_by(lease.to_string());
            self.say(format!("fenced, token {} is old: {lease}", token.0));
        }
    }

    async fn in_spool<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let spool = self.spool.clone();
        smol::unblock(move || act(&spool)).await.map_err(|error| format!("the spool: {error}"))
    }

    /// Becomes owner, stays it as long as the runner says so, and stands by otherwise.
    async fn keep_lease<T>(&self) -> T {
        loop {
            let asked = now();
            match self.runner.acquire(self.instance.clone()).result().await {
                Ok(Ok(lease)) => match self.own(&lease, asked).await {
                    Ok(()) => self.renew(&lease).await,
                    Err(why) => self.say(why),
                },
                Ok(Err(lease)) => {
                    self.say(format!("stands by: {lease}"));
                    self.stand_by(lease.to_string());
                }
                Err(failed) => {
                    self.say_failed("cannot become owner", &failed);
                    self.stand_by(failed.to_string());
                }
            }
            sleep(RETRY).await;
        }
    }

    async fn own(&self, lease: &Lease, asked: Instant) -> Result<(), String> {
        self.in_spool(|spool| spool.clean().and_then(|()| spool.sync_away())).await?;
        let until = asked + Duration::from_millis(lease.millis);
        self.state().role = Role::Owns { token: lease.token, until };
        self.say(lease.to_string());
        Ok(())
    }

    /// Until this server is fenced. The time counts from before the question: the runner's counts from its answer.
    async fn renew(&self, lease: &Lease) {
        let (time, token) = (Duration::from_millis(lease.millis), lease.token);
        while self.token() == Some(token) {
            sleep(time / 3).await;
            let asked = now();
            match self.runner.renew(token).timeout(time).result().await {
                Ok(Ok(())) => {
                    if let Role::Owns { until, .. } = &mut self.state().role {
                        *until = asked + time;
                    }
                }
                Ok(Err(fenced)) => self.step_down(token, &fenced),
                Err(failed) => self.say_failed("cannot renew its lease", &failed),
            }
        }
    }

    /// While it is owner, submits what waits in the spool.
    async fn submit_all<T>(&self) -> T {
        let mut swept = None;
        loop {
            if let Some(token) = self.token() {
                match self.submit(token, &mut swept).await {
                    Ok(Ok(())) => {}
                    Ok(Err(fenced)) => self.step_down(token, &fenced),
                    Err(why) => self.say(why),
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Submits some of what waits. `swept` is the token with which the runner has forgotten all that it can.
    async fn submit(
        &self,
        token: Token,
        swept: &mut Option<Token>,
    ) -> Result<Result<(), Fenced>, String> {
        for job in self.in_spool(|spool| spool.waiting(AT_ONCE)).await? {
            *swept = None;
            let name = job.name.clone();
            match certain(self.runner.start(token, job)).await {
                Ok(Ok(started)) => {
                    let how = if started.before { "had been started" } else { "started" };
                    self.say(format!("job {name} {how} by {} as run {}", started.by, started.run));
                    self.in_spool(move |spool| spool.put_away(&name)).await?;
                }
                Ok(Err(fenced)) => return Ok(Err(fenced)),
                Err(why) => self.say(format!("job {name} stays in the spool: {why}")),
            }
        }
        if *swept != Some(token) {
            if let Err(fenced) = self.sweep(token).await? {
                return Ok(Err(fenced));
            }
            *swept = Some(token);
        }
        Ok(Ok(()))
    }

    /// Lets the runner forget what is out of the way, by this server or by one before it.
    async fn sweep(&self, token: Token) -> Result<Result<(), Fenced>, String> {
        let mut names = certain(self.runner.remembered()).await?;
        let done = self.in_spool(move |spool| {
            // Before it is forgotten.
            spool.sync_away()?;
            names.retain(|name| spool.is_done(name).unwrap_or(false));
            Ok(names)
        });
        match done.await? {
            none if none.is_empty() => Ok(Ok(())),
            done => certain(self.runner.forget(token, done)).await,
        }
    }
}

impl Jobs for Node {
    fn submit(&self, _: Context, job: Job) -> Result<Taken, Refused> {
        let why = match &self.state().role {
            Role::StandsBy(why) => Some(why.clone()),
            Role::Owns { until, .. } if now() >= *until => Some("its lease has run out".to_owned()),
            // It may fall asleep here, and wake up as an owner of the past.
            Role::Owns { .. } => None,
        };
        match why.map(|why| format!("stands by: {why}")) {
            Some(why) => Err(Refused { by: self.instance.clone(), why, for_good: false }),
            None => self.spool.take(&job, &self.instance),
        }
    }
}
