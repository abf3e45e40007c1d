//! Handlers that block their thread, or compute for long.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::builder::ServerBuilder;
use super::context::Context;
use crate::method::Method;

impl<L> ServerBuilder<L> {
    /// Offers a typed method whose function blocks its thread or computes for long: each call runs on a thread of smol's
    /// pool for blocking work, and delays nothing else. The pool has at most 500 threads (`BLOCKING_MAX_THREADS` changes
    /// that), for all that a process blocks on; [`Method::concurrency`] says how many of them a method may have.
    ///
    /// Moving a call to a thread and its reply back costs some 20 µs. A function that has begun cannot be stopped: where a call
    /// ends by [`Method::time_limit`] or [`Method::drop_on_cancel`], it goes on without an effect on the outcome.
    ///
    /// ```
    /// use oncewire_driver::{Method, Server};
    ///
    /// const READ: Method<String, Result<Vec<u8>, String>> = Method::new("files.read").concurrency(8);
    ///
    /// let builder = Server::builder("files").blocking(&READ, |_context, path| {
    ///     std::fs::read(path).map_err(|error| error.to_string())
    /// });
    /// # drop(builder);
    /// ```
    pub fn blocking<A, R, F>(self, method: &Method<A, R>, function: F) -> Self
    where
        F: Fn(Context, A) -> R + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let function = Arc::new(function);
        self.method(method, move |context, arguments| {
            let function = function.clone();
            smol::unblock(move || function(context, arguments))
        })
    }
}
