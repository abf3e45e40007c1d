//! Handlers that run in the ledger's transaction (S29).
//!
//! Such a handler may run more than once: if a neighbour in the same transaction is rolled back, all of it is, and the
//! others run again. Each run decodes its own arguments, so the request's bytes are kept until the commit.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

#[cfg(feature = "stream")]
use bytes::Bytes;
use oncewire_core::NotExecuted;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "stream")]
use super::builder::ServerBuilder;
use super::context::Context;
#[cfg(feature = "stream")]
use super::handler::MethodEntry;
use super::handler::{Begun, Body, Handle, Plan, Ran, Work, decode_arguments};
use crate::buffer::{Encoded, Spare};
use crate::caught::{Guarded, Panicked, caught};
use crate::decode::ValueLimits;
#[cfg(feature = "stream")]
use crate::ledger::Ledger;
use crate::ledger::Rollback;
#[cfg(feature = "stream")]
use crate::method::Method;

/// A typed handler of transactions `X`.
pub(super) struct TypedTransactional<X, F, A, R> {
    function: Arc<F>,
    limits: ValueLimits,
    types: PhantomData<fn(&mut X, A) -> R>,
}

impl<X, F, A, R> TypedTransactional<X, F, A, R> {
    pub(super) fn new(function: F, limits: ValueLimits) -> Self {
        TypedTransactional { function: Arc::new(function), limits, types: PhantomData }
    }
}

impl<X, F, A, R> Handle for TypedTransactional<X, F, A, R>
where
    X: 'static,
    F: Fn(&mut X, &Context, A) -> Result<R, Rollback> + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    R: Serialize + 'static,
{
    fn plan(&self, context: Context, body: Body<'_>) -> Result<Plan, NotExecuted> {
        let arguments = decode_arguments(body, self.limits)?;
        let body = crate::buffer::keep(body.bytes, body.large);
        let function = self.function.clone();
        let types = PhantomData::<fn(&mut X) -> R>;
        let limits = self.limits;
        let call = TransactionalCall { function, body, limits, arguments: Some(arguments), types };
        Ok(Plan::Transaction(Guarded::new(Box::new(call)), context))
    }

    // There is none without a ledger, and with one no call is started before its plan.
    fn begin(
        &self,
        _: Context,
        _: Body<'_>,
        _: &mut Spare,
        _: &mut bool,
        _: &mut Encoded,
    ) -> Result<Begun, NotExecuted> {
        Err(NotExecuted::LedgerFailed)
    }
}

struct TransactionalCall<X, F, A, R> {
    function: Arc<F>,
    /// The arguments again, for another run.
    body: Encoded,
    limits: ValueLimits,
    arguments: Option<A>,
    types: PhantomData<fn(&mut X) -> R>,
}

/// How a run of what was called in a transaction has ended.
fn ran(result: Result<Result<Encoded, Rollback>, Panicked>) -> Ran {
    match result {
        Ok(Ok(body)) => Ran::Done(body),
        Ok(Err(rollback)) => Ran::rolled_back(rollback.why()),
        Err(_) => Ran::RolledBack { why: "the handler panicked".to_owned(), panicked: true },
    }
}

impl<X, F, A, R> Work for TransactionalCall<X, F, A, R>
where
    X: 'static,
    F: Fn(&mut X, &Context, A) -> Result<R, Rollback> + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    R: Serialize + 'static,
{
    fn run(&mut self, transaction: &mut dyn Any, context: &Context) -> Ran {
        let Some(transaction) = transaction.downcast_mut::<X>() else {
            return Ran::rolled_back("the transaction is not of the ledger that the server has");
        };
        let arguments = self.arguments.take();
        let (function, body, limits) = (&self.function, &self.body, self.limits);
        // What a panic leaves in the transaction is rolled back.
        let run = || {
            let again = || decode_arguments::<A>(Body::kept(body), limits);
            let arguments = arguments.map_or_else(again, Ok)?;
            let reply = function(transaction, context, arguments)?;
            Ok::<_, Rollback>(crate::buffer::encode(&reply)?)
        };
        ran(caught(run))
    }
}

/// A call in a transaction that keeps something from one of its runs to the next.
#[cfg(feature = "stream")]
pub(crate) trait InTransaction<X>: Send + 'static {
    /// Runs it, and returns its reply, encoded. What it did is rolled back if it fails or panics.
    fn run(&mut self, transaction: &mut X, context: &Context) -> Result<Bytes, Rollback>;
}

/// A handler of such calls of transactions `X`: `make` has no effect.
#[cfg(feature = "stream")]
struct EachTransactional<X, F, A> {
    make: F,
    types: PhantomData<fn(&mut X, A)>,
}

#[cfg(feature = "stream")]
impl<X, F, A, C> Handle for EachTransactional<X, F, A>
where
    X: 'static,
    F: Fn(A) -> C + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    C: InTransaction<X>,
{
    fn plan(&self, context: Context, body: Body<'_>) -> Result<Plan, NotExecuted> {
        let call = (self.make)(decode_arguments(body, ValueLimits::DEFAULT)?);
        let work = TypedWork { call, types: PhantomData::<fn(&mut X)> };
        Ok(Plan::Transaction(Guarded::new(Box::new(work)), context))
    }

    // See above.
    fn begin(
        &self,
        _: Context,
        _: Body<'_>,
        _: &mut Spare,
        _: &mut bool,
        _: &mut Encoded,
    ) -> Result<Begun, NotExecuted> {
        Err(NotExecuted::LedgerFailed)
    }
}

#[cfg(feature = "stream")]
struct TypedWork<X, C> {
    call: C,
    types: PhantomData<fn(&mut X)>,
}

#[cfg(feature = "stream")]
impl<X: 'static, C: InTransaction<X>> Work for TypedWork<X, C> {
    fn run(&mut self, transaction: &mut dyn Any, context: &Context) -> Ran {
        match transaction.downcast_mut::<X>() {
            Some(transaction) => {
                ran(caught(|| self.call.run(transaction, context).map(Encoded::from)))
            }
            None => Ran::rolled_back("the transaction is not of the ledger that the server has"),
        }
    }
}

#[cfg(feature = "stream")]
impl<L: Ledger> ServerBuilder<L> {
    /// Offers a method whose calls `make` turns into what runs in the ledger's transaction.
    pub(crate) fn each_transactional<A, R, C>(
        mut self,
        method: &Method<A, R>,
        make: impl Fn(A) -> C + Send + Sync + 'static,
    ) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        C: InTransaction<L::Transaction>,
    {
        let types = PhantomData::<fn(&mut L::Transaction, A)>;
        let handler = Box::new(EachTransactional { make, types });
        let entry = MethodEntry::new(method.name(), handler, method.options());
        self.methods.push((method.spec(), entry));
        self.transactional.push(method.id());
        self
    }
}
