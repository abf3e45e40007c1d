//! How a socket is made, and what becomes of it.

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use async_io::Async;
use oncewire_driver::BoxStream;
use oncewire_driver::probe::who_listens;
use rustix::io::Errno;
use rustix::net;

use crate::acceptor::UnixAcceptor;
use crate::bound::Bound;
use crate::connector::dial;
use crate::lock::Lock;
use crate::name::Name;
use crate::socket::{Peer, connected, peer, stream_socket};
use crate::socket_file::{Owner, SocketFile, clear, in_use, owner};

/// What happened to a socket's file while its server lived.
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketEvent {
    /// It was removed, or another one is in its place: no client can connect any more.
    Removed,
    /// It was made again.
    Rebound,
    /// It could not be made again; the next attempt is in a second.
    RebindFailed(io::Error),
}

/// How to make a socket.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("oncewire-mode-{}.sock", std::process::id()));
/// // For the owner and the group.
/// let acceptor = oncewire_unix::BindOptions::new().mode(0o660).bind(&path)?;
/// # drop(acceptor);
/// # std::fs::remove_file(path.with_extension("sock.lock"))?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct BindOptions {
    mode: u32,
    backlog: i32,
    rebind: bool,
    on_event: Option<Arc<OnEvent>>,
}

type OnEvent = dyn Fn(&SocketEvent) + Send + Sync;

impl fmt::Debug for BindOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindOptions")
            .field("mode", &format_args!("{:o}", self.mode))
            .field("backlog", &self.backlog)
            .field("rebind", &self.rebind)
            .finish_non_exhaustive()
    }
}

impl Default for BindOptions {
    fn default() -> BindOptions {
        BindOptions::new()
    }
}

impl BindOptions {
    /// Mode 0600, and as long a queue of connections as the system allows.
    pub fn new() -> BindOptions {
        BindOptions { mode: 0o600, backlog: i32::MAX, rebind: false, on_event: None }
    }

    /// The socket's mode bits, whatever the process's umask: who may write may connect. Abstract names have none.
    pub fn mode(self, mode: u32) -> BindOptions {
        BindOptions { mode: mode & 0o777, ..self }
    }

    /// How many connections may wait to be accepted; beyond that a dial fails with [`io::ErrorKind::ResourceBusy`].
    pub fn backlog(self, connections: u16) -> BindOptions {
        BindOptions { backlog: connections.into(), ..self }
    }

    /// Makes the socket again when its file was removed, instead of ending with an error. What is in its place by then is
    /// treated as at the start: a server that lives there, and what is not a socket of ours, are left alone, and it is
    /// tried again every second.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("oncewire-rebind-{}.sock", std::process::id()));
    /// let acceptor = oncewire_unix::BindOptions::new()
    ///     .rebind(true)
    ///     .on_event(|event| eprintln!("socket: {event:?}"))
    ///     .bind(&path)?;
    /// # drop(acceptor);
    /// # std::fs::remove_file(path.with_extension("sock.lock"))?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn rebind(self, rebind: bool) -> BindOptions {
        BindOptions { rebind, ..self }
    }

    /// Called when the socket's file was removed, and when it was made again or could not be; for a log. It is called by
    /// the task that accepts, with the acceptor locked: it must not block, nor use the acceptor.
    pub fn on_event(self, event: impl Fn(&SocketEvent) + Send + Sync + 'static) -> BindOptions {
        BindOptions { on_event: Some(Arc::new(event)), ..self }
    }

    pub(crate) fn rebinds(&self) -> bool {
        self.rebind
    }

    pub(crate) fn tell(&self, event: &SocketEvent) {
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }

    /// Listens, as [`UnixAcceptor::bind`] does.
    pub fn bind(&self, path: impl AsRef<Path>) -> io::Result<UnixAcceptor> {
        self.bind_name(Name::parse(path.as_ref()))
    }

    pub(crate) fn bind_name(&self, name: Name) -> io::Result<UnixAcceptor> {
        let bound = match &name {
            Name::Path(path) => self.bind_path(path, &name),
            Name::Abstract(_) => self.bind_abstract(&name),
        };
        bound.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => explain_in_use(&name, error),
            _ => error,
        })
    }

    fn bind_path(&self, path: &Path, name: &Name) -> io::Result<UnixAcceptor> {
        // A name that cannot be used is reported before anything is made beside it.
        name.to_address()?;
        // The path must mean the same when it is removed, or made again.
        let path = std::path::absolute(path)?;
        let lock = Lock::take(&path)?;
        let (listener, socket_file) = self.make_socket(&path, name)?;
        let bound = Bound::watched(listener, socket_file, lock, self.clone(), path);
        Ok(UnixAcceptor::of(bound, name.clone()))
    }

    /// A socket of ours at `path`, which is the path of `name` or leads to the same place. Call it with the lock held.
    pub(crate) fn make_socket(
        &self,
        path: &Path,
        name: &Name,
    ) -> io::Result<(Async<UnixListener>, SocketFile)> {
        clear(path, name)?;
        let listener: UnixListener = stream_socket()?;
        net::bind(&listener, &name.to_address()?).map_err(|e| match e {
            Errno::ADDRINUSE => in_use(name, None),
            e => name.explain(e),
        })?;
        let socket_file = SocketFile::of(path)?;
        // Before it listens, every connection is refused, whatever the bits.
        socket_file.set_mode(self.mode)?;
        net::listen(&listener, self.backlog)?;
        Ok((Async::new(listener)?, socket_file))
    }

    fn bind_abstract(&self, name: &Name) -> io::Result<UnixAcceptor> {
        let address = name.to_address()?;
        let listener: UnixListener = stream_socket()?;
        net::bind(&listener, &address).map_err(|e| match e {
            Errno::ADDRINUSE => match owner(name) {
                Ok(Owner::Alive(pid)) => in_use(name, pid),
                _ => in_use(name, None),
            },
            e => name.explain(e),
        })?;
        net::listen(&listener, self.backlog)?;
        Ok(UnixAcceptor::of(Bound::unwatched(Async::new(listener)?), name.clone()))
    }
}

/// The error of the server that comes second, with what the first one says of itself. One in this process is not asked: its
/// task may wait for this thread.
fn explain_in_use(name: &Name, error: io::Error) -> io::Error {
    let Ok(socket) = dial(name) else { return error };
    let own = std::process::id();
    if matches!(peer(&socket), Ok(Some(Peer { pid: Some(pid), .. })) if pid == own) {
        return error;
    }
    let dialled = async { Ok(Box::new(connected(socket)?) as BoxStream) };
    let listener = async_io::block_on(who_listens(dialled));
    io::Error::new(error.kind(), format!("{error}: {listener}"))
}
