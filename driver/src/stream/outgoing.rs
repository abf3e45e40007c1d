//! A stream of items of any type, by a name of its own.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use oncewire_schema::{Schema, Type};

use super::StreamOf;

/// The items that a function sends: any stream, without its type. For methods of a `service`, and others that must name what they
/// return.
///
/// ```
/// use oncewire_driver::stream::Outgoing;
/// use smol::stream;
///
/// fn below(limit: u64) -> Outgoing<u64> {
///     Outgoing::new(stream::iter(0..limit))
/// }
/// # drop(below(3));
/// ```
pub struct Outgoing<T>(Pin<Box<dyn Stream<Item = T> + Send>>);

impl<T> Outgoing<T> {
    /// What this stream gives.
    pub fn new(stream: impl Stream<Item = T> + Send + 'static) -> Outgoing<T> {
        Outgoing(Box::pin(stream))
    }
}

impl<T: Schema> Schema for Outgoing<T> {
    const TYPE: Type = StreamOf::<T>::named("Outgoing");
}

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> fmt::Debug for Outgoing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").finish_non_exhaustive()
    }
}
