//! The core in a program of your own, over blocking sockets and threads.
//!
//! It does no I/O and reads no clock. The owner of a machine runs one loop:
//! 1. Report what happened: bytes came, the connection broke, time has passed (`handle_…`).
//! 2. Give it commands: `call` at the client; `start`, `refuse`, `reply` at the server.
//! 3. Do what it wants: write what `poll_transmit` gives, obey `poll_event`, and wait, here in
//!    `read`, no longer than until `poll_timeout`.
//!
//! `client.rs` and `server.rs` are that loop; `../embed/mod.rs` is what is the same over any I/O.
//! The third call below runs, but its reply is lost with the connection. The client resumes its
//! session and asks, the server sends the reply that it kept, and nothing runs twice.

mod client;
#[path = "../embed/mod.rs"]
mod embed;
mod server;

use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use embed::{Answer, judge, new_server, wait};
use oncewire_core::Instant;

fn prepare(socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    // A peer that takes no byte for a second is as good as gone.
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

/// Waits for bytes until `at`.
fn read(mut socket: &TcpStream, at: Option<Instant>, input: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 4096];
    socket.set_read_timeout(Some(wait(at)))?;
    match socket.read(&mut chunk) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(len) => input.extend_from_slice(&chunk[..len]),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
            _ => return Err(error),
        },
    }
    Ok(())
}

fn main() -> io::Result<ExitCode> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut caller = client::Caller::new(listener.local_addr()?);
    let machine = new_server()?;
    thread::spawn(move || server::accept(&listener, machine));

    let answers: Vec<Answer> = (100..105).map(|argument| caller.call(argument)).collect();
    Ok(judge(&answers, caller.close()))
}
