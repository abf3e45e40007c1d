//! Processes: this program again, started and killed; and the sockets and the clock of a server that is one.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire::{
    Accept, BoxFuture, Client, ClientOptions, Connect, OnDialFailure, Runtime, SmolRuntime,
    UnixAcceptor, UnixConnector,
};
pub use viewservice::demo::TempDir;
use viewservice::{Address, ViewsClient};

use crate::node::Net;

/// How long anything may take. Only what fails takes so long.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// A process of this program, which dies with its handle.
pub(crate) struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
}

impl Child {
    /// Starts it with these arguments.
    pub(crate) fn start(args: &[&str]) -> Result<Child, String> {
        let (sender, lines) = channel();
        let child = Child::start_with(args, move |line| drop(sender.send(line)))?;
        Ok(Child { process: child, lines })
    }

    fn start_with(
        args: &[&str],
        mut on_line: impl FnMut(String) + Send + 'static,
    ) -> Result<std::process::Child, String> {
        let cannot = |error: io::Error| format!("cannot start a process: {error}");
        let program = std::env::current_exe().map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(cannot)?;
        if let Some(stdout) = process.stdout.take() {
            std::thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).for_each(&mut on_line);
            });
        }
        Ok(process)
    }

    /// Waits for a line.
    pub(crate) fn line(&self, wanted: &str) -> Result<(), String> {
        loop {
            match self.lines.recv_timeout(GIVE_UP_AFTER) {
                Ok(line) if line == wanted => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(format!("{wanted:?} did not come")),
                Err(RecvTimeoutError::Disconnected) => return Err("a process has ended".to_owned()),
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server in a process, which is started again when it ends. Its lines are kept.
pub(crate) struct ServerProcess {
    pub(crate) name: String,
    args: Vec<String>,
    process: std::process::Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl ServerProcess {
    pub(crate) fn start(
        name: &str,
        args: Vec<String>,
        lines: &Arc<Mutex<Vec<String>>>,
    ) -> Result<ServerProcess, String> {
        let process = ServerProcess::spawn(&args, lines)?;
        Ok(ServerProcess { name: name.to_owned(), args, process, lines: lines.clone() })
    }

    fn spawn(
        args: &[String],
        lines: &Arc<Mutex<Vec<String>>>,
    ) -> Result<std::process::Child, String> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let lines = lines.clone();
        Child::start_with(&args, move |line| {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        })
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again, if it has ended.
    pub(crate) fn keep(&mut self) -> Result<(), String> {
        if self.process.try_wait().map_err(|error| error.to_string())?.is_some() {
            self.process = ServerProcess::spawn(&self.args, &self.lines)?;
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Unix sockets in a folder: `NAME.replica` for the primary, `NAME.kv` for clients.
#[derive(Debug)]
pub struct UnixNet {
    /// The folder.
    pub dir: PathBuf,
    /// Of this server.
    pub name: String,
    /// Where the view service is.
    pub views: Address,
}

fn socket(dir: &Path, name: &str, kind: &str) -> PathBuf {
    dir.join(format!("{name}.{kind}"))
}

impl Net for UnixNet {
    fn runtime(&self) -> Arc<dyn Runtime> {
        SmolRuntime::global()
    }

    fn views(&self) -> Box<dyn Connect> {
        self.views.connector()
    }

    fn replica(&self, name: &str) -> Box<dyn Connect> {
        Box::new(UnixConnector::new(socket(&self.dir, name, "replica")))
    }

    fn listen_to_primary(&self) -> BoxFuture<'_, io::Result<Box<dyn Accept>>> {
        Box::pin(async {
            let acceptor = UnixAcceptor::bind(socket(&self.dir, &self.name, "replica"))?;
            Ok(Box::new(acceptor) as Box<dyn Accept>)
        })
    }

    fn listen_to_clients(&self) -> BoxFuture<'_, io::Result<Box<dyn Accept>>> {
        Box::pin(async {
            let acceptor = UnixAcceptor::bind(socket(&self.dir, &self.name, "kv"))?;
            Ok(Box::new(acceptor) as Box<dyn Accept>)
        })
    }

    fn log(&self, line: &str) {
        output::show!("{}: {line}", self.name);
    }
}

/// A client of the servers in a folder.
pub fn client(views: &Address, dir: &Path, options: ClientOptions) -> crate::KvClient {
    let dir = dir.to_owned();
    let dial = Box::new(move |name: &str| {
        Box::new(UnixConnector::new(socket(&dir, name, "kv"))) as Box<dyn Connect>
    });
    crate::kv_client(views.connector(), dial, options, SmolRuntime::global())
}

/// Checks that there is a view service, before anything waits for it.
///
/// # Errors
/// That there is none.
pub fn check_views(views: &Address) -> Result<ViewsClient, String> {
    let options = ClientOptions::default()
        .with_timeout(Duration::from_secs(5))
        .with_on_dial_failure(OnDialFailure::End);
    let client = ViewsClient(Client::new(views.connector(), options));
    match client.get().block().ok() {
        Ok(_) => Ok(client),
        Err(why) => Err(format!("no view service at {views}: {why}")),
    }
}

/// Runs one server in this process, until it must end, or its stdin does if it is `tethered`.
///
/// # Errors
/// Why it has ended.
pub fn serve(net: UnixNet, interval: Duration, tethered: bool) -> Result<(), String> {
    check_views(&net.views)?;
    if tethered {
        // Nothing is left running when the demonstration is killed.
        std::thread::spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    let name = net.name.clone();
    let stopped = smol::block_on(crate::run(Arc::new(net), &name, interval));
    Err(stopped.to_string())
}
