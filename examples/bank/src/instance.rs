//! One of several servers on a ledger: a process whose turn comes and goes.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use smol::io::{AsyncBufReadExt, BufReader};
use smol::process::Child;
use smol::stream::StreamExt;

use crate::address::Address;
use crate::chance::{pause, within};
use crate::process::{GIVE_UP_AFTER, GRACE_SECS, cannot_start, command, signal, terminate};

/// How often it is looked whether a condition holds.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A server that serves whenever it is its turn.
#[derive(Debug)]
pub(crate) struct Instance {
    child: Child,
    address: Address,
    serves: Arc<AtomicBool>,
    /// It has said something: from then on signals are waited for.
    is_up: Arc<AtomicBool>,
    /// Reads what it says of its turn.
    listener: smol::Task<()>,
    /// What has gone wrong there last.
    error: Arc<Mutex<String>>,
    _errors: smol::Task<()>,
}

impl Instance {
    /// Starts one, which waits for its turn.
    ///
    /// # Errors
    /// Why there is no process.
    pub(crate) fn start(address: &Address, arguments: &[String]) -> Result<Instance, String> {
        let mut command = command(["serve", &address.to_string(), "--grace", GRACE_SECS])?;
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot_start)?;
        let stdout = child.stdout.take().ok_or("a server without stdout")?;
        let stderr = child.stderr.take().ok_or("a server without stderr")?;
        let serves = Arc::new(AtomicBool::new(false));
        let is_up = Arc::new(AtomicBool::new(false));
        let (now, up) = (serves.clone(), is_up.clone());
        let listener = smol::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Some(Ok(line)) = lines.next().await {
                up.store(true, Ordering::SeqCst);
                now.store(line.starts_with("listening on "), Ordering::SeqCst);
            }
        });
        let error = Arc::<Mutex<String>>::default();
        let last = error.clone();
        let errors = smol::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Some(Ok(line)) = lines.next().await {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
        let address = address.clone();
        Ok(Instance { child, address, serves, is_up, listener, error, _errors: errors })
    }

    /// The same one again, after it was killed.
    pub(crate) fn start_again(&mut self, arguments: &[String]) -> Result<(), String> {
        *self = Instance::start(&self.address, arguments)?;
        Ok(())
    }

    /// What has gone wrong there last; empty if nothing has.
    pub(crate) fn error(&self) -> String {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts it again if it has ended by itself, as whatever keeps services running does: one that finds no database at its start ends.
    pub(crate) fn keep_running(&mut self, arguments: &[String]) -> Result<(), String> {
        match self.child.try_status().map_err(|error| format!("a server is lost: {error}"))? {
            Some(_) => self.start_again(arguments),
            None => Ok(()),
        }
    }

    /// Whether it has its turn, as far as it has said.
    pub(crate) fn serves(&self) -> bool {
        self.serves.load(Ordering::SeqCst)
    }

    /// Something was done to it: what it said before does not count any more.
    pub(crate) fn serves_no_more(&self) {
        self.serves.store(false, Ordering::SeqCst);
    }

    pub(crate) fn signal(&self, which: Signal) -> Result<(), String> {
        signal(&self.child, which).map_err(|error| format!("{which:?} cannot be sent: {error}"))
    }

    /// Kills it, as a crash does.
    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        let why = |error: std::io::Error| format!("the server cannot be killed: {error}");
        self.child.kill().map_err(why)?;
        self.child.status().await.map_err(why)?;
        // Whatever it has said last.
        (&mut self.listener).await;
        self.serves_no_more();
        Ok(())
    }

    /// Asks it to drain, and waits until it has ended. One that has only been started is asked when it can be: a signal before it waits
    /// for signals would kill it.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        let up = || self.is_up.load(Ordering::SeqCst) || self.listener.is_finished();
        if !comes_true(GIVE_UP_AFTER, up).await {
            return Err(format!("the server at {} does not start", self.address));
        }
        terminate(&self.child);
        let address = &self.address;
        match within(GIVE_UP_AFTER, self.child.status()).await {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => {
                let why = self.error();
                Err(format!("the server at {address} ended with {status}: {why}"))
            }
            _ => Err(format!("the server at {address} did not end")),
        }
    }
}

/// Waits for a condition; whether it held in time.
pub(crate) async fn comes_true(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let held = async {
        while !condition() {
            pause(LOOK_EVERY).await;
        }
    };
    within(limit, held).await.is_some()
}
