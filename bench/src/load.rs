//! The workloads, over any client that makes calls as futures.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};

use crate::Result;
use crate::case::{Case, Figures, Workload};
use crate::clock::{Duration, now};
use crate::meter::Meter;
use crate::subject::Way;
use crate::sys;

/// Opens connections to one server.
pub(crate) trait Dial {
    type Caller: Caller;

    /// Opens one, ready for calls.
    async fn dial(&self) -> Result<Self::Caller>;

    /// The process that serves, if dialling started it.
    fn server_pid(&self) -> Option<u32> {
        None
    }
}

/// One connection.
pub(crate) trait Caller {
    /// Has `body` echoed; the length of what came back.
    async fn call(&self, body: &Bytes) -> Result<usize>;

    /// Closes in good order.
    async fn close(self) -> Result<()>;
}

/// Makes the calls of one measurement.
pub(crate) async fn run<D: Dial>(case: &Case, dial: &D) -> Result<Figures> {
    let body = Bytes::from(vec![7; case.workload.body_len()]);
    match case.workload {
        Workload::W5 => return connections(case, dial, &body).await,
        Workload::W6 => return memory(case, dial, &body).await,
        _ => {}
    }
    let mut callers = Vec::new();
    for _ in 0..case.workload.connections() {
        let caller = dial.dial().await?;
        check(caller.call(&body).await?, &body)?;
        callers.push(caller);
    }
    sys::use_cubic()?;
    let meter = Meter::start(case, dial.server_pid().unwrap_or(case.server_pid));
    if case.workload == Workload::W1 {
        one_by_one(&callers[0], &body, &meter).await?;
    } else if case.subject.way() == Way::Buffered {
        buffered(&callers[0], case.workload.outstanding(), &body, &meter).await?;
    } else {
        let mut all = FuturesUnordered::new();
        for caller in &callers {
            for _ in 0..case.workload.outstanding() {
                all.push(again_and_again(caller, &body, &meter));
            }
        }
        while let Some(result) = all.next().await {
            result?;
        }
    }
    let figures = meter.figures()?;
    for caller in callers {
        caller.close().await?;
    }
    Ok(figures)
}

pub(crate) fn check(len: usize, body: &Bytes) -> Result<()> {
    if len != body.len() {
        return Err(format!("{len} bytes came back of {}", body.len()).into());
    }
    Ok(())
}

async fn one_by_one(caller: &impl Caller, body: &Bytes, meter: &Meter) -> Result<()> {
    loop {
        let begun = now();
        check(caller.call(body).await?, body)?;
        if !meter.time(begun) {
            return Ok(());
        }
    }
}

async fn again_and_again(caller: &impl Caller, body: &Bytes, meter: &Meter) -> Result<()> {
    loop {
        check(caller.call(body).await?, body)?;
        if !meter.count(1) {
            return Ok(());
        }
    }
}

/// Keeps `outstanding` calls in flight: begins one for each that completes.
async fn buffered(
    caller: &impl Caller,
    outstanding: usize,
    body: &Bytes,
    meter: &Meter,
) -> Result<()> {
    let calls = stream::repeat_with(|| caller.call(body)).buffer_unordered(outstanding);
    let mut calls = std::pin::pin!(calls);
    while let Some(len) = calls.next().await {
        check(len?, body)?;
        if !meter.count(1) {
            break;
        }
    }
    Ok(())
}

/// W5.
async fn connections<D: Dial>(case: &Case, dial: &D, body: &Bytes) -> Result<Figures> {
    let meter = Meter::start(case, case.server_pid);
    loop {
        let caller = dial.dial().await?;
        check(caller.call(body).await?, body)?;
        caller.close().await?;
        if !meter.count(1) {
            return meter.figures();
        }
    }
}

/// How long connections stay idle before their memory is looked at: acknowledgements that wait for company leave.
const IDLE: Duration = Duration::from_millis(400);

/// W6.
async fn memory<D: Dial>(case: &Case, dial: &D, body: &Bytes) -> Result<Figures> {
    let observer = dial.dial().await?;
    check(observer.call(body).await?, body)?;
    let before = sys::resident_bytes(case.server_pid)?;
    let mut callers = Vec::new();
    for _ in 0..case.workload.connections() {
        let caller = dial.dial().await?;
        check(caller.call(body).await?, body)?;
        callers.push(caller);
    }
    let until = now() + IDLE;
    while now() < until {
        check(observer.call(body).await?, body)?;
        crate::clock::sleep(Duration::from_millis(20)).await;
    }
    let grown = sys::resident_bytes(case.server_pid)?.saturating_sub(before);
    let connection_bytes = grown / callers.len() as u64;
    Ok(Figures { connection_bytes, calls: callers.len() as u64, ..Figures::default() })
}
