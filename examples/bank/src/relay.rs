//! Joins stdin and stdout to a server's socket, so that a server that outlives its connections can be called over pipes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::address::Address;

/// Copies both ways until the server's side ends. What the program that started us still sends is dropped then, as it is
/// when a connection breaks.
///
/// # Errors
/// Why it could not begin.
pub(crate) fn run(address: &Address) -> Result<(), String> {
    let Address::Unix(path) = address else {
        return Err("only unix:PATH can be relayed to".to_owned());
    };
    let connect = || -> io::Result<()> {
        let server = UnixStream::connect(path)?;
        // Not the standard library's buffered ones.
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let upwards = server.try_clone()?;
        std::thread::spawn(move || {
            let _ = copy(&input, &upwards);
            let _ = upwards.shutdown(Shutdown::Write);
        });
        // An end of either kind is an end.
        let _ = copy(&server, &output);
        Ok(())
    };
    connect().map_err(|error| format!("cannot relay to {address}: {error}"))
}

/// Not [`io::copy`]: that splices, and a splice that waits for a socket keeps the pipe that it will write to locked; whoever
/// reads that pipe is then held up in the kernel, though its end does not block.
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
