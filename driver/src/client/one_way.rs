//! One-way calls: their outcome is not reported.

use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{MethodId, NotBegun};
use serde::Serialize;

use super::Client;
use super::around::Surroundings;
use super::call::CalledMethod;
use crate::buffer::Encoded;
use crate::metadata::Metadata;
use crate::method::Method;

/// What a method says of its one-way calls.
struct OneWay {
    idempotent: bool,
    timeout: Option<Duration>,
}

impl OneWay {
    /// Of bytes, which have no method to ask.
    const BYTES: OneWay = OneWay { idempotent: false, timeout: None };

    fn of<A, R>(method: &Method<A, R>) -> OneWay {
        OneWay { idempotent: method.spec().idempotent, timeout: method.own_timeout() }
    }
}

impl Client {
    /// A one-way call: its outcome is not reported. It is still executed at most once, unless the method is idempotent, and
    /// sent again if the connection breaks before the server has read it (S23). For long [`Bytes`] holds what
    /// [`call`](Client::call) says.
    ///
    /// # Errors
    /// Why it was not begun.
    pub fn send<A: Serialize + 'static, R>(
        &self,
        method: &Method<A, R>,
        arguments: &A,
    ) -> Result<(), NotBegun> {
        let body = encode(arguments)?;
        self.send_call(&CalledMethod::of(method), OneWay::of(method), body, None)
    }

    /// A one-way call with metadata: see [`Call::metadata`](crate::Call::metadata).
    ///
    /// # Errors
    /// Why it was not begun.
    pub fn send_with_metadata<A: Serialize + 'static, R>(
        &self,
        method: &Method<A, R>,
        arguments: &A,
        metadata: &Metadata,
    ) -> Result<(), NotBegun> {
        let body = encode(arguments)?;
        self.send_call(&CalledMethod::of(method), OneWay::of(method), body, Some(metadata))
    }

    /// A one-way call with bytes for arguments.
    ///
    /// # Errors
    /// Why it was not begun.
    pub fn send_raw(&self, method: MethodId, body: impl Into<Bytes>) -> Result<(), NotBegun> {
        let body: Bytes = body.into();
        let body = Encoded::from(body);
        self.send_call(&CalledMethod::of_bytes(method), OneWay::BYTES, body, None)
    }

    /// One that is a part of a stream, like [`call_encoded`](Client::call_encoded).
    #[cfg(feature = "stream")]
    pub(crate) fn send_one_way(
        &self,
        method: MethodId,
        idempotent: bool,
        body: Encoded,
    ) -> Result<(), NotBegun> {
        let timeout = self.handle.shared.options.timeout;
        self.send_body(&CalledMethod::of_bytes(method), idempotent, timeout, (body, false))
    }

    fn send_call(
        &self,
        method: &CalledMethod,
        OneWay { idempotent, timeout }: OneWay,
        body: Encoded,
        metadata: Option<&Metadata>,
    ) -> Result<(), NotBegun> {
        let options = &self.handle.shared.options;
        let timeout = timeout.unwrap_or(options.timeout);
        if metadata.is_none() && self.defaults.is_none() && options.hooks.is_empty() {
            return self.send_body(method, idempotent, timeout, (body, false));
        }
        let (timeout, body) = self.complete(method, timeout, body, metadata)?;
        self.send_body(method, idempotent, timeout, body)
    }

    /// Shows a one-way call to the hooks, and puts its metadata before its arguments.
    #[cold]
    fn complete(
        &self,
        method: &CalledMethod,
        timeout: Duration,
        arguments: Encoded,
        metadata: Option<&Metadata>,
    ) -> Result<(Duration, (Encoded, bool)), NotBegun> {
        let shared = &self.handle.shared;
        let defaults = self.defaults.as_deref();
        let own = defaults.and_then(|defaults| defaults.timeout);
        let timeout = own.unwrap_or(timeout);
        let metadata = metadata.or(defaults.and_then(|defaults| defaults.metadata.as_ref()));
        let metadata = metadata.cloned().map(Box::new);
        let around = Surroundings { timeout, one_way: true, metadata };
        around.join(shared, method, None, arguments)
    }

    fn send_body(
        &self,
        method: &CalledMethod,
        idempotent: bool,
        timeout: Duration,
        (mut body, metadata): (Encoded, bool),
    ) -> Result<(), NotBegun> {
        let (payload, with_len) = body.take_payload();
        let mut call = oncewire_core::Call::new(method.id, payload);
        call.with_len = with_len;
        call.timeout = timeout;
        call.idempotent = idempotent;
        call.one_way = true;
        call.metadata = metadata;
        let shared = self.handle.session();
        shared.send(call, method)?;
        shared.observe_one_way(method);
        Ok(())
    }
}

#[inline(always)]
fn encode<A: Serialize + 'static>(arguments: &A) -> Result<Encoded, NotBegun> {
    let mut encoded = Encoded::EMPTY;
    match crate::buffer::encode_arguments(arguments, &mut encoded) {
        Ok(()) => Ok(encoded),
        Err(_) => Err(NotBegun::Unencodable),
    }
}
