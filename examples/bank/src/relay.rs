//! Joins stdin and stdout to a server's socket, so that a server that outlives its connections can be called over pipes.

use std::os::unix::net::UnixStream;

use crate::address::Address;

/// Copies both ways until the server's side ends.
///
/// # Errors
/// Why it could not begin.
pub(crate) fn run(address: &Address) -> Result<(), String> {
    let Address::Unix(path) = address else {
        return Err("only unix:PATH can be relayed to".to_owned());
    };
    let relayed = UnixStream::connect(path).and_then(oncewire_pipe::relay);
    relayed.map_err(|error| format!("cannot relay to {address}: {error}"))
}
