//! Connections as the lab's unreliable server has them: of ten requests one is dropped before it is read, and of ten replies two after
//! the execution. Each time the connection ends.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use oncewire::{Accept, BoxFuture, BoxStream, Subject};
use oncewire_sim::Rng;
use smol::io::{AsyncRead, AsyncWrite};

pub struct Unreliable<A> {
    acceptor: A,
    is_on: Arc<AtomicBool>,
    seed: u64,
    connections: AtomicU64,
}

impl<A> Unreliable<A> {
    pub fn new(acceptor: A, is_on: Arc<AtomicBool>, seed: u64) -> Unreliable<A> {
        Unreliable { acceptor, is_on, seed, connections: AtomicU64::new(0) }
    }
}

impl<A: Accept> Accept for Unreliable<A> {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let (stream, subject) = self.acceptor.accept().await?;
            let number = self.connections.fetch_add(1, Ordering::Relaxed);
            let rng = Mutex::new(Rng::apart(self.seed, number));
            let stream = Dropping { stream, is_on: self.is_on.clone(), rng, broken: false };
            Ok((Box::new(stream) as BoxStream, subject))
        })
    }

    fn address(&self) -> String {
        self.acceptor.address()
    }
}

struct Dropping {
    stream: BoxStream,
    is_on: Arc<AtomicBool>,
    rng: Mutex<Rng>,
    broken: bool,
}

impl Dropping {
    fn drops(&self, in_ten: u64) -> bool {
        self.is_on.load(Ordering::Relaxed) && self.rng.lock().unwrap().below(10) < in_ten
    }
}

impl AsyncRead for Dropping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let len = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.broken || (len > 0 && self.drops(1)) {
            self.broken = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Dropping {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.broken || self.drops(2) {
            self.broken = true;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
