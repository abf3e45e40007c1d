//! Listens on a socket's name, accepts connections, and says by the peer's credentials who is calling.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use async_io::Async;
use oncewire_driver::{Accept, AcceptPolicy, BoxFuture, BoxStream, Subject, yield_now};
use rustix::io::retry_on_intr;
use rustix::net;

use crate::bound::Bound;
use crate::name::Name;
use crate::options::BindOptions;
use crate::socket::{Peer, connected, peer};

/// Connections that are refused one after another: then other tasks get their turn.
const REFUSALS_MAX: usize = 16;

/// Listens on a unix socket. Dropping it removes the socket's file, if that is still its own.
///
/// Once a second, while it waits for connections, it checks that the file is still there. If it was removed, by a cleaner
/// of temporary files, say, no client can connect any more: `accept` then fails with
/// [`NotFound`](io::ErrorKind::NotFound), which ends [`Server::serve`](crate::Server::serve) with that error; connections
/// that exist live on. With [`BindOptions::rebind`] the socket is made again instead.
pub struct UnixAcceptor {
    bound: Mutex<Bound>,
    name: Name,
    allowed: Option<Allowed>,
    policy: AcceptPolicy,
    refused: AtomicU64,
}

/// Who may connect: these users, and processes of these groups.
#[derive(Debug, Default)]
struct Allowed {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Allowed {
    /// # Errors
    /// If this system does not say who connects.
    fn has(&self, peer: Option<Peer>) -> io::Result<bool> {
        let unknown = || {
            let message = "this system does not say who connects, so no one can be allowed to";
            io::Error::new(io::ErrorKind::Unsupported, message)
        };
        let peer = peer.ok_or_else(unknown)?;
        Ok(self.uids.contains(&peer.uid) || self.gids.contains(&peer.gid))
    }
}

impl fmt::Debug for UnixAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixAcceptor").field("name", &self.name).finish_non_exhaustive()
    }
}

impl UnixAcceptor {
    /// Listens on a path that only this user can connect to, or on the abstract name `@name`. [`BindOptions`] has more.
    ///
    /// Fails with [`io::ErrorKind::AddrInUse`] if a server lives there. The error says which process it is, and what it says of
    /// itself if it is another one and answers within a second: an Oncewire server its service and its instance. Fails with
    /// [`io::ErrorKind::AlreadyExists`] if something that is not a socket, or not a lock of ours, is there,
    /// [`io::ErrorKind::PermissionDenied`] if what a dead server left belongs to another user, and
    /// [`io::ErrorKind::InvalidInput`] if the path is too long.
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
        Ok(UnixAcceptor::of(Bound::unwatched(Async::new(listener)?), name))
    }

    /// Lets only these users connect, and those that other calls of this and of
    /// [`allow_gids`](UnixAcceptor::allow_gids) allow. The connections of others are closed, and counted. The file's mode, 0600 unless
    /// [`BindOptions::mode`] says otherwise, must let them connect as well; abstract names have none.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("oncewire-allow-{}.sock", std::process::id()));
    /// use oncewire_unix::BindOptions;
    ///
    /// let acceptor = BindOptions::new().mode(0o666).bind(&path)?.allow_uids([0, 1000]).allow_gids([50]);
    /// # drop(acceptor);
    /// # std::fs::remove_file(path.with_extension("sock.lock"))?;
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// Where the system does not say who connects, [`accept`](Accept::accept) fails with
    /// [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn allow_uids(mut self, uids: impl IntoIterator<Item = u32>) -> UnixAcceptor {
        self.allowed.get_or_insert_default().uids.extend(uids);
        self
    }

    /// The same for processes whose group is one of these: the one that the system reports of a process that connects, its
    /// effective group. Its supplementary groups do not count.
    pub fn allow_gids(mut self, gids: impl IntoIterator<Item = u32>) -> UnixAcceptor {
        self.allowed.get_or_insert_default().gids.extend(gids);
        self
    }

    /// Connections that were closed because their users were not allowed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The next connection of a user that is allowed.
    async fn accept_allowed(&self) -> io::Result<(UnixStream, Option<Peer>)> {
        let mut refused = 0_usize;
        loop {
            let socket = self.accept_next().await?;
            let peer = peer(&socket)?;
            match &self.allowed {
                Some(allowed) if !allowed.has(peer)? => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                _ => return Ok((socket, peer)),
            }
            refused += 1;
            if refused.is_multiple_of(REFUSALS_MAX) {
                yield_now().await;
            }
        }
    }

    pub(crate) fn of(bound: Bound, name: Name) -> UnixAcceptor {
        let (bound, policy) = (Mutex::new(bound), AcceptPolicy::default());
        UnixAcceptor { bound, name, allowed: None, policy, refused: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next connection, on this socket or the one that takes its place.
    async fn accept_next(&self) -> io::Result<UnixStream> {
        loop {
            let listener = self.lock().listener();
            let mut accept = pin!(self.policy.accept(&listener, accept_one));
            let accepted = poll_fn(|cx| match accept.as_mut().poll(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending => {
                    let lost = self.lock().poll_lost(cx, &listener, &self.name);
                    lost.map(io::Result::transpose)
                }
            });
            if let Some(accepted) = accepted.await {
                return accepted;
            }
        }
    }
}

impl Accept for UnixAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let (socket, peer) = self.accept_allowed().await?;
            let subject = peer.map_or(Subject::Anonymous, |peer| Subject::Uid(peer.uid));
            Ok((Box::new(connected(socket)?) as BoxStream, subject))
        })
    }

    fn address(&self) -> String {
        format!("unix:{}", self.name)
    }
}

/// A connection that waits to be admitted. It does not block and is not inherited, by the same system call.
pub(crate) fn accept_one(listener: &UnixListener) -> io::Result<UnixStream> {
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    Ok(retry_on_intr(|| net::accept_with(listener, flags))?.into())
}
