//! Dials the instances of a service.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{BoxFuture, BoxStream, Connect, Instant};
use oncewire_tcp::TcpConnector;

use crate::client::lock;
use crate::instances::Instances;
use crate::plan::{Memory, Plan};
use crate::registry::RegisteredInstance;
use crate::stream::WatchedStream;
use crate::time;

/// How an instance is dialled.
type Dial = Arc<dyn Fn(&RegisteredInstance) -> io::Result<Box<dyn Connect>> + Send + Sync>;

/// Dials an instance of a service, for one client; a clone is for another one.
///
/// A client's session is at the instance that it has reached, so that is dialled again as long as it is registered; what is in doubt
/// is answered there. When it has left, or could not be reached for [`stay_max`](RegistryConnector::stay_max), the next one is dialled:
/// first one with the same records, where the session is resumed, then any other, which does not know it. Calls in doubt then end as
/// `Unknown`, and are not made again there (S3).
///
/// A first instance is chosen by chance among those that serve. Those that could not be reached a moment ago come last.
pub struct RegistryConnector {
    instances: Instances,
    dial: Dial,
    carries_token: bool,
    stay_max: Duration,
    dial_timeout: Duration,
    memory: Arc<Mutex<Memory>>,
}

impl Clone for RegistryConnector {
    fn clone(&self) -> Self {
        RegistryConnector {
            instances: self.instances.clone(),
            dial: self.dial.clone(),
            carries_token: self.carries_token,
            stay_max: self.stay_max,
            dial_timeout: self.dial_timeout,
            memory: Arc::default(),
        }
    }
}

impl fmt::Debug for RegistryConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConnector")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl RegistryConnector {
    /// Dials these over TCP.
    pub fn new(instances: Instances) -> RegistryConnector {
        RegistryConnector {
            instances,
            dial: Arc::new(|instance| Ok(Box::new(TcpConnector::new(&instance.address)))),
            carries_token: false,
            stay_max: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(2),
            memory: Arc::default(),
        }
    }

    /// Makes the connector to an instance so, for TLS or for unix sockets, say.
    pub fn dial_with<C: Connect>(
        mut self,
        dial: impl Fn(&RegisteredInstance) -> io::Result<C> + Send + Sync + 'static,
    ) -> Self {
        self.dial = Arc::new(move |instance| Ok(Box::new(dial(instance)?)));
        self
    }

    /// Lets a client send its [token](oncewire_driver::ClientOptions::token). An instance is dialled only if its own connector
    /// may carry one: what is in etcd decides where a token goes.
    pub fn carry_token(mut self) -> Self {
        self.carries_token = true;
        self
    }

    /// How long only the instance that has the session is dialled while it is registered and cannot be reached: 10 s unless this
    /// says otherwise. Zero moves on at once, and then calls in doubt end as unknown where a line is only broken for a moment.
    pub fn stay_max(mut self, stay: Duration) -> Self {
        self.stay_max = stay;
        self
    }

    /// How long one instance may take to be reached, before the next one is dialled: 2 s unless this says otherwise.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// What it follows.
    pub fn instances(&self) -> &Instances {
        &self.instances
    }

    /// The instance that was reached last.
    pub fn current(&self) -> Option<RegisteredInstance> {
        lock(&self.memory).last().cloned()
    }

    fn now(&self) -> Instant {
        self.instances.runtime().now()
    }

    async fn dial_one(&self, instance: &RegisteredInstance) -> io::Result<BoxStream> {
        let connector = (self.dial)(instance)?;
        if self.carries_token && !connector.may_carry_token() {
            let message = "the client has a token, and this connection would not protect it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let runtime = &**self.instances.runtime();
        let dialled = time::within(runtime, self.dial_timeout, connector.connect()).await;
        dialled.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn dial(&self) -> io::Result<BoxStream> {
        let list = self.instances.first_list().await?;
        let random = time::random(&**self.instances.runtime());
        let plan = lock(&self.memory).plan(&list, self.now(), self.stay_max, random);
        let Plan { candidates } = plan;
        let mut failures = Vec::new();
        for instance in candidates {
            match self.dial_one(&instance).await {
                Ok(stream) => {
                    lock(&self.memory).reached(&instance);
                    let (memory, runtime) = (self.memory.clone(), self.instances.runtime().clone());
                    let answers = move |answered| {
                        lock(&memory).ended(&instance, answered, runtime.now());
                    };
                    return Ok(Box::new(WatchedStream::new(stream, answers)));
                }
                Err(error) => {
                    lock(&self.memory).failed(&instance, self.now());
                    failures.push(format!("{}: {error}", instance.address));
                }
            }
        }
        let service = self.instances.service();
        let why = match (failures.is_empty(), self.instances.last_error()) {
            (false, _) => failures.join("; "),
            (true, Some(error)) => format!("no instance is known: {error}"),
            (true, None) => "no instance is registered".to_owned(),
        };
        Err(io::Error::new(io::ErrorKind::NotConnected, format!("{service}: {why}")))
    }
}

impl Connect for RegistryConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.dial())
    }

    fn address(&self) -> String {
        match self.current() {
            Some(instance) => format!("etcd:{} ({})", self.instances.service(), instance.address),
            None => format!("etcd:{}", self.instances.service()),
        }
    }

    /// None is: an instance may be registered at any time.
    fn is_permanent(&self, _: &io::Error) -> bool {
        false
    }

    fn may_carry_token(&self) -> bool {
        self.carries_token
    }
}
