//! A child that a client dials: it joins its stdin and stdout to the server's socket.

use std::error::Error;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::control::Control;
use super::stage::SERVER_SOCKET;

/// Copies both ways until the server's side ends.
pub(super) fn play(dir: &Path, client: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
    let _control = Control::join(dir, &format!("relay {client} 0"), |_| {})?;
    // Without a server there is nothing to join: the client sees the end.
    let Ok(server) = UnixStream::connect(dir.join(SERVER_SOCKET)) else { return Ok(()) };
    Ok(oncewire_pipe::relay(server)?)
}
