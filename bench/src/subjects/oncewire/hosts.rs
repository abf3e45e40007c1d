//! What the programs run on: an executor made by hand, the default runtime, or tokio.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use oncewire_driver::{Runtime, SmolRuntime};
use smol::Executor;

use super::{Dialler, listen, raw_server, typed_server};
use crate::Result;
use crate::case::{Case, Figures};
use crate::load::{Caller, Dial, check};
use crate::meter::Meter;
use crate::subject::{Host, Subject, Way};
use crate::sys;

pub(in crate::subjects) fn serve(case: &Case) -> Result<()> {
    match case.subject.host() {
        Host::ByHand => {
            // One executor on one thread: each process has one core.
            let executor: Arc<Executor<'static>> = Arc::default();
            let server = raw_server(case, by_hand(&executor))?;
            // A task of its own: the main future is polled with every event.
            let serving = executor.spawn(listen(case.clone(), server));
            smol::block_on(executor.run(serving))
        }
        Host::Readme { .. } => smol::block_on(async {
            let server = typed_server(case)?;
            smol::spawn(listen(case.clone(), server)).await
        }),
        #[cfg(feature = "tokio")]
        Host::Tokio { threads } => super::tokio::serve(case, threads),
        #[cfg(not(feature = "tokio"))]
        Host::Tokio { .. } => Err("built without tokio".into()),
    }
}

pub(in crate::subjects) fn drive(case: &Case) -> Result<Figures> {
    match case.subject.host() {
        // A program that blocks on each call has the default runtime.
        Host::ByHand if case.subject != Subject::OncewireBlocking => {
            let executor: Arc<Executor<'static>> = Arc::default();
            let dial = Dialler::new(case, by_hand(&executor))?;
            let calls = make_calls(case, &dial, |task| executor.spawn(task));
            smol::block_on(executor.run(calls))
        }
        Host::ByHand | Host::Readme { .. } => {
            let dial = Dialler::new(case, SmolRuntime::global())?;
            smol::block_on(make_calls(case, &dial, smol::spawn))
        }
        #[cfg(feature = "tokio")]
        Host::Tokio { threads } => super::tokio::drive(case, threads),
        #[cfg(not(feature = "tokio"))]
        Host::Tokio { .. } => Err("built without tokio".into()),
    }
}

fn by_hand(executor: &Arc<Executor<'static>>) -> Arc<dyn Runtime> {
    let executor = executor.clone();
    SmolRuntime::with_spawner(move |task| executor.spawn(task).detach())
}

pub(super) type BoxTask = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Makes the calls in the subject's way; `spawn` begins a task on what the program runs on.
pub(super) async fn make_calls<T: Future<Output = Result<()>>>(
    case: &Case,
    dial: &Dialler<'_>,
    spawn: impl Fn(BoxTask) -> T,
) -> Result<Figures> {
    let one_at_a_time = case.workload.outstanding() == 1;
    if case.subject.way() == Way::Tasks && !one_at_a_time {
        in_tasks(case, dial, spawn).await
    } else {
        crate::load::run(case, dial).await
    }
}

/// A task for each call that is outstanding.
async fn in_tasks<T: Future<Output = Result<()>>>(
    case: &Case,
    dial: &Dialler<'_>,
    spawn: impl Fn(BoxTask) -> T,
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
