//! Dials a socket by its name, and checks whose it is.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;

use oncewire_driver::{BoxFuture, BoxStream, Connect};
use rustix::io::Errno;
use rustix::net;

use crate::name::Name;
use crate::socket::{Peer, connected, peer, stream_socket};

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
    /// Who must have made the socket.
    server_uid: Option<u32>,
}

impl UnixConnector {
    /// Dials a path, or the abstract name `@name` (a file of that name is `./@name`). A path that is too long is an
    /// error of the dial.
    pub fn new(path: impl AsRef<Path>) -> UnixConnector {
        UnixConnector { name: Name::parse(path.as_ref()), server_uid: None }
    }

    /// Dials an abstract name, given without the `@` (Linux).
    pub fn abstract_name(name: impl AsRef<[u8]>) -> UnixConnector {
        UnixConnector { name: Name::Abstract(name.as_ref().to_owned()), server_uid: None }
    }

    /// Demands that the server runs as this user: another one's is left before a byte was sent to it. Where other users can
    /// make files in the socket's folder (as in `/tmp`), or the name is abstract, one of them could have been faster than
    /// the server.
    ///
    /// The user is the one that the process had when it began to listen (`SO_PEERCRED`): root's, if the socket was made by
    /// a service manager that runs as root.
    ///
    /// The error of such a dial has the kind [`PermissionDenied`](io::ErrorKind::PermissionDenied) and names both users. A
    /// client keeps dialling, less and less often, since the right server may come yet; its `status` shows the error, and
    /// calls that have not left end at once, unless
    /// [`on_dial_failure`](oncewire_driver::ClientOptions::on_dial_failure) says otherwise. On
    /// systems that do not say who listens, every dial fails.
    ///
    /// ```
    /// use oncewire_unix::UnixConnector;
    ///
    /// // Only root's server will do.
    /// let connector = UnixConnector::new("/run/app.sock").server_uid(0);
    /// ```
    pub fn server_uid(self, uid: u32) -> UnixConnector {
        UnixConnector { server_uid: Some(uid), ..self }
    }

    fn dial(&self) -> io::Result<UnixStream> {
        let socket = dial(&self.name)?;
        let Some(wanted) = self.server_uid else { return Ok(socket) };
        let name = &self.name;
        match peer(&socket)? {
            Some(Peer { uid, .. }) if uid == wanted => Ok(socket),
            Some(Peer { uid: found, .. }) => Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!("{name}: its server runs as uid {found}, not as uid {wanted}"),
            )),
            None => Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!("{name}: this system does not say whether its server is uid {wanted}"),
            )),
        }
    }
}

impl Connect for UnixConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Ok(Box::new(connected(self.dial()?)?) as BoxStream) })
    }

    fn address(&self) -> String {
        format!("unix:{}", self.name)
    }

    /// A name that no socket can have, or a socket that is not for us, or not of the user that was demanded.
    fn is_permanent(&self, error: &io::Error) -> bool {
        let kind = error.kind();
        matches!(
            kind,
            ErrorKind::InvalidInput | ErrorKind::PermissionDenied | ErrorKind::Unsupported
        )
    }

    fn may_carry_token(&self) -> bool {
        true
    }

    fn dials_anywhere(&self) -> bool {
        true
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
