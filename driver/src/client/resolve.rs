//! Tickets, waited for: as long as it takes, or for so long.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_core::Unknown;

use super::outcome::{Outcome, Ticket};
use crate::runtime::Timer;

impl<R> Ticket<R> {
    /// The final outcome if it comes within this time; otherwise `Unknown(DeadlinePassed)` again, with the ticket in it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use oncewire_driver::{Client, Method, Outcome};
    ///
    /// const PAY: Method<u64, u64> = Method::new("bank/pay");
    ///
    /// async fn pay(client: &Client, cents: u64) -> Outcome<u64> {
    ///     match client.call(&PAY, &cents).timeout(Duration::from_secs(1)).await {
    ///         // It takes longer than usual. It is not sent again.
    ///         Outcome::Unknown(_, Some(ticket)) => ticket.resolve(Duration::from_secs(60)).await,
    ///         outcome => outcome,
    ///     }
    /// }
    /// ```
    ///
    /// Dropping the future drops the ticket. To wait beside something else, and go on waiting later, use
    /// [`wait`](Ticket::wait).
    pub fn resolve(self, within: Duration) -> Resolve<R> {
        let runtime = &self.shared().runtime;
        let mut timer = runtime.timer();
        timer.set(runtime.now() + within);
        Resolve { ticket: Some(self), timer }
    }

    /// Blocks this thread until the final outcome is there: see [`wait`](Ticket::wait) and [`Call::block`](crate::Call::block).
    pub fn block(&mut self) -> Outcome<R> {
        if self.is_left_in_fork() {
            return Outcome::Unknown(Unknown::Closed, None);
        }
        smol::block_on(self.wait())
    }
}

/// What becomes of a ticket within some time: see [`Ticket::resolve`].
#[must_use = "the ticket is dropped with it: what it waits for is then not needed any more"]
pub struct Resolve<R> {
    ticket: Option<Ticket<R>>,
    timer: Box<dyn Timer>,
}

impl<R> Resolve<R> {
    /// Blocks this thread until there is an outcome, or the time has passed: see [`Call::block`](crate::Call::block).
    pub fn block(self) -> Outcome<R> {
        if self.ticket.as_ref().is_some_and(Ticket::is_left_in_fork) {
            return Outcome::Unknown(Unknown::Closed, None);
        }
        smol::block_on(self)
    }
}

impl<R> Future for Resolve<R> {
    type Output = Outcome<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        let Resolve { ticket, timer } = &mut *self;
        let Some(waiting) = ticket else { return Poll::Pending };
        if let Poll::Ready(outcome) = waiting.poll_final(cx) {
            *ticket = None;
            return Poll::Ready(outcome);
        }
        std::task::ready!(timer.poll(cx));
        waiting.stop_waiting();
        Poll::Ready(Outcome::Unknown(Unknown::DeadlinePassed, ticket.take()))
    }
}

impl<R> fmt::Debug for Resolve<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolve").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
