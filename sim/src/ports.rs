//! Ports: where a process listens, beside or without a server of its own; and who dials them.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};

use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Subject};

use crate::parts::executor::lock;
use crate::process::Process;
use crate::sim::World;

/// Connections that were made to a port, and not accepted.
pub(crate) struct Port {
    /// Tells it from one of the same name before or after it.
    pub(crate) number: u64,
    pub(crate) waiting: VecDeque<(BoxStream, Subject)>,
    pub(crate) waker: Option<Waker>,
}

/// Listens on a port of a process, until it is dropped: [`Host::listen`](crate::Host::listen).
pub struct PortAcceptor {
    process: Arc<Process>,
    port: String,
    number: u64,
}

impl fmt::Debug for PortAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortAcceptor").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl PortAcceptor {
    pub(crate) fn new(process: &Arc<Process>, port: &str) -> io::Result<PortAcceptor> {
        let number = process.open_port(port)?;
        Ok(PortAcceptor { process: process.clone(), port: port.to_owned(), number })
    }
}

impl Accept for PortAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(std::future::poll_fn(|cx| {
            self.process.with_port(&self.port, self.number, |port| match port {
                Some(port) => match port.waiting.pop_front() {
                    Some(accepted) => Poll::Ready(Ok(accepted)),
                    None => {
                        port.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                },
                // The process is dead.
                None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            })
        }))
    }

    fn address(&self) -> String {
        format!("{}:{}", self.process.name, self.port)
    }
}

impl Drop for PortAcceptor {
    fn drop(&mut self) {
        self.process.close_port(&self.port, self.number);
    }
}

/// Dials a port of a process, which is found by its name at each dial.
pub(crate) struct PortDialler {
    pub(crate) world: Arc<World>,
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) port: String,
}

impl Connect for PortDialler {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let named = |process: &&Arc<Process>| process.name == self.server;
            let server = lock(&self.world.processes).iter().find(named).cloned();
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            self.world.dial(&self.client, &server, Some(&self.port)).await
        })
    }

    fn address(&self) -> String {
        format!("{}:{}", self.server, self.port)
    }

    /// No one else is on a simulated network.
    fn may_carry_token(&self) -> bool {
        true
    }
}
