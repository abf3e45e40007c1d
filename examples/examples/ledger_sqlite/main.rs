//! Exactly once in a service's own SQL database: `cargo run --release --example ledger_sqlite [-- KILLS]`.
//!
//! Starts a bank in a process of its own, kills it with `SIGKILL` again and again while calls are under way, and compares
//! the database with the outcomes that callers got. Exits with 1 if they differ.
//!
//! | file | what it does |
//! |---|---|
//! | `store.rs` | completion records in SQLite: all that another database would have to do |
//! | `bank.rs` | the service: methods that write in the same transaction |
//! | `proof.rs` | callers, kills, and the comparison |
#![allow(unreachable_pub, missing_docs)]

mod bank;
mod proof;
mod store;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use oncewire::UnixAcceptor;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match &words[..] {
        ["serve", database, socket] => serve(Path::new(database), Path::new(socket)),
        [] => proof::run(20),
        [kills] => match kills.parse() {
            Ok(kills) => proof::run(kills),
            Err(_) => Err("ledger_sqlite [KILLS] | serve DATABASE SOCKET".into()),
        },
        _ => Err("ledger_sqlite [KILLS] | serve DATABASE SOCKET".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(database: &Path, socket: &Path) -> Result<(), Error> {
    let server = bank::server(database)?;
    smol::block_on(async {
        let acceptor = UnixAcceptor::bind(socket)?;
        output::show!("listening");
        std::io::stdout().flush()?;
        Ok(server.serve(acceptor).await?)
    })
}
