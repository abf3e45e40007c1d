//! A socket that listens, with its file and its lock, and whether that file is still there.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_io::Async;
use oncewire_driver::{Runtime, SmolRuntime, Timer};

use crate::acceptor::accept_one;
use crate::lock::Lock;
use crate::name::Name;
use crate::options::{BindOptions, SocketEvent};
use crate::socket_file::SocketFile;

/// How often the file is checked.
const CHECK_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Bound {
    // Dropped in this order: the file goes while the socket still pins its inode, the lock comes last.
    file: FileState,
    listener: Arc<Async<UnixListener>>,
    watch: Option<Watch>,
}

/// What leads to the socket.
enum FileState {
    /// No file, or not one of ours.
    Unwatched,
    There(SocketFile),
    /// It was removed, and must be made again if the options say so.
    Lost,
}

struct Watch {
    options: BindOptions,
    path: PathBuf,
    /// Fires when the file must be checked. Not set before something waits for connections.
    timer: Box<dyn Timer>,
    is_set: bool,
    waiting: Arc<Waiting>,
    lock: Lock,
}

/// The tasks that wait for connections, as one waker for the timer: a timer keeps only the last waker that it was polled with, and the
/// task of that may have stopped waiting. This one wakes all.
#[derive(Default)]
struct Waiting(Mutex<Vec<Waker>>);

impl Waiting {
    fn add(&self, cx: &Context<'_>) {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
    }

    /// All of them. Those that still wait register again; those that have left are forgotten.
    fn take(&self) -> Vec<Waker> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// It is time to check the file.
impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.take().into_iter().for_each(Waker::wake);
    }
}

impl Bound {
    /// A socket without a file, or with one that is not ours.
    pub(crate) fn unwatched(listener: Async<UnixListener>) -> Bound {
        Bound { file: FileState::Unwatched, listener: Arc::new(listener), watch: None }
    }

    pub(crate) fn watched(
        listener: Async<UnixListener>,
        socket_file: SocketFile,
        lock: Lock,
        options: BindOptions,
        path: PathBuf,
    ) -> Bound {
        let timer = SmolRuntime::global().timer();
        let waiting = Arc::default();
        let watch = Watch { options, path, timer, is_set: false, waiting, lock };
        let file = FileState::There(socket_file);
        Bound { file, listener: Arc::new(listener), watch: Some(watch) }
    }

    pub(crate) fn listener(&self) -> Arc<Async<UnixListener>> {
        self.listener.clone()
    }

    /// Ready when there is nothing more to wait for at `listener`: another one has taken its place, or, as an error,
    /// no client can reach it any more; or when a connection was found there instead.
    pub(crate) fn poll_lost(
        &mut self,
        cx: &mut Context<'_>,
        listener: &Arc<Async<UnixListener>>,
        name: &Name,
    ) -> Poll<io::Result<Option<UnixStream>>> {
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        loop {
            if !Arc::ptr_eq(&self.listener, listener) {
                return Poll::Ready(Ok(None));
            }
            if matches!(self.file, FileState::Lost) && !watch.options.rebinds() {
                let text =
                    format!("{name}: the socket was removed, no client can connect any more");
                return Poll::Ready(Err(io::Error::new(ErrorKind::NotFound, text)));
            }
            if watch.poll_time(cx).is_pending() {
                return Poll::Pending;
            }
            // Those who have connected are admitted before it is asked whether others can.
            let accepted = match accept_one(listener.get_ref()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    watch.check_file(&mut self.file, &mut self.listener);
                    None
                }
                accepted => Some(accepted),
            };
            // The timer has fired for this task, and may not have woken the others.
            let others = watch.waiting.take().into_iter();
            others.filter(|waker| !waker.will_wake(cx.waker())).for_each(Waker::wake);
            if let Some(accepted) = accepted {
                return Poll::Ready(accepted.map(Some));
            }
        }
    }
}

impl Watch {
    /// Ready when it is time to check the file.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_set {
            self.timer.set(SmolRuntime::global().now() + CHECK_EVERY);
            self.is_set = true;
        }
        // First, so that it is there when the timer fires.
        self.waiting.add(cx);
        let all = Waker::from(self.waiting.clone());
        if self.timer.poll(&mut Context::from_waker(&all)).is_pending() {
            return Poll::Pending;
        }
        self.is_set = false;
        Poll::Ready(())
    }

    /// Checks that the file is still there; if not, makes it again, or reports that it is lost.
    fn check_file(&mut self, file: &mut FileState, listener: &mut Arc<Async<UnixListener>>) {
        if let FileState::There(socket_file) = &*file {
            if !socket_file.is_lost() {
                return;
            }
            // Before there can be a new file with the old one's number.
            *file = FileState::Lost;
            self.options.tell(&SocketEvent::Removed);
        }
        if self.options.rebinds() {
            match self.rebind() {
                Ok((new, socket_file)) => {
                    *listener = Arc::new(new);
                    *file = FileState::There(socket_file);
                    self.options.tell(&SocketEvent::Rebound);
                }
                Err(error) => self.options.tell(&SocketEvent::RebindFailed(error)),
            }
        }
    }

    fn rebind(&mut self) -> io::Result<(Async<UnixListener>, SocketFile)> {
        if self.lock.is_lost() {
            // It was removed too, and another server may have made a new one.
            self.lock = Lock::take(&self.path)?;
        }
        self.options.make_socket(&self.path, &Name::Path(self.path.clone()))
    }
}
