//! The link of a client: its stream, and the buffers between stream and machine.

use std::io;
use std::task::{Context, Poll};

use oncewire_core::{CallId, Client as Machine, Heap, Instant, ProtocolError, Xid};

use crate::buffer::{self, ReadBuffer, WriteBuffer};
use crate::reply::Received;
use crate::transport::BoxStream;

/// Bytes that are read in one turn, under one lock: at 20 ns for the smallest frame, a few hundred microseconds at most.
pub(super) const TURN_LEN: usize = 32 << 10;

/// Invariant: without a stream there is no backlog, and what the buffers hold is ignored. Both are replaced with the
/// stream.
#[derive(Default)]
pub(super) struct Link {
    stream: Option<BoxStream>,
    read: ReadBuffer,
    /// `read` may hold whole frames, which the last turn had no time for.
    backlog: bool,
    write: WriteBuffer,
    /// Reads that brought something.
    reads: u64,
}

impl Link {
    #[inline]
    pub(super) fn is_up(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether everything that the machine has given out has left.
    #[inline]
    pub(super) fn is_flushed(&self) -> bool {
        self.write.is_empty()
    }

    #[inline]
    pub(super) fn has_backlog(&self) -> bool {
        self.backlog
    }

    /// Reads that brought something, ever.
    #[inline]
    pub(super) fn reads(&self) -> u64 {
        self.reads
    }

    /// Takes a new stream.
    pub(super) fn connect(&mut self, stream: BoxStream) {
        self.stream = Some(stream);
        self.read = ReadBuffer::default();
        self.backlog = false;
        self.write = WriteBuffer::default();
    }

    /// Closes the stream.
    pub(super) fn disconnect(&mut self) {
        self.stream = None;
        self.backlog = false;
    }

    /// Leaves the stream as it is: to the process that this one is a fork of. To drop it would take the socket from the reactor's
    /// list of that, too, where the two share it.
    pub(super) fn forget(&mut self) {
        std::mem::forget(self.stream.take());
        self.backlog = false;
    }

    /// Reads once, and says how many bytes came; `Ready(Ok(0))` at the end of the stream, pending without one.
    #[inline]
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        debug_assert!(!self.backlog, "what was read comes first");
        let result = self.read.poll_fill(stream, cx);
        if let Poll::Ready(Ok(1..)) = result {
            self.reads += 1;
        }
        result
    }

    /// Makes room to read into, whatever frame is at the front.
    pub(super) fn prepare(&mut self) {
        self.read.prepare(0);
    }

    /// Gives the machine what was received, or half a turn's worth of it. Returns how many bytes it took, and why it takes
    /// no more if the server has broken the protocol.
    #[inline(always)]
    pub(super) fn take_data(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        mut on_reply: impl FnMut(&Machine<Heap>, CallId, Xid, Received<'_>),
    ) -> (usize, Result<(), ProtocolError>) {
        let read = &mut self.read;
        let (mut taken, mut window) = (0, 0);
        self.backlog = false;
        loop {
            let large = read.take_large();
            let data = match &large {
                Some(large) => &large[..],
                None => read.unread(),
            };
            if window == 0 {
                if taken >= TURN_LEN / 2 && !data.is_empty() {
                    self.backlog = true;
                    return (taken, Ok(()));
                }
                window = buffer::window(data);
            }
            let received = match machine.handle_data(now, &data[..window]) {
                Ok(received) => received,
                Err(error) => return (taken, Err(error)),
            };
            let (consumed, wanted) = (received.consumed, received.wanted);
            let more = received.item.is_some() || window < data.len();
            if let Some(reply) = received.item {
                let outcome = Received { outcome: reply.outcome, large: large.as_ref() };
                on_reply(machine, reply.call, reply.xid, outcome);
            }
            taken += consumed;
            window -= consumed;
            if large.is_none() {
                read.consume(consumed);
            } else {
                window = 0;
            }
            if !more {
                read.prepare(wanted);
                return (taken, Ok(()));
            }
        }
    }

    /// Writes what the machine has given out, and flushes it. Ready at once without a stream.
    pub(super) fn poll_write(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        let written = self.write.poll_write(stream, cx);
        if self.write.take_progress() {
            machine.handle_progress(now);
        }
        written
    }

    /// Takes what the machine wants to send; whether there was anything.
    pub(super) fn fill(&mut self, machine: &mut Machine<Heap>, now: Instant) -> bool {
        debug_assert!(self.is_flushed(), "what was taken before has left");
        let mut tail = None;
        let filled = self.write.fill(|out| {
            let mut len = 0;
            while tail.is_none()
                && let Some(more) = machine.poll_transmit(now, &mut out[len..])
            {
                len += more.get();
                tail = machine.take_shared_tail();
            }
            len
        });
        if let Some(tail) = tail {
            self.write.append(tail);
        }
        filled
    }
}

/// Why a connection on which no session was opened has ended. Where the first bytes of the answer show what answers, it is named.
pub(super) fn no_server(error: &ProtocolError) -> String {
    let why = match *error {
        ProtocolError::FrameTooLong { len, .. } => begins_with(len.to_le_bytes()),
        _ => None,
    };
    let why = why.unwrap_or_else(|| format!(" ({error})"));
    format!("what answers is no server of this protocol{why}")
}

fn begins_with(first: [u8; 4]) -> Option<String> {
    match first {
        // A record: its type, and the first byte of its version.
        [0x14..=0x17, 3, ..] => {
            Some(": it speaks TLS: wrap the connector in a `TlsConnector`".to_owned())
        }
        _ => {
            let text = std::str::from_utf8(&first).ok()?;
            let is_text = text.chars().all(|char| char.is_ascii_graphic() || char == ' ');
            is_text
                .then(|| format!(": its answer begins with {text:?}: check the address and port"))
        }
    }
}
