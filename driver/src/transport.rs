//! What a transport supplies: dial once, accept once, and who is calling.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_io::{AsyncRead, AsyncWrite};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One ordered byte stream in both directions. Dropping it closes the connection.
///
/// The end of what can be read (`Ok(0)`) is the end of the connection in both directions, at either end: there is no half-closed
/// connection (W65). A server that reads it writes what the stream takes at once of the replies that are ready, and drops the stream;
/// what it has not sent, and what still runs, is kept as after any break, until the client comes back and asks. A client makes another
/// connection, and asks. So a stream must not report an end while its other direction is to be used on.
///
/// Implemented for everything that qualifies.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// A [`ByteStream`] of any kind.
pub type BoxStream = Box<dyn ByteStream>;

/// Dials a server, once a call. The driver decides when, how often and how long after a failure.
///
/// ```
/// use oncewire_driver::{BoxFuture, BoxStream, Connect};
/// use std::io;
///
/// /// Connects to nothing.
/// struct Nowhere;
///
/// impl Connect for Nowhere {
///     fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
///         Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
///     }
///     fn address(&self) -> String {
///         "nowhere".to_owned()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connector",
    note = "a transport makes one from an address: `TcpConnector::new(…)`, `UnixConnector::new(…)`"
)]
pub trait Connect: Send + Sync + 'static {
    /// Makes one connection, or says why it could not.
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>>;
    /// What is dialled, for messages.
    fn address(&self) -> String;
    /// Whether every dial will fail with this error until a person changes something: there is no such host or program, say, or
    /// its certificate is not trusted. The client continues to dial, but calls need not wait for it:
    /// [`ClientOptions::on_dial_failure`](crate::ClientOptions::on_dial_failure).
    ///
    /// Unless a transport overrides it, [`InvalidInput`](io::ErrorKind::InvalidInput) and
    /// [`Unsupported`](io::ErrorKind::Unsupported) are such errors. That nothing listens is not: a server may start.
    ///
    /// It is not asked about errors of the stream. There, [`PermissionDenied`](io::ErrorKind::PermissionDenied) and `Unsupported`
    /// from a read before the server's `Welcome` count as permanent.
    fn is_permanent(&self, error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
    }
    /// Whether a client may send its [token](crate::ClientOptions::token) over what this dials: others cannot read what passes,
    /// or the program's owner has said that it does not matter. False unless a transport says otherwise, and then no
    /// connection is made for a client that has a token.
    fn may_carry_token(&self) -> bool {
        false
    }
    /// The connection that was made last has come to no handshake: the server behind it said nothing for
    /// [`ClientOptions::connect_timeout`](crate::ClientOptions::connect_timeout), ended it, or refused the client. Called before
    /// the next dial, which begins with another address where there are several. A transport with one has nothing to do.
    fn handshake_failed(&self) {}
    /// Whether what [`connect`](Connect::connect) returns may be polled on any thread, also on one that is not the runtime's and moves on
    /// to others. Then the call that finds a new client without a connection dials on its own thread. False unless a transport says
    /// otherwise: a dial may need the surroundings of its executor, as tokio's sockets do, or take long to compute.
    fn dials_anywhere(&self) -> bool {
        false
    }
}

/// Accepts connections, one a call.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an acceptor",
    note = "a transport makes one from an address: `TcpAcceptor::bind(…).await?`, `UnixAcceptor::bind(…)?`"
)]
pub trait Accept: Send + Sync + 'static {
    /// Waits for the next connection and says who the peer is. An error is worth a message and a short pause;
    /// [`io::ErrorKind::BrokenPipe`] says that there will never be another connection, and
    /// [`NotFound`](io::ErrorKind::NotFound), [`InvalidInput`](io::ErrorKind::InvalidInput) and
    /// [`Unsupported`](io::ErrorKind::Unsupported) that there cannot be one, which is an error of
    /// [`Server::serve`](crate::Server::serve).
    ///
    /// A future that is dropped before it is ready must not lose a connection.
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>>;
    /// The same, for a transport around this one that encrypts all that passes and checks who is at the other end, as TLS does.
    /// A transport that would not [`accept`](Accept::accept) from a network without that may do so here.
    fn accept_protected(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        self.accept()
    }
    /// Where it listens, for messages.
    fn address(&self) -> String;
}

macro_rules! through_pointers {
    ($($pointer:ident),+) => {$(
        impl<T: Connect + ?Sized> Connect for $pointer<T> {
            fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
                (**self).connect()
            }

            fn address(&self) -> String {
                (**self).address()
            }

            fn is_permanent(&self, error: &io::Error) -> bool {
                (**self).is_permanent(error)
            }

            fn may_carry_token(&self) -> bool {
                (**self).may_carry_token()
            }

            fn handshake_failed(&self) {
                (**self).handshake_failed();
            }

            fn dials_anywhere(&self) -> bool {
                (**self).dials_anywhere()
            }
        }

        impl<T: Accept + ?Sized> Accept for $pointer<T> {
            fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
                (**self).accept()
            }

            fn accept_protected(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
                (**self).accept_protected()
            }

            fn address(&self) -> String {
                (**self).address()
            }
        }
    )+};
}

// A program that takes its transport from its configuration has a `Box<dyn Connect>`.
through_pointers!(Box, Arc);

/// Who the transport says is calling. Sessions are bound to it (S5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// The transport cannot say.
    Anonymous,
    /// A unix user.
    Uid(u32),
    /// A name that the transport vouches for, of a certificate, say.
    Name(Arc<str>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Anonymous => f.write_str("anonymous"),
            Subject::Uid(uid) => write!(f, "uid {uid}"),
            Subject::Name(name) => name.fmt(f),
        }
    }
}

/// Lets the tasks that are ready run before this one continues: for an acceptor that refuses one connection after another
/// without having to wait for any.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// For tests: a dial never ends.
#[cfg(test)]
pub(crate) struct Nowhere;

#[cfg(test)]
impl Connect for Nowhere {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(std::future::pending())
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}
