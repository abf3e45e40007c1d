//! tarpc over its own transports, with bincode.

use bytes::Bytes;
use futures_util::StreamExt;
use tarpc::context::{self, Context};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, serde_transport, server};

use super::wait_if_asked;
use crate::Result;
use crate::case::{Case, Transport};
use crate::clock::Duration;
use crate::load::{Caller, Dial};
use crate::subjects::ready;

/// More than any workload has in flight.
const CALLS_MAX: usize = 4096;

#[tarpc::service]
pub(super) trait Echo {
    async fn echo(body: Bytes) -> Bytes;
}

#[derive(Clone)]
struct EchoServer(Option<Duration>);

impl Echo for EchoServer {
    async fn echo(self, _: Context, body: Bytes) -> Bytes {
        wait_if_asked(self.0).await;
        body
    }
}

macro_rules! channel {
    ($case:expr, $transport:expr) => {{
        let config = server::Config { pending_response_buffer: CALLS_MAX };
        let calls = BaseChannel::new(config, $transport)
            .execute(EchoServer($case.workload.wait()).serve())
            .for_each(|call| async {
                tokio::spawn(call);
            });
        tokio::spawn(calls)
    }};
}

pub(super) async fn serve(case: &Case) -> Result<()> {
    if case.transport == Transport::Tcp {
        let mut listener = serde_transport::tcp::listen(&case.address, Bincode::default).await?;
        ready(&listener.local_addr().to_string())?;
        while let Some(transport) = listener.next().await {
            let transport = transport?;
            transport.get_ref().set_nodelay(true)?;
            channel!(case, transport);
        }
    } else {
        let mut listener = serde_transport::unix::listen(&case.address, Bincode::default).await?;
        ready(&case.address)?;
        while let Some(transport) = listener.next().await {
            channel!(case, transport?);
        }
    }
    Ok(())
}

pub(super) struct Dialler<'a>(pub(super) &'a Case);

impl Dial for Dialler<'_> {
    type Caller = EchoClient;

    async fn dial(&self) -> Result<EchoClient> {
        let mut config = client::Config::default();
        config.max_in_flight_requests = CALLS_MAX;
        config.pending_request_buffer = CALLS_MAX;
        let address = &self.0.address;
        if self.0.transport == Transport::Tcp {
            let transport = serde_transport::tcp::connect(address, Bincode::default).await?;
            transport.get_ref().set_nodelay(true)?;
            return Ok(EchoClient::new(config, transport).spawn());
        }
        let transport = serde_transport::unix::connect(address, Bincode::default).await?;
        Ok(EchoClient::new(config, transport).spawn())
    }
}

impl Caller for EchoClient {
    async fn call(&self, body: &Bytes) -> Result<usize> {
        Ok(self.echo(context::current(), body.clone()).await?.len())
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}
