//! A socket: made, connected, and who is at its other end.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use async_io::Async;
use oncewire_driver::Nonblocking;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A socket that does not block and is not inherited.
pub(crate) fn stream_socket<T: From<rustix::fd::OwnedFd>>() -> io::Result<T> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?.into())
}

/// What a socket may hold of what was written, from the moment on at which it was full: what streams have under way, twice 128 KiB,
/// with the system's own share. Linux wakes a writer only when three quarters of it have been read, and its default is 208 KiB: the
/// rest of every second chunk would wait until the reader has next to nothing left.
const SEND_BUFFER_LEN: usize = 256 << 10;

/// A connected stream of a socket that does not block already.
pub(crate) fn connected(socket: UnixStream) -> io::Result<Nonblocking<UnixStream>> {
    let close = |stream: &UnixStream| stream.shutdown(Shutdown::Write);
    let stream = Nonblocking::unregistered(socket, Async::new_nonblocking, close);
    let stream = stream.with_growth(|socket| {
        Ok(rustix::net::sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER_LEN)?)
    });
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let stream = stream.with_send(send);
    Ok(stream)
}

/// Sends several buffers, and no SIGPIPE: where a single send can be asked for that.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn send(socket: &UnixStream, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let mut nothing = SendAncillaryBuffer::default();
    Ok(sendmsg(socket, bufs, &mut nothing, SendFlags::NOSIGNAL)?)
}

/// The process at the other end of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// If it can be seen from here.
    pub(crate) pid: Option<u32>,
}

/// Who the peer was when it connected.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn peer(stream: &UnixStream) -> io::Result<Option<Peer>> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let credentials = getsockopt(stream, PeerCredentials)?;
    // 0 means a process of a pid namespace that is not ours.
    let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0);
    Ok(Some(Peer { uid: credentials.uid(), gid: credentials.gid(), pid }))
}

/// Who the peer is: not known on this system.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn peer(_: &UnixStream) -> io::Result<Option<Peer>> {
    Ok(None)
}
