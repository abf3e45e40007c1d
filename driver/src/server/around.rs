//! Hooks that wrap handlers: middleware.
//!
//! A handler with hooks around it is another handler, which is made when the server is built. So one without them takes not one
//! instruction more.
//!
//! A hook says how the call has ended by returning a [`Handled`], and only running the handler or refusing the call makes one.
//! Either uses up the right to it. So a call that was executed cannot become one that was not.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};

use oncewire_core::{NoReply, NotExecuted};

use super::build_error::BuildError;
use super::builder::ServerBuilder;
use super::context::Context;
use super::handler::{Begun, Body, Failure, Handle, Plan, Ran, Reply, ReplyFuture, Work};
use crate::buffer::{Encoded, Spare};
use crate::caught::{Guarded, caught};
use crate::client::CallFailure;
use crate::observe::{CallEnd, MethodName};
use crate::transport::BoxFuture;

type Hook = Arc<dyn Fn(Context, Next) -> BoxFuture<'static, Handled> + Send + Sync>;
type TransactionalHook = Arc<dyn Fn(&Context, NextTransactional<'_>) -> Handled + Send + Sync>;

/// The hooks of a server, outermost first.
#[derive(Default)]
pub(super) struct Hooks {
    calls: Vec<Hook>,
    transactions: Vec<TransactionalHook>,
}

/// What a hook refuses a call with. It ends as the `NotExecuted` of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// This caller must not make it.
    PermissionDenied,
    /// Its metadata lacks something, or says what cannot be.
    BadMetadata,
    /// There is no room for it now. [`Retry`](crate::Retry) makes such a call again.
    Overloaded,
}

impl Refusal {
    fn not_executed(self) -> NotExecuted {
        match self {
            Refusal::PermissionDenied => NotExecuted::PermissionDenied,
            Refusal::BadMetadata => NotExecuted::BadMetadata,
            Refusal::Overloaded => NotExecuted::Overloaded,
        }
    }
}

/// Names a run of a handler: what another run has ended with is not taken for its end.
static RUNS: AtomicU64 = AtomicU64::new(0);

fn next_run() -> u64 {
    RUNS.fetch_add(1, Ordering::Relaxed)
}

/// How a call has ended, as a hook around it sees it and passes it on. It belongs to that run of the handler: a hook that returns
/// another one's has its call end as `Aborted`, and a transactional one is rolled back.
#[must_use = "a hook returns it: it is the call's outcome"]
pub struct Handled {
    run: u64,
    result: HandledResult,
}

enum HandledResult {
    Reply(Reply),
    Ran(Ran),
}

impl Handled {
    /// How it has ended: a call that panicked has been [`Aborted`](NoReply::Aborted), and a transactional one that was rolled back is
    /// [`NotExecuted(Aborted)`](NotExecuted::Aborted).
    ///
    /// It is what is known here. The reply of a call in a transaction is not durable yet, and a reply that is longer than the method
    /// declares is found out later: observers see those ends.
    pub fn end(&self) -> CallEnd {
        let no_reply = |why| CallEnd::Failed(CallFailure::NoReply(why));
        let not_executed = |why| CallEnd::Failed(CallFailure::NotExecuted(why));
        match &self.result {
            HandledResult::Reply(Ok(_)) | HandledResult::Ran(Ran::Done(_)) => CallEnd::Replied,
            HandledResult::Reply(Err(Failure::Unencodable(_))) => no_reply(NoReply::Unencodable),
            HandledResult::Reply(Err(Failure::Panicked | Failure::Dropped)) => {
                no_reply(NoReply::Aborted)
            }
            HandledResult::Ran(Ran::RolledBack { .. }) => not_executed(NotExecuted::Aborted),
            HandledResult::Reply(Err(Failure::Refused(why)))
            | HandledResult::Ran(Ran::Refused(why)) => not_executed(*why),
        }
    }

    fn into_reply(self, run: u64) -> Reply {
        match self.result {
            HandledResult::Reply(reply) if self.run == run => reply,
            _ => Err(Failure::Dropped),
        }
    }

    fn into_ran(self, run: u64) -> Ran {
        match self.result {
            HandledResult::Ran(ran) if self.run == run => ran,
            _ => Ran::rolled_back("a hook has returned the end of another call"),
        }
    }
}

impl fmt::Debug for Handled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handled").field("end", &self.end()).finish_non_exhaustive()
    }
}

/// The handler of a call, with the hooks that are nearer to it than this one: to be run, or not.
#[must_use = "a hook runs it or refuses the call"]
pub struct Next {
    run: u64,
    method: MethodName,
    hooks: Arc<[Hook]>,
    /// The next hook's place among them.
    at: usize,
    context: Context,
    handler: ReplyFuture,
}

impl Next {
    /// What is called.
    pub fn method(&self) -> MethodName {
        self.method
    }

    /// Gives this value to the handler, and to the hooks that are nearer to it: [`Context::provided`] returns a clone of it there. Of each
    /// type there is one, the last that was given.
    ///
    /// ```
    /// use oncewire_driver::{Context, Method, Refusal, Server, Subject};
    ///
    /// const WHOAMI: Method<(), String> = Method::new("toy/whoami");
    ///
    /// #[derive(Clone)]
    /// struct Account(String);
    ///
    /// let server = Server::builder("toy")
    ///     .method(&WHOAMI, |context: Context, ()| async move {
    ///         context.provided().map_or_else(String::new, |Account(name)| name)
    ///     })
    ///     .around(|context, next| async move {
    ///         match context.caller {
    ///             Subject::Anonymous => next.refuse(Refusal::PermissionDenied),
    ///             caller => next.provide(Account(caller.to_string())).run().await,
    ///         }
    ///     })
    ///     .build();
    /// # server.unwrap();
    /// ```
    pub fn provide<T: Any + Clone + Send + Sync>(self, value: T) -> Self {
        self.context.provide(value);
        self
    }

    /// Runs the handler, and says how the call has ended. A panic ends here. If the future is dropped before it is ready, the
    /// handler is dropped where it waits.
    pub async fn run(mut self) -> Handled {
        let run = self.run;
        let result = match self.hooks.get(self.at).cloned() {
            Some(hook) => {
                self.at += 1;
                let context = self.context.clone();
                match caught(|| hook(context, self)) {
                    Ok(future) => match catch_panics(Guarded::new(future)).await {
                        Some(handled) => handled.into_reply(run),
                        None => Err(Failure::Panicked),
                    },
                    Err(_) => Err(Failure::Panicked),
                }
            }
            None => catch_panics(self.handler).await.unwrap_or(Err(Failure::Panicked)),
        };
        Handled { run, result: HandledResult::Reply(result) }
    }

    /// Does not run the handler: the call ends as not executed, for this reason.
    pub fn refuse(self, why: Refusal) -> Handled {
        let result = HandledResult::Reply(Err(Failure::Refused(why.not_executed())));
        Handled { run: self.run, result }
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("method", &self.method).finish_non_exhaustive()
    }
}

/// What a future returns; `None` if it has panicked.
async fn catch_panics<T>(mut future: Guarded<BoxFuture<'static, T>>) -> Option<T> {
    let poll = |cx: &mut TaskContext<'_>| {
        let Some(future) = future.get_mut() else { return Poll::Ready(None) };
        match caught(|| future.as_mut().poll(cx)) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    };
    std::future::poll_fn(poll).await
}

/// The function of a transactional method, with the hooks that are nearer to it than this one: to be run, or not.
#[must_use = "a hook runs it or refuses the call"]
pub struct NextTransactional<'r> {
    run: u64,
    method: MethodName,
    hooks: &'r [TransactionalHook],
    context: &'r Context,
    work: &'r mut dyn Work,
    transaction: &'r mut dyn Any,
}

impl NextTransactional<'_> {
    /// What is called.
    pub fn method(&self) -> MethodName {
        self.method
    }

    /// Gives this value to the function, as [`Next::provide`] does to a handler.
    pub fn provide<T: Any + Clone + Send + Sync>(self, value: T) -> Self {
        self.context.provide(value);
        self
    }

    /// Runs the function in the transaction, and says how it has ended. A panic ends here.
    pub fn run(self) -> Handled {
        let (run, context) = (self.run, self.context);
        let ran = match self.hooks.split_first() {
            Some((hook, hooks)) => {
                match caught(|| hook(context, NextTransactional { hooks, ..self })) {
                    Ok(handled) => handled.into_ran(run),
                    Err(_) => {
                        let why = "a hook around the handler panicked".to_owned();
                        Ran::RolledBack { why, panicked: true }
                    }
                }
            }
            None => self.work.run(self.transaction, context),
        };
        Handled { run, result: HandledResult::Ran(ran) }
    }

    /// Does not run it: nothing is written, and the call ends as not executed, for this reason.
    pub fn refuse(self, why: Refusal) -> Handled {
        Handled { run: self.run, result: HandledResult::Ran(Ran::Refused(why.not_executed())) }
    }
}

impl fmt::Debug for NextTransactional<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextTransactional").field("method", &self.method).finish_non_exhaustive()
    }
}

/// A handler with the hooks around it.
struct Around {
    handler: Box<dyn Handle>,
    method: MethodName,
    calls: Arc<[Hook]>,
    transactions: Arc<[TransactionalHook]>,
}

impl Around {
    fn wrap(&self, context: Context, handler: ReplyFuture) -> ReplyFuture {
        let (method, hooks) = (self.method, self.calls.clone());
        Guarded::new(Box::pin(async move {
            let run = next_run();
            Next { run, method, hooks, at: 0, context, handler }.run().await.into_reply(run)
        }))
    }
}

impl Handle for Around {
    fn plan(&self, context: Context, body: Body<'_>) -> Result<Plan, NotExecuted> {
        let context = context.with_provided();
        Ok(match self.handler.plan(context.clone(), body)? {
            Plan::Future(handler) => Plan::Future(self.wrap(context, handler)),
            Plan::Transaction(work, context) => {
                let (method, hooks) = (self.method, self.transactions.clone());
                Plan::Transaction(
                    Guarded::new(Box::new(AroundWork { method, hooks, work })),
                    context,
                )
            }
        })
    }

    fn begin(
        &self,
        context: Context,
        body: Body<'_>,
        _: &mut Spare,
        decoded: &mut bool,
        reply: &mut Encoded,
    ) -> Result<Begun, NotExecuted> {
        // There are no transactions without a ledger, and with one no call is started before its plan.
        let Plan::Future(mut handler) = self.plan(context, body)? else {
            return Err(NotExecuted::LedgerFailed);
        };
        *decoded = true;
        let mut cx = TaskContext::from_waker(Waker::noop());
        let poll =
            handler.get_mut().map_or(Poll::Pending, |handler| handler.as_mut().poll(&mut cx));
        Ok(match poll {
            Poll::Ready(result) => Begun::Ready(result.map(|bytes| *reply = bytes)),
            Poll::Pending => Begun::Pending(handler),
        })
    }
}

/// The work of a transactional call with the hooks around it.
struct AroundWork {
    method: MethodName,
    hooks: Arc<[TransactionalHook]>,
    work: Guarded<Box<dyn Work>>,
}

impl Work for AroundWork {
    fn run(&mut self, transaction: &mut dyn Any, context: &Context) -> Ran {
        let Some(work) = self.work.get_mut() else { return Ran::rolled_back("the call is over") };
        let (run, method, hooks) = (next_run(), self.method, &*self.hooks);
        let work = &mut **work;
        NextTransactional { run, method, hooks, context, work, transaction }.run().into_ran(run)
    }
}

impl<L> ServerBuilder<L> {
    /// Wraps the handler of each call: `hook` runs it by [`Next::run`], before and after which it does what it is for, or refuses the
    /// call. It sees the call's [`Context`], with its metadata and its caller, and the method's name, and how it ends.
    ///
    /// ```
    /// use oncewire_driver::{Method, MetadataKey, Refusal, Server};
    ///
    /// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
    /// const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
    ///
    /// let server = Server::builder("toy")
    ///     .method(&ADD_ONE, |_context, n: i32| async move { n + 1 })
    ///     .around(|context, next| async move {
    ///         let Some(tenant) = context.metadata(&TENANT) else {
    ///             return next.refuse(Refusal::BadMetadata);
    ///         };
    ///         let method = next.method();
    ///         let handled = next.run().await;
    ///         println!("{method} for {tenant}: {}", handled.end());
    ///         handled
    ///     })
    ///     .build();
    /// # server.unwrap();
    /// ```
    ///
    /// - Several hooks are one inside the other, the first one outermost, whether methods were offered before or after them.
    /// - It runs once for each run of the handler: for new calls, after [`authorize`](ServerBuilder::authorize) has allowed them and
    ///   their arguments were decoded, and not for requests that come again or are asked for. A call of an idempotent method that
    ///   runs again has it run again.
    /// - It is part of the handler. Its time counts in the method's limits, a panic of it ends the call as `Aborted`, and where the
    ///   handler is dropped, because its time is over, the hook is dropped too. With a ledger it runs after the record that the call has
    ///   begun; that of a refused call is withdrawn.
    /// - It cannot change the reply, nor have a call that was executed end as not executed: see [`Handled`].
    /// - A stream or an upload is wrapped where it is opened, and an upload where it is committed, but not the calls that carry chunks.
    ///   What a server offers by itself, its status and its signatures, is not wrapped.
    ///
    /// Handlers that [block](ServerBuilder::blocking) are wrapped like all others. Transactional ones are not, because they run on the
    /// ledger's thread, where nothing may wait: a server that offers one and has a hook also needs
    /// [`around_transactional`](ServerBuilder::around_transactional), or it is not built. Without hooks, this costs nothing.
    pub fn around<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Context, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Handled> + Send + 'static,
    {
        self.hooks.calls.push(Arc::new(move |context, next| Box::pin(hook(context, next))));
        self
    }

    /// The same for transactional methods, and only those. The hook runs on the ledger's thread, around each run of the method's
    /// function: also when that runs again because a neighbour in the same commit was rolled back. It must be quick, and have no
    /// effects that must not come twice. A panic of it rolls back what the function did.
    ///
    /// ```
    /// # use oncewire_driver::{ServerBuilder, ledger::Ledger};
    /// fn traced<L: Ledger>(builder: ServerBuilder<L>) -> ServerBuilder<L> {
    ///     builder.around(|_context, next| next.run()).around_transactional(|context, next| {
    ///         println!("{} runs {}", context.caller, next.method());
    ///         next.run()
    ///     })
    /// }
    /// ```
    pub fn around_transactional<F>(mut self, hook: F) -> Self
    where
        F: Fn(&Context, NextTransactional<'_>) -> Handled + Send + Sync + 'static,
    {
        self.hooks.transactions.push(Arc::new(hook));
        self
    }

    /// Puts the hooks around the handlers.
    pub(super) fn with_hooks(mut self) -> Result<Self, BuildError> {
        let hooks = std::mem::take(&mut self.hooks);
        if hooks.calls.is_empty() && hooks.transactions.is_empty() {
            return Ok(self);
        }
        let calls: Arc<[Hook]> = hooks.calls.into();
        let transactions: Arc<[TransactionalHook]> = hooks.transactions.into();
        let wrapped = std::mem::take(&mut self.methods).into_iter().map(|(spec, mut entry)| {
            if entry.options.carries_chunks {
                return Ok((spec, entry));
            }
            let missing = match self.transactional.contains(&spec.id) {
                true => transactions.is_empty().then_some("around_transactional"),
                false => calls.is_empty().then_some("around"),
            };
            let name = entry.name;
            if let Some(missing) = missing {
                return Err(BuildError::WithoutHook { method: spec.id, name, missing });
            }
            let method = MethodName::new(spec.id, name);
            let (calls, transactions) = (calls.clone(), transactions.clone());
            let handler = entry.handler;
            entry.handler = Box::new(Around { handler, method, calls, transactions });
            Ok((spec, entry))
        });
        self.methods = wrapped.collect::<Result<_, _>>()?;
        Ok(self)
    }
}
