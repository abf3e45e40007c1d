//! A connection to the database whose thread waits for each answer, and for the answers to two requests together where both can leave
//! at once.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use postgres::Socket;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio::runtime::Runtime;
use tokio_postgres::{AsyncMessage, Client, Config};

use crate::sql::Warnings;

/// Reads and writes the socket; ready with what the database says beside its answers, and at the end.
type Messages =
    Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, postgres::Error>>> + Send>;

/// A connection that was made, before there is someone to wait on it.
pub(crate) type Dialled = (Client, Messages);

/// The future of a connection to come.
pub(crate) type Dialling<'a> =
    Pin<Box<dyn Future<Output = Result<Dialled, postgres::Error>> + Send + 'a>>;

/// Connects by this kind of TLS, or none.
pub(crate) fn dial<T>(config: &Config, tls: T) -> Dialling<'_>
where
    T: MakeTlsConnect<Socket> + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Box::pin(async move {
        let (client, mut connection) = config.connect(tls).await?;
        let messages: Messages = Box::new(move |cx| connection.poll_message(cx));
        Ok((client, messages))
    })
}

/// A connection, and the thread's way to wait for it.
pub(crate) struct Link {
    /// `None` when it is dropped.
    client: Option<Client>,
    /// `None` when it has ended.
    messages: Option<Messages>,
    runtime: Runtime,
    warnings: Warnings,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl Link {
    /// Waits for the connection. What the database warns of is noted.
    pub(crate) fn connect(
        runtime: Runtime,
        dialling: Dialling<'_>,
        warnings: Warnings,
    ) -> Result<Link, postgres::Error> {
        let (client, messages) = runtime.block_on(dialling)?;
        Ok(Link { client: Some(client), messages: Some(messages), runtime, warnings })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.as_ref().is_none_or(Client::is_closed)
    }

    /// What the database has warned of.
    pub(crate) fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// What the database answers to a request.
    pub(crate) fn wait<R>(
        &mut self,
        request: impl AsyncFnOnce(&Client) -> Result<R, postgres::Error>,
    ) -> Result<R, postgres::Error> {
        // It is there until the drop.
        let client = self.client.as_ref().expect("a link has a client");
        let mut request = pin!(request(client));
        let (messages, warnings) = (&mut self.messages, &self.warnings);
        self.runtime.block_on(poll_fn(|cx| match drive(messages, warnings, cx) {
            Ok(()) => request.as_mut().poll(cx),
            Err(error) => Poll::Ready(Err(error)),
        }))
    }
}

/// Reads and writes what can be. That the connection has ended is for the requests to say.
fn drive(
    messages: &mut Option<Messages>,
    warnings: &Warnings,
    cx: &mut Context<'_>,
) -> Result<(), postgres::Error> {
    while let Some(poll) = messages.as_mut().map(|messages| messages(cx)) {
        match poll {
            Poll::Ready(Some(Ok(AsyncMessage::Notice(said)))) => warnings.note(&said),
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => {
                *messages = None;
                return Err(error);
            }
            Poll::Ready(None) => *messages = None,
            Poll::Pending => return Ok(()),
        }
    }
    Ok(())
}

impl Drop for Link {
    /// Says goodbye, where that can leave at once.
    fn drop(&mut self) {
        self.client = None;
        let (messages, warnings) = (&mut self.messages, &self.warnings);
        self.runtime.block_on(poll_fn(|cx| {
            let _it_ends_anyway = drive(messages, warnings, cx);
            Poll::Ready(())
        }));
    }
}

/// Both, begun in this order; ready when both are. So two requests leave in one packet, and their answers are waited for once.
pub(crate) async fn both<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut one, mut other) = (None, None);
    poll_fn(|cx| {
        if one.is_none()
            && let Poll::Ready(output) = first.as_mut().poll(cx)
        {
            one = Some(output);
        }
        if other.is_none()
            && let Poll::Ready(output) = second.as_mut().poll(cx)
        {
            other = Some(output);
        }
        match (one.take(), other.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (first, second) => {
                (one, other) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}
