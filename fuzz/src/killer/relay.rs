//! Joins stdin and stdout to the server's socket, so that a server that outlives its connections can be called over
//! pipes.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::control::Control;
use super::stage::SERVER_SOCKET;

/// Copies both ways until the server's side ends.
pub(super) fn play(dir: &Path, client: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
    let _control = Control::join(dir, &format!("relay {client} 0"), |_| {})?;
    // Without a server there is nothing to join: whoever dialled sees the end.
    let Ok(server) = UnixStream::connect(dir.join(SERVER_SOCKET)) else { return Ok(()) };
    // Not the standard library's buffered ones.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let upwards = server.try_clone()?;
    std::thread::spawn(move || {
        // An end of either kind is an end.
        let _ = copy(&input, &upwards);
        let _ = upwards.shutdown(Shutdown::Both);
    });
    let _ = copy(&server, &output);
    Ok(())
}

/// Not [`io::copy`]: that splices, and a splice that waits for a socket keeps the pipe that it will write to locked.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..len])?;
    }
}
