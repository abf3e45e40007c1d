//! The worker: takes jobs from a master, one after another, until it is shut down or the master is gone.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oncewire::{Client, ClientOptions, Context, OnDialFailure, Server, SmolRuntime};
use smol::channel::Sender;
use smol::future::or;
use viewservice::Address;
use viewservice::demo::sleep;

use crate::{Failure, Job, MasterClient, Registration, Worker, WorkerServer, files};

/// The master learns after so long without a byte that this process is stopped, or cut off. By default it is 10 s.
const KEEPALIVE: Duration = Duration::from_millis(500);
/// How often it looks whether there is a master,
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// and how long it waits for an answer.
const MASTER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long its own last answers may take to be fetched.
const GRACE: Duration = Duration::from_secs(1);

/// Stdin's lines. The process ends with them: nothing is left running when the demonstration is killed.
fn lines() -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        std::process::exit(0);
    });
    lines
}

/// Executes jobs.
struct Executor {
    done: AtomicU64,
    /// What it waits in, and for what.
    holds: Mutex<(Vec<String>, Option<Receiver<String>>)>,
    shutdown: Sender<()>,
}

impl Executor {
    fn hold(&self, job: &str) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, lines) = &mut *holds;
        let is_it = |name: &String| job == name || job.split('-').next() == Some(name);
        let (Some(at), Some(lines)) = (names.iter().position(is_it), lines) else { return };
        names.remove(at);
        let _ = writeln!(std::io::stdout(), "holds {job}");
        let _ = lines.recv();
    }
}

impl Worker for Executor {
    fn do_job(&self, _: Context, job: Job) -> Result<u64, String> {
        self.hold(&job.id.to_string());
        let result = files::execute(&job);
        self.done.fetch_add(1, Ordering::Relaxed);
        result
    }

    async fn jobs_done(&self, _: Context) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    async fn shutdown(&self, _: Context) -> u64 {
        let _ = self.shutdown.try_send(());
        self.done.load(Ordering::Relaxed)
    }
}

/// Registers, and asks from time to time whether the master is there; ends when it is not.
async fn follow(master: &Address, registration: Registration) -> Result<(), Failure> {
    let options = ClientOptions::default()
        .with_timeout(MASTER_TIMEOUT)
        .with_on_dial_failure(OnDialFailure::Wait);
    let client = MasterClient(Client::new(master.connector(), options));
    let registered = client.register(registration).await.ok();
    let registered = registered.map_err(|why| why.to_string()).and_then(|answer| answer);
    registered.map_err(|why| Failure::Input(format!("no master at {master}: {why}")))?;
    loop {
        sleep(&*SmolRuntime::global(), LOOK_PERIOD).await;
        let looked = client.is_running().await.ok();
        looked.map_err(|why| Failure::Trial(format!("the master at {master} is gone: {why}")))?;
    }
}

/// Takes jobs at `listen` until the master says that there is nothing more to do. `name` is for people.
///
/// `holds` is for experiments: jobs in which it waits for a line on stdin, each once, `map-3`, or `map` for the first of all. So it can be
/// stopped or killed in a job, whenever one likes. With any, the worker ends when its stdin does.
///
/// # Errors
/// That it cannot listen, or that there is no master, or none any more.
pub async fn serve(
    master: &Address,
    listen: &Address,
    name: Option<&str>,
    holds: Vec<String>,
) -> Result<(), Failure> {
    let (acceptor, address) = crate::listen(listen).await?;
    let (shutdown, is_shut_down) = smol::channel::bounded(1);
    let lines = (!holds.is_empty()).then(lines);
    let executor =
        Executor { done: AtomicU64::new(0), holds: Mutex::new((holds, lines)), shutdown };
    let server = Server::builder("mapreduce-worker").service(WorkerServer(executor));
    let server = server.configure(|config| config.keepalive = KEEPALIVE).build();
    let server = server.map_err(|error| Failure::Trial(error.to_string()))?;

    let name = name.unwrap_or(&address).to_owned();
    let registration = Registration { name, address, server: server.id() };
    let ended = async {
        let _ = is_shut_down.recv().await;
        Ok(())
    };
    let serving = async {
        let ended = server.serve(acceptor).await;
        ended.map_err(|error| Failure::Trial(format!("it serves no longer at {listen}: {error}")))
    };
    or(or(ended, follow(master, registration)), serving).await?;
    // The answer to `shutdown` leaves before this process does.
    server.drain(GRACE).await;
    Ok(())
}
