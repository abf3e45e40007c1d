//! The task that keeps a server's time: one timer for the deadlines of its machine and of the calls that wait.
//!
//! It holds the server weakly, and looks once a second whether it still exists: a server without connections and handles
//! is gone, and there may be no event that could wake this task then.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Weak;
use std::task::{Context, Poll};
use std::time::Duration;

use super::state::Shared;
use crate::runtime::Timer;

/// Ends with the server.
pub(super) struct TimerTask {
    pub(super) shared: Weak<Shared>,
    pub(super) timer: Box<dyn Timer>,
}

/// How often the timer task checks whether its server still exists.
const TIMER_TASK_INTERVAL: Duration = Duration::from_secs(1);

impl Future for TimerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(shared) = self.shared.upgrade() else { return Poll::Ready(()) };
        let at = shared.with(|state, now| {
            if state.machine.poll_timeout().is_some_and(|at| at <= now) {
                state.machine.handle_timeout(now);
            }
            state.refuse_overdue(now);
            state.sweep(now);
            state.sweep_principals();
            state.timer_task = Some(cx.waker().clone());
            state.armed = state.next_timeout().min(now + TIMER_TASK_INTERVAL);
            state.armed
        });
        self.timer.set(at);
        if pin!(&mut self.timer).poll(cx).is_ready() {
            // More is due than one turn does: others get theirs.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
