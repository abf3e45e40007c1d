//! From "host:port" to addresses, and one error for all that were tried.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The addresses of "host:port". A name is looked up on a thread of smol's, since the system's resolver blocks.
pub(crate) async fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if !name.contains(':') {
        let message =
            format!("{name:?} has no port: an address is a host and a port, as in localhost:2626");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let owned = name.to_owned();
    let found = smol::unblock(move || owned.to_socket_addrs().map(Vec::from_iter)).await;
    let found = found.map_err(|e| io::Error::new(kind_of(&e), format!("{name}: {e}")))?;
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address")));
    }
    Ok(found)
}

/// What kind of error a look-up ended with: [`NotFound`](io::ErrorKind::NotFound) if there is no such name, which only the
/// text says.
fn kind_of(error: &io::Error) -> io::ErrorKind {
    let text = error.to_string();
    if !text.contains("lookup") {
        error.kind()
    } else if text.contains("emporary failure") || text.contains("ry again") {
        io::ErrorKind::HostUnreachable
    } else {
        io::ErrorKind::NotFound
    }
}

/// The error of an attempt at several addresses: it names them all, and its kind is that of the last.
pub(crate) fn all_failed(what: &str, tried: Vec<(SocketAddr, io::Error)>) -> io::Error {
    let kind = tried.last().map_or(io::ErrorKind::InvalidInput, |(_, e)| e.kind());
    let list = match &tried[..] {
        [] => "no address to try".to_owned(),
        // Where the name is the address, it is not said twice.
        [(address, error)] if what.strip_prefix("tcp:") == Some(&address.to_string()) => {
            error.to_string()
        }
        _ => tried
            .iter()
            .map(|(address, e)| format!("{address}: {e}"))
            .collect::<Vec<_>>()
            .join("; "),
    };
    io::Error::new(kind, format!("{what}: {list}"))
}
