//! Submits jobs to whichever server takes them. Each error that it collects names the server that it comes from, and the instance.

use std::time::Duration;

use oncewire::{Client, OnDialFailure, TcpConnector};

use crate::{Job, JobsClient, Taken, now, options, sleep};

/// How long a server may take to answer, before another one is asked.
const ANSWER: Duration = Duration::from_millis(500);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(10);

/// Knows some servers, and remembers which took the last job.
#[derive(Debug)]
pub struct Submitter {
    servers: Vec<JobsClient>,
    last: usize,
    /// Attempts that were made, with those that did not succeed.
    pub attempts: u64,
}

/// Why no server has taken a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotTaken {
    /// What each server said, in the last round in which one answered, if one did.
    pub said: Vec<String>,
    /// A server has answered, and may take the job later.
    pub is_worth_another: bool,
}

impl Submitter {
    /// A client of the servers at these addresses.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Submitter {
        let mut options = options().with_timeout(ANSWER).with_fail_fast(true);
        options.on_dial_failure = OnDialFailure::End;
        let client = |at| JobsClient(Client::new(TcpConnector::new(at), options.clone()));
        Submitter { servers: addresses.into_iter().map(client).collect(), last: 0, attempts: 0 }
    }

    /// Submits a job to one server after the other until one takes it. That is safe also where an attempt's outcome is unknown: the
    /// job has a name, and a server that finds it in the spool says that it has it.
    ///
    /// # Errors
    /// What the servers have said, if none takes it within this time.
    pub async fn submit(&mut self, job: &Job, within: Duration) -> Result<Taken, NotTaken> {
        let begun = now();
        let mut said = NotTaken::default();
        loop {
            let mut failed = NotTaken::default();
            for _ in 0..self.servers.len() {
                self.attempts += 1;
                match self.servers[self.last].submit(job.clone()).result().await {
                    Ok(Ok(taken)) => return Ok(taken),
                    Ok(Err(refused)) => {
                        failed.said.push(format!("{}: {}", refused.by, refused.why));
                        failed.is_worth_another = !refused.for_good;
                        if refused.for_good {
                            return Err(failed);
                        }
                    }
                    Err(why) => failed.said.push(why.to_string()),
                }
                self.last = (self.last + 1) % self.servers.len();
            }
            if failed.is_worth_another || !said.is_worth_another {
                said = failed;
            }
            if now().since(begun) > within {
                return Err(said);
            }
            sleep(PAUSE).await;
        }
    }
}
