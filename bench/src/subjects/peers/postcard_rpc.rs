//! postcard-rpc. It brings no byte stream of its own; the one it is given here is in `postcard_rpc/stream.rs`.

mod stream;

use bytes::Bytes;
use postcard_rpc::header::{VarHeader, VarSeqKind};
use postcard_rpc::host_client::HostClient;
use postcard_rpc::server::{Dispatch, Sender, Server, SpawnContext};
use postcard_rpc::standard_icd::{ERROR_PATH, WireError};
use postcard_rpc::{TopicDirection, define_dispatch, endpoints, topics};
use postcard_schema::Schema;
use postcard_schema::schema::{DataModelType, NamedType};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use self::stream::{Frames, Outgoing, Spawner, spawn};
use super::wait_if_asked;
use crate::case::{Case, Transport};
use crate::clock::Duration;
use crate::load::{Caller, Dial};
use crate::subjects::ready;

/// More than any workload has in flight.
const CALLS_MAX: usize = 4096;

/// More than the header of a frame and the length of a body take.
const HEAD_LEN_MAX: usize = 32;

/// A body, as bytes and not as a sequence of numbers: copied at once.
#[derive(Serialize, Deserialize)]
pub struct Body(Bytes);

impl Schema for Body {
    const SCHEMA: &'static NamedType =
        &NamedType { name: "Body", ty: &DataModelType::NewtypeStruct(&BYTES) };
}

const BYTES: NamedType = NamedType { name: "Bytes", ty: &DataModelType::ByteArray };

endpoints! {
    list = ENDPOINTS;
    | EndpointTy   | RequestTy | ResponseTy | Path         |
    | ----------   | --------- | ---------- | ----         |
    | Echo         | Body      | Body       | "echo"       |
    | EchoLater    | Body      | Body       | "echo/later" |
}

topics! {
    list = TOPICS_IN;
    direction = TopicDirection::ToServer;
    | TopicTy | MessageTy | Path |
    | ------- | --------- | ---- |
}

topics! {
    list = TOPICS_OUT;
    direction = TopicDirection::ToClient;
    | TopicTy | MessageTy | Path |
    | ------- | --------- | ---- |
}

// The server of a connection runs one handler after another; those that wait have to be tasks of their own. The
// macro's code says `Result`, so `crate::Result` is not imported.
define_dispatch! {
    app: App;
    spawn_fn: spawn;
    tx_impl: Outgoing;
    spawn_impl: Spawner;
    context: Context;

    endpoints: {
        list: ENDPOINTS;
        | EndpointTy | kind     | handler    |
        | ---------- | ----     | -------    |
        | Echo       | blocking | echo       |
        | EchoLater  | spawn    | echo_later |
    };
    topics_in: {
        list: TOPICS_IN;
        | TopicTy    | kind     | handler    |
        | ---------- | ----     | -------    |
    };
    topics_out: {
        list: TOPICS_OUT;
    };
}

/// How long a handler waits.
#[derive(Clone, Copy)]
pub struct Context(Option<Duration>);

impl SpawnContext for Context {
    type SpawnCtxt = Context;

    fn spawn_ctxt(&mut self) -> Context {
        *self
    }
}

fn echo(_: &mut Context, _: VarHeader, body: Body) -> Body {
    body
}

async fn echo_later(context: Context, header: VarHeader, body: Body, sender: Sender<Outgoing>) {
    wait_if_asked(context.0).await;
    // It fails if the connection has ended; then no call waits.
    let _ = sender.reply::<EchoLater>(header.seq_no, &body).await;
}

pub(super) async fn serve(case: &Case) -> crate::Result<()> {
    if case.transport == Transport::Tcp {
        let listener = TcpListener::bind(&case.address).await?;
        ready(&listener.local_addr()?.to_string())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (read, write) = stream.into_split();
            connection(case, read, write);
        }
    }
    let listener = UnixListener::bind(&case.address)?;
    ready(&case.address)?;
    loop {
        let (read, write) = listener.accept().await?.0.into_split();
        connection(case, read, write);
    }
}

/// Serves one connection, in a task of its own.
fn connection(
    case: &Case,
    read: impl AsyncRead + Unpin + Send + 'static,
    write: impl AsyncWrite + Unpin + Send + 'static,
) {
    let app = App::new(Context(case.workload.wait()), Spawner);
    let key_len = app.min_key_len();
    let buffer = vec![0; case.body_len + HEAD_LEN_MAX].into_boxed_slice();
    let outgoing = Outgoing::new(write);
    let mut server = Server::new(outgoing, Frames::new(read), buffer, app, key_len);
    tokio::spawn(async move {
        // A connection's end is an error only to itself.
        let _end = server.run().await;
    });
}

pub(super) struct Dialler<'a>(pub(super) &'a Case);

pub(super) struct Connection {
    client: HostClient<WireError>,
    /// Whether the handlers wait.
    later: bool,
}

impl Dial for Dialler<'_> {
    type Caller = Connection;

    async fn dial(&self) -> crate::Result<Connection> {
        let client = if self.0.transport == Transport::Tcp {
            let stream = TcpStream::connect(&self.0.address).await?;
            stream.set_nodelay(true)?;
            let (read, write) = stream.into_split();
            client(read, write)
        } else {
            let (read, write) = UnixStream::connect(&self.0.address).await?.into_split();
            client(read, write)
        };
        Ok(Connection { client, later: self.0.workload.wait().is_some() })
    }
}

fn client(
    read: impl AsyncRead + Unpin + Send + 'static,
    write: impl AsyncWrite + Unpin + Send + 'static,
) -> HostClient<WireError> {
    let outgoing = Outgoing::new(write);
    let frames = Frames::new(read);
    HostClient::new_with_wire(outgoing, frames, Spawner, VarSeqKind::Seq4, ERROR_PATH, CALLS_MAX)
}

impl Caller for Connection {
    async fn call(&self, body: &Bytes) -> crate::Result<usize> {
        let body = Body(body.clone());
        let reply = if self.later {
            self.client.send_resp::<EchoLater>(&body).await
        } else {
            self.client.send_resp::<Echo>(&body).await
        };
        Ok(reply?.0.len())
    }

    async fn close(self) -> crate::Result<()> {
        self.client.close();
        Ok(())
    }
}
