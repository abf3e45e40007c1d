//! A server as in the story: whichever sees a file first takes it, says so in its log, and submits it. It does not look at what becomes
//! of that, and no line says which server wrote it.

use std::sync::Arc;

use oncewire::Context;

use crate::server::LOOK;
use crate::spool::Spool;
use crate::{Job, Jobs, Refused, RunnerClient, Taken, Token, sleep};

/// Takes every job.
pub(crate) struct Naive(pub(crate) Arc<Spool>);

impl Jobs for Naive {
    fn submit(&self, _: Context, job: Job) -> Result<Taken, Refused> {
        output::show!("job {}: accepted", job.name);
        self.0.take(&job, "jobs")
    }
}

/// Takes what waits out of the spool, one by one.
pub(crate) async fn work<T>(spool: &Arc<Spool>, runner: &RunnerClient) -> T {
    loop {
        let there = spool.clone();
        let take = move || {
            let job = there.waiting(1).ok()?.pop()?;
            // Of two servers that see it, one gets it.
            there.put_away(&job.name).ok()?.then_some(job)
        };
        if let Some(job) = smol::unblock(take).await {
            output::show!("job {}: submitted", job.name);
            let call = runner.start(Token(0), job);
            // What the library says here is what was missing in the story.
            smol::spawn(async move { drop(call.await) }).detach();
        }
        sleep(LOOK).await;
    }
}
