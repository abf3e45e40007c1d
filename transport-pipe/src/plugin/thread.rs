//! The thread that waits for plugins and reads their stderr, one for all: however long the tasks of this program keep its
//! executor, no plugin ever waits for room in its stderr.

use std::future::Future;
use std::io;
use std::sync::{Mutex, OnceLock};
use std::thread;

use smol::Executor;

static EXECUTOR: Executor<'static> = Executor::new();

/// Starts the thread, once.
pub(super) fn start() -> io::Result<()> {
    static STARTED: OnceLock<()> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = super::lock(&STARTING);
    if STARTED.get().is_none() {
        let run = || smol::block_on(EXECUTOR.run(std::future::pending::<()>()));
        thread::Builder::new().name("oncewire-plugins".to_owned()).spawn(run)?;
        let _ = STARTED.set(());
    }
    Ok(())
}

/// Runs a task on it. It must not block, and must not run code of the user's.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    EXECUTOR.spawn(task).detach();
}
