//! Dialling.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;

use oncewire_driver::{BoxFuture, BoxStream, Connect};
use rustix::io::Errno;
use rustix::net;

use crate::name::Name;
use crate::socket::connected;

/// Dials a unix socket.
///
/// ```
/// use oncewire_unix::{Connect, UnixConnector};
///
/// assert_eq!(UnixConnector::new("/run/app.sock").address(), "unix:/run/app.sock");
/// assert_eq!(UnixConnector::new("@app").address(), "unix:@app");
/// assert_eq!(UnixConnector::abstract_name("app").address(), "unix:@app");
/// ```
#[derive(Clone, Debug)]
pub struct UnixConnector {
    name: Name,
}

impl UnixConnector {
    /// Dials a path, or the abstract name `@name` (a file of that name is `./@name`). A path that is too long is an
    /// error of the dial.
    pub fn new(path: impl AsRef<Path>) -> UnixConnector {
        UnixConnector { name: Name::parse(path.as_ref()) }
    }

    /// Dials an abstract name, given without the `@` (Linux).
    pub fn abstract_name(name: impl AsRef<[u8]>) -> UnixConnector {
        UnixConnector { name: Name::Abstract(name.as_ref().to_owned()) }
    }
}

impl Connect for UnixConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Ok(Box::new(connected(dial(&self.name)?)?) as BoxStream) })
    }

    fn address(&self) -> String {
        format!("unix:{}", self.name)
    }
}

/// Connects at once or not at all: a unix socket never has a connection on the way.
pub(crate) fn dial(name: &Name) -> io::Result<UnixStream> {
    let address = name.to_address()?;
    let socket = stream_socket()?;
    match net::connect(&socket, &address) {
        Ok(()) => Ok(socket),
        // There is no waiting for room without blocking a thread. The driver dials again.
        Err(Errno::AGAIN) => Err(io::Error::new(
            ErrorKind::ResourceBusy,
            format!("{name}: the server's queue of connections is full"),
        )),
        Err(e) => Err(name.explain(e)),
    }
}

/// A socket that does not block and is not inherited.
pub(crate) fn stream_socket<T: From<rustix::fd::OwnedFd>>() -> io::Result<T> {
    use net::{AddressFamily, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?.into())
}
