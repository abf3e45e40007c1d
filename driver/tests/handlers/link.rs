//! Servers and clients that are joined by pairs of sockets.

#[path = "../util/socket_pair.rs"]
pub(crate) mod socket_pair;

use oncewire_driver::{Client, ClientOptions, Server, ServerBuilder};
pub(crate) use socket_pair::Dialler;

/// Serves what was described.
pub(crate) fn serve(builder: ServerBuilder) -> (Server, Dialler) {
    let (dialler, listener) = socket_pair::link();
    let server = builder.build().unwrap();
    let serving = server.clone();
    smol::spawn(async move { serving.serve(listener).await }).detach();
    (server, dialler)
}

pub(crate) fn client(dialler: &Dialler) -> Client {
    Client::new(dialler.clone(), ClientOptions::default())
}
