//! A client of etcd: endpoints, fail-over, tokens.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire_driver::{BoxFuture, Connect, Runtime, SmolRuntime};
use oncewire_tcp::TcpConnector;
use serde_json::{Value, json};

use crate::error::{EtcdError, EtcdErrorKind};
use crate::http::{Head, HttpStream};
use crate::time;

/// Bytes of the longest answer, and of the longest message of a watch: 4 MiB. etcd itself takes requests of 1.5 MiB.
pub const ANSWER_LEN_MAX: usize = 4 << 20;
/// Bytes of the longest request: what etcd takes by default.
pub(crate) const REQUEST_LEN_MAX: usize = 1536 << 10;
/// Connections that are kept for the next requests.
const IDLE_MAX: usize = 2;

/// A client of an etcd cluster, over its JSON gateway. Clones are the same client.
///
/// An endpoint that does not answer is followed by the next one; the one that answered last is asked first. Of what was sent, only
/// requests that change nothing, or nothing that counts, are sent again so. Of the others the error says that they [may have taken
/// effect](EtcdError::executed), and the next request begins at another endpoint.
#[derive(Clone)]
pub struct Etcd {
    shared: Arc<Shared>,
    attempt_timeout: Duration,
}

struct Shared {
    endpoints: Vec<Endpoint>,
    /// Which one is asked first: the one that answered last, or the one after it if that has left a request in doubt.
    preferred: AtomicUsize,
    user: Option<(String, String)>,
    token: Mutex<Option<String>>,
    idle: Mutex<Vec<(usize, HttpStream)>>,
    runtime: Arc<dyn Runtime>,
}

struct Endpoint {
    host: String,
    connector: Box<dyn Connect>,
}

/// Describes an [`Etcd`].
pub struct EtcdBuilder {
    endpoints: Vec<Result<Endpoint, String>>,
    secure: Vec<String>,
    #[cfg(feature = "tls")]
    tls: Option<oncewire_tls::ClientTls>,
    user: Option<(String, String)>,
    attempt_timeout: Duration,
    runtime: Arc<dyn Runtime>,
}

/// Whether a request may be sent to the next endpoint when it is not known what the one before did with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Yes,
    No,
}

/// An attempt at one endpoint.
type Attempt<'a, T> = BoxFuture<'a, Result<T, Failed>>;

/// Whether an attempt has begun to send its request: set before the first byte. Until then there is nothing to be in doubt about.
type Sent = Arc<AtomicBool>;

/// How an attempt at one endpoint failed.
struct Failed {
    /// Nothing was sent, or etcd said that it did nothing.
    not_executed: bool,
    /// etcd said so of the request: another endpoint would say the same.
    is_final: bool,
    error: EtcdError,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&str> = self.shared.endpoints.iter().map(|of| of.host.as_str()).collect();
        f.debug_struct("Etcd").field("endpoints", &hosts).finish_non_exhaustive()
    }
}

impl fmt::Debug for EtcdBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBuilder").finish_non_exhaustive()
    }
}

impl EtcdBuilder {
    /// An endpoint that is reached by `connector`, which may do TLS of its own. `host` is what the request says that it is for.
    pub fn endpoint(mut self, host: impl Into<String>, connector: impl Connect) -> Self {
        let (host, connector) = (host.into(), Box::new(connector));
        self.endpoints.push(check_host(&host).map(|()| Endpoint { host, connector }));
        self
    }

    /// The certificates for endpoints that begin with `https://`. It must be made
    /// [`without_alpn`](oncewire_tls::ClientTlsBuilder::without_alpn).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<oncewire_tls::ClientTls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Who this is at etcd. A token is fetched when it is needed, and again when etcd does not know it any more. Without TLS, who
    /// reads the line reads the password.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// How long one endpoint may take to be dialled and to answer, before the next one is asked: 2 s unless this says otherwise.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The clock, the timers and the executor of all that runs beside, instead of smol's.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = runtime;
        self
    }

    /// Dials nothing yet.
    ///
    /// # Errors
    /// [`InvalidInput`](EtcdErrorKind::InvalidInput): there is no endpoint, or one is no `host:port`, or begins with `https://` and
    /// there is no TLS.
    pub fn build(mut self) -> Result<Etcd, EtcdError> {
        for address in std::mem::take(&mut self.secure) {
            let endpoint = self.secure_endpoint(&address);
            self.endpoints.push(endpoint);
        }
        let endpoints: Result<Vec<_>, String> = self.endpoints.into_iter().collect();
        let endpoints = endpoints.map_err(EtcdError::invalid)?;
        if endpoints.is_empty() {
            return Err(EtcdError::invalid("etcd has no endpoint"));
        }
        let shared = Shared {
            preferred: AtomicUsize::new(time::random(&*self.runtime) as usize % endpoints.len()),
            endpoints,
            user: self.user,
            token: Mutex::default(),
            idle: Mutex::default(),
            runtime: self.runtime,
        };
        Ok(Etcd { shared: Arc::new(shared), attempt_timeout: self.attempt_timeout })
    }

    #[cfg(feature = "tls")]
    fn secure_endpoint(&self, host: &str) -> Result<Endpoint, String> {
        let tls = self.tls.clone().ok_or_else(|| no_tls(host))?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let connector = oncewire_tls::TlsConnector::new(TcpConnector::new(host), tls, name);
        let connector = connector.map_err(|error| format!("https://{host}: {error}"))?;
        check_host(host)
            .map(|()| Endpoint { host: host.to_owned(), connector: Box::new(connector) })
    }

    #[cfg(not(feature = "tls"))]
    fn secure_endpoint(&self, host: &str) -> Result<Endpoint, String> {
        Err(no_tls(host))
    }
}

fn no_tls(host: &str) -> String {
    format!("https://{host} needs the feature `tls` and EtcdBuilder::tls")
}

fn check_host(host: &str) -> Result<(), String> {
    let is_sound = |host: &str| host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if host.len() <= 255 && is_sound(host) && port.is_some() {
        return Ok(());
    }
    let shown: String = host.chars().take(80).collect();
    Err(format!("an endpoint of etcd is host:port, and not {shown:?}"))
}

impl Etcd {
    /// A client of the cluster with these endpoints: `host:port`, `http://host:port`, or with the feature `tls`
    /// `https://host:port`.
    ///
    /// ```
    /// use oncewire_etcd::Etcd;
    ///
    /// let etcd = Etcd::builder(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"])
    ///     .user("bank", "a password")
    ///     .build()?;
    /// # drop(etcd); Ok::<(), oncewire_etcd::EtcdError>(())
    /// ```
    pub fn builder<A: AsRef<str>>(endpoints: impl IntoIterator<Item = A>) -> EtcdBuilder {
        let mut builder = EtcdBuilder {
            endpoints: Vec::new(),
            secure: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
            user: None,
            attempt_timeout: Duration::from_secs(2),
            runtime: SmolRuntime::global(),
        };
        for address in endpoints {
            let address = address.as_ref().trim_end_matches('/');
            if let Some(host) = address.strip_prefix("https://") {
                builder.secure.push(host.to_owned());
                continue;
            }
            let host = address.strip_prefix("http://").unwrap_or(address);
            builder = builder.endpoint(host, TcpConnector::new(host));
        }
        builder
    }

    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.shared.runtime
    }

    /// The same client, which gives an endpoint so long at most.
    pub(crate) fn hurried(&self, timeout: Duration) -> Etcd {
        Etcd { shared: self.shared.clone(), attempt_timeout: self.attempt_timeout.min(timeout) }
    }

    /// Sends a request and returns its answer.
    pub(crate) async fn request(
        &self,
        path: &str,
        body: &Value,
        repeat: Repeat,
    ) -> Result<Value, EtcdError> {
        let body = body.to_string();
        if body.len() > REQUEST_LEN_MAX {
            let message =
                format!("etcd takes {REQUEST_LEN_MAX} bytes, and these are {}", body.len());
            return Err(EtcdError::invalid(message));
        }
        let body = &body;
        let attempt = |at, sent: Sent| -> Attempt<'_, _> {
            Box::pin(async move { self.attempt(at, &sent, path, body, repeat).await })
        };
        let answer = self.failing_over(repeat, attempt).await?;
        let first = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(first).map_err(|error| {
            let error = EtcdError::malformed(format!("no answer of etcd: {error}"));
            if repeat == Repeat::No { error.in_doubt() } else { error }
        })
    }

    /// Opens a request whose answer has no end, and returns it with its endpoint.
    pub(crate) async fn open(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<(usize, HttpStream, Head), EtcdError> {
        let body = body.to_string();
        let body = &body;
        let open = |at, sent: Sent| -> Attempt<'_, _> {
            Box::pin(async move {
                let (mut http, mut head) = self.send(at, &sent, None, path, body).await?;
                if head.status != 200 {
                    return Err(self.refused(at, &mut http, &mut head).await);
                }
                Ok((at, http, head))
            })
        };
        self.failing_over(Repeat::Yes, open).await
    }

    /// The endpoint that is asked first.
    pub(crate) fn preferred(&self) -> usize {
        self.shared.preferred.load(Ordering::Relaxed)
    }

    /// Asks one endpoint after the other, each once, and where its token was refused once more.
    async fn failing_over<'a, T>(
        &'a self,
        repeat: Repeat,
        attempt: impl Fn(usize, Sent) -> Attempt<'a, T>,
    ) -> Result<T, EtcdError> {
        let count = self.shared.endpoints.len();
        let first = self.preferred();
        let (mut failures, mut in_doubt) = (Vec::new(), false);
        let mut kind = EtcdErrorKind::Unavailable;
        for at in (0..count).map(|step| (first + step) % count) {
            let mut result = self.timed(&attempt, at).await;
            if result.as_ref().is_err_and(|failed| failed.error.wants_new_token()) {
                *lock(&self.shared.token) = None;
                result = self.timed(&attempt, at).await;
            }
            let Err(failed) = result else {
                self.shared.preferred.store(at, Ordering::Relaxed);
                return result.map_err(|failed| failed.error);
            };
            if failed.is_final {
                self.shared.preferred.store(at, Ordering::Relaxed);
                return Err(failed.error);
            }
            if !failed.not_executed && repeat == Repeat::No {
                // A member that hangs would leave each write in doubt. Another request may have moved on already.
                let (next, order) = ((at + 1) % count, Ordering::Relaxed);
                let _moved = self.shared.preferred.compare_exchange(at, next, order, order);
                return Err(failed.error.in_doubt());
            }
            in_doubt |= !failed.not_executed;
            kind = failed.error.kind();
            failures.push(format!("{}: {}", self.shared.endpoints[at].host, failed.error));
        }
        let error = EtcdError::new(kind, failures.join("; "));
        Err(if in_doubt { error.in_doubt() } else { error })
    }

    async fn timed<'a, T>(
        &'a self,
        attempt: &impl Fn(usize, Sent) -> Attempt<'a, T>,
        at: usize,
    ) -> Result<T, Failed> {
        let (limit, sent) = (self.attempt_timeout, Sent::default());
        let result = time::within(&**self.runtime(), limit, attempt(at, sent.clone())).await;
        result.unwrap_or_else(|| {
            let message = format!("no answer in {limit:?}");
            let error = EtcdError::new(EtcdErrorKind::Unavailable, message);
            let not_executed = !sent.load(Ordering::Relaxed);
            Err(Failed { not_executed, is_final: false, error })
        })
    }

    /// One request at one endpoint.
    async fn attempt(
        &self,
        at: usize,
        sent: &AtomicBool,
        path: &str,
        body: &str,
        repeat: Repeat,
    ) -> Result<Vec<u8>, Failed> {
        // One that was kept may have been closed meanwhile, and then it would not be known what became of the request.
        let kept = if repeat == Repeat::Yes { self.take_idle(at) } else { None };
        let was_kept = kept.is_some();
        let (mut http, mut head) = match self.send(at, sent, kept, path, body).await {
            Err(_) if was_kept => self.send(at, sent, None, path, body).await?,
            result => result?,
        };
        if head.status != 200 {
            return Err(self.refused(at, &mut http, &mut head).await);
        }
        let answer = http.body(&mut head, ANSWER_LEN_MAX).await.map_err(|e| Failed::read(&e))?;
        self.keep_idle(at, http, &head);
        Ok(answer)
    }

    /// Sends a request to one endpoint and reads the head of its answer.
    async fn send(
        &self,
        at: usize,
        sent: &AtomicBool,
        kept: Option<HttpStream>,
        path: &str,
        body: &str,
    ) -> Result<(HttpStream, Head), Failed> {
        let token = self.token(at).await?;
        let endpoint = &self.shared.endpoints[at];
        let mut http = match kept {
            Some(http) => http,
            None => {
                HttpStream::new(endpoint.connector.connect().await.map_err(|e| Failed::dial(&e))?)
            }
        };
        sent.store(true, Ordering::Relaxed);
        let posted = http.post(&endpoint.host, path, token.as_deref(), body).await;
        posted.map_err(|e| Failed::read(&e))?;
        let head = http.head().await.map_err(|e| Failed::read(&e))?;
        Ok((http, head))
    }

    /// What an answer other than 200 means.
    async fn refused(&self, at: usize, http: &mut HttpStream, head: &mut Head) -> Failed {
        let body = match http.body(head, ANSWER_LEN_MAX).await {
            Ok(body) => body,
            Err(error) => return Failed::read(&error),
        };
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let host = &self.shared.endpoints[at].host;
        match (answer["error"].as_str(), answer["code"].as_i64()) {
            (Some(text), Some(code)) => {
                let error = EtcdError::answered(code, text);
                let is_final = error.kind() != EtcdErrorKind::Unavailable;
                Failed { not_executed: is_final || error.was_dropped(), is_final, error }
            }
            // A proxy without a server behind it.
            _ if head.status >= 500 => {
                let message = format!("HTTP status {}", head.status);
                Failed::sent(EtcdError::new(EtcdErrorKind::Unavailable, message))
            }
            _ => {
                let message =
                    format!("{host} is no etcd 3.4 or later: HTTP status {}", head.status);
                Failed { not_executed: true, is_final: false, error: EtcdError::malformed(message) }
            }
        }
    }

    /// The token of this client's user; fetched if there is none.
    async fn token(&self, at: usize) -> Result<Option<String>, Failed> {
        let Some((name, password)) = &self.shared.user else { return Ok(None) };
        if let Some(token) = lock(&self.shared.token).clone() {
            return Ok(Some(token));
        }
        let endpoint = &self.shared.endpoints[at];
        let stream = endpoint.connector.connect().await.map_err(|e| Failed::dial(&e))?;
        let mut http = HttpStream::new(stream);
        let body = json!({ "name": name, "password": password }).to_string();
        // Nothing of the request itself is sent by then.
        let before = |error: io::Error| Failed { not_executed: true, ..Failed::read(&error) };
        http.post(&endpoint.host, "/v3/auth/authenticate", None, &body).await.map_err(before)?;
        let mut head = http.head().await.map_err(before)?;
        if head.status != 200 {
            return Err(Failed {
                not_executed: true,
                ..self.refused(at, &mut http, &mut head).await
            });
        }
        let answer = http.body(&mut head, ANSWER_LEN_MAX).await.map_err(before)?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let is_sound =
            |token: &&str| token.len() <= 4096 && token.bytes().all(|b| b.is_ascii_graphic());
        let Some(token) = answer["token"].as_str().filter(is_sound) else {
            let error = EtcdError::malformed("etcd's answer has no token");
            return Err(Failed { not_executed: true, is_final: false, error });
        };
        *lock(&self.shared.token) = Some(token.to_owned());
        Ok(Some(token.to_owned()))
    }

    fn take_idle(&self, at: usize) -> Option<HttpStream> {
        let mut idle = lock(&self.shared.idle);
        let found = idle.iter().position(|(of, _)| *of == at)?;
        Some(idle.swap_remove(found).1)
    }

    fn keep_idle(&self, at: usize, http: HttpStream, head: &Head) {
        if !http.is_reusable(head) {
            return;
        }
        let mut idle = lock(&self.shared.idle);
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push((at, http));
    }
}

impl Failed {
    fn sent(error: EtcdError) -> Failed {
        Failed { not_executed: false, is_final: false, error }
    }

    fn dial(error: &io::Error) -> Failed {
        let kind = match error.kind() {
            // Its certificate is not accepted, say.
            io::ErrorKind::PermissionDenied => EtcdErrorKind::Denied,
            _ => EtcdErrorKind::Unavailable,
        };
        let error = EtcdError::new(kind, error.to_string());
        Failed { not_executed: true, is_final: false, error }
    }

    fn read(error: &io::Error) -> Failed {
        let kind = match error.kind() {
            io::ErrorKind::InvalidData => EtcdErrorKind::Malformed,
            _ => EtcdErrorKind::Unavailable,
        };
        Failed::sent(EtcdError::new(kind, error.to_string()))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
