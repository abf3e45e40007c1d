//! A descriptor of the system as a byte stream: what the transports over sockets and pipes share. Reads and writes do not
//! block; readiness comes from async-io.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use async_io::Async;
use futures_io::{AsyncRead, AsyncWrite};

use crate::spin;

/// A non-blocking descriptor, read and written when it is ready.
///
/// A read that did not fill its buffer has emptied the descriptor: the next one waits for more before it asks the system
/// again. That saves one system call for each message, which would only return `WouldBlock`. Clients and servers that spin
/// for an answer ask all the same, and wait for an event only when the spin is over: one that came while they spin would wake the
/// reactor's thread for what they have read themselves.
///
/// After a wake-up from the reactor, the next read always asks the system. It must not ask `Async::poll_readable` instead:
/// async-io 2.6 discards an event if its thread was already waiting when the descriptor was registered. If the executor
/// is never idle, that is every event: the connection is woken, finds "pending", registers again, and never reads.
///
/// ```
/// # use std::{io, net::{Shutdown, TcpStream}};
/// use async_io::Async;
/// use oncewire_driver::{BoxStream, Nonblocking};
///
/// fn stream(socket: TcpStream) -> io::Result<BoxStream> {
///     Ok(Box::new(Nonblocking::new(Async::new(socket)?, |s| s.shutdown(Shutdown::Write))))
/// }
/// ```
pub struct Nonblocking<T> {
    io: Io<T>,
    /// The last read emptied it: the next one waits for an event first.
    drained: bool,
    bell: Arc<Bell>,
    /// The bell is registered with the reactor, and the last poll did not find that it had rung.
    waits: bool,
    close: fn(&T) -> io::Result<()>,
    send: Option<SendVectored<T>>,
    /// Until it was full for the first time.
    grow: Option<fn(&T) -> io::Result<()>>,
}

/// A descriptor, and whether the reactor knows of it.
enum Io<T> {
    /// Not yet: so one that is closed before it is waited for never costs its two system calls.
    Unregistered(T, fn(T) -> io::Result<Async<T>>),
    Registered(Async<T>),
    /// It could not be made known, and is closed.
    Lost,
}

impl<T> Io<T> {
    fn get(&self) -> io::Result<&T> {
        match self {
            Io::Unregistered(io, _) => Ok(io),
            Io::Registered(io) => Ok(io.get_ref()),
            Io::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// The descriptor, which the reactor knows from now on at the latest.
    fn registered(&mut self) -> io::Result<&Async<T>> {
        if let Io::Unregistered(..) = self
            && let Io::Unregistered(io, register) = std::mem::replace(self, Io::Lost)
        {
            *self = Io::Registered(register(io)?);
        }
        match self {
            Io::Registered(io) => Ok(io),
            Io::Unregistered(..) | Io::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }
}

/// Sends the bytes of several buffers by one system call.
type SendVectored<T> = fn(&T, &[IoSlice<'_>]) -> io::Result<usize>;

impl<T> Nonblocking<T> {
    /// `close` ends the direction that is written.
    pub fn new(io: Async<T>, close: fn(&T) -> io::Result<()>) -> Nonblocking<T> {
        Nonblocking::of(Io::Registered(io), close)
    }

    /// The same of a descriptor that does not block already. The reactor learns of it by `register`, which is
    /// [`Async::new_nonblocking`], when it must be waited for the first time: a connection whose answers come within spins saves that.
    ///
    /// Where the reactor does not take it, the read or write that would have waited fails with its error, the descriptor is closed,
    /// and what follows fails with [`NotConnected`](ErrorKind::NotConnected).
    ///
    /// ```
    /// # use std::{io, net::{Shutdown, TcpStream}};
    /// use async_io::Async;
    /// use oncewire_driver::{BoxStream, Nonblocking};
    ///
    /// fn stream(socket: TcpStream) -> io::Result<BoxStream> {
    ///     socket.set_nonblocking(true)?;
    ///     let close = |s: &TcpStream| s.shutdown(Shutdown::Write);
    ///     Ok(Box::new(Nonblocking::unregistered(socket, Async::new_nonblocking, close)))
    /// }
    /// ```
    pub fn unregistered(
        io: T,
        register: fn(T) -> io::Result<Async<T>>,
        close: fn(&T) -> io::Result<()>,
    ) -> Nonblocking<T> {
        Nonblocking::of(Io::Unregistered(io, register), close)
    }

    fn of(io: Io<T>, close: fn(&T) -> io::Result<()>) -> Nonblocking<T> {
        let (bell, send, grow) = (Arc::default(), None, None);
        Nonblocking { io, drained: false, bell, waits: false, close, send, grow }
    }

    /// Writes several buffers by `send`. Without it they are written one by one: the standard library's `write_vectored`
    /// on a socket raises SIGPIPE where a program has restored that signal's default, which ends its process.
    pub fn with_send(self, send: fn(&T, &[IoSlice<'_>]) -> io::Result<usize>) -> Nonblocking<T> {
        Nonblocking { send: Some(send), ..self }
    }

    /// Calls `grow` when the system has taken no more bytes for the first time: it may ask for a longer buffer, so that this happens
    /// less often. What it cannot have it does without: an error is ignored.
    pub fn with_growth(self, grow: fn(&T) -> io::Result<()>) -> Nonblocking<T> {
        Nonblocking { grow: Some(grow), ..self }
    }

    /// The descriptor itself; `None` if it is closed, because the reactor did not take it.
    pub fn get_ref(&self) -> Option<&T> {
        self.io.get().ok()
    }

    /// Has the next read ask the system at once, though the last one emptied the descriptor: for a caller that learns by other
    /// means that there is something to read.
    pub fn assume_readable(&mut self) {
        self.drained = false;
    }

    /// Reads with `read`, which has room for `room` bytes, as soon as there is something to read.
    ///
    /// # Errors
    /// What `read` says, but for "would block" and "interrupted".
    pub fn poll_read_with(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        mut read: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.drained && !spin::force_read() {
            ready!(self.poll_bell(cx))?;
        }
        loop {
            match self.io.get().and_then(&mut read) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.drained = true;
                    if spin::force_read() {
                        // Who spins has what it waits for, or polls again.
                        return Poll::Pending;
                    }
                    ready!(self.poll_bell(cx))?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => {
                    self.drained = matches!(result, Ok(len) if len > 0 && len < room);
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Ready when the reactor has woken us since the last registration. If none is outstanding, registers.
    fn poll_bell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waits {
            self.waits = self.bell.waits(cx);
            return if self.waits { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let io = self.io.registered()?;
        self.bell.set(cx);
        self.waits = true;
        let waker = Waker::from(self.bell.clone());
        let mut cx = Context::from_waker(&waker);
        // The first answer may be about an event before the read that emptied the descriptor; the second never is.
        if let Poll::Ready(result) = io.poll_readable(&mut cx) {
            result?;
            if let Poll::Ready(result) = io.poll_readable(&mut cx) {
                self.waits = false;
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }

    /// Writes with `write`, as soon as there is room for a byte.
    ///
    /// # Errors
    /// What `write` says, but for "would block" and "interrupted".
    pub fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.io.get().and_then(&mut write) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => match self.grow.take() {
                    Some(grow) => drop(self.io.get().and_then(grow)),
                    None => ready!(self.io.registered()?.poll_writable(cx))?,
                },
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

/// Registered with the reactor: remembers that it was woken, and wakes the task that polled last.
#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    waker: Option<Waker>,
    /// Wakers that others have replaced, until it rings.
    replaced: Vec<Waker>,
}

/// Replaced wakers that are kept at most; the next one is woken instead.
const REPLACED_MAX: usize = 16;

impl Bell {
    fn lock(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares it for the next event.
    fn set(&self, cx: &mut Context<'_>) {
        let mut state = self.lock();
        state.rung = false;
        state.replace_waker(cx);
    }

    /// Whether it has not rung yet; then `cx` is woken when it does.
    fn waits(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.lock();
        if !state.rung {
            state.replace_waker(cx);
        }
        !state.rung
    }
}

impl BellState {
    fn replace_waker(&mut self, cx: &mut Context<'_>) {
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return;
        }
        // It may be all that holds its task, and the caller may hold a lock that the task's drop needs.
        if let Some(replaced) = self.waker.replace(cx.waker().clone()) {
            if self.replaced.len() < REPLACED_MAX {
                self.replaced.push(replaced);
            } else {
                replaced.wake();
            }
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (waker, replaced) = {
            let mut state = self.lock();
            state.rung = true;
            (state.waker.take(), std::mem::take(&mut state.replaced))
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        drop(replaced);
    }
}

impl<T: fmt::Debug> fmt::Debug for Nonblocking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nonblocking").field(&self.io.get()).finish()
    }
}

impl<T: Unpin> AsyncRead for Nonblocking<T>
where
    for<'a> &'a T: Read,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, buf.len(), |mut io| io.read(buf))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_read_with(cx, room, |mut io| io.read_vectored(bufs))
    }
}

impl<T: Unpin> AsyncWrite for Nonblocking<T>
where
    for<'a> &'a T: Write,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut io| io.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        match self.send {
            Some(send) => self.poll_write_with(cx, |io| send(io, bufs)),
            None => self.poll_write_with(cx, |mut io| io.write(first)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.io.get().and_then(self.close) {
            // The other side was faster.
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Signal(Sender<()>);

    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            // The last one may come after the test has ended.
            let _ = self.0.send(());
        }
    }

    /// The reactor's thread waits since before the stream was registered, as it does when the executor is never idle.
    #[test]
    fn c106_after_a_wake_up_there_is_something_to_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Nonblocking::new(Async::new(ours).unwrap(), |_| Ok(()));
        let (sender, woken) = channel();
        let waker = Waker::from(Arc::new(Signal(sender)));
        let mut cx = Context::from_waker(&waker);
        for n in 0..100 {
            let mut buf = [0; 8];
            // The first wait follows a read that found nothing, the others one that did not fill its buffer.
            assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut buf).is_pending());
            theirs.write_all(&[n]).unwrap();
            woken.recv().unwrap();
            let read = Pin::new(&mut stream).poll_read(&mut cx, &mut buf);
            assert!(matches!(read, Poll::Ready(Ok(1))), "{read:?} of byte {n}");
            assert_eq!(buf[0], n);
        }
    }

    #[test]
    fn the_task_that_polled_last_is_woken() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Nonblocking::new(Async::new(ours).unwrap(), |_| Ok(()));
        let channels = [channel(), channel()];
        for (sender, _) in &channels {
            let waker = Waker::from(Arc::new(Signal(sender.clone())));
            let read = Pin::new(&mut stream).poll_read(&mut Context::from_waker(&waker), &mut [0]);
            assert!(read.is_pending());
        }
        theirs.write_all(&[1]).unwrap();
        channels[1].1.recv().unwrap();
        assert!(channels[0].1.try_recv().is_err());
    }

    #[test]
    fn a_spin_waits_for_no_event_until_it_is_over() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Nonblocking::new(Async::new(ours).unwrap(), |_| Ok(()));
        let (sender, woken) = channel();
        let waker = Waker::from(Arc::new(Signal(sender)));
        let mut cx = Context::from_waker(&waker);
        let mut read =
            |stream: &mut Nonblocking<_>| Pin::new(stream).poll_read(&mut cx, &mut [0; 8]);
        for _ in 0..10 {
            for _ in 0..3 {
                assert!(spin::with_forced_reads(|| read(&mut stream)).is_pending());
                assert!(!stream.waits);
            }
            theirs.write_all(&[1]).unwrap();
            assert!(matches!(spin::with_forced_reads(|| read(&mut stream)), Poll::Ready(Ok(1))));
            // What comes between the last look and the poll behind the spin is an event.
            assert!(spin::with_forced_reads(|| read(&mut stream)).is_pending());
            theirs.write_all(&[1]).unwrap();
            if read(&mut stream).is_pending() {
                woken.recv().unwrap();
                assert!(matches!(read(&mut stream), Poll::Ready(Ok(1))));
            }
        }
    }

    #[test]
    fn a_full_socket_grows_once_before_its_writer_waits() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static GROWN: AtomicUsize = AtomicUsize::new(0);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let stream = Nonblocking::new(Async::new(ours).unwrap(), |_| Ok(()));
        let mut stream = stream.with_growth(|_| {
            GROWN.fetch_add(1, Ordering::Relaxed);
            Err(ErrorKind::Unsupported.into())
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut stream).poll_write(&mut cx, &[0; 8]).is_ready());
        assert_eq!(GROWN.load(Ordering::Relaxed), 0);
        while Pin::new(&mut stream).poll_write(&mut cx, &[0; 1 << 16]).is_ready() {}
        assert!(Pin::new(&mut stream).poll_write(&mut cx, &[0; 1 << 16]).is_pending());
        assert_eq!(GROWN.load(Ordering::Relaxed), 1);
    }
}
