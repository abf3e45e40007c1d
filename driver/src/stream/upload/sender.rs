//! The calls that carry an upload's chunks, at the client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{NotBegun, NotExecuted};

use super::messages::{Close, End, HEADER_LEN, Open, Opened, Progress, Put, Taken, UploadId};
use super::{Shape, UploadBreak};
use crate::buffer::Encoded;
use crate::client::{Call, CallFailure, Client};
use crate::decode::{ValueLimits, decode};
use crate::method::Typed;
use crate::stream::client::WAIT;

/// The calls that carry chunks, whatever is in them.
pub(super) struct Sender {
    /// Of the server that has opened it, once one has.
    pub(super) client: Client,
    /// The method's name, and what its opens are compared by.
    method: (&'static str, Option<Typed>),
    pub(super) shape: Shape,
    /// `None`: they cannot be encoded.
    arguments: Option<Vec<u8>>,
    pub(super) timeout: Duration,
    pub(super) id: UploadId,
    pub(super) writer: u64,
    resumes: bool,
    /// The number of the next chunk.
    pub(super) next: u64,
    /// Chunks of which it is known that the function has read them.
    read: u64,
    /// In order.
    puts: VecDeque<Call<Bytes>>,
    /// Says that there are no more.
    ending: Option<Box<Call<Bytes>>>,
    /// Chunks for which there was credit whenever they were sent.
    at_once: u32,
    pub(super) phase: Phase,
}

pub(super) enum Phase {
    Fresh,
    Opening(Box<Call<Bytes>>),
    Open,
    /// The function has returned.
    Stopped,
}

impl Sender {
    pub(super) fn new(
        client: &Client,
        method: (&'static str, Option<Typed>),
        shape: Shape,
        arguments: Option<Vec<u8>>,
    ) -> Sender {
        Sender {
            client: client.clone(),
            method,
            shape,
            arguments,
            timeout: client.timeout(),
            id: client.random(),
            writer: client.random(),
            resumes: false,
            next: 0,
            read: 0,
            puts: VecDeque::new(),
            ending: None,
            at_once: 0,
            phase: Phase::Fresh,
        }
    }

    /// Continues this one, unless it has begun.
    pub(super) fn resume(&mut self, id: UploadId) {
        if let Phase::Fresh = self.phase {
            (self.id, self.resumes) = (id, true);
        }
    }

    /// Opens it. The position at which it continues, if it was not open before.
    pub(super) fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<u64>, UploadBreak>> {
        loop {
            match &mut self.phase {
                Phase::Open | Phase::Stopped => return Poll::Ready(Ok(None)),
                Phase::Fresh => self.phase = Phase::Opening(Box::new(self.open()?)),
                Phase::Opening(call) => {
                    let reply = ready!(Pin::new(&mut **call).poll(cx)).ok();
                    self.client = self.client.at_server_of(call);
                    return Poll::Ready(self.handle_opened(reply).map(Some));
                }
            }
        }
    }

    fn open(&self) -> Result<Call<Bytes>, UploadBreak> {
        let not_begun = NotExecuted::NotBegun(NotBegun::Unencodable);
        let unencodable = || UploadBreak::NotOpened(CallFailure::NotExecuted(not_begun));
        let open = Open { id: self.id, writer: self.writer, resumes: self.resumes };
        let mut body = self.arguments.clone().ok_or_else(unencodable)?;
        body.extend(postcard::to_allocvec(&open).map_err(|_| unencodable())?);
        let (name, typed) = self.method;
        let call = self.client.call_opening((self.shape.open, name), typed, body);
        Ok(call.timeout(self.timeout))
    }

    fn handle_opened(&mut self, reply: Result<Bytes, CallFailure>) -> Result<u64, UploadBreak> {
        let reply = reply.map_err(UploadBreak::NotOpened)?;
        match decode(&reply, ValueLimits::DEFAULT).ok_or(UploadBreak::Undecodable)? {
            Opened::Yes(progress)
                if !progress.is_possible(self.shape.credit)
                    || !self.resumes && progress != Progress::NONE =>
            {
                Err(UploadBreak::Undecodable)
            }
            Opened::Yes(progress) => {
                self.phase = Phase::Open;
                (self.next, self.read) = (progress.arrived, progress.read);
                Ok(progress.position)
            }
            Opened::TooMany => {
                let why = CallFailure::NotExecuted(NotExecuted::Overloaded);
                Err(UploadBreak::NotOpened(why))
            }
            Opened::Lost if self.resumes => Err(UploadBreak::NothingToResume),
            Opened::Lost => Err(UploadBreak::Lost),
        }
    }

    /// Waits until one more chunk may be sent.
    pub(super) fn poll_credit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        // Others of its thread have their turn, though it never has to wait.
        if self.at_once >= self.shape.credit {
            self.at_once = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            self.handle_taken(cx)?;
            if self.next < self.read + u64::from(self.shape.credit) {
                return Poll::Ready(Ok(()));
            }
            if !self.puts.is_empty() {
                self.at_once = 0;
                return Poll::Pending;
            }
            // All chunks have arrived, and the first of them was not read for long.
            let ask = self.call(self.read, 0, vec![0; HEADER_LEN]);
            self.puts.push_back(ask);
        }
    }

    /// Waits until all chunks have arrived.
    pub(super) fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        self.handle_taken(cx)?;
        if self.puts.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Waits until the function has read the end, and has returned.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadBreak>> {
        loop {
            if let Phase::Stopped = self.phase {
                return Poll::Ready(Ok(()));
            }
            let call = match &mut self.ending {
                Some(call) => call,
                None => self.ending.insert(Box::new(self.end()?)),
            };
            let outcome = ready!(Pin::new(call).poll(cx));
            self.ending = None;
            let reply = outcome.ok().map_err(UploadBreak::NoAnswer)?;
            match decode(&reply, ValueLimits::DEFAULT).ok_or(UploadBreak::Undecodable)? {
                Taken::Yes { .. } => {}
                Taken::Stopped => self.phase = Phase::Stopped,
                Taken::No(why) => return Poll::Ready(Err(why.into())),
            }
        }
    }

    fn end(&self) -> Result<Call<Bytes>, UploadBreak> {
        let Sender { id, writer, next: chunks, .. } = *self;
        let end = End { id, writer, chunks, wait_ms: self.wait_ms() };
        let body = crate::buffer::encode(&end).map_err(|_| UploadBreak::Undecodable)?;
        let call = self.client.call_encoded(self.shape.end, body);
        Ok(call.idempotent().timeout(self.timeout).start())
    }

    fn wait_ms(&self) -> u32 {
        WAIT.min(self.timeout / 2).as_millis() as u32
    }

    /// Takes the replies that have come.
    fn handle_taken(&mut self, cx: &mut Context<'_>) -> Result<(), UploadBreak> {
        if let Phase::Stopped = self.phase {
            return Err(UploadBreak::Stopped);
        }
        while let Some(call) = self.puts.front_mut() {
            let Poll::Ready(outcome) = Pin::new(call).poll(cx) else { return Ok(()) };
            self.puts.pop_front();
            let reply = outcome.ok().map_err(UploadBreak::NoAnswer)?;
            match decode(&reply, ValueLimits::DEFAULT).ok_or(UploadBreak::Undecodable)? {
                // The server has no more than was sent.
                Taken::Yes { read } => self.read = self.read.max(read.min(self.next)),
                Taken::Stopped => {
                    self.phase = Phase::Stopped;
                    self.puts.clear();
                    return Err(UploadBreak::Stopped);
                }
                Taken::No(why) => return Err(why.into()),
            }
        }
        Ok(())
    }

    /// Sends a chunk, for which there is credit.
    pub(super) fn send(&mut self, chunk: Vec<u8>, end: u64) {
        let call = self.call(self.next, end, chunk);
        self.puts.push_back(call);
        self.next += 1;
        self.at_once += 1;
    }

    fn call(&self, chunk: u64, end: u64, mut body: Vec<u8>) -> Call<Bytes> {
        let wait_ms = self.wait_ms();
        let (id, writer) = (self.id, self.writer);
        let header = Put { id, writer, chunk, end, wait_ms, items: Bytes::new() }.header();
        body[..HEADER_LEN].copy_from_slice(&header);
        let body = Encoded::from(Bytes::from(body));
        let call = self.client.call_encoded(self.shape.put, body);
        call.idempotent().timeout(self.timeout).start_now()
    }

    pub(super) fn end_calls(&mut self) {
        self.puts.clear();
        self.ending = None;
    }

    /// Ends its calls, and leaves what the server holds.
    pub(super) fn forget(&mut self) {
        self.end_calls();
        self.phase = Phase::Fresh;
    }

    /// Ends its calls, and lets the server drop what it holds.
    pub(super) fn close(&mut self) {
        self.end_calls();
        match std::mem::replace(&mut self.phase, Phase::Fresh) {
            Phase::Fresh => return,
            Phase::Opening(call) => self.client = self.client.at_server_of(&call),
            Phase::Open | Phase::Stopped => {}
        }
        let close = Close { id: self.id, writer: self.writer };
        if let Ok(body) = crate::buffer::encode(&close) {
            // A client that is closed ends its session, and the uploads of that.
            let _closed = self.client.send_one_way(self.shape.close, true, body);
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.close();
    }
}
