//! Handlers that share a state, which is passed once.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Server;
use super::build_error::BuildError;
use super::builder::ServerBuilder;
use super::context::Context;
use crate::ledger::{Ledger, Rollback};
use crate::method::Method;

/// Describes a server further, with a state that the functions of its methods take by reference: see
/// [`ServerBuilder::state`].
pub struct StatefulBuilder<S, L> {
    builder: ServerBuilder<L>,
    state: Arc<S>,
}

impl<S, L> fmt::Debug for StatefulBuilder<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.builder.fmt(f)
    }
}

/// An `async fn(&S, Context, A) -> R` whose future is `Send`.
///
/// Every such function and method is one. A closure is none, because the compiler does not see that its future may borrow
/// the state.
pub trait StateHandler<'s, S, A>: Send + Sync + 'static {
    /// What it returns.
    type Reply;
    /// Its future.
    type Future: Future<Output = Self::Reply> + Send + 's;

    /// Calls it.
    fn call(&self, state: &'s S, context: Context, arguments: A) -> Self::Future;
}

impl<'s, S, A, F, Fut> StateHandler<'s, S, A> for F
where
    S: 's,
    F: Fn(&'s S, Context, A) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 's,
{
    type Reply = Fut::Output;
    type Future = Fut;

    fn call(&self, state: &'s S, context: Context, arguments: A) -> Fut {
        self(state, context, arguments)
    }
}

impl<L> ServerBuilder<L> {
    /// Continues with a state that the functions of the following methods take by reference, so that it is passed once and not
    /// cloned into each. [`stateless`](StatefulBuilder::stateless) goes back, and another state may follow.
    ///
    /// ```
    /// use std::{collections::HashMap, sync::Mutex};
    /// use oncewire_driver::{Context, Method, Server};
    ///
    /// const PUT: Method<(String, u64), Option<u64>> = Method::new("kv/put");
    /// const GET: Method<String, Option<u64>> = Method::new("kv/get").idempotent();
    ///
    /// #[derive(Default)]
    /// struct Kv(Mutex<HashMap<String, u64>>);
    ///
    /// impl Kv {
    ///     async fn put(&self, _: Context, (key, value): (String, u64)) -> Option<u64> {
    ///         self.0.lock().unwrap().insert(key, value)
    ///     }
    ///     async fn get(&self, _: Context, key: String) -> Option<u64> {
    ///         self.0.lock().unwrap().get(&key).copied()
    ///     }
    /// }
    ///
    /// let builder = Server::builder("kv").state(Kv::default());
    /// let server = builder.method(&PUT, Kv::put).method(&GET, Kv::get).build()?;
    /// # Ok::<(), oncewire_driver::BuildError>(())
    /// ```
    pub fn state<S: Send + Sync + 'static>(
        self,
        state: impl Into<Arc<S>>,
    ) -> StatefulBuilder<S, L> {
        StatefulBuilder { builder: self, state: state.into() }
    }
}

impl<S: Send + Sync + 'static, L> StatefulBuilder<S, L> {
    /// Offers a typed method: see [`ServerBuilder::method`].
    pub fn method<A, R, F>(mut self, method: &Method<A, R>, function: F) -> Self
    where
        F: for<'s> StateHandler<'s, S, A, Reply = R>,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let (state, function) = (self.state.clone(), Arc::new(function));
        self.builder = self.builder.method(method, move |context, arguments| {
            let (state, function) = (state.clone(), function.clone());
            async move { function.call(&state, context, arguments).await }
        });
        self
    }

    /// Offers a method whose function blocks: see [`ServerBuilder::blocking`].
    pub fn blocking<A, R, F>(mut self, method: &Method<A, R>, function: F) -> Self
    where
        F: Fn(&S, Context, A) -> R + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let state = self.state.clone();
        let function = move |context, arguments| function(&state, context, arguments);
        self.builder = self.builder.blocking(method, function);
        self
    }

    /// Continues without the state.
    pub fn stateless(self) -> ServerBuilder<L> {
        self.builder
    }

    /// Builds the server: see [`ServerBuilder::build`].
    ///
    /// # Errors
    /// What is wrong with its description.
    pub fn build(self) -> Result<Server, BuildError> {
        self.builder.build()
    }
}

impl<S: Send + Sync + 'static, L> StatefulBuilder<S, L> {
    /// Offers a transactional method: see [`ServerBuilder::transactional`].
    pub fn transactional<A, R, F>(mut self, method: &Method<A, R>, function: F) -> Self
    where
        L: Ledger,
        F: Fn(&S, &mut L::Transaction, &Context, A) -> Result<R, Rollback> + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + 'static,
    {
        let state = self.state.clone();
        self.builder =
            self.builder.transactional(method, move |transaction, context, arguments| {
                function(state.deref(), transaction, context, arguments)
            });
        self
    }
}
