//! A run's stdin and stdout as the stream of its connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::BoxFuture;
use oncewire_driver::protocol::wire::{
    self, CONTROL_LEN_MAX, Decoded, Frame, Instance, Refuse, Role,
};

use super::end::EndReason;
use super::run::Run;
use crate::os::PipeStream;

/// How long a program that has closed its stdin or stdout may live on.
pub(super) const CLOSED_GRACE: Duration = Duration::from_secs(1);

/// The stream of a run. Instead of an end of file it has an error, which says how the program ended.
pub(super) struct PluginStream {
    pipes: PipeStream,
    run: Arc<Run>,
    /// What came first, until it is seen to be the protocol.
    head: Option<Vec<u8>>,
    ended: Ending,
    reading: Ending,
    writing: Ending,
}

/// A wait for the run's end.
enum Ending {
    None,
    Waits(BoxFuture<'static, ()>),
    Over,
}

impl Ending {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Ending::Waits(wait) = self {
            ready!(wait.as_mut().poll(cx));
            *self = Ending::Over;
        }
        match self {
            Ending::Over => Poll::Ready(()),
            Ending::None | Ending::Waits(_) => Poll::Pending,
        }
    }

    fn has_begun(&self) -> bool {
        !matches!(self, Ending::None)
    }
}

impl PluginStream {
    pub(super) fn new(pipes: PipeStream, run: Arc<Run>) -> PluginStream {
        let ended = Ending::Waits(Box::pin(run.clone().ended()));
        let (reading, writing) = (Ending::None, Ending::None);
        PluginStream { pipes, run, head: Some(Vec::new()), ended, reading, writing }
    }

    /// The program ends now, or is made to.
    fn closed(&self) -> Ending {
        Ending::Waits(Box::pin(self.run.clone().ended_within(CLOSED_GRACE, EndReason::ClosedPipe)))
    }

    /// Reads what there is, also what a program wrote before its end. `None` when nothing more will come.
    fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(Pin<&mut PipeStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<Option<usize>> {
        let mut poll = read(Pin::new(&mut self.pipes), cx);
        if poll.is_pending() {
            // Something that it started may hold its stdout still.
            ready!(self.ended.poll(cx));
            self.pipes.assume_readable();
            poll = read(Pin::new(&mut self.pipes), cx);
        }
        match poll {
            Poll::Ready(Ok(len @ 1..)) => Poll::Ready(Some(len)),
            _ => Poll::Ready(None),
        }
    }

    /// Looks at the first bytes of a run; whether they can be the protocol.
    fn check(&mut self, bytes: &[u8]) -> bool {
        let Some(head) = &mut self.head else { return true };
        head.extend_from_slice(&bytes[..bytes.len().min(CONTROL_LEN_MAX)]);
        match first_frame(head) {
            FirstFrame::Whole => {
                self.head = None;
                self.run.set_spoken();
                true
            }
            FirstFrame::Partial => true,
            FirstFrame::None => false,
        }
    }

    fn poll_read_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.reading.poll(cx));
        Poll::Ready(Err(self.run.error()))
    }

    /// Nothing more will come; that a first frame is not whole says that it was none.
    fn end_reading(&mut self) {
        self.reading = match self.head.take() {
            Some(head) if !head.is_empty() => self.refuse_garbage(head),
            _ => self.closed(),
        };
    }

    fn refuse_garbage(&self, head: Vec<u8>) -> Ending {
        self.run.kill(EndReason::Garbage(head));
        Ending::Waits(Box::pin(self.run.clone().ended()))
    }
}

enum FirstFrame {
    Whole,
    Partial,
    None,
}

/// Whether what a program wrote begins with what a server says first: a `Welcome` or a `Refuse`. Both are short, so that
/// three of the first four bytes are zero: no text is taken for them.
fn first_frame(head: &[u8]) -> FirstFrame {
    if head.iter().skip(1).take(3).any(|byte| *byte != 0) {
        return FirstFrame::None;
    }
    if wire::peek(head).is_some_and(|frame| frame.from != Role::Server) {
        return FirstFrame::None;
    }
    match wire::decode(head, Role::Server, 0) {
        Ok(Decoded::Frame(Frame::Welcome(_) | Frame::Refuse(..), _)) => FirstFrame::Whole,
        Ok(Decoded::Frame(..)) | Err(_) => FirstFrame::None,
        Ok(Decoded::Incomplete(_)) => FirstFrame::Partial,
    }
}

impl AsyncRead for PluginStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !self.reading.has_begun() {
            match ready!(self.poll_pipe(cx, |pipes, cx| pipes.poll_read(cx, buf))) {
                Some(len) if self.check(&buf[..len]) => return Poll::Ready(Ok(len)),
                _ => self.end_reading(),
            }
        }
        self.poll_read_end(cx)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.head.is_some() || bufs.iter().all(|buf| buf.is_empty()) {
            let first = bufs.iter_mut().find(|buf| !buf.is_empty());
            return self.poll_read(cx, first.map_or(&mut [], |buf| buf));
        }
        if !self.reading.has_begun() {
            match ready!(self.poll_pipe(cx, |pipes, cx| pipes.poll_read_vectored(cx, bufs))) {
                Some(len) => return Poll::Ready(Ok(len)),
                None => self.end_reading(),
            }
        }
        self.poll_read_end(cx)
    }
}

impl PluginStream {
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut PipeStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if !self.writing.has_begun() {
            match ready!(write(Pin::new(&mut self.pipes), cx)) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(_) => self.writing = self.closed(),
            }
        }
        ready!(self.writing.poll(cx));
        Poll::Ready(Err(self.run.error()))
    }
}

impl AsyncWrite for PluginStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |pipes, cx| pipes.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |pipes, cx| pipes.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipes).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipes).poll_close(cx)
    }
}

/// Stands in for a program that is gone: says that its session is unknown, as the next run would, which would end then, since
/// it has one connection in its life. So a crash does not cost two starts, and calls in flight wait for none.
pub(super) struct LastAnswer {
    answer: Option<Vec<u8>>,
}

impl LastAnswer {
    pub(super) fn new() -> LastAnswer {
        let mut frame = vec![0; CONTROL_LEN_MAX];
        let len =
            wire::encode(&Frame::Refuse(Refuse::SessionUnknown, Instance::UNNAMED), &mut frame);
        frame.truncate(len.unwrap_or(0));
        debug_assert!(!frame.is_empty());
        LastAnswer { answer: Some(frame) }
    }
}

impl AsyncRead for LastAnswer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(mut answer) = self.answer.take() else { return Poll::Ready(Ok(0)) };
        let len = buf.len().min(answer.len());
        let rest = answer.split_off(len);
        buf[..len].copy_from_slice(&answer);
        self.answer = Some(rest).filter(|rest| !rest.is_empty());
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for LastAnswer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_passes_for_the_first_frame_and_every_part_of_one_may() {
        for text in
            ["Hello", "ok", "\n\n", "{\"jsonrpc\"", "HTTP/1.1 200", "\u{feff}x", "\0\0\0\0\0"]
        {
            let is_none = matches!(first_frame(text.as_bytes()), FirstFrame::None);
            assert!(is_none, "{text:?}");
        }
        let mut frame = [0; CONTROL_LEN_MAX];
        let len = wire::encode(&Frame::Refuse(Refuse::SessionsFull, Instance::UNNAMED), &mut frame)
            .unwrap();
        for part in 0..len {
            assert!(matches!(first_frame(&frame[..part]), FirstFrame::Partial), "{part}");
        }
        assert!(matches!(first_frame(&frame), FirstFrame::Whole));
        let len = wire::encode(&Frame::Ping(Role::Client), &mut frame).unwrap();
        assert!(matches!(first_frame(&frame[..len]), FirstFrame::None));
    }
}
