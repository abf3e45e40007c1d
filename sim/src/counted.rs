//! A server's end of a connection, that counts the frames which it reads; and the acceptor of a server whose connections come
//! by another way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::protocol::wire::{self, Decoded, Role};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Subject};

use crate::parts::net::SimStream;
use crate::process::Process;

/// Connections come by another way; a server that serves hears of its ledger's errors.
pub(crate) struct Nowhere;

impl Accept for Nowhere {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(std::future::pending())
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

/// A server's end of a connection, that counts the frames which it reads.
pub(crate) struct Counted {
    stream: SimStream,
    process: Arc<Process>,
    /// What was read of a frame that is not whole.
    read: Vec<u8>,
}

impl Counted {
    pub(crate) fn new(stream: SimStream, process: Arc<Process>) -> Counted {
        Counted { stream, process, read: Vec::new() }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let len = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.read.extend_from_slice(&buf[..len]);
        while let Ok(Decoded::Frame(_, len)) = wire::decode(&self.read, Role::Client, u32::MAX / 2)
        {
            self.read.drain(..len);
            self.process.note_frame();
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
