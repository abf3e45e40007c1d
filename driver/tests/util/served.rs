//! A server behind a pair of unix sockets. Included by path.

#[path = "socket_pair.rs"]
pub(crate) mod socket_pair;

use oncewire_driver::{Server, ServerBuilder};
pub(crate) use socket_pair::Dialler;

/// Builds the server and serves. Returns it, and what dials it.
pub(crate) fn serve(builder: ServerBuilder) -> (Server, Dialler) {
    let (dialler, listener) = socket_pair::link();
    let server = builder.build().unwrap();
    let serving = server.clone();
    smol::spawn(async move { serving.serve(listener).await }).detach();
    (server, dialler)
}
