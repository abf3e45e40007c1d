//! A program that its parent talks to, in front of a server that outlives it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

/// Bytes that are copied at once.
const COPY_LEN: usize = 64 << 10;

/// Joins our own stdin and stdout to a server's socket, and returns when the server has closed it.
///
/// For a child of [`ChildConnector`](crate::ChildConnector), such as `ssh host program`, that is not the server itself: a
/// server that ends with each connection can keep no session. What the parent still sends when the server's side has
/// ended is lost, as in any connection that breaks. Blocks; the process should do nothing else with stdin and stdout.
///
/// # Errors
/// If stdin or stdout cannot be had. That either side ends, however, is no error.
pub fn relay(server: UnixStream) -> io::Result<()> {
    // Not the standard library's: those buffer.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let upwards = server.try_clone()?;
    thread::spawn(move || {
        let _ = copy(&input, &upwards);
        // The server may still have something to say.
        let _ = upwards.shutdown(Shutdown::Write);
    });
    let _ = copy(&server, &output);
    Ok(())
}

/// Not [`io::copy`]: that splices, and a splice that waits for a socket keeps the pipe that it will write to locked. A
/// reader of that pipe is then held up in the kernel, although its end does not block.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_LEN];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..len])?;
    }
}
