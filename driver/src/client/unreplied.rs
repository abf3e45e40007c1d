//! Outcomes as `Result`s: for `?`.

use std::fmt;

use oncewire_core::{Executed, NoReply, NotExecuted, Unknown};

use super::outcome::{CallFailure, Outcome, Ticket};

/// The outcome of a call that brought no reply, with its ticket if there is one: see [`Outcome::into_result`].
#[derive(Debug)]
#[must_use = "the call may not have been executed: this says whether it was"]
pub enum Unreplied<R> {
    /// Executed, perhaps in part, but there is no reply to show.
    NoReply(NoReply),
    /// Not executed, and it never will be.
    NotExecuted(NotExecuted),
    /// It is not known whether it was executed. The ticket, if there is one, waits for the answer.
    Unknown(Unknown, Option<Ticket<R>>),
}

impl<R> Unreplied<R> {
    /// Whether the call was executed.
    pub fn executed(&self) -> Executed {
        self.failure().executed()
    }

    /// The same without the ticket, which stays here.
    pub fn failure(&self) -> CallFailure {
        match self {
            Unreplied::NoReply(why) => CallFailure::NoReply(*why),
            Unreplied::NotExecuted(why) => CallFailure::NotExecuted(*why),
            Unreplied::Unknown(why, _) => CallFailure::Unknown(*why),
        }
    }

    /// The right to ask again, if there is one.
    pub fn into_ticket(self) -> Option<Ticket<R>> {
        match self {
            Unreplied::Unknown(_, ticket) => ticket,
            Unreplied::NoReply(_) | Unreplied::NotExecuted(_) => None,
        }
    }
}

impl<R> fmt::Display for Unreplied<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<R: fmt::Debug> std::error::Error for Unreplied<R> {}

impl<R> From<Unreplied<R>> for CallFailure {
    /// Drops the ticket.
    fn from(unreplied: Unreplied<R>) -> CallFailure {
        unreplied.failure()
    }
}

impl<R> Outcome<R> {
    /// The reply, or why there is none and the ticket that may be left. [`ok`](Outcome::ok) does the same for those who need no
    /// ticket.
    ///
    /// ```
    /// use oncewire_driver::{Client, Method, Unreplied};
    ///
    /// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
    ///
    /// async fn add_one(client: &Client, n: i32) -> Result<i32, Unreplied<i32>> {
    ///     let sum = client.call(&ADD_ONE, &n).await.into_result()?;
    ///     Ok(sum)
    /// }
    /// ```
    ///
    /// # Errors
    /// Everything but a reply.
    pub fn into_result(self) -> Result<R, Unreplied<R>> {
        match self {
            Outcome::Reply(reply) => Ok(reply),
            Outcome::NoReply(why) => Err(Unreplied::NoReply(why)),
            Outcome::NotExecuted(why) => Err(Unreplied::NotExecuted(why)),
            Outcome::Unknown(why, ticket) => Err(Unreplied::Unknown(why, ticket)),
        }
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

impl<R> Ticket<R> {
    /// Blocks this thread until the final outcome is there: see [`wait`](Ticket::wait) and [`Call::block`](crate::Call::block).
    pub fn block(&mut self) -> Outcome<R> {
        smol::block_on(self.wait())
    }
}
