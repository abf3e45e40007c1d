//! A program that every dial starts.

use std::io::{self, IoSlice, IoSliceMut, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::{BoxFuture, BoxStream, Connect};
use rustix::io::Errno;
use smol::process::{Child, Command};

use crate::os::PipeStream;

/// Starts a program at every dial, and talks to its stdin and stdout.
///
/// The connection ends when the program does, even if something it started still holds its stdout. Dropping the
/// stream closes the program's stdin; a program that then does not end by itself keeps running, unless
/// [`kill_on_drop`](ChildConnector::kill_on_drop) says otherwise. It is waited for in either case, on smol's global
/// executor, so that no zombie stays.
///
/// ```
/// use oncewire_pipe::{ChildConnector, Connect};
/// use smol::io::{AsyncReadExt, AsyncWriteExt};
///
/// # smol::block_on(async {
/// let connector = ChildConnector::new(std::process::Command::new("cat"));
/// assert_eq!(connector.address(), "child:cat");
///
/// let mut stream = connector.connect().await?;
/// stream.write_all(b"ping").await?;
/// let mut got = [0; 4];
/// stream.read_exact(&mut got).await?;
/// assert_eq!(&got, b"ping");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ChildConnector {
    shared: Arc<Shared>,
    kill_on_drop: bool,
}

#[derive(Debug)]
struct Shared {
    program: String,
    command: Mutex<Command>,
    last: Mutex<Last>,
}

/// What is known of the newest child.
#[derive(Debug, Default)]
struct Last {
    pid: Option<u32>,
    exit: Option<ExitStatus>,
}

impl ChildConnector {
    /// Starts `command` at every dial. Its stdin and stdout are pipes, whatever the command says. Its stderr is inherited
    /// if this is a command of the standard library; one of [`smol::process`] can redirect it.
    pub fn new(command: impl Into<Command>) -> ChildConnector {
        let mut command = command.into();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let (command, last) = (Mutex::new(command), Mutex::default());
        ChildConnector { shared: Arc::new(Shared { program, command, last }), kill_on_drop: false }
    }

    /// Whether a program is killed (`SIGKILL`) when its stream is dropped. It is not, by default.
    pub fn kill_on_drop(self, kill: bool) -> ChildConnector {
        ChildConnector { kill_on_drop: kill, ..self }
    }

    /// The process id of the program that was started last, until it is seen to have ended. Clones know the same.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.shared.last).pid
    }

    /// How the last program to end has ended. Known soon after its stream's end, not at once.
    pub fn last_exit(&self) -> Option<ExitStatus> {
        lock(&self.shared.last).exit
    }

    fn start(&self) -> io::Result<ChildStream> {
        let mut child = lock(&self.shared.command).spawn().map_err(|e| {
            // A file that is no program, and so not to be started later either.
            let is_format = e.raw_os_error() == Some(Errno::NOEXEC.raw_os_error());
            let kind = if is_format { io::ErrorKind::InvalidInput } else { e.kind() };
            io::Error::new(kind, format!("cannot start {}: {e}", self.shared.program))
        })?;
        let pid = child.id();
        lock(&self.shared.last).pid = Some(pid);
        let pipes = join(&mut child);
        let watch = Arc::new(Watch::default());
        let (shared, ended) = (self.shared.clone(), watch.clone());
        // Taken apart from the child: closing its stdin is up to the stream.
        let status = child.status();
        smol::spawn(async move {
            let status = status.await;
            shared.handle_ended(pid, status.ok());
            ended.handle_ended();
        })
        .detach();
        Ok(ChildStream { pipes: pipes?, child, watch, kill_on_drop: self.kill_on_drop })
    }
}

impl Shared {
    fn handle_ended(&self, pid: u32, status: Option<ExitStatus>) {
        let mut last = lock(&self.last);
        if last.pid == Some(pid) {
            last.pid = None;
        }
        last.exit = status.or(last.exit);
    }
}

impl Connect for ChildConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Ok(Box::new(self.start()?) as BoxStream) })
    }

    fn address(&self) -> String {
        format!("child:{}", self.shared.program)
    }

    /// There is no such program, or it must not or cannot be started. A lack of memory or of processes may pass.
    fn is_permanent(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
        matches!(error.kind(), InvalidInput | NotADirectory | NotFound | PermissionDenied)
    }

    fn may_carry_token(&self) -> bool {
        true
    }
}

/// The child's stdout and stdin as one stream.
fn join(child: &mut Child) -> io::Result<PipeStream> {
    let missing = || io::Error::other("the child has no pipes");
    let stdout = OwnedFd::try_from(child.stdout.take().ok_or_else(missing)?)?;
    let stdin = OwnedFd::try_from(child.stdin.take().ok_or_else(missing)?)?;
    PipeStream::join(PipeReader::from(stdout), PipeWriter::from(stdin))
}

/// Whether a child has ended, and who waits for it.
#[derive(Debug, Default)]
struct Watch {
    state: Mutex<(bool, Option<Waker>)>,
}

impl Watch {
    fn handle_ended(&self) {
        let mut state = lock(&self.state);
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.0 {
            return Poll::Ready(());
        }
        match &mut state.1 {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[derive(Debug)]
struct ChildStream {
    pipes: PipeStream,
    child: Child,
    watch: Arc<Watch>,
    kill_on_drop: bool,
}

impl ChildStream {
    /// Reads; ends when the child has ended and nothing is left of what it wrote.
    fn poll_read_with(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(Pin<&mut PipeStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(done) = read(Pin::new(&mut self.pipes), cx) {
            return Poll::Ready(done);
        }
        if self.watch.poll_ended(cx).is_pending() {
            return Poll::Pending;
        }
        // Once more: it may have written between that read and its end, which the reactor may not have reported yet.
        self.pipes.assume_readable();
        match read(Pin::new(&mut self.pipes), cx) {
            Poll::Pending => Poll::Ready(Ok(0)),
            done => done,
        }
    }
}

impl AsyncRead for ChildStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, |pipes, cx| pipes.poll_read(cx, buf))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, |pipes, cx| pipes.poll_read_vectored(cx, bufs))
    }
}

impl AsyncWrite for ChildStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipes).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipes).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipes).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipes).poll_close(cx)
    }
}

impl Drop for ChildStream {
    fn drop(&mut self) {
        if self.kill_on_drop {
            // It fails only if the child has ended by itself.
            let _ = self.child.kill();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
