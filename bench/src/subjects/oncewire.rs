//! Oncewire itself.

use std::future::Future;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use oncewire_core::{MethodId, MethodSpec};
use oncewire_driver::{Client, ClientOptions, Method, Outcome, Runtime, Server, SmolRuntime};
use oncewire_pipe::{ChildConnector, StdioAcceptor};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use oncewire_unix::{UnixAcceptor, UnixConnector};
use smol::Executor;

use super::{ready, server_command};
use crate::Result;
use crate::case::{Case, Figures, Subject, Transport, Way};
use crate::clock::sleep;
use crate::load::{Caller, Dial, check};
use crate::meter::Meter;
use crate::sys;

const ECHO: MethodId = MethodId::of("bench/echo");
const TYPED_ECHO: Method<Bytes, Bytes> = Method::new("bench/echo").reply_len_max((1 << 20) + 64);

pub(super) fn serve(case: &Case) -> Result<()> {
    if case.subject.is_readme() {
        return smol::block_on(serve_as_in_readme(case));
    }
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
    let serving = executor.spawn(listen(case.clone(), server));
    smol::block_on(executor.run(serving))
}

async fn serve_as_in_readme(case: &Case) -> Result<()> {
    let builder = Server::builder("bench");
    let builder = match case.workload.wait() {
        None => builder.method(&TYPED_ECHO, |_, body| async move { body }),
        Some(wait) => builder.method(&TYPED_ECHO, move |_, body| async move {
            sleep(wait).await;
            body
        }),
    };
    smol::spawn(listen(case.clone(), builder.build()?)).await
}

async fn listen(case: Case, server: Server) -> Result<()> {
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
            subject if subject.is_readme() => self.client.call(&TYPED_ECHO, body),
            Subject::OncewireIdempotent => self.client.call_raw(ECHO, body.clone()).idempotent(),
            _ => self.client.call_raw(ECHO, body.clone()),
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

pub(super) fn drive(case: &Case) -> Result<Figures> {
    // The default runtime: the library's tasks are on the default executor's thread. The blocking client is a program that
    // blocks on each call.
    if case.subject.is_readme() || case.subject == Subject::OncewireBlocking {
        let dial = Dialler::new(case, SmolRuntime::global())?;
        return smol::block_on(async {
            match case.subject.way() {
                Way::Tasks => in_tasks(case, &dial, smol::spawn).await,
                Way::Loops | Way::Buffered => crate::load::run(case, &dial).await,
            }
        });
    }
    let executor: Arc<Executor<'static>> = Arc::default();
    let dial = Dialler::new(case, runtime(&executor))?;
    smol::block_on(executor.run(async {
        match case.subject.way() {
            Way::Tasks => in_tasks(case, &dial, |task| executor.spawn(task)).await,
            Way::Loops | Way::Buffered => crate::load::run(case, &dial).await,
        }
    }))
}

type BoxTask = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A task for each call that is outstanding.
async fn in_tasks(
    case: &Case,
    dial: &Dialler<'_>,
    spawn: impl Fn(BoxTask) -> smol::Task<Result<()>>,
) -> Result<Figures> {
    let body = Bytes::from(vec![7; case.body_len]);
    let connection = dial.dial().await?;
    check(connection.call(&body).await?, &body)?;
    sys::use_cubic()?;
    let meter = Arc::new(Mutex::new(Meter::start(case, case.server_pid)));
    let one = |_| {
        let (connection, body, meter) = (connection.clone(), body.clone(), meter.clone());
        spawn(Box::pin(async move {
            loop {
                check(connection.call(&body).await?, &body)?;
                if !meter.lock().unwrap_or_else(PoisonError::into_inner).count(1) {
                    return Ok(());
                }
            }
        }))
    };
    let tasks: Vec<_> = (0..case.outstanding).map(one).collect();
    for task in tasks {
        task.await?;
    }
    let meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
    meter.figures()
}
