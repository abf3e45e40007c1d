//! One run of a plugin: from the start of its program until that was waited for.

use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{Runtime, SmolRuntime};
use rustix::process::Signal;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{or, pending, poll_fn};

use super::end::{EndReason, PluginEnd};
use super::process::Process;
use super::stderr::Stderr;
use super::{lock, thread};

/// One run of a plugin.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) process: Process,
    /// It has sent the first frame of the protocol.
    has_spoken: AtomicBool,
    /// Why it was killed, if it was.
    killed_for: Mutex<Option<EndReason>>,
    /// How it ended.
    end: Mutex<Option<PluginEnd>>,
    /// Closed when that is known.
    ended: Receiver<()>,
}

impl Run {
    /// Follows a program from its start to its end, and reports that once it has been waited for.
    pub(super) fn follow(
        process: Process,
        stderr: Stderr,
        report: impl FnOnce(&Arc<Run>, PluginEnd) + Send + 'static,
    ) -> Arc<Run> {
        let (open, ended) = bounded(1);
        let run = Arc::new(Run {
            process,
            has_spoken: AtomicBool::new(false),
            killed_for: Mutex::default(),
            end: Mutex::default(),
            ended,
        });
        thread::spawn(run.clone().watch(stderr, report, open));
        run
    }

    async fn watch(
        self: Arc<Run>,
        mut stderr: Stderr,
        report: impl FnOnce(&Arc<Run>, PluginEnd) + Send,
        _open: Sender<()>,
    ) {
        or(self.process.ended(), stderr.read()).await;
        let status = self.process.reap().ok();
        let why = lock(&self.killed_for).take().filter(|why| !ended_before(why, status));
        let why = why.unwrap_or(EndReason::Ended);
        let end = PluginEnd { why, status, stderr: stderr.finish() };
        *lock(&self.end) = Some(end.clone());
        report(&self, end);
    }

    /// Kills it and all of its process group. The first reason is the one that is reported.
    pub(super) fn kill(&self, why: EndReason) {
        lock(&self.killed_for).get_or_insert(why);
        self.process.kill_group();
    }

    /// Its end, if only what it had written before was found to be garbage after it.
    pub(super) fn late_garbage(&self) -> Option<PluginEnd> {
        let end = lock(&self.end).clone()?;
        match lock(&self.killed_for).take()? {
            why @ EndReason::Garbage(_) => Some(PluginEnd { why, ..end }),
            _ => None,
        }
    }

    /// Waits until it has ended and was waited for.
    pub(super) async fn ended(self: Arc<Run>) {
        // Nothing is ever sent.
        let _ = self.ended.recv().await;
    }

    /// The same, and kills it if it takes longer than `grace`.
    pub(super) async fn ended_within(self: Arc<Run>, grace: Duration, why: EndReason) {
        let kill = async {
            sleep(grace).await;
            // It may have ended, and only its watch be late.
            if !self.process.has_ended() {
                self.kill(why);
            }
            pending().await
        };
        or(self.clone().ended(), kill).await;
    }

    pub(super) fn set_spoken(&self) {
        self.has_spoken.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_spoken(&self) -> bool {
        self.has_spoken.load(Ordering::Relaxed)
    }

    /// Its end, as the reason why its connection has one.
    pub(super) fn error(&self) -> io::Error {
        let end = lock(&self.end).as_ref().map(ToString::to_string);
        io::Error::new(ErrorKind::BrokenPipe, end.unwrap_or_default())
    }
}

/// Whether a program ended by itself before it could be killed because it seemed to live on.
fn ended_before(why: &EndReason, status: Option<ExitStatus>) -> bool {
    let killed = status.is_none_or(|status| status.signal() == Some(Signal::KILL.as_raw()));
    matches!(why, EndReason::ClosedPipe | EndReason::Disconnected) && !killed
}

pub(super) async fn sleep(time: Duration) {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + time);
    poll_fn(|cx| timer.poll(cx)).await;
}
