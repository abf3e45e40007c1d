//! Wakes those that wait for something to change.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use crate::client::lock;

#[derive(Debug, Default)]
pub(crate) struct Signal {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// One that waits. It leaves nothing behind when it is dropped: a signal may come late or never, and many may wait for it for a moment.
struct Waiter<'a> {
    signal: &'a Signal,
    number: Option<u64>,
}

impl Signal {
    /// Something has changed.
    pub(crate) fn notify(&self) {
        let wakers = std::mem::take(&mut lock(&self.waiting).wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Waits until this is there. It is asked again after each [`notify`](Signal::notify).
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let mut waiter = Waiter { signal: self, number: None };
        std::future::poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            waiter.wait(cx);
            // It may have changed before the waker was there.
            look().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Waiter<'_> {
    fn wait(&mut self, cx: &Context<'_>) {
        let waker = cx.waker().clone();
        let mut waiting = lock(&self.signal.waiting);
        let number = *self.number.get_or_insert_with(|| {
            waiting.last += 1;
            waiting.last
        });
        let replaced = waiting.wakers.insert(number, waker);
        drop(waiting);
        // A waker is the executor's code: it is dropped without the lock.
        drop(replaced);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let left = lock(&self.signal.waiting).wakers.remove(&number);
            drop(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn those_that_stop_waiting_leave_nothing_behind() {
        let signal = Signal::default();
        for _ in 0..10 {
            let mut waiting = pin!(signal.until(|| None::<()>));
            for _ in 0..2 {
                assert!(smol::block_on(smol::future::poll_once(waiting.as_mut())).is_none());
            }
            assert_eq!(lock(&signal.waiting).wakers.len(), 1);
        }
        assert_eq!(lock(&signal.waiting).wakers.len(), 0);
    }
}
