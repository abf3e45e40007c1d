//! The function of an upload, until the commit's call takes it over.
//!
//! It is polled by a task of its own, and at once by the call that brings a chunk it waits for: so a chunk costs no switch of
//! tasks. Both poll with the task's waker, since the call may be gone when the function continues.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::messages::ServerBreak;
use super::queue::Queue;
use crate::caught::{Guarded, caught, register, wake_all};
use crate::sync::Lock;
use crate::transport::BoxFuture;

type BoxFunction<R> = Guarded<BoxFuture<'static, R>>;

pub(super) struct Staging<R> {
    pub(super) queue: Arc<Queue>,
    state: Lock<State<R>>,
}

struct State<R> {
    function: Function<R>,
    /// The task's waker, once it was polled.
    task: Option<Waker>,
    /// The commit's, while another polls the function.
    commit: Option<Waker>,
}

enum Function<R> {
    Resting(BoxFunction<R>),
    /// Without the lock. `again`: it must be polled once more.
    Polled {
        again: bool,
    },
    Returned(Guarded<Option<R>>),
    /// It was dropped, or the commit has it.
    Gone(ServerBreak),
}

/// What the commit finds.
pub(super) enum Claimed<R> {
    /// It has not returned: it is the commit's from now on.
    Function(BoxFunction<R>),
    /// It has returned without reading all.
    Returned(R),
    Broken(ServerBreak),
}

impl<R: Send + 'static> Staging<R> {
    pub(super) fn new(
        queue: Arc<Queue>,
        function: impl Future<Output = R> + Send + 'static,
    ) -> Staging<R> {
        let function = Function::Resting(Guarded::new(Box::pin(function)));
        Staging { queue, state: Lock::new(State { function, task: None, commit: None }) }
    }

    /// The task that polls the function.
    pub(super) async fn run(self: Arc<Self>) {
        poll_fn(|cx| {
            let mut dropped = Vec::new();
            register(&mut self.state.lock().task, cx, &mut dropped);
            drop(dropped);
            self.poll_function(cx.waker());
            match self.state.lock().function {
                Function::Resting(_) | Function::Polled { .. } => Poll::Pending,
                Function::Returned(_) | Function::Gone(_) => Poll::Ready(()),
            }
        })
        .await;
    }

    /// The function waits with this waker for what has come.
    pub(super) fn wake(&self, reader: Waker) {
        let is_own = self.state.lock().task.as_ref().is_some_and(|task| task.will_wake(&reader));
        if is_own {
            self.poll_function(&reader);
        } else {
            // It reads in a task of the user's, or the commit has it.
            wake_all(vec![reader]);
        }
    }

    fn poll_function(&self, waker: &Waker) {
        loop {
            let polled = Function::Polled { again: false };
            let mut function = {
                let mut state = self.state.lock();
                match std::mem::replace(&mut state.function, polled) {
                    Function::Resting(function) => function,
                    Function::Polled { .. } => {
                        state.function = Function::Polled { again: true };
                        return;
                    }
                    over @ (Function::Returned(_) | Function::Gone(_)) => {
                        state.function = over;
                        return;
                    }
                }
            };
            let mut cx = Context::from_waker(waker);
            let poll = caught(|| {
                function.get_mut().map_or(Poll::Pending, |function| function.as_mut().poll(&mut cx))
            });
            if !self.put_back(function, poll) {
                return;
            }
        }
    }

    /// Says whether it must be polled again.
    fn put_back(
        &self,
        function: BoxFunction<R>,
        poll: Result<Poll<R>, crate::caught::Panicked>,
    ) -> bool {
        let after = match (poll, self.queue.poll_broken(None)) {
            (Err(_), _) => Function::Gone(ServerBreak::Panicked),
            (Ok(Poll::Ready(value)), _) => Function::Returned(Guarded::new(Some(value))),
            (Ok(Poll::Pending), Poll::Ready(why)) => Function::Gone(why),
            (Ok(Poll::Pending), Poll::Pending) => {
                let (again, commit, closed) = {
                    let mut state = self.state.lock();
                    match state.function {
                        Function::Polled { again } => {
                            state.function = Function::Resting(function);
                            (again, state.commit.take(), None)
                        }
                        _ => (false, state.commit.take(), Some(function)),
                    }
                };
                drop(closed);
                wake_all(commit.into_iter().collect());
                return again;
            }
        };
        drop(function);
        let broken = if let Function::Gone(why) = &after { Some(*why) } else { None };
        let (closed, commit) = {
            let mut state = self.state.lock();
            let closed = match state.function {
                Function::Polled { .. } => std::mem::replace(&mut state.function, after),
                _ => after,
            };
            (closed, state.commit.take())
        };
        // Only now: who learns of it by the queue finds it here.
        match broken {
            Some(why) => self.queue.break_off(why),
            None => self.queue.stop(),
        }
        // What it has returned is the user's too.
        drop(closed);
        wake_all(commit.into_iter().collect());
        false
    }

    /// Takes the function for the commit.
    pub(super) fn poll_claim(&self, cx: &mut Context<'_>) -> Poll<Claimed<R>> {
        let mut dropped = Vec::new();
        let (claimed, task) = {
            let mut state = self.state.lock();
            if let Function::Polled { .. } = state.function {
                register(&mut state.commit, cx, &mut dropped);
                drop(state);
                drop(dropped);
                return Poll::Pending;
            }
            let gone = Function::Gone(ServerBreak::Lost);
            (std::mem::replace(&mut state.function, gone), state.task.take())
        };
        wake_all(task.into_iter().collect());
        Poll::Ready(match claimed {
            Function::Resting(function) => Claimed::Function(function),
            Function::Returned(mut value) => match value.get_mut().and_then(Option::take) {
                Some(value) => Claimed::Returned(value),
                None => Claimed::Broken(ServerBreak::Lost),
            },
            Function::Gone(why) => Claimed::Broken(why),
            Function::Polled { .. } => unreachable!("it is resting"),
        })
    }

    /// A commit that was rolled back gives back what it has claimed; says whether it had claimed anything.
    pub(super) fn give_back(&self, mut value: Guarded<Option<R>>) -> bool {
        let is_there = value.get_mut().is_some_and(|value| value.is_some());
        if is_there {
            let before =
                std::mem::replace(&mut self.state.lock().function, Function::Returned(value));
            drop(before);
        }
        is_there
    }

    /// The upload is over, and was not committed: drops the function. Calls that wait learn that it is lost.
    pub(super) fn close(&self) {
        self.queue.break_off(ServerBreak::Lost);
        let (function, task) = {
            let mut state = self.state.lock();
            let gone = Function::Gone(ServerBreak::Lost);
            (std::mem::replace(&mut state.function, gone), state.task.take())
        };
        drop(function);
        wake_all(task.into_iter().collect());
    }
}
