//! A wait for a session, which leaves nothing behind when it is dropped: a program may ask again and again, with a time limit of its
//! own, while its server is away for hours.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::shared::Shared;
use crate::waiters::Place;

/// Whether a client's session is open, once it is, or never will be.
pub(super) struct Connected<'a> {
    shared: &'a Shared,
    place: Place,
}

impl<'a> Connected<'a> {
    pub(super) fn new(shared: &'a Shared) -> Connected<'a> {
        Connected { shared, place: None }
    }
}

impl Future for Connected<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let Connected { shared, place } = &mut *self;
        shared.poll_connected(place, cx)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.shared.leave_connected(&mut self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::client::{Client, ClientOptions, Servers};
    use crate::transport::Nowhere;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    /// A task that asks once whether the client is connected, and is dropped.
    fn ask(client: &Client) -> Arc<Task> {
        let task = Arc::new(Task);
        let waker = Waker::from(task.clone());
        let mut connected = std::pin::pin!(client.connected());
        assert!(connected.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(Arc::strong_count(&task) > 2, "it will be woken");
        task
    }

    #[test]
    fn c428_who_has_stopped_waiting_for_a_connection_is_forgotten() {
        let one = Client::new(Nowhere, ClientOptions::default());
        let several = Servers::new([Nowhere, Nowhere]).client(ClientOptions::default()).unwrap();
        for client in [one, several] {
            for _ in 0..3 {
                assert_eq!(Arc::strong_count(&ask(&client)), 1, "nothing is left of it");
            }
        }
    }
}
