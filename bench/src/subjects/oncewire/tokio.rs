//! Oncewire in programs that run on tokio. Their own tasks are tokio's; the library's are the default runtime's, as in
//! every program that does not give it another.

use tokio::runtime::{Builder, Runtime};

use super::hosts::make_calls;
use super::{Dialler, listen, typed_server};
use crate::Result;
use crate::case::{Case, Figures};
use oncewire_driver::SmolRuntime;

pub(super) fn serve(case: &Case, threads: usize) -> Result<()> {
    runtime(threads)?.block_on(async {
        let server = typed_server(case)?;
        tokio::spawn(listen(case.clone(), server)).await?
    })
}

pub(super) fn drive(case: &Case, threads: usize) -> Result<Figures> {
    let dial = Dialler::new(case, SmolRuntime::global())?;
    let spawn = |task| {
        let task = tokio::spawn(task);
        async { task.await? }
    };
    runtime(threads)?.block_on(make_calls(case, &dial, spawn))
}

fn runtime(threads: usize) -> Result<Runtime> {
    if threads == 1 {
        return Ok(Builder::new_current_thread().enable_all().build()?);
    }
    Ok(Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}
