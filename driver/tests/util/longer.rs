//! Timeouts of calls that a test makes again because a busy machine has not sent them in time. Included by path.

use std::time::Duration;

/// More than any machine needs: what was not sent in this time will not be.
const ENOUGH: Duration = Duration::from_secs(20);

/// Twice the time, for the next attempt.
pub(crate) fn longer(timeout: Duration) -> Duration {
    assert!(timeout < ENOUGH, "a call was not sent within {timeout:?}");
    2 * timeout
}
