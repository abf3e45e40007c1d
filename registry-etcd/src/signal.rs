//! Wakes those that wait for something to change.

use std::sync::Mutex;
use std::task::{Poll, Waker};

use crate::client::lock;

#[derive(Debug, Default)]
pub(crate) struct Signal {
    wakers: Mutex<Vec<Waker>>,
}

impl Signal {
    /// Something has changed.
    pub(crate) fn notify(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until this is there. It is asked again after each [`notify`](Signal::notify).
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        std::future::poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let mut wakers = lock(&self.wakers);
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            drop(wakers);
            // It may have changed before the waker was there.
            look().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
