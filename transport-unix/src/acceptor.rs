//! Listening, and who is calling.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use async_io::Async;
use oncewire_driver::{Accept, BoxFuture, BoxStream, Subject};
use rustix::io::{Errno, retry_on_intr};
use rustix::net;

use crate::connector::stream_socket;
use crate::lock::Lock;
use crate::name::Name;
use crate::place::{Owner, Place, clear, in_use, owner};
use crate::socket::connected;

/// Listens on a unix socket. Dropping it removes the socket's file, if that is still its own.
#[derive(Debug)]
pub struct UnixAcceptor {
    // Dropped in this order: the file goes while the socket still pins its inode, the lock comes last.
    _place: Option<Place>,
    listener: Async<UnixListener>,
    _lock: Option<Lock>,
    name: Name,
}

impl UnixAcceptor {
    /// Listens on a path that only this user can connect to, or on the abstract name `@name`. [`BindOptions`] has more.
    ///
    /// Fails with [`io::ErrorKind::AddrInUse`] if a server lives there, [`io::ErrorKind::AlreadyExists`] if something
    /// that is not a socket stands there, and [`io::ErrorKind::InvalidInput`] if the path is too long.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("oncewire-doc-{}.sock", std::process::id()));
    /// # smol::block_on(async {
    /// let acceptor = oncewire_unix::UnixAcceptor::bind(&path)?;
    /// let error = oncewire_unix::UnixAcceptor::bind(&path).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    /// assert!(error.to_string().contains(&std::process::id().to_string()));
    /// # std::fs::remove_file(path.with_extension("sock.lock"))
    /// # }).unwrap();
    /// ```
    pub fn bind(path: impl AsRef<Path>) -> io::Result<UnixAcceptor> {
        BindOptions::new().bind(path)
    }

    /// Listens on an abstract name, given without the `@` (Linux). Any user of the machine can connect to it; who did,
    /// the [`Subject`] says.
    ///
    /// ```
    /// use oncewire_unix::{Accept, UnixAcceptor};
    ///
    /// let name = format!("oncewire-doc-{}", std::process::id());
    /// let acceptor = UnixAcceptor::bind_abstract(&name)?;
    /// assert_eq!(acceptor.address(), format!("unix:@{name}"));
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind_abstract(name: impl AsRef<[u8]>) -> io::Result<UnixAcceptor> {
        BindOptions::new().bind_name(Name::Abstract(name.as_ref().to_owned()))
    }

    /// Takes a listener made elsewhere, inherited from a service manager, say. Its file is left alone, and there is no
    /// lock: both are its maker's.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("oncewire-from-{}.sock", std::process::id()));
    /// let listener = std::os::unix::net::UnixListener::bind(&path)?;
    /// let acceptor = oncewire_unix::UnixAcceptor::from_listener(listener)?;
    /// # std::fs::remove_file(path)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn from_listener(listener: UnixListener) -> io::Result<UnixAcceptor> {
        let address = listener.local_addr()?;
        let path = address.as_pathname();
        let name = path.map_or_else(|| Name::Abstract(b"?".to_vec()), |p| Name::Path(p.to_owned()));
        #[cfg(target_os = "linux")]
        let name = match std::os::linux::net::SocketAddrExt::as_abstract_name(&address) {
            Some(bytes) => Name::Abstract(bytes.to_owned()),
            None => name,
        };
        Ok(UnixAcceptor { _place: None, listener: Async::new(listener)?, _lock: None, name })
    }
}

impl Accept for UnixAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let socket = self.listener.read_with(accept_one).await?;
            let (subject, _) = peer(&socket)?;
            Ok((Box::new(connected(socket)?) as BoxStream, subject))
        })
    }

    fn address(&self) -> String {
        format!("unix:{}", self.name)
    }
}

/// How a socket is to be made.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("oncewire-mode-{}.sock", std::process::id()));
/// // For the owner and the group.
/// let acceptor = oncewire_unix::BindOptions::new().mode(0o660).bind(&path)?;
/// # drop(acceptor);
/// # std::fs::remove_file(path.with_extension("sock.lock"))?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct BindOptions {
    mode: u32,
    backlog: i32,
}

impl Default for BindOptions {
    fn default() -> BindOptions {
        BindOptions::new()
    }
}

impl BindOptions {
    /// Mode 0600, and as long a queue of connections as the system allows.
    pub fn new() -> BindOptions {
        BindOptions { mode: 0o600, backlog: i32::MAX }
    }

    /// The socket's mode bits, whatever the process's umask: who may write may connect. Abstract names have none.
    pub fn mode(self, mode: u32) -> BindOptions {
        BindOptions { mode: mode & 0o777, ..self }
    }

    /// How many connections may wait to be accepted; beyond that a dial fails with [`io::ErrorKind::ResourceBusy`].
    pub fn backlog(self, connections: u16) -> BindOptions {
        BindOptions { backlog: connections.into(), ..self }
    }

    /// Listens, as [`UnixAcceptor::bind`] does.
    pub fn bind(&self, path: impl AsRef<Path>) -> io::Result<UnixAcceptor> {
        self.bind_name(Name::parse(path.as_ref()))
    }

    fn bind_name(&self, name: Name) -> io::Result<UnixAcceptor> {
        match &name {
            Name::Path(path) => self.bind_path(path, &name),
            Name::Abstract(_) => self.bind_abstract(&name),
        }
    }

    fn bind_path(&self, path: &Path, name: &Name) -> io::Result<UnixAcceptor> {
        let address = name.to_address()?;
        // The path must mean the same when it is removed.
        let path = std::path::absolute(path)?;
        let lock = Lock::take(&path)?;
        clear(&path, name)?;
        let listener: UnixListener = stream_socket()?;
        net::bind(&listener, &address).map_err(|e| match e {
            Errno::ADDRINUSE => in_use(name, None),
            e => name.explain(e),
        })?;
        let place = Place::of(&path)?;
        // Before it listens, every connection is refused, whatever the bits.
        fs::set_permissions(&path, Permissions::from_mode(self.mode))?;
        net::listen(&listener, self.backlog)?;
        let listener = Async::new(listener)?;
        Ok(UnixAcceptor { _place: Some(place), listener, _lock: Some(lock), name: name.clone() })
    }

    fn bind_abstract(&self, name: &Name) -> io::Result<UnixAcceptor> {
        let address = name.to_address()?;
        let listener: UnixListener = stream_socket()?;
        net::bind(&listener, &address).map_err(|e| match e {
            Errno::ADDRINUSE => match owner(name) {
                Ok(Owner::Lives(pid)) => in_use(name, pid),
                _ => in_use(name, None),
            },
            e => name.explain(e),
        })?;
        net::listen(&listener, self.backlog)?;
        let listener = Async::new(listener)?;
        Ok(UnixAcceptor { _place: None, listener, _lock: None, name: name.clone() })
    }
}

/// A connection that waits to be let in. It does not block and is not inherited, by the same system call.
fn accept_one(listener: &UnixListener) -> io::Result<UnixStream> {
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    Ok(retry_on_intr(|| net::accept_with(listener, flags))?.into())
}

/// Who is at the other end, and its pid if that can be seen from here.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn peer(stream: &UnixStream) -> io::Result<(Subject, Option<i32>)> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let credentials = getsockopt(stream, PeerCredentials)?;
    // 0 stands for a process of a pid namespace that is not ours.
    let pid = Some(credentials.pid()).filter(|pid| *pid > 0);
    Ok((Subject::Uid(credentials.uid()), pid))
}

/// Who is at the other end: not known on this system.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn peer(_: &UnixStream) -> io::Result<(Subject, Option<i32>)> {
    Ok((Subject::Nobody, None))
}
