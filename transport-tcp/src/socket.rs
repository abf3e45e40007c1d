//! A socket that gets connected.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use async_io::Async;
use oncewire_driver::{AcceptPolicy, Nonblocking};

/// A connected stream that the reactor knows, from now on without Nagle's delay.
fn registered(stream: Async<TcpStream>) -> Nonblocking<TcpStream> {
    set_nodelay(stream.get_ref());
    with_send(Nonblocking::new(stream, close))
}

fn close(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)
}

fn set_nodelay(stream: &TcpStream) {
    // Where this fails the connection is gone already, and the stream says so. On macOS the error would be of a kind,
    // `InvalidInput`, that ends a server, and a caller can bring it about by a reset.
    let _ = stream.set_nodelay(true);
}

fn with_send(stream: Nonblocking<TcpStream>) -> Nonblocking<TcpStream> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let stream = stream.with_send(quick::send);
    stream
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use quick::{accept, connect, listen};

/// As `async-io` and the standard library do it, with fewer system calls.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod quick {
    use std::io::IoSlice;

    use rustix::fd::OwnedFd;
    use rustix::io::{Errno, retry_on_intr};
    use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

    use super::*;

    /// Not inherited, and it does not block: by the system call that makes it.
    const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

    /// A listener with as long a queue of connections as the system allows (`net.core.somaxconn`). The standard library's
    /// has 128 places: 2,000 clients that dialled at once overflowed it 1,607 times, and waited a second or more for TCP
    /// to try again.
    pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
        let socket = new_socket(address)?;
        net::sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &address)?;
        net::listen(&socket, i32::MAX)?;
        Ok(socket.into())
    }

    fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        Ok(net::socket_with(family, SocketType::STREAM, FLAGS, Some(net::ipproto::TCP))?)
    }

    /// The same of a socket that does not block, which the reactor does not know before it must be waited for.
    fn unregistered(stream: TcpStream) -> Nonblocking<TcpStream> {
        set_nodelay(&stream);
        with_send(Nonblocking::unregistered(stream, Async::new_nonblocking, close))
    }

    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Nonblocking<TcpStream>> {
        let socket = new_socket(address)?;
        match net::connect(&socket, &address) {
            // A connect that was interrupted continues.
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let stream = TcpStream::from(socket);
        // Within a machine the connection is made by now, though the system said that it was in progress.
        if stream.peer_addr().is_ok() {
            return Ok(unregistered(stream));
        }
        let stream = Async::new_nonblocking(stream)?;
        stream.writable().await?;
        match stream.get_ref().take_error()? {
            Some(error) => Err(error),
            None => Ok(registered(stream)),
        }
    }

    pub(crate) async fn accept(
        policy: &AcceptPolicy,
        listener: &Async<TcpListener>,
    ) -> io::Result<Nonblocking<TcpStream>> {
        let accept = |listener: &TcpListener| net::accept_with(listener, FLAGS);
        let accept = |listener: &_| Ok(retry_on_intr(|| accept(listener))?);
        Ok(unregistered(policy.accept(listener, accept).await?.into()))
    }

    /// Sends several buffers, and no SIGPIPE.
    pub(crate) fn send(socket: &TcpStream, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut nothing = net::SendAncillaryBuffer::default();
        Ok(net::sendmsg(socket, bufs, &mut nothing, net::SendFlags::NOSIGNAL)?)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) async fn connect(address: SocketAddr) -> io::Result<Nonblocking<TcpStream>> {
    Ok(registered(Async::<TcpStream>::connect(address).await?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) async fn accept(
    _: &AcceptPolicy,
    listener: &Async<TcpListener>,
) -> io::Result<Nonblocking<TcpStream>> {
    Ok(registered(listener.accept().await?.0))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}
