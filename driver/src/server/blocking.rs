//! Handlers that block their thread, or compute for long.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::lock::Semaphore;

use super::builder::ServerBuilder;
use super::context::Context;
use crate::method::Method;

/// Threads of a method that does not say how many it may have: as many as the pool has, unless that was changed.
const THREADS: usize = 500;
/// Calls that may wait for one of those, unless the method says.
const QUEUE: usize = 65_536;

impl<L> ServerBuilder<L> {
    /// Offers a typed method whose function blocks its thread or computes for long: each call runs on a thread of smol's
    /// pool for blocking work, and delays nothing else. The pool has at most 500 threads (`BLOCKING_MAX_THREADS` changes
    /// that), for all that a process blocks on; [`Method::concurrency`] says how many of them a method may have, instead of
    /// 500. Where the method says neither that nor [`Method::queue_max`], up to 65,536 calls wait for them.
    ///
    /// Moving a call to a thread and its reply back costs some 20 µs. A function that has begun cannot be stopped: where a call
    /// ends by [`Method::time_limit`] or [`Method::drop_on_cancel`], it keeps running without an effect on the outcome, and keeps
    /// its thread. Calls that have their turn meanwhile wait for one if it has no more, and their time limits run.
    ///
    /// ```
    /// use oncewire_driver::{Method, Server};
    ///
    /// const READ: Method<String, Result<Vec<u8>, String>> = Method::new("files/read").concurrency(8);
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
        // A call's permit is given back when the call ends, and its function may still run: a client that cancelled its calls
        // could take every thread of the pool, and fill the queue before it without bound (C176).
        let options = method.options();
        let threads = options.concurrency.unwrap_or(THREADS).max(1);
        // Before the semaphore callers take no turns: what has no thread waits in the method's queue.
        let method = match (options.concurrency, options.queue_max) {
            (None, None) => method.concurrency(threads).queue_max(QUEUE),
            _ => method.concurrency(threads),
        };
        let threads = Arc::new(Semaphore::new(threads));
        self.method(&method, move |context, arguments| {
            let (function, threads) = (function.clone(), threads.clone());
            async move {
                let thread = threads.acquire_arc().await;
                let run = move || {
                    let _thread = thread;
                    function(context, arguments)
                };
                smol::unblock(run).await
            }
        })
    }
}
