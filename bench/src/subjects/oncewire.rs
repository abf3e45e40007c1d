//! Oncewire itself.

use std::process::exit;
use std::sync::Arc;

use bytes::Bytes;
use oncewire_core::{MethodId, MethodSpec};
use oncewire_driver::{Client, ClientOptions, Outcome, Runtime, Server, SmolRuntime};
use oncewire_pipe::{ChildConnector, StdioAcceptor};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use oncewire_unix::{UnixAcceptor, UnixConnector};
use smol::Executor;

use super::{ready, server_command};
use crate::Result;
use crate::case::{Case, Figures, Subject, Transport};
use crate::clock::sleep;
use crate::load::{Caller, Dial};

const ECHO: MethodId = MethodId::of("bench.echo");

pub(super) fn serve(case: &Case) -> Result<()> {
    // One executor on one thread: each process has one core.
    let executor: Arc<Executor<'static>> = Arc::default();
    let mut spec = MethodSpec::new(ECHO);
    spec.idempotent = case.subject == Subject::OncewireIdempotent;
    spec.reply_len_max = case.body_len as u32;
    let wait = case.workload.wait();
    let builder = Server::builder("bench").runtime(runtime(&executor));
    let builder = match wait {
        None => builder.method_raw(spec, |_, body: Bytes| std::future::ready(body)),
        Some(wait) => builder.method_raw(spec, move |_, body: Bytes| async move {
            sleep(wait).await;
            body
        }),
    };
    let server = builder.build()?;
    // A task of its own: the main future is polled with every event.
    let case = case.clone();
    let serving = executor.spawn(async move {
        match case.transport {
            Transport::Tcp => {
                let acceptor = TcpAcceptor::bind(&case.address).await?;
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
    });
    smol::block_on(executor.run(serving))
}

fn runtime(executor: &Arc<Executor<'static>>) -> Arc<dyn Runtime> {
    let executor = executor.clone();
    SmolRuntime::with_spawner(move |task| executor.spawn(task).detach())
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
        let idempotent = self.case.subject == Subject::OncewireIdempotent;
        Ok(Connection { client: self.client(), idempotent })
    }

    fn server_pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(ChildConnector::pid)
    }
}

struct Connection {
    client: Client,
    idempotent: bool,
}

impl Caller for Connection {
    async fn call(&self, body: &Bytes) -> Result<usize> {
        let mut call = self.client.call_raw(ECHO, body.clone());
        if self.idempotent {
            call = call.idempotent();
        }
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

pub(super) fn drive(case: &Case) -> Result<Figures> {
    if case.subject == Subject::OncewireBlocking {
        // A program that blocks on each call; the library's tasks are on the default executor's thread.
        let dial = Dialler::new(case, SmolRuntime::global())?;
        return smol::block_on(crate::load::run(case, &dial));
    }
    let executor: Arc<Executor<'static>> = Arc::default();
    let dial = Dialler::new(case, runtime(&executor))?;
    smol::block_on(executor.run(crate::load::run(case, &dial)))
}
