//! tonic with prost messages; the service is described in `build.rs`, without protoc.

use bytes::Bytes;
use futures_util::stream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::wait_if_asked;
use crate::Result;
use crate::case::{Case, Transport};
use crate::clock::Duration;
use crate::load::{Caller, Dial};
use crate::subjects::ready;

/// A message of bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Body {
    /// The bytes.
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

#[allow(clippy::all, unreachable_pub, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.Echo.rs"));
}

use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

/// HTTP/2's windows: large enough for what W4 has in flight.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

struct Handler(Option<Duration>);

#[tonic::async_trait]
impl Echo for Handler {
    async fn echo(&self, request: Request<Body>) -> std::result::Result<Response<Body>, Status> {
        wait_if_asked(self.0).await;
        Ok(Response::new(request.into_inner()))
    }
}

pub(super) async fn serve(case: &Case) -> Result<()> {
    let router = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(4096)
        .add_service(EchoServer::new(Handler(case.workload.wait())));
    if case.transport == Transport::Tcp {
        let listener = tokio::net::TcpListener::bind(&case.address).await?;
        ready(&listener.local_addr()?.to_string())?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        return Ok(router.serve_with_incoming(incoming).await?);
    }
    let listener = tokio::net::UnixListener::bind(&case.address)?;
    ready(&case.address)?;
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    Ok(router.serve_with_incoming(incoming).await?)
}

pub(super) struct Dialler<'a>(pub(super) &'a Case);

impl Dial for Dialler<'_> {
    type Caller = EchoClient<Channel>;

    async fn dial(&self) -> Result<EchoClient<Channel>> {
        let scheme = if self.0.transport == Transport::Tcp { "http" } else { "unix" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.0.address))?
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Ok(EchoClient::new(endpoint.connect().await?))
    }
}

impl Caller for EchoClient<Channel> {
    async fn call(&self, body: &Bytes) -> Result<usize> {
        // Clones share the connection.
        let reply = self.clone().echo(Body { bytes: body.clone() }).await?;
        Ok(reply.into_inner().bytes.len())
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}
