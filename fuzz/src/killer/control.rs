//! A process's connection to the stage: it reports what it is and its progress, receives orders, and ends with the
//! connection.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};

/// The socket that the stage listens on, in its directory.
pub(super) const SOCKET: &str = "control";
/// "I can be called", from a server.
pub(super) const READY: &str = "ready";
/// "A reply has come", from a client.
pub(super) const PROGRESS: &str = "progress";
/// "I have written everything down", from a client.
pub(super) const DONE: &str = "done";
/// To a client: make no more calls.
pub(super) const QUIT: &str = "quit";
/// To a relay: kill yourself, for only you can be sure of your process id.
pub(super) const DIE: &str = "die";

/// The line.
#[derive(Debug)]
pub(super) struct Control(Mutex<UnixStream>);

impl Control {
    /// Reports to the stage as `name`. What it says is given to `hear`; [`DIE`] is obeyed.
    pub(super) fn join(
        dir: &Path,
        name: &str,
        mut hear: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<Control> {
        let stream = UnixStream::connect(dir.join(SOCKET))?;
        let lines = BufReader::new(stream.try_clone()?).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line == DIE {
                    // It cannot fail: one may always kill oneself.
                    let _ = kill_process(getpid(), Signal::KILL);
                }
                hear(&line);
            }
            // The stage is gone.
            std::process::exit(0);
        });
        let control = Control(Mutex::new(stream));
        control.say(name)?;
        Ok(control)
    }

    /// Says a line.
    pub(super) fn say(&self, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}

/// Dies when the parent does, though it be stopped then. To be called by a process whose parent is the stage.
pub(super) fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}
