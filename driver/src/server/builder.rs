//! How a server is described: its methods, its limits, its ledger, its runtime.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use oncewire_core::{
    Instance, MethodId, Schemas, Server as Machine, ServerConfig, ServerId, ServiceName,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Server;
use super::any_ledger::AnyLedger;
use super::around::Hooks;
use super::authorization::{Authorization, Authorize};
use super::build_error::{BuildError, check_recorded, check_transactional, not_made};
use super::context::Context;
use super::handler::{MethodEntry, Raw, Typed};
use super::ledger_task::LedgerTask;
use super::limits::{Bounds, Limits};
use super::observed::Observed;
use super::principals::PrincipalTable;
use super::restore::Restore;
use super::state::{Parts, Shared};
use super::timer_task::TimerTask;
use super::transactional::TypedTransactional;
use crate::faults::Planted;
use crate::ledger::{Ledger, NoLedger, Rollback};
use crate::method::{Method, RawMethod};
use crate::observe::{MethodName, Observer, ObserverList, Observers, Source};
use crate::runtime::{Runtime, SmolRuntime};
use crate::signatures::{MethodSignature, cut, schemas};
use crate::status::{About, host_name};
use crate::tokens::Tokens;
use crate::transport::Subject;

/// The server id of a description that gives none: a random one takes its place.
const UNNAMED: ServerId = ServerId::from_bytes([0; 16]);

/// Describes a server: its methods, its limits, its ledger, its runtime.
///
/// Methods, observers and hooks add up. Who may call, [`authorize`](ServerBuilder::authorize) and [`tokens`](ServerBuilder::tokens), is
/// said once: [`build`](ServerBuilder::build) reports a second one, since it would silently replace the first. All else may be given
/// again, and the last one counts: so a builder that comes with a runtime, a name or limits can be given others.
pub struct ServerBuilder<L = NoLedger> {
    service: String,
    pub(super) methods: Vec<(oncewire_core::MethodSpec, MethodEntry)>,
    pub(crate) config: ServerConfig,
    runtime: Option<Arc<dyn Runtime>>,
    instance: Option<String>,
    ledger: Option<Box<dyn AnyLedger>>,
    pub(super) transactional: Vec<MethodId>,
    pub(super) hooks: Hooks,
    pub(crate) signatures: Vec<MethodSignature>,
    /// Compared with clients', and not shown to tools: what is called by these names is more than one call.
    pub(crate) stream_signatures: Vec<MethodSignature>,
    pub(crate) offers_signatures: bool,
    pub(crate) offers_status: bool,
    concurrency: usize,
    queue_max: Option<usize>,
    pub(crate) authorize: Option<Authorize>,
    tokens: Option<Tokens>,
    observers: ObserverList,
    pub(crate) planted: Planted,
    /// What was found to be wrong with it first, before it is built.
    pub(crate) wrong: Option<BuildError>,
    types: PhantomData<fn() -> L>,
}

/// Handlers that run at once, unless the server says otherwise.
const CONCURRENCY: usize = 65_536;

impl<L> fmt::Debug for ServerBuilder<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<_> = self.methods.iter().map(|(spec, _)| spec.id).collect();
        f.debug_struct("ServerBuilder")
            .field("service", &self.service)
            .field("methods", &methods)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    pub(super) fn new(service: String) -> ServerBuilder {
        // `build` reports a name that is too long.
        let name = ServiceName::new(&service).unwrap_or(ServiceName::EMPTY);
        let config = ServerConfig::new(UNNAMED, name);
        ServerBuilder {
            service,
            methods: Vec::new(),
            config,
            runtime: None,
            instance: None,
            ledger: None,
            transactional: Vec::new(),
            hooks: Hooks::default(),
            signatures: Vec::new(),
            stream_signatures: Vec::new(),
            offers_signatures: false,
            offers_status: false,
            concurrency: CONCURRENCY,
            queue_max: None,
            authorize: None,
            tokens: None,
            observers: ObserverList::default(),
            planted: Planted::default(),
            wrong: None,
            types: PhantomData,
        }
    }
}

impl<L> ServerBuilder<L> {
    /// Offers a typed method whose calls run in the ledger's transaction (S29): what `function` writes there and the
    /// record of its reply become durable together, or not at all. So a call with retries is executed exactly once
    /// across crashes.
    ///
    /// `function` runs on the ledger's thread and delays other calls while it does. It must do nothing but read and
    /// write in the transaction: it is run again when a neighbour in the same commit was rolled back, or a crash came
    /// before the commit. An error or a panic rolls back what it did, and only that; the client learns
    /// `NotExecuted(Aborted)`.
    pub fn transactional<A, R, F>(mut self, method: &Method<A, R>, function: F) -> Self
    where
        // Not on the `impl`: without a ledger the method would not be found, and the compiler would not say why.
        L: Ledger,
        F: Fn(&mut L::Transaction, &Context, A) -> Result<R, Rollback> + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + 'static,
    {
        let handler =
            Box::new(TypedTransactional::<L::Transaction, F, A, R>::new(function, method.values()));
        let entry = MethodEntry::new(method.name(), handler, method.options());
        self.methods.push((method.spec(), entry));
        self.signatures.extend(method.described());
        self.transactional.push(method.id());
        self
    }
}

impl ServerBuilder<NoLedger> {
    /// Keeps sessions and calls in a ledger, so that they survive a crash. Every call that is not idempotent is recorded
    /// from now on; see [`ledger`](crate::ledger).
    pub fn ledger<L: Ledger>(self, ledger: L) -> ServerBuilder<L> {
        let ledger: Option<Box<dyn AnyLedger>> = Some(Box::new(ledger));
        ServerBuilder {
            service: self.service,
            methods: self.methods,
            config: self.config,
            runtime: self.runtime,
            instance: self.instance,
            ledger,
            transactional: self.transactional,
            hooks: self.hooks,
            signatures: self.signatures,
            stream_signatures: self.stream_signatures,
            offers_signatures: self.offers_signatures,
            offers_status: self.offers_status,
            concurrency: self.concurrency,
            queue_max: self.queue_max,
            authorize: self.authorize,
            tokens: self.tokens,
            observers: self.observers,
            planted: self.planted,
            wrong: self.wrong,
            types: PhantomData,
        }
    }
}

impl<L> ServerBuilder<L> {
    /// Offers a typed method. Each call is executed by `function`, at most once unless the method is idempotent.
    ///
    /// The future is polled once at once, and only if it is not ready becomes a task: what it does before its first
    /// await delays other calls of its connection. A panic, or more time than the method's limit, ends the call as
    /// aborted (S14).
    ///
    /// A reply that is [`Bytes`] and nothing else, 64 KiB or more, is sent from where it lies. It is kept and dropped by the server under its
    /// lock: if it has an owner of its own (`Bytes::from_owner`), that must not call the server, nor panic, when it is dropped. A part
    /// of longer `Bytes` keeps all of these in memory until its client has acknowledged it, and is counted as the part only: copy it
    /// (`Bytes::copy_from_slice`) if they may go away before.
    ///
    /// # What blocks whom
    ///
    /// A handler that blocks its thread (a lock, a file, `block_on`) blocks everything else that would run on that thread of
    /// the executor: other connections, other servers and clients on the same [`Runtime`]. smol's global executor, the
    /// default, has one thread unless `SMOL_THREADS` says otherwise. Offer such a method by [`blocking`](ServerBuilder::blocking),
    /// or give the server its own runtime.
    ///
    /// Blocking on a call (`block_on(client.call(…))`) inside a handler works if the client is connected and its
    /// server runs elsewhere: the caller reads the socket itself. If it must still dial, or the server shares the blocked
    /// thread, the call can only wait for its deadline. That is reported in time, whatever is blocked, because deadlines are
    /// kept by the reactor's thread and not by the executor's. Await the call instead.
    pub fn method<A, R, F, Fut>(mut self, method: &Method<A, R>, function: F) -> Self
    where
        F: Fn(Context, A) -> Fut + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + 'static,
        Fut: Future<Output = R> + Send + 'static,
    {
        let handler = Box::new(Typed::<F, A, R>::new(function, method));
        let entry = MethodEntry::new(method.name(), handler, method.options());
        self.methods.push((method.spec(), entry));
        self.signatures.extend(method.described());
        self
    }

    /// Offers a method of bytes: the options of a [`Method`] hold for it as they do for a typed one.
    ///
    /// What it returns is kept and dropped by the server under its lock: bytes with an owner of their own
    /// (`Bytes::from_owner`) must not call the server, nor panic, when that is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use oncewire_driver::{Bytes, Method, Server};
    ///
    /// const STORE: Method<Bytes, Bytes> = Method::new("files/store").time_limit(Duration::from_secs(60));
    ///
    /// let builder = Server::builder("files").method_raw(&STORE, |_context, body| async move { body });
    /// # drop(builder);
    /// ```
    pub fn method_raw<F, Fut>(mut self, method: impl Into<RawMethod>, function: F) -> Self
    where
        F: Fn(Context, Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Bytes> + Send + 'static,
    {
        let RawMethod { name, spec, options, described } = method.into();
        let handler = Box::new(Raw::new(function));
        self.methods.push((spec, MethodEntry::new(name, handler, options)));
        self.signatures.extend(described);
        self
    }

    /// At most this many calls run at once, of all methods and all clients; 65,536 unless this says otherwise; 0 counts as 1.
    /// Others wait in their methods' queues, and of those together there are no more than [`queue_max`](ServerBuilder::queue_max).
    ///
    /// One method's share is set by [`Method::concurrency`].
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// So many calls wait for one that runs, instead of four for each of [`concurrency`](ServerBuilder::concurrency), 4,096
    /// at least and 65,536 at most; with 0 none waits. They are shared as [`Method::queue_max`] says. A call that finds no place ends as `NotExecuted(Overloaded)`.
    pub fn queue_max(mut self, calls: usize) -> Self {
        self.queue_max = Some(calls);
        self
    }

    /// Lets a caller call a method only if `allows` returns true for it and the method's name. Other calls end as
    /// `NotExecuted(PermissionDenied)`, before anything of them is decoded and before any memory is set aside.
    ///
    /// It is asked for each new call, in the connection's task, and must not block; of a request that comes again, and of a
    /// call that is asked for, it is not asked: what was decided stays (S12). A panic denies. The name of a method that was
    /// offered by its number alone is that number, as [`MethodId`] shows it.
    ///
    /// ```
    /// use oncewire_driver::{Server, Subject};
    ///
    /// let builder = Server::builder("bank").authorize(|caller, method| match caller {
    ///     Subject::Uid(0) => true,
    ///     Subject::Name(name) => &**name == "teller" && method.starts_with("bank/"),
    ///     _ => method == "bank/motto",
    /// });
    /// # drop(builder);
    /// ```
    pub fn authorize(
        mut self,
        allows: impl Fn(&Subject, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.check_first(self.authorize.is_some(), "authorize");
        self.authorize = Some(Arc::new(allows));
        self
    }

    /// Serves only clients that show a token of this table: they are the callers that it names, whatever the transport
    /// says of them. Others are refused, and their calls end at once. See [`tokens`](crate::tokens).
    ///
    /// A client sends its token where others cannot read it. That of a server on plain TCP must be made
    /// [insecure](crate::Connect::may_carry_token).
    pub fn tokens(mut self, tokens: &Tokens) -> Self {
        self.check_first(self.tokens.is_some(), "tokens");
        self.tokens = Some(tokens.clone());
        self
    }

    /// Tells an observer what happens: see [`observe`](crate::observe). There may be several.
    pub fn observe(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }

    /// Changes the limits: see [`ServerConfig`](oncewire_core::ServerConfig).
    pub fn configure(mut self, change: impl FnOnce(&mut ServerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// What people know this process by, instead of its host's name and its process id: an address, a pod's name. Clients
    /// learn it, and their errors name it. Its first 48 bytes are kept. Beside it they see 64 bits that are random at each
    /// start. Give the name of a host that clients should not learn another one.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = Some(name.into());
        self
    }

    /// Runs on a runtime of your own.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    fn check_first(&mut self, is_given: bool, option: &'static str) {
        if is_given {
            self.wrong.get_or_insert(BuildError::GivenTwice { option });
        }
    }

    /// Breaks it on purpose.
    #[cfg(feature = "_faults")]
    #[doc(hidden)]
    pub fn fault(mut self, fault: crate::faults::ServerFault) -> Self {
        self.planted.plant(fault);
        self
    }

    /// Builds the server. It accepts no connection before [`Server::serve`].
    ///
    /// # Errors
    /// What is wrong with its description.
    pub fn build(self) -> Result<Server, BuildError> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        self.with_hooks()?.with_status_methods().with_signature_methods().build_as_it_is()
    }

    /// The configuration, with what the ledger, the methods and the system say of what its owner left open.
    fn complete_config(&self, runtime: &dyn Runtime) -> Result<ServerConfig, BuildError> {
        let len = self.service.len();
        let too_long = BuildError::ServiceNameTooLong { len };
        let mut config = self.config;
        config.service = ServiceName::new(&self.service).ok_or(too_long)?;
        if config.schemas == Schemas::EMPTY {
            config.schemas = schemas(&self.compared());
        }
        config.authorizes = self.authorize.is_some();
        config.demands_tokens = self.tokens.is_some();
        config.notices = !self.observers.is_empty();
        if let Some(ledger) = &self.ledger {
            let identity = ledger.identity();
            config.session_hash = ledger.session_hash();
            let reply_len_max = ledger.reply_len_max();
            let shares = ledger.shared();
            let (configured, ledger) = (config.server, identity.server);
            if configured != UNNAMED && configured != ledger {
                return Err(BuildError::OtherServerId { configured, ledger });
            }
            (config.server, config.commit) = (ledger, identity.commit);
            config.records_sessions = true;
            if let Some(max) = reply_len_max {
                check_recorded(&self.methods, max)?;
            }
            config.shares_records = shares;
        }
        if config.server == UNNAMED {
            let mut id = [0; 16];
            runtime.random(&mut id);
            config.server = ServerId::from_bytes(id);
        }
        if config.instance == Instance::UNNAMED {
            let mut id = [0; 8];
            runtime.random(&mut id);
            let name = self.instance.clone().unwrap_or_else(host_and_process);
            config.instance = Instance::new(u64::from_le_bytes(id), &name);
        }
        Ok(config)
    }

    fn build_as_it_is(self) -> Result<Server, BuildError> {
        let runtime = self.runtime.clone().unwrap_or_else(|| SmolRuntime::global());
        let config = self.complete_config(&*runtime)?;
        let specs: Vec<_> = self.methods.iter().map(|(spec, _)| *spec).collect();
        check_transactional(&self.methods, &self.transactional)?;
        let mut machine =
            Machine::new(config, &specs).map_err(|error| not_made(error, &self.methods))?;
        let by_id = |(spec, entry): (oncewire_core::MethodSpec, MethodEntry)| (spec.id, entry);
        let mut entries: HashMap<MethodId, MethodEntry> =
            self.methods.into_iter().map(by_id).collect();
        let sorted = machine.methods().iter().filter_map(|spec| entries.remove(&spec.id));
        let methods: Vec<MethodEntry> = sorted.collect();
        let authorization = self
            .authorize
            .map(|allows| Authorization::new(allows, machine.methods().iter().zip(&methods)));
        let bounds =
            |entry: &MethodEntry| Bounds::new(entry.options.concurrency, entry.options.queue_max);
        let all = Bounds::new(Some(self.concurrency), self.queue_max);
        let limits = Limits::new(all, methods.iter().map(bounds));
        let mut principals = PrincipalTable::default();
        let ledger = match self.ledger {
            None => None,
            Some(ledger) => {
                let restore = Restore::new(&mut machine, &mut principals, runtime.now());
                let records = restore.recover(&*ledger).map_err(BuildError::Ledger)?;
                Some((ledger.into_submit(), Box::new(records)))
            }
        };
        let observers = (!self.observers.is_empty()).then(|| {
            let (service, server, instance) = (config.service, config.server, config.instance);
            let source = Source::Server { service, server, instance };
            let names = machine.methods().iter().zip(&methods);
            let names = names.map(|(spec, entry)| MethodName::new(spec.id, entry.name)).collect();
            let observers = Observers::new(source, self.observers);
            let heard = observers.heard().clone();
            let observed = Observed::new(runtime.clone(), (server, instance), names, heard);
            (observers, Box::new(observed))
        });
        // Long ones, of many methods, would make a status that fits into no reply.
        let text = |method: MethodSignature| (method.name, cut(method.signature.to_string()));
        let signatures = self.signatures.into_iter().map(text).collect();
        let about = About { config, started: runtime.now(), signatures };
        let (tokens, planted) = (self.tokens, self.planted);
        let parts = Parts {
            methods,
            authorization,
            tokens,
            limits,
            principals,
            ledger,
            observers,
            about,
            planted,
        };
        let shared = Shared::new(machine, runtime.clone(), parts);
        if shared.ledger.is_some() {
            runtime.spawn(Box::pin(LedgerTask { shared: Arc::downgrade(&shared) }));
        }
        runtime
            .spawn(Box::pin(TimerTask { shared: Arc::downgrade(&shared), timer: runtime.timer() }));
        Ok(Server { shared, id: config.server, instance: config.instance })
    }
}

/// The name of an instance that gets none: `host:pid`, or what of it is known.
fn host_and_process() -> String {
    format!("{}:{}", host_name(), std::process::id())
}
