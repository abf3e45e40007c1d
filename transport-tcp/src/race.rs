//! Several addresses tried at once, each a little after the one before it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_driver::{BoxFuture, Runtime, SmolRuntime, Timer};

/// The "Connection Attempt Delay" that RFC 8305 recommends: when the next address is tried beside one that is silent.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Families in turn, as RFC 8305 (section 4) has it: the first one is that of the first address, which the system's
/// resolver has chosen (RFC 6724). Otherwise the order stays.
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_ipv4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return mixed,
            (one, other) => mixed.extend(one.into_iter().chain(other)),
        }
    }
}

/// Attempts at all addresses. The first that succeeds ends it; dropping it gives all attempts up.
pub(crate) struct Race<T> {
    waiting: VecDeque<SocketAddr>,
    running: Vec<(SocketAddr, BoxFuture<'static, io::Result<T>>)>,
    failed: Vec<(SocketAddr, io::Error)>,
    dial: fn(SocketAddr) -> BoxFuture<'static, io::Result<T>>,
    timer: Box<dyn Timer>,
}

impl<T> Race<T> {
    pub(crate) fn new(
        addresses: impl IntoIterator<Item = SocketAddr>,
        dial: fn(SocketAddr) -> BoxFuture<'static, io::Result<T>>,
    ) -> Race<T> {
        let timer = SmolRuntime::global().timer();
        let waiting = addresses.into_iter().collect();
        Race { waiting, running: Vec::new(), failed: Vec::new(), dial, timer }
    }

    /// Begins the next attempt, if there is an address left.
    fn start_next(&mut self) {
        let Some(address) = self.waiting.pop_front() else { return };
        self.running.push((address, (self.dial)(address)));
        self.timer.set(SmolRuntime::global().now() + ATTEMPT_DELAY);
    }

    /// Polls every attempt; says whether one failed, or which one succeeded.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Result<bool, (SocketAddr, T)> {
        let mut any_failed = false;
        let mut i = 0;
        while let Some((address, attempt)) = self.running.get_mut(i) {
            match attempt.as_mut().poll(cx) {
                Poll::Pending => i += 1,
                Poll::Ready(Ok(connection)) => return Err((*address, connection)),
                Poll::Ready(Err(error)) => {
                    let (address, _) = self.running.remove(i);
                    self.failed.push((address, error));
                    any_failed = true;
                }
            }
        }
        Ok(any_failed)
    }
}

impl<T> Future for Race<T> {
    /// The connection and where it leads, or why each address failed, in the order in which they did.
    type Output = Result<(SocketAddr, T), Vec<(SocketAddr, io::Error)>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match this.poll_running(cx) {
                Err(won) => return Poll::Ready(Ok(won)),
                // Who fails is not waited for.
                Ok(true) => this.start_next(),
                Ok(false) if this.running.is_empty() && this.waiting.is_empty() => {
                    return Poll::Ready(Err(std::mem::take(&mut this.failed)));
                }
                Ok(false) if this.running.is_empty() => this.start_next(),
                Ok(false) if this.waiting.is_empty() => return Poll::Pending,
                Ok(false) => match this.timer.poll(cx) {
                    Poll::Ready(()) => this.start_next(),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &str) -> Vec<SocketAddr> {
        list.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_the_first_stays_first() {
        let mixed = "[::1]:1 [::2]:1 [::3]:1 10.0.0.1:1 10.0.0.2:1";
        let expected = "[::1]:1 10.0.0.1:1 [::2]:1 10.0.0.2:1 [::3]:1";
        assert_eq!(interleave(addresses(mixed)), addresses(expected));
        let one_family = addresses("10.0.0.2:1 10.0.0.1:1");
        assert_eq!(interleave(one_family.clone()), one_family);
        let ipv4_first = interleave(addresses("10.0.0.1:1 10.0.0.2:1 [::1]:1"));
        assert_eq!(ipv4_first, addresses("10.0.0.1:1 [::1]:1 10.0.0.2:1"));
        assert_eq!(interleave(Vec::new()), Vec::new());
    }
}
