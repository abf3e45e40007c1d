//! The core in a program of your own, over tokio.
//!
//! It does no I/O and reads no clock. The owner of a machine runs one loop:
//! 1. Report what happened: bytes came, the connection broke, time has passed (`handle_…`).
//! 2. Give it commands: `call` at the client; `start`, `refuse`, `reply` at the server.
//! 3. Do what it wants: write what `poll_transmit` gives, obey `poll_event`, and wait, here in
//!    `select!`, no longer than until `poll_timeout`.
//!
//! `client.rs` and `server.rs` are that loop; `../embed/mod.rs` is what is the same over any I/O.
//! The third call below runs, but its reply is lost with the connection. The client resumes its
//! session and asks, the server sends the reply that it kept, and nothing runs twice.

mod client;
#[path = "../embed/mod.rs"]
mod embed;
mod server;

use std::io;
use std::process::ExitCode;

use embed::{judge, new_server};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<ExitCode> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (jobs, queue) = mpsc::channel(16);
    let client = tokio::spawn(client::run(listener.local_addr()?, queue));
    tokio::spawn(server::accept(listener, new_server()?));

    let mut answers = Vec::new();
    for argument in 100..105 {
        let (caller, answer) = oneshot::channel();
        jobs.send((argument, caller)).await.map_err(io::Error::other)?;
        answers.push(answer.await.map_err(io::Error::other)?);
    }
    drop(jobs);
    Ok(judge(&answers, client.await?))
}
