//! Connections that break after some bytes, or on command.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use oncewire_driver::{BoxFuture, BoxStream, Connect};
use smol::io::{AsyncRead, AsyncWrite};

use crate::mutant::AnyConnector;
use crate::rng::Rng;

/// Where connections lead to, and those that there are.
#[derive(Clone, Debug)]
pub struct Switch {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    target: AnyConnector,
    chance: Rng,
    /// The most bytes that a connection carries, read and written; 0 for no end.
    bytes_max: u64,
    cords: Vec<Arc<Cord>>,
    connections: u64,
}

/// What one connection can still carry.
#[derive(Debug)]
struct Cord {
    state: Mutex<CordState>,
}

#[derive(Debug)]
struct CordState {
    left: u64,
    reader: Option<Waker>,
}

impl Switch {
    /// Leads to `target`. Connections break after at most `bytes_max` bytes; 0 for never.
    pub fn new(target: AnyConnector, bytes_max: u64, seed: u64) -> Switch {
        let chance = Rng::new(seed);
        let inner = Inner { target, chance, bytes_max, cords: Vec::new(), connections: 0 };
        Switch { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Breaks every connection; from now on they lead to `target`.
    pub fn replace(&self, target: AnyConnector) {
        let cords = self.with(|inner| {
            inner.target = target;
            std::mem::take(&mut inner.cords)
        });
        cords.iter().for_each(|cord| cord.cut());
    }

    /// Connections that were made.
    pub fn connections(&self) -> u64 {
        self.with(|inner| inner.connections)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Connect for Switch {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (target, cord) = self.with(|inner| {
                let left = match inner.bytes_max {
                    0 => u64::MAX,
                    max => inner.chance.range(1, max),
                };
                let state = Mutex::new(CordState { left, reader: None });
                let cord = Arc::new(Cord { state });
                inner.cords.retain(|cord| Arc::strong_count(cord) > 1);
                inner.cords.push(cord.clone());
                inner.connections += 1;
                (inner.target.clone(), cord)
            });
            let stream = target.connect().await?;
            Ok(Box::new(CutStream { stream, cord }) as BoxStream)
        })
    }

    fn address(&self) -> String {
        format!("{}, with cuts", self.with(|inner| inner.target.address()))
    }

    fn may_carry_token(&self) -> bool {
        self.with(|inner| inner.target.may_carry_token())
    }
}

impl Cord {
    fn lock(&self) -> std::sync::MutexGuard<'_, CordState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        let mut state = self.lock();
        state.left = 0;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// How many of `len` bytes may still pass.
    fn room(&self, len: usize) -> io::Result<usize> {
        let left = usize::try_from(self.lock().left).unwrap_or(usize::MAX);
        if left == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(len.min(left))
    }

    fn spend(&self, len: usize) {
        let mut state = self.lock();
        state.left = state.left.saturating_sub(len as u64);
    }
}

struct CutStream {
    stream: BoxStream,
    cord: Arc<Cord>,
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // Before the look, so that no cut is missed.
        self.cord.lock().reader = Some(cx.waker().clone());
        let room = self.cord.room(buf.len())?;
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buf[..room]);
        if let Poll::Ready(Ok(len)) = read {
            self.cord.spend(len);
        }
        read
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = self.cord.room(buf.len())?;
        let written = Pin::new(&mut self.stream).poll_write(cx, &buf[..room]);
        if let Poll::Ready(Ok(len)) = written {
            self.cord.spend(len);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
