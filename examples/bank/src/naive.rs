//! Plain at-least-once retries, as libraries do them that cannot tell "never arrived" from "executed, reply lost".
//!
//! Whatever has no reply is made again as a new call. It is the same library, the same server and the same faults; the
//! only difference is that the outcome is ignored.

use std::time::Duration;

use oncewire::{Call, Outcome};

use crate::chance::pause;

/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Makes a call again and again until there is a reply; says how many attempts it took.
pub(crate) async fn retry<R>(make: impl Fn() -> Call<R>) -> (R, u64) {
    let mut attempts = 1;
    loop {
        // A broken connection is an error to the caller, as elsewhere.
        if let Outcome::Reply(reply) = make().fail_fast(true).await {
            return (reply, attempts);
        }
        attempts += 1;
        pause(RETRY_PAUSE).await;
    }
}
