//! Processes of this program, which are started, killed (`SIGKILL`), paused (`SIGSTOP`) and woken up (`SIGCONT`); and what both
//! demonstrations make of them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire::{Client, Runtime, SmolRuntime, TcpConnector};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Job, Lease, Run, RunnerClient, now, options, sleep};

/// How long anything may take. Only what fails takes so long.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(60);
/// A server that is silent so long is not the owner any more.
pub(crate) const LEASE: Duration = Duration::from_millis(300);

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new one.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn new() -> Result<TempDir, String> {
        let name = format!("oncewire-jobs-{:016x}", u64::from_le_bytes(random()));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)
            .map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
        Ok(TempDir(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn random() -> [u8; 8] {
    let mut random = [0; 8];
    SmolRuntime::global().random(&mut random);
    random
}

/// A loopback address of our own, where there are several: a process that was killed finds its port free when it is started again.
fn loopback() -> String {
    let [a, b, c, ..] = random();
    match cfg!(target_os = "linux") {
        true => format!("127.{}.{b}.{}", a.max(1), c.clamp(2, 254)),
        false => "127.0.0.1".to_owned(),
    }
}

/// Ends this process when the one that has started it ends, though it be killed, and though this one be paused.
///
/// # Errors
/// That the system has refused.
pub fn tether() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    Ok(())
}

/// What processes have written: who, and what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<(String, String)>>>);

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of one process, or of all, that have this in them.
    pub(crate) fn with(&self, process: &str, part: &str) -> Vec<String> {
        let lines = self.lock();
        let of = lines.iter().filter(|(who, _)| process.is_empty() || who == process);
        of.map(|(_, line)| line).filter(|line| line.contains(part)).cloned().collect()
    }

    pub(crate) fn count(&self, process: &str, part: &str) -> usize {
        self.with(process, part).len()
    }

    /// The last ones of all processes.
    pub(crate) fn show_last(&self) {
        let lines = self.lock();
        lines
            .iter()
            .skip(lines.len().saturating_sub(40))
            .for_each(|(_, line)| output::show!("  {line}"));
    }
}

/// A process that listens, and is at the same address when it is started again.
pub(crate) struct Process {
    name: String,
    address: String,
    args: Vec<String>,
    child: Child,
    lines: Lines,
}

impl Process {
    /// One of these arguments is where it listens.
    fn start(name: &str, listens: &str, args: &[&str], lines: &Lines) -> Result<Process, String> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (child, address) = spawn(name, &args, lines)?;
        let known = |arg| if arg == listens { address.clone() } else { arg };
        let args = args.into_iter().map(known).collect();
        Ok(Process { name: name.to_owned(), address, args, child, lines: lines.clone() })
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `kill -9`, and the same again.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        self.kill();
        (self.child, self.address) = spawn(&self.name, &self.args, &self.lines)?;
        Ok(())
    }

    /// It does nothing, and does not notice.
    pub(crate) fn pause(&self) -> Result<(), String> {
        self.signal(Signal::STOP)
    }

    /// It runs on where it was.
    pub(crate) fn wake(&self) -> Result<(), String> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or("a process without a number")?;
        kill_process(pid, signal)
            .map_err(|error| format!("{} cannot be signalled: {error}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a process, and waits until it says where it listens.
fn spawn(name: &str, args: &[String], lines: &Lines) -> Result<(Child, String), String> {
    let cannot = |error: io::Error| format!("cannot start {name}: {error}");
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.arg("--tethered").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(cannot)?;
    let mut line = String::new();
    if let Some(mut stdout) = child.stdout.take().map(BufReader::new) {
        stdout.read_line(&mut line).map_err(cannot)?;
        let (who, lines) = (name.to_owned(), lines.clone());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                lines.lock().push((who.clone(), line));
            }
        });
    }
    if let Some((_, address)) = line.trim().rsplit_once(": serving at ") {
        return Ok((child, address.to_owned()));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("{name} does not serve: {line:?}"))
}

/// Waits until this is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Result<(), String> {
    let begun = now();
    while !is_so().await {
        if now().since(begun) > TIME_MAX {
            return Err(format!("this did not come: {what}"));
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// A runner, a spool, and servers. They end before their folder goes.
pub(crate) struct World {
    pub(crate) lines: Lines,
    pub(crate) servers: Vec<Process>,
    pub(crate) runner: Process,
    client: RunnerClient,
    /// Where all listen, at any port.
    listens: String,
    dir: TempDir,
}

impl World {
    /// With a runner, to which these arguments are given too, and no server yet.
    pub(crate) fn new(more: &[&str]) -> Result<World, String> {
        let (dir, lines, listens) = (TempDir::new()?, Lines::default(), loopback() + ":0");
        let ledger = dir.path().join("runner.ledger").display().to_string();
        let millis = LEASE.as_millis().to_string();
        std::fs::create_dir(dir.path().join("spool")).map_err(|error| error.to_string())?;
        let args = [&["runner", &listens, &ledger, &millis], more].concat();
        let runner = Process::start("runner", &listens, &args, &lines)?;
        let client = RunnerClient(Client::new(TcpConnector::new(&runner.address), options()));
        Ok(World { lines, servers: Vec::new(), runner, client, listens, dir })
    }

    /// One more server. A misconfigured one has the address of a runner that does not exist.
    pub(crate) fn add(&mut self, name: &str, kind: &str, is_good: bool) -> Result<(), String> {
        let nowhere = self.listens.replace(":0", ":1");
        let runner = if is_good { &self.runner.address } else { &nowhere };
        let spool = self.dir.path().join("spool").display().to_string();
        let args = [kind, name, &self.listens, &spool, runner];
        self.servers.push(Process::start(name, &self.listens, &args, &self.lines)?);
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address.clone()).collect()
    }

    pub(crate) fn server(&mut self, name: &str) -> Result<&mut Process, String> {
        let server = self.servers.iter_mut().find(|server| server.name == name);
        server.ok_or_else(|| format!("there is no server {name:?}"))
    }

    pub(crate) async fn owner(&self) -> Result<Lease, String> {
        self.client.owner().timeout(TIME_MAX).await.ok().map_err(|why| why.to_string())
    }

    /// Waits for an owner that comes after the one with this token.
    pub(crate) async fn owner_after(&self, token: u64) -> Result<Lease, String> {
        let is_so = async || self.owner().await.is_ok_and(|lease| lease.token.0 > token);
        until("another owner", is_so).await?;
        self.owner().await
    }

    /// All that was started.
    pub(crate) async fn runs(&self) -> Result<Vec<Run>, String> {
        let mut runs = Vec::new();
        loop {
            let call = self.client.runs(runs.len() as u64 + 1).timeout(TIME_MAX);
            let page = call.await.ok().map_err(|why| why.to_string())?;
            if page.is_empty() {
                return Ok(runs);
            }
            runs.extend(page);
        }
    }

    pub(crate) async fn spool_is_empty(&self) -> Result<(), String> {
        let waiting = self.dir.path().join("spool/waiting");
        let is_empty = || std::fs::read_dir(&waiting).is_ok_and(|mut jobs| jobs.next().is_none());
        until("an empty spool", async || is_empty()).await
    }
}

/// Whether each job was started once, with its own text, and nothing else was.
pub(crate) fn check(jobs: &[Job], runs: &[Run]) -> bool {
    let mut starts = BTreeMap::<&str, usize>::new();
    runs.iter().for_each(|run| *starts.entry(&run.job.name).or_default() += 1);
    let count = |times: fn(usize) -> bool| {
        let of = |job: &&Job| times(starts.get(&*job.name).copied().unwrap_or(0));
        jobs.iter().filter(of).count()
    };
    let (never, once, again) = (count(|n| n == 0), count(|n| n == 1), count(|n| n > 1));
    output::show!(
        "{} jobs were taken: {once} ran once, {again} more than once, {never} never",
        jobs.len()
    );
    once == jobs.len() && runs.len() == once && runs.iter().all(|run| jobs.contains(&run.job))
}
