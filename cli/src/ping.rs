//! Who answers, and how fast.

use std::collections::BTreeMap;
use std::time::Duration;

use oncewire::{CallFailure, MethodId, NotExecuted};

use crate::args::PingArgs;
use crate::connect::{Session, Target, connect, now, pause};
use crate::exit::Failure;
use crate::{plain, say};

/// A method that no server has: its refusal is a round trip.
const NO_METHOD: MethodId = MethodId::of("oncewire/ping");

/// Makes a new connection each time.
pub(crate) async fn run(args: PingArgs) -> Result<(), Failure> {
    let target = Target::new(args.address, &args.identity)?;
    let mut answered: BTreeMap<String, u32> = BTreeMap::new();
    let mut failed = None;
    for at in 0..args.count {
        if at > 0 {
            pause(args.interval).await;
        }
        match ping(&target, args.timeout).await {
            Ok(instance) => *answered.entry(instance).or_default() += 1,
            Err(failure @ Failure::Unwritable(_)) => return Err(failure),
            Err(failure) => {
                if args.count > 1 {
                    say(&plain(&failure.to_string()))?;
                }
                failed = Some(failure);
            }
        }
    }
    if answered.len() > 1 {
        let times = |(instance, times): (&String, &u32)| format!("{instance} {times}x");
        let instances: Vec<_> = answered.iter().map(times).collect();
        say(&plain(&format!("{} instances answer: {}", answered.len(), instances.join(", "))))?;
    }
    failed.map_or(Ok(()), Err)
}

/// Returns which instance has answered.
pub(crate) async fn ping(target: &Target, timeout: Duration) -> Result<String, Failure> {
    let session = connect(target, timeout).await?;
    let began = now();
    let answer = session.client.call_raw(NO_METHOD, Vec::new()).timeout(timeout).result().await;
    let took = began.elapsed();
    let failed = answer.err();
    if let Some(failed) = failed.as_ref().filter(|failed| !is_answer(failed.failure())) {
        let (executed, why) = (failed.executed(), failed.to_string());
        return Err(Failure::NoReply { executed, why });
    }
    let report = failed.as_ref().and_then(|failed| failed.report());
    let service = report.and_then(|report| report.service);
    let service = service.map_or_else(String::new, |service| service.as_str().to_owned());
    let Session { client, took: connected, instance } = session;
    say(&plain(&format!(
        "{service} at {}: {instance}, connected in {connected:.0?}, answered in {took:.0?}",
        target.address
    )))?;
    client.close().await;
    Ok(instance.to_string())
}

/// Whether the server has said this.
fn is_answer(failure: CallFailure) -> bool {
    matches!(
        failure,
        CallFailure::NotExecuted(
            NotExecuted::UnknownMethod
                | NotExecuted::PermissionDenied
                | NotExecuted::Overloaded
                | NotExecuted::LedgerFailed
        )
    )
}
