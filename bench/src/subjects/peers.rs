//! The peers: each as its documentation recommends for speed, on a single-threaded tokio, since each process has one
//! core.

mod capnp;
mod postcard_rpc;
mod tarpc;
mod tonic;

use std::future::Future;

use tokio::task::LocalSet;

use crate::Result;
use crate::case::{Case, Figures};
use crate::subject::Subject;

pub(super) fn serve(case: &Case) -> Result<()> {
    match case.subject {
        Subject::Tarpc => block_on(tarpc::serve(case)),
        Subject::Tonic => block_on(tonic::serve(case)),
        Subject::Capnp => block_on(capnp::serve(case)),
        Subject::PostcardRpc => block_on(postcard_rpc::serve(case)),
        _ => Err("no such peer".into()),
    }
}

pub(super) fn drive(case: &Case) -> Result<Figures> {
    match case.subject {
        Subject::Tarpc => block_on(crate::load::run(case, &tarpc::Dialler(case))),
        Subject::Tonic => block_on(crate::load::run(case, &tonic::Dialler(case))),
        Subject::Capnp => block_on(crate::load::run(case, &capnp::Dialler(case))),
        Subject::PostcardRpc => block_on(crate::load::run(case, &postcard_rpc::Dialler(case))),
        _ => Err("no such peer".into()),
    }
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}

async fn wait_if_asked(wait: Option<std::time::Duration>) {
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
}
