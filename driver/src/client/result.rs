//! Outcomes as `Result`s: for `?`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use oncewire_core::{Executed, NotExecuted};

use super::call::Call;
use super::outcome::{CallFailure, Outcome, Ticket};
use super::report::CallReport;

/// A call without a reply: why there is none ([`CallFailure`]), its ticket if it has one, and what is known of it ([`CallReport`]).
///
/// [`Call::result`] gives it with its report, so that its text says which method of which server it was, why, and by what
/// session and number the server's records know it. [`Outcome::into_result`] gives it without.
///
/// ```
/// use oncewire_driver::{CallFailure, Client, FailedCall, Method, NotExecuted};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
///
/// async fn add_one(client: &Client, n: i32) -> Result<i32, FailedCall<i32>> {
///     let failed = match client.call(&ADD_ONE, &n).result().await {
///         Ok(sum) => return Ok(sum),
///         Err(failed) => failed,
///     };
///     match failed.failure() {
///         CallFailure::NotExecuted(NotExecuted::Overloaded) => println!("try again later"),
///         _ => println!("{failed}"),
///     }
///     Err(failed)
/// }
/// ```
#[must_use = "the call may not have been executed: this says whether it was"]
pub struct FailedCall<R> {
    failure: CallFailure,
    ticket: Option<Ticket<R>>,
    report: Option<Box<CallReport>>,
}

impl<R> FailedCall<R> {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        self.failure.executed()
    }

    /// Why there is no reply: what to branch on.
    pub fn failure(&self) -> CallFailure {
        self.failure
    }

    /// What is known of the call, if it came from [`Call::result`].
    pub fn report(&self) -> Option<&CallReport> {
        self.report.as_deref()
    }

    /// The right to ask again, if there is one: only what is unknown has it.
    pub fn into_ticket(self) -> Option<Ticket<R>> {
        self.ticket
    }

    fn with_report(self, report: CallReport) -> FailedCall<R> {
        FailedCall { report: Some(Box::new(report)), ..self }
    }
}

impl<R> fmt::Display for FailedCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.report {
            Some(report) => report.write(self.failure, f),
            None => self.failure.fmt(f),
        }
    }
}

impl<R> fmt::Debug for FailedCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedCall")
            .field("failure", &self.failure)
            .field("ticket", &self.ticket)
            .field("report", &self.report)
            .finish()
    }
}

impl<R> std::error::Error for FailedCall<R> {}

impl<R> From<FailedCall<R>> for CallFailure {
    /// Drops the ticket and the report.
    fn from(failed: FailedCall<R>) -> CallFailure {
        failed.failure
    }
}

impl<R> Outcome<R> {
    /// The reply, or why there is none and the ticket that may be left. [`ok`](Outcome::ok) does the same for those who need no
    /// ticket; [`Call::result`] says more of what went wrong.
    ///
    /// # Errors
    /// Everything but a reply.
    pub fn into_result(self) -> Result<R, FailedCall<R>> {
        let (failure, ticket) = match self {
            Outcome::Reply(reply) => return Ok(reply),
            Outcome::NoReply(why) => (CallFailure::NoReply(why), None),
            Outcome::NotExecuted(why) => (CallFailure::NotExecuted(why), None),
            Outcome::Unknown(why, ticket) => (CallFailure::Unknown(why), ticket),
        };
        Err(FailedCall { failure, ticket, report: None })
    }

    /// The reply, or why the call was not executed, for those who make it again then; all else is an error.
    ///
    /// ```
    /// use oncewire_driver::{CallFailure, Client, Method};
    ///
    /// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
    ///
    /// async fn add_one(client: &Client, n: i32) -> Result<Option<i32>, CallFailure> {
    ///     for _attempt in 0..3 {
    ///         match client.call(&ADD_ONE, &n).await.or_not_executed()? {
    ///             Ok(sum) => return Ok(Some(sum)),
    ///             Err(why) => println!("once more, since it was not executed: {why}"),
    ///         }
    ///     }
    ///     Ok(None)
    /// }
    /// ```
    ///
    /// # Errors
    /// The call was executed and has no reply, or it is not known whether it was. Drops the ticket.
    pub fn or_not_executed(self) -> Result<Result<R, NotExecuted>, CallFailure> {
        match self.ok() {
            Ok(reply) => Ok(Ok(reply)),
            Err(CallFailure::NotExecuted(why)) => Ok(Err(why)),
            Err(failure) => Err(failure),
        }
    }
}

/// A call as a future of its reply, or of an error that says all that is known: see [`Call::result`].
#[must_use = "a call begins when it is awaited, and is cancelled when it is dropped"]
#[derive(Debug)]
pub struct CallResult<R>(pub(super) Call<R>);

impl<R> CallResult<R> {
    /// Blocks this thread until the call has its outcome: see [`Call::block`].
    ///
    /// # Errors
    /// Everything but a reply.
    pub fn block(self) -> Result<R, FailedCall<R>> {
        smol::block_on(CallResult(self.0.unless_forked()))
    }
}

impl<R> Future for CallResult<R> {
    type Output = Result<R, FailedCall<R>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut trace = None;
        let outcome = std::task::ready!(self.0.poll_traced(cx, &mut trace));
        let result = outcome.into_result();
        Poll::Ready(result.map_err(|failed| {
            let report = self.0.report(failed.failure(), trace);
            failed.with_report(report)
        }))
    }
}
