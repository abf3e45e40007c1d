//! Calls again what was truthfully not executed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncewire_core::{Instant, NotBegun, NotExecuted};

use super::backoff::random_part;
use super::call::Call;
use super::outcome::CallFailure;
use super::result::FailedCall;
use crate::runtime::Runtime;

/// Thousandths of a token that a retry costs, and that a reply earns.
const RETRY_COST: u32 = 1000;
const REPLY_EARNS: u32 = 100;
const TOKENS_MAX: u32 = 10 * RETRY_COST;

/// Makes a call again as long as it was truthfully not executed, and another attempt may do better:
///
/// | it ended as | because |
/// |---|---|
/// | `Overloaded` | the server had no room for it |
/// | `ShuttingDown` | the server was draining |
/// | `LedgerFailed` | the server's ledger could not write |
/// | `NeverConnected`, `Disconnected` | there was no connection |
/// | `NotCompared` | the server did not say in time which signature the method has |
/// | `DeadlinePassed` | its own timeout passed before it was started; the budget is what bounds the attempts |
/// | `NotBegun` with `TooManyCalls` or `TooManyBytes` | the client had too much pending |
///
/// What was executed, or may have been, is never made again here; that is what tickets are for. Nor is what will end so every time:
/// unknown methods, bad arguments, a transaction that was rolled back.
///
/// Between two attempts it pauses, each time for longer and at random, so that clients do not come back together. All of it, the
/// attempts' own time included, takes no longer than the budget: the last attempts' timeouts are cut to what is left of it.
///
/// Keep one for each server, and clone it: its clones share a second budget, of retries. Ten can be made at once, and then one
/// for ten replies. So a server that is overloaded gets at most a tenth more calls by it, and not many times as many.
///
/// ```
/// use std::time::Duration;
/// use oncewire_driver::{Client, FailedCall, Method, Retry};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
///
/// async fn add_one(client: &Client, retry: &Retry, n: i32) -> Result<i32, FailedCall<i32>> {
///     retry.call(|| client.call(&ADD_ONE, &n).timeout(Duration::from_secs(2))).await
/// }
///
/// let retry = Retry::within(Duration::from_secs(10)).attempts_max(5);
/// # drop(retry);
/// ```
#[derive(Clone, Debug)]
pub struct Retry {
    budget: Duration,
    attempts_max: u32,
    pause_min: Duration,
    pause_max: Duration,
    tokens: RetryBudget,
}

/// A budget of calls that are made again, which replies fill. Its clones share it.
#[derive(Clone, Debug)]
pub(super) struct RetryBudget(Arc<AtomicU32>);

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget(Arc::new(AtomicU32::new(TOKENS_MAX)))
    }
}

impl RetryBudget {
    /// There was a reply.
    pub(super) fn earn(&self) {
        let earned = |tokens: u32| Some((tokens + REPLY_EARNS).min(TOKENS_MAX));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Takes a token, if there is one.
    pub(super) fn spend(&self) -> bool {
        let spent = |tokens: u32| tokens.checked_sub(RETRY_COST);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}

impl Retry {
    /// At most this long, with all attempts and pauses, and at most 10 attempts. The first pause is at most 50 ms, each next one
    /// at most twice as long, and none longer than 5 s.
    pub fn within(budget: Duration) -> Retry {
        Retry {
            budget,
            attempts_max: 10,
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(5),
            tokens: RetryBudget::default(),
        }
    }

    /// At most this many attempts, the first one included; 0 counts as 1.
    pub fn attempts_max(self, attempts: u32) -> Retry {
        Retry { attempts_max: attempts, ..self }
    }

    /// The longest first pause, and the longest of all.
    pub fn pauses(self, first_max: Duration, max: Duration) -> Retry {
        Retry { pause_min: first_max, pause_max: max, ..self }
    }

    /// Makes the call that `make` describes, and again while that helps. `make` must not [`start`](Call::start) it: the timeout
    /// of a call that has begun cannot be cut to the budget any more.
    ///
    /// # Errors
    /// That of the last attempt, with its report and its ticket.
    pub async fn call<R>(&self, mut make: impl FnMut() -> Call<R>) -> Result<R, FailedCall<R>> {
        let mut until = None;
        let mut attempt = 1;
        loop {
            let call = make();
            let runtime = call.runtime().clone();
            let now = runtime.now();
            let until = *until.get_or_insert(now + self.budget);
            let failed = match call.timeout_at_most(until.since(now)).result().await {
                Ok(reply) => {
                    self.tokens.earn();
                    return Ok(reply);
                }
                Err(failed) => failed,
            };
            let now = runtime.now();
            let pause = self.pause(attempt, &*runtime);
            if attempt >= self.attempts_max
                || !is_worth_another(failed.failure())
                || pause >= until.since(now)
                || !self.tokens.spend()
            {
                return Err(failed);
            }
            drop(failed);
            sleep_until(&*runtime, now + pause).await;
            attempt += 1;
        }
    }

    /// The same for a thread that runs nothing else: see [`Call::block`].
    ///
    /// # Errors
    /// That of the last attempt.
    pub fn block<R>(&self, mut make: impl FnMut() -> Call<R>) -> Result<R, FailedCall<R>> {
        smol::block_on(self.call(|| make().unless_forked()))
    }

    /// The pause after so many attempts: random over the whole span.
    fn pause(&self, attempts: u32, runtime: &dyn Runtime) -> Duration {
        let doublings = (attempts - 1).min(16);
        let span = self.pause_min.saturating_mul(1 << doublings).min(self.pause_max);
        let mut random = [0; 8];
        runtime.random(&mut random);
        random_part(span, u64::from_le_bytes(random))
    }
}

async fn sleep_until(runtime: &dyn Runtime, at: Instant) {
    let mut timer = runtime.timer();
    timer.set(at);
    std::future::poll_fn(|cx| timer.poll(cx)).await;
}

/// Whether a call that ended so was not executed, and may be if it is made again.
fn is_worth_another(failure: CallFailure) -> bool {
    let CallFailure::NotExecuted(why) = failure else { return false };
    matches!(
        why,
        NotExecuted::Overloaded
            | NotExecuted::DeadlinePassed
            | NotExecuted::ShuttingDown
            | NotExecuted::LedgerFailed
            | NotExecuted::Disconnected
            | NotExecuted::NeverConnected
            | NotExecuted::NotCompared
            | NotExecuted::NotBegun(NotBegun::TooManyCalls { .. } | NotBegun::TooManyBytes { .. })
    )
}

#[cfg(test)]
mod tests {
    use oncewire_core::{NoReply, Unknown};

    use super::*;

    #[test]
    fn only_what_was_not_executed_and_may_be_next_time_is_made_again() {
        let again =
            [NotExecuted::Overloaded, NotExecuted::ShuttingDown, NotExecuted::NeverConnected];
        for why in again {
            assert!(is_worth_another(CallFailure::NotExecuted(why)), "{why}");
        }
        let never = [
            CallFailure::NotExecuted(NotExecuted::UnknownMethod),
            CallFailure::NotExecuted(NotExecuted::BadArguments),
            CallFailure::NotExecuted(NotExecuted::Aborted),
            CallFailure::NotExecuted(NotExecuted::Cancelled),
            CallFailure::NotExecuted(NotExecuted::SessionRefused),
            CallFailure::NotExecuted(NotExecuted::SignatureMismatch),
            CallFailure::NotExecuted(NotExecuted::NotBegun(NotBegun::Closed)),
            CallFailure::NoReply(NoReply::Aborted),
            CallFailure::Unknown(Unknown::DeadlinePassed),
            CallFailure::Unknown(Unknown::Repeated),
        ];
        for failure in never {
            assert!(!is_worth_another(failure), "{failure}");
        }
    }

    #[test]
    fn retries_have_a_budget_that_replies_fill() {
        let retry = Retry::within(Duration::ZERO);
        let (budget, clone) = (&retry.tokens, retry.clone().tokens);
        assert_eq!((0..20).filter(|_| clone.spend()).count(), 10);
        (0..9).for_each(|_| budget.earn());
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend() && !clone.spend());
    }
}
