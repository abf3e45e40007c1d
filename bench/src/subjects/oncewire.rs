//! Oncewire itself: what server and client do is here, what they run on in `oncewire/hosts.rs`.

mod hosts;
#[cfg(feature = "tokio")]
mod tokio;

use std::process::exit;
use std::sync::Arc;

use bytes::Bytes;
use oncewire_core::{MethodId, MethodSpec};
use oncewire_driver::{Client, ClientOptions, Method, Outcome, Runtime, Server};
use oncewire_pipe::{ChildConnector, StdioAcceptor};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use oncewire_unix::{UnixAcceptor, UnixConnector};

use super::{ready, server_command};
use crate::Result;
use crate::case::{Case, Transport};
use crate::clock::sleep;
use crate::load::{Caller, Dial};
use crate::subject::{Host, Subject};

pub(super) use hosts::{drive, serve};

const ECHO: MethodId = MethodId::of("bench/echo");
const TYPED_ECHO: Method<Bytes, Bytes> = Method::new("bench/echo");

/// A server whose methods take and give raw bodies.
fn raw_server(case: &Case, runtime: Arc<dyn Runtime>) -> Result<Server> {
    let mut spec = MethodSpec::new(ECHO);
    spec.idempotent = case.subject == Subject::OncewireIdempotent;
    spec.reply_len_max = case.body_len as u32;
    let builder = Server::builder("bench").runtime(runtime);
    let builder = match case.workload.wait() {
        None => builder.method_raw(spec, |_, body: Bytes| std::future::ready(body)),
        Some(wait) => builder.method_raw(spec, move |_, body: Bytes| async move {
            sleep(wait).await;
            body
        }),
    };
    Ok(builder.build()?)
}

/// A server with typed methods on the default runtime, as in the README.
fn typed_server(case: &Case) -> Result<Server> {
    // With its length before it. As much is set aside for the reply of each call that runs.
    let echo = TYPED_ECHO.reply_len_max(case.body_len as u32 + 8);
    let builder = Server::builder("bench");
    let builder = match case.workload.wait() {
        None => builder.method(&echo, |_, body| async move { body }),
        Some(wait) => builder.method(&echo, move |_, body| async move {
            sleep(wait).await;
            body
        }),
    };
    Ok(builder.build()?)
}

async fn listen(case: Case, server: Server) -> Result<()> {
    match case.transport {
        Transport::Tcp => {
            let acceptor = TcpAcceptor::bind_insecure(&case.address).await?;
            ready(&acceptor.local_addr().to_string())?;
            server.serve(acceptor).await?;
        }
        Transport::Unix => {
            let acceptor = UnixAcceptor::bind(&case.address)?;
            ready(&case.address)?;
            server.serve(acceptor).await?;
        }
        Transport::Pipe => server.serve(StdioAcceptor::new()?).await?,
    }
    exit(0)
}

struct Dialler<'a> {
    case: &'a Case,
    runtime: Arc<dyn Runtime>,
    child: Option<ChildConnector>,
}

impl<'a> Dialler<'a> {
    fn new(case: &'a Case, runtime: Arc<dyn Runtime>) -> Result<Dialler<'a>> {
        let child = match case.transport {
            Transport::Pipe => Some(ChildConnector::new(server_command(case)?)),
            _ => None,
        };
        Ok(Dialler { case, runtime, child })
    }

    fn client(&self) -> Client {
        let options = ClientOptions::default();
        let runtime = self.runtime.clone();
        match &self.child {
            Some(child) => Client::with_runtime(child.clone(), options, runtime),
            None if self.case.transport == Transport::Tcp => {
                Client::with_runtime(TcpConnector::new(&self.case.address), options, runtime)
            }
            None => Client::with_runtime(UnixConnector::new(&self.case.address), options, runtime),
        }
    }
}

impl Dial for Dialler<'_> {
    type Caller = Connection;

    async fn dial(&self) -> Result<Connection> {
        Ok(Connection { client: self.client(), subject: self.case.subject })
    }

    fn server_pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(ChildConnector::pid)
    }
}

#[derive(Clone)]
struct Connection {
    client: Client,
    subject: Subject,
}

impl Caller for Connection {
    async fn call(&self, body: &Bytes) -> Result<usize> {
        let call = match self.subject {
            Subject::OncewireIdempotent => self.client.call_raw(ECHO, body.clone()).idempotent(),
            subject if subject.host() == Host::ByHand => self.client.call_raw(ECHO, body.clone()),
            _ => self.client.call(&TYPED_ECHO, body),
        };
        match call.await {
            Outcome::Reply(reply) => Ok(reply.len()),
            other => Err(format!("{other:?}").into()),
        }
    }

    // As every other subject does it: dropping the client says goodbye, and the connection ends in the background.
    async fn close(self) -> Result<()> {
        Ok(())
    }
}
