//! One session, or why there is none.
//!
//! A client would try again until its calls' deadlines. Here the first failure is the answer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use oncewire::observe::{Event, Source};
use oncewire::tokens::read_token;
use oncewire::{BoxFuture, BoxStream, Client, ClientOptions, Connect, Instance, Token};
use smol::channel::unbounded;
use smol::io::{AsyncRead, AsyncWrite};

use crate::address::Address;
use crate::args::{IdentityArgs, TrustArgs};
use crate::exit::Failure;
use crate::tls::Problem;

/// Where a server is, and who calls it.
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) connector: Arc<dyn Connect>,
    pub(crate) token: Option<Token>,
}

impl Target {
    /// Without a token.
    pub(crate) fn anonymous(address: Address, trust: &TrustArgs) -> Result<Target, Failure> {
        let connector = address.connector(false, trust)?;
        Ok(Target { address, connector, token: None })
    }

    /// Reads the token, and the files of TLS.
    pub(crate) fn new(address: Address, identity: &IdentityArgs) -> Result<Target, Failure> {
        let read = |path| read_token(path).map_err(|error| Failure::Usage(error.to_string()));
        let token = identity.token_file.as_ref().map(read).transpose()?;
        let connector = address.connector(identity.insecure, &identity.trust)?;
        if token.is_some() && !connector.may_carry_token() {
            let why = format!(
                "others may read what passes at {address}: the token is sent there with --insecure only"
            );
            return Err(Failure::Usage(why));
        }
        Ok(Target { address, connector, token })
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
    let dialled = within(timeout, target.connector.connect()).await.ok_or_else(late)?;
    let stream = dialled.map_err(|error| not_connected(address, &error))?;
    let refusal = Arc::default();
    let stream = Box::new(Watched { stream, refusal: Arc::clone(&refusal) });
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
    let client = Client::new(First::new(stream, target.connector.clone()), options);
    let left = timeout.saturating_sub(began.elapsed());
    match within(left, news.recv()).await.and_then(Result::ok) {
        Some(Progress::Opened(instance)) => {
            let took = began.elapsed();
            Ok(Session { client, took, instance })
        }
        Some(Progress::Refused(why)) => {
            let problem = refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
            let address = address.clone();
            Err(match problem {
                Some(problem) => Failure::Tls { address, problem, why },
                None => Failure::Refused { address, why },
            })
        }
        None => Err(late()),
    }
}

/// Why a dial has failed.
pub(crate) fn not_connected(address: &Address, error: &io::Error) -> Failure {
    let why = without(&error.to_string(), address).to_owned();
    let address = address.clone();
    match Problem::of_dial(&address, error) {
        Some(problem) => Failure::Tls { address, problem, why },
        None => Failure::Unreachable { address, why },
    }
}

/// An error without the address at its front, which each of the transports names, that under TLS too.
pub(crate) fn without<'w>(mut why: &'w str, address: &Address) -> &'w str {
    let full = address.to_string();
    let bare = full.split_once(':').map_or(&*full, |(_, bare)| bare);
    let names = [&*full, &*format!("tcp:{bare}"), bare];
    while let Some(rest) = names.iter().find_map(|name| why.strip_prefix(name)?.strip_prefix(": "))
    {
        why = rest;
    }
    why
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
    connector: Arc<dyn Connect>,
}

impl First {
    fn new(stream: BoxStream, connector: Arc<dyn Connect>) -> First {
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

    fn handshake_failed(&self) {
        self.connector.handshake_failed();
    }
}

/// A connection that notes what TLS says when a read fails: whether this side's certificate is accepted, a client learns by its
/// first read.
struct Watched {
    stream: BoxStream,
    refusal: Arc<Mutex<Option<Problem>>>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read
            && let Some(problem) = Problem::of(error)
        {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_once() {
        for (address, why) in [
            ("tcp:[::1]:1", "tcp:[::1]:1: [::1]:1: refused"),
            ("tls:a.b:1", "tcp:a.b:1: a.b:1: refused"),
            ("unix:/a", "/a: refused"),
            ("unix:/a", "refused"),
        ] {
            let address: Address = address.parse().unwrap();
            assert_eq!(without(why, &address), "refused", "{address}");
        }
    }
}
