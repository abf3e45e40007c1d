//! One session, or why there is none.
//!
//! A client would try again until its calls' deadlines. Here the first failure is the answer.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oncewire::observe::{Event, Source};
use oncewire::tokens::read_token;
use oncewire::{BoxFuture, BoxStream, Client, ClientOptions, Connect, Instance, Token};
use smol::channel::unbounded;

use crate::IdentityArgs;
use crate::address::Address;
use crate::exit::Failure;

/// Where a server is, and who calls it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: Address,
    token: Option<Token>,
    insecure: bool,
}

impl Target {
    /// Without a token.
    pub(crate) fn anonymous(address: Address) -> Target {
        Target { address, token: None, insecure: false }
    }

    /// Reads the token.
    pub(crate) fn new(address: Address, identity: &IdentityArgs) -> Result<Target, Failure> {
        let read = |path| read_token(path).map_err(|error| Failure::Usage(error.to_string()));
        let token = identity.token_file.as_ref().map(read).transpose()?;
        let target = Target { address, token, insecure: identity.insecure };
        if target.token.is_some() && !target.connector().may_carry_token() {
            let address = &target.address;
            let why = format!(
                "others may read what passes at {address}: the token is sent there with --insecure only"
            );
            return Err(Failure::Usage(why));
        }
        Ok(target)
    }

    fn connector(&self) -> Box<dyn Connect> {
        self.address.connector(self.insecure)
    }
}

/// An open session.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// Dialling and the handshake.
    pub(crate) took: Duration,
    pub(crate) instance: Instance,
}

/// What has happened to a client that connects.
enum Progress {
    Opened(Instance),
    Refused(String),
}

/// Opens a session within the time.
pub(crate) async fn connect(target: &Target, timeout: Duration) -> Result<Session, Failure> {
    let began = now();
    let address = &target.address;
    let late = || Failure::Unreachable {
        address: address.clone(),
        why: format!("nothing answered within {timeout:?}"),
    };
    let connector = target.connector();
    let dialled = within(timeout, connector.connect()).await.ok_or_else(late)?;
    let stream = dialled.map_err(|error| {
        let why = error.to_string();
        Failure::Unreachable { address: address.clone(), why: without(&why, address) }
    })?;
    let (progress, news) = unbounded();
    let observer = move |_: &Source, event: &Event| {
        let what = match event {
            Event::SessionOpened { instance, .. } => Progress::Opened(*instance),
            Event::SessionRefused { why, .. } => Progress::Refused(why.to_string()),
            Event::ConnectionClosed { why, .. } => Progress::Refused(why.to_string()),
            _ => return,
        };
        let _ = progress.try_send(what);
    };
    let mut options = ClientOptions::default()
        .with_connect_timeout(timeout)
        .with_close_timeout(Duration::from_secs(1))
        .with_observer(observer);
    options.token = target.token;
    let client = Client::new(First::new(stream, connector), options);
    let left = timeout.saturating_sub(began.elapsed());
    match within(left, news.recv()).await.and_then(Result::ok) {
        Some(Progress::Opened(instance)) => {
            let took = began.elapsed();
            Ok(Session { client, took, instance })
        }
        Some(Progress::Refused(why)) => Err(Failure::Refused { address: address.clone(), why }),
        None => Err(late()),
    }
}

/// An error without the address at its front, which transports name as well.
fn without(why: &str, address: &Address) -> String {
    let full = address.to_string();
    let bare = full.split_once(':').map_or(&*full, |(_, bare)| bare);
    let mut why = why;
    while let Some(rest) = why.strip_prefix(&*full).or_else(|| why.strip_prefix(bare))
        && let Some(rest) = rest.strip_prefix(": ")
    {
        why = rest;
    }
    why.to_owned()
}

/// The future's output, if it comes in time.
pub(crate) async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        pause(time).await;
        None
    };
    smol::future::or(async { Some(future.await) }, late).await
}

#[expect(clippy::disallowed_methods, reason = "a program's own clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "a program's own clock")]
pub(crate) async fn pause(time: Duration) {
    smol::Timer::after(time).await;
}

/// Returns the first connection, which was made before; then dials.
struct First {
    stream: Mutex<Option<BoxStream>>,
    connector: Box<dyn Connect>,
}

impl First {
    fn new(stream: BoxStream, connector: Box<dyn Connect>) -> First {
        First { stream: Mutex::new(Some(stream)), connector }
    }
}

impl Connect for First {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let first = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(stream) => Box::pin(async { Ok(stream) }),
            None => self.connector.connect(),
        }
    }

    fn address(&self) -> String {
        self.connector.address()
    }

    fn is_permanent(&self, error: &io::Error) -> bool {
        self.connector.is_permanent(error)
    }

    fn may_carry_token(&self) -> bool {
        self.connector.may_carry_token()
    }
}
