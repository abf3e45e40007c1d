//! Connections within a process: two bounded buffers each, no threads, no system calls, nothing random.
//!
//! What is read, written and woken depends on the order of the calls and on nothing else, so that a simulation that uses
//! it can be repeated.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Subject};

use crate::accept_queue::{DialReceiver, DialSender, accept_queue};

/// The bytes that fit into each direction of a connection, unless another capacity is given. A pipe of Linux takes as many.
pub const CAPACITY: usize = 64 * 1024;

/// The two ends of a new connection.
///
/// ```
/// use smol::io::{AsyncReadExt, AsyncWriteExt};
///
/// # smol::block_on(async {
/// let (mut left, mut right) = oncewire_pipe::memory::pair();
/// left.write_all(b"ping").await?;
/// drop(left);
/// let mut got = Vec::new();
/// right.read_to_end(&mut got).await?;
/// assert_eq!(got, b"ping");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
pub fn pair() -> (MemoryStream, MemoryStream) {
    pair_with_capacity(CAPACITY)
}

/// [`pair`] with other buffers: `capacity` bytes in each direction, at least one.
pub fn pair_with_capacity(capacity: usize) -> (MemoryStream, MemoryStream) {
    let (one, two) = (HalfPipe::new(capacity), HalfPipe::new(capacity));
    (MemoryStream { from: one.clone(), to: two.clone() }, MemoryStream { from: two, to: one })
}

/// A connector and the acceptor that it dials: each dial makes a [`pair`]. See the crate's page for an example.
pub fn listener() -> (MemoryConnector, MemoryAcceptor) {
    listener_with_capacity(CAPACITY)
}

/// [`listener`] with other buffers: `capacity` bytes in each direction of each connection, at least one.
pub fn listener_with_capacity(capacity: usize) -> (MemoryConnector, MemoryAcceptor) {
    let (sender, receiver) = accept_queue();
    (MemoryConnector { dials: sender, capacity }, MemoryAcceptor { dials: receiver })
}

/// Dials the [`MemoryAcceptor`] that it was made with. Refused when that is gone; waits while 128 dials wait before it.
#[derive(Clone, Debug)]
pub struct MemoryConnector {
    dials: DialSender<MemoryStream>,
    capacity: usize,
}

impl Connect for MemoryConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = pair_with_capacity(self.capacity);
            self.dials.push(theirs).await?;
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }

    fn may_carry_token(&self) -> bool {
        true
    }
}

/// Accepts what its [`MemoryConnector`]s dial; [`ErrorKind::BrokenPipe`] when the last of them is gone.
#[derive(Debug)]
pub struct MemoryAcceptor {
    dials: DialReceiver<MemoryStream>,
}

impl Accept for MemoryAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            Ok((Box::new(self.dials.next().await?) as BoxStream, Subject::Anonymous))
        })
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}

/// One end of a connection in memory.
///
/// When it is dropped its peer reads what is still there and then the end; the peer's writes fail with
/// [`ErrorKind::BrokenPipe`].
#[derive(Debug)]
pub struct MemoryStream {
    from: Arc<HalfPipe>,
    to: Arc<HalfPipe>,
}

/// One direction of a connection.
///
/// Invariant: a reader waits only while there are no bytes, a writer only while there is no room.
#[derive(Debug)]
struct HalfPipe {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Grows to the pipe's capacity when needed, not before.
    bytes: VecDeque<u8>,
    /// No more will be written.
    ended: bool,
    /// No more will be read.
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl HalfPipe {
    fn new(capacity: usize) -> Arc<HalfPipe> {
        Arc::new(HalfPipe { capacity: capacity.max(1), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut state = self.lock();
        if state.bytes.is_empty() {
            if state.ended {
                return Poll::Ready(Ok(0));
            }
            register_waker(&mut state.reader, cx);
            return Poll::Pending;
        }
        // A read of a `VecDeque` copies one of its halves.
        let mut n = state.bytes.read(buf)?;
        n += state.bytes.read(&mut buf[n..])?;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if state.ended || state.reader_gone {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let room = self.capacity - state.bytes.len();
        if room == 0 {
            register_waker(&mut state.writer, cx);
            return Poll::Pending;
        }
        let mut left = room;
        for buf in bufs {
            let n = buf.len().min(left);
            state.bytes.extend(&buf[..n]);
            left -= n;
        }
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        Poll::Ready(Ok(room - left))
    }

    /// The writer has finished.
    fn close_writer(&self) {
        let mut state = self.lock();
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// The reader has gone.
    fn close_reader(&self) {
        let mut state = self.lock();
        state.reader_gone = true;
        let unread = std::mem::take(&mut state.bytes);
        let writer = state.writer.take();
        drop(state);
        drop(unread);
        wake(writer);
    }
}

fn register_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// Must be called without the lock: the task that is woken may want it.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.from.poll_read(cx, buf)
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.to.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.to.poll_write(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to.close_writer();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.to.close_writer();
        self.from.close_reader();
    }
}
