//! Our own stdin and stdout, for a program that its parent talks to.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Subject};
use smol::Unblock;
use smol::channel::{Receiver, Sender, bounded};

use crate::os::PipeStream;

/// The bytes that may be on their way between a stream and the thread that reads or writes for it.
const BUFFER_LEN_MAX: usize = 64 * 1024;

/// Accepts one connection in the life of a process: its stdin and stdout.
///
/// It takes both for itself. Whatever else in the process reads stdin finds its end, and what is printed to stdout goes to
/// stderr, so that a stray `println!` does not damage the connection. What was printed or read before is not taken back:
/// make it first thing in `main`.
///
/// A second `accept` waits until the one connection has ended, and then fails with [`ErrorKind::BrokenPipe`]. By then all
/// that was written has left the process, if the peer would have it.
///
/// ```no_run
/// use oncewire_pipe::{Accept, StdioAcceptor};
///
/// fn main() -> std::io::Result<()> {
///     let acceptor = StdioAcceptor::new()?;
///     smol::block_on(async {
///         let (stream, _) = acceptor.accept().await?;
/// #       drop(stream);
///         // … and when the stream has been dropped:
///         let end = acceptor.accept().await.err().unwrap();
///         assert_eq!(end.kind(), std::io::ErrorKind::BrokenPipe);
///         Ok(())
///     })
/// }
/// ```
#[derive(Debug)]
pub struct StdioAcceptor {
    stream: Mutex<Option<Stdio>>,
    /// Closed when the stream has ended.
    ended: Receiver<()>,
}

impl StdioAcceptor {
    /// Takes stdin and stdout. They can be had once: a second acceptor is an error, [`ErrorKind::AlreadyExists`].
    pub fn new() -> io::Result<StdioAcceptor> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            let text = "stdin and stdout are taken already";
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
        let (open, ended) = bounded(1);
        let stream = match reopened() {
            Some(pipes) => Stdio::Pipes(pipes.holding(open)),
            None => {
                let input = copy_of(io::stdin().as_fd())?;
                let output = copy_of(io::stdout().as_fd())?;
                Stdio::Threads(StdioStream {
                    reader: Unblock::with_capacity(BUFFER_LEN_MAX, input),
                    writer: Some(Unblock::with_capacity(BUFFER_LEN_MAX, output)),
                    open: Some(open),
                })
            }
        };
        // What we have taken must be all there is, or the peer would not see the end when we close.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(StdioAcceptor { stream: Mutex::new(Some(stream)), ended })
    }
}

/// Stdin and stdout, taken.
#[derive(Debug)]
enum Stdio {
    Pipes(PipeStream),
    Threads(StdioStream),
}

/// Stdin and stdout, opened once more, if both are pipes: so opened they can be read and written without blocking, and stay as they
/// are for others that share them. `None` for what cannot be opened so: a socket, or what another user made.
#[cfg(target_os = "linux")]
fn reopened() -> Option<PipeStream> {
    use std::fs::OpenOptions;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

    fn open(path: &str, options: &mut OpenOptions) -> Option<OwnedFd> {
        let is_pipe = std::fs::metadata(path).ok()?.file_type().is_fifo();
        let options = options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        is_pipe.then(|| options.open(path)).and_then(Result::ok).map(OwnedFd::from)
    }
    let input = open("/proc/self/fd/0", File::options().read(true))?;
    let output = open("/proc/self/fd/1", File::options().write(true))?;
    PipeStream::join(input.into(), output.into()).ok()
}

#[cfg(not(target_os = "linux"))]
fn reopened() -> Option<PipeStream> {
    None
}

/// A file of its own for a descriptor, without the standard library's buffers, that blocks: it is for threads.
fn copy_of(fd: BorrowedFd<'_>) -> io::Result<File> {
    let copy = fd.try_clone_to_owned()?;
    rustix::io::ioctl_fionbio(&copy, false)?;
    Ok(File::from(copy))
}

impl Accept for StdioAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream: BoxStream = match stream {
                Some(Stdio::Pipes(stream)) => Box::new(stream),
                Some(Stdio::Threads(stream)) => Box::new(stream),
                None => {
                    // Nothing is ever sent.
                    let _ = self.ended.recv().await;
                    return Err(ErrorKind::BrokenPipe.into());
                }
            };
            Ok((stream, Subject::Anonymous))
        })
    }

    fn address(&self) -> String {
        "stdio".to_owned()
    }
}

/// Files that are read and written by threads, since they may block.
#[derive(Debug)]
struct StdioStream {
    reader: Unblock<File>,
    writer: Option<Unblock<File>>,
    open: Option<Sender<()>>,
}

impl AsyncRead for StdioStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for StdioStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        let n = ready!(Pin::new(&mut *writer).poll_write(cx, buf))?;
        if n == 0 && !buf.is_empty() {
            // The thread has stopped; a flush says why.
            ready!(Pin::new(writer).poll_flush(cx))?;
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        Poll::Ready(Ok(n))
    }

    /// Bytes leave without it, too; it says that they have.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.writer {
            Some(writer) => Pin::new(writer).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writer) = &mut self.writer {
            let done = ready!(Pin::new(writer).poll_close(cx));
            self.writer = None;
            done?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for StdioStream {
    fn drop(&mut self) {
        let open = self.open.take();
        if let Some(mut writer) = self.writer.take() {
            // What is still on its way leaves before the connection counts as ended.
            smol::spawn(async move {
                let _ = smol::io::AsyncWriteExt::close(&mut writer).await;
                drop((writer, open));
            })
            .detach();
        }
    }
}
