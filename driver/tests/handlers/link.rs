//! Servers and clients that are joined by pairs of sockets.

#[path = "../util/served.rs"]
mod served;

use std::io;

use oncewire_driver::{Accept, BoxFuture, BoxStream, Client, ClientOptions, Server, Subject};
pub(crate) use served::socket_pair;
pub(crate) use served::{Dialler, serve};

pub(crate) fn client(dialler: &Dialler) -> Client {
    Client::new(dialler.clone(), ClientOptions::default())
}

/// Gives each caller the same name.
struct Named(socket_pair::Listener, &'static str);

impl Accept for Named {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async { Ok((self.0.accept().await?.0, Subject::Name(self.1.into()))) })
    }

    fn address(&self) -> String {
        self.0.address()
    }
}

/// A client of a principal that has this name.
pub(crate) fn client_named(server: &Server, name: &'static str) -> Client {
    let (dialler, listener) = socket_pair::link();
    let server = server.clone();
    smol::spawn(async move { server.serve(Named(listener, name)).await }).detach();
    client(&dialler)
}
