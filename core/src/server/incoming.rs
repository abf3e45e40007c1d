//! What a connection brings for the server's owner.

use super::execute::{Admission, CallKey};
use crate::ids::MethodId;
use crate::time::Instant;
use crate::wire::Metadata;

/// What a connection brought for the driver.
#[derive(Debug)]
#[non_exhaustive]
pub enum Incoming<'d> {
    /// A call to execute.
    Request(Request<'d>),
    /// A call that runs is no longer wanted: its handler may stop, or not (S19).
    Cancel(CallKey),
    /// A call that was admitted and has not been started is no longer wanted. An owner that keeps its admission for later
    /// can refuse it now; otherwise [`Server::start`](crate::Server::start) will.
    Withdrawn(CallKey),
    /// The machine has decided something by itself: [`Server::take_notice`](crate::Server::take_notice) says what. Only with
    /// [`ServerConfig::notices`](super::ServerConfig::notices).
    Notice,
}

/// A call that was admitted: to be started or refused.
#[derive(Debug)]
pub struct Request<'d> {
    /// The right to start it. Losing it pins a slot.
    pub admission: Admission,
    /// Which procedure.
    pub method: MethodId,
    /// Its place among [`Server::methods`](crate::Server::methods).
    pub method_index: usize,
    /// What it carries for middleware.
    pub metadata: Metadata<'d>,
    /// Its arguments, borrowed from the received bytes.
    pub body: &'d [u8],
    /// When it may no longer be started, on this machine's clock (S17).
    pub deadline: Instant,
    /// Whether it may run more than once (S22).
    pub idempotent: bool,
    /// Whether its caller does not wait for the reply's body (S23).
    pub one_way: bool,
}

impl Request<'_> {
    /// Bytes that count for it in the budgets: its metadata and its arguments.
    pub fn counted_len(&self) -> usize {
        self.metadata.block_len() + self.body.len()
    }
}
