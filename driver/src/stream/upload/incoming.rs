//! The items of an upload, for the function that reads them.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use oncewire_schema::{Schema, Type};

use super::messages::ServerBreak;
use super::queue::Queue;
use crate::stream::StreamOf;
use crate::stream::item::Codec;

/// The items that a client uploads: in order, each once, and then `None`, when the client has committed.
///
/// An upload that is not committed has no end that can be read: its function is dropped.
pub struct Incoming<T> {
    queue: Arc<Queue>,
    codec: Codec<T>,
    /// Items that were not taken yet.
    chunk: Bytes,
    is_over: bool,
}

impl<T: Schema> Schema for Incoming<T> {
    const TYPE: Type = StreamOf::<T>::named("Incoming");
}

impl<T> Incoming<T> {
    pub(super) fn new(queue: Arc<Queue>, codec: Codec<T>) -> Incoming<T> {
        Incoming { queue, codec, chunk: Bytes::new(), is_over: false }
    }

    /// The next item; `None` when all were read and the client has committed. Its future may be dropped: nothing is lost by that.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.chunk.is_empty() {
            match ready!(self.queue.poll_chunk(cx)) {
                Some(chunk) => self.chunk = chunk,
                None => {
                    self.is_over = true;
                    return Poll::Ready(None);
                }
            }
        }
        match self.codec.take(&mut self.chunk) {
            Some(taken) => Poll::Ready(Some(taken.item)),
            None => {
                // The function is dropped, and the client learns why.
                self.queue.break_off(ServerBreak::Undecodable);
                Poll::Pending
            }
        }
    }
}

impl<T> Stream for Incoming<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.poll_item(cx)
    }
}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}
