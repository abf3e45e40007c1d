//! The program: see the library's page.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kv::{InMemory, KvClient, KvOnLedgerServer, KvServer, OnLedger, demo};
use oncewire::redb::RedbLedger;
use oncewire::{Client, ClientOptions, OnDialFailure, Server, TcpAcceptor, TcpConnector};

const HELP: &str = "\
A key/value service in memory or on a ledger, and its client.

Usage: kv [KILLS]                                shows that it is linearizable while it is killed, 20 times unless said
       kv serve HOST:PORT [--ledger FILE]        serves, in memory or from a file
       kv put|append HOST:PORT KEY VALUE
       kv get HOST:PORT KEY                      prints the value
       kv cas HOST:PORT KEY EXPECTED VALUE       sets the value if it is EXPECTED; a - says that there is none

Exit status 0: done, or all was as it should be; 1: there is no value, it was not as expected, or something was not as it should be;
2: bad input, with a line that says what.";

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["--help" | "-h"] => {
            output::show!("{HELP}");
            Ok(true)
        }
        [] => Ok(show(demo::KILLS)),
        [kills] => match kills.parse() {
            Ok(kills @ 1..=1_000) => Ok(show(kills)),
            _ => Err(format!("{kills:?} is no number of kills, 1 to 1000; see --help")),
        },
        ["serve", address] => serve(address, None),
        ["serve", address, "--ledger", file] => serve(address, Some(file.into())),
        ["serve", address, "--tethered", "--ledger", file] => {
            demo::tether();
            serve(address, Some(file.into()))
        }
        ["put", address, key, value] => call(address, async |kv| {
            kv.put(key.to_owned(), value.to_owned()).await.ok().map(|()| true)
        }),
        ["append", address, key, value] => call(address, async |kv| {
            kv.append(key.to_owned(), value.to_owned()).await.ok().map(|_| true)
        }),
        ["get", address, key] => call(address, async |kv| {
            let value = kv.get(key.to_owned()).await.ok()?;
            value.iter().for_each(|value| output::show!("{value}"));
            Ok(value.is_some())
        }),
        ["cas", address, key, expected, value] => call(address, async |kv| {
            let expected = (expected != "-").then(|| expected.to_owned());
            let call = kv.compare_and_set(key.to_owned(), expected, value.to_owned());
            match call.await.ok()? {
                Ok(()) => Ok(true),
                Err(there) => {
                    output::show!("{}", there.as_deref().unwrap_or("-"));
                    Ok(false)
                }
            }
        }),
        _ => Err("what is asked for is not clear; see --help".to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            output::note!("kv: {text}");
            ExitCode::from(2)
        }
    }
}

/// Whether all was as it should be. A demonstration that comes to no end is not, and that is not the input's fault.
fn show(kills: u64) -> bool {
    smol::block_on(demo::run(kills)).unwrap_or_else(|why| {
        output::note!("kv: {why}");
        false
    })
}

fn serve(address: &str, ledger: Option<PathBuf>) -> Result<bool, String> {
    let builder = Server::builder("kv");
    let server = match ledger {
        None => builder.service(KvServer(InMemory::default())).build(),
        Some(file) => {
            let ledger = RedbLedger::open(&file).map_err(|error| error.to_string())?;
            let service = KvOnLedgerServer(OnLedger(ledger.snapshots()));
            builder.ledger(ledger).service(service).build()
        }
    };
    let server = server.map_err(|error| error.to_string())?;
    smol::block_on(async {
        let cannot = |error| format!("cannot listen at {address}: {error}");
        let acceptor = TcpAcceptor::bind(address).await.map_err(cannot)?;
        output::show!("serving at {}", acceptor.local_addr());
        server.serve(acceptor).await.map_err(|error| error.to_string())?;
        Ok(true)
    })
}

fn call(
    address: &str,
    make: impl AsyncFnOnce(&KvClient) -> Result<bool, oncewire::CallFailure>,
) -> Result<bool, String> {
    let options = ClientOptions::default()
        .with_timeout(Duration::from_secs(10))
        .with_on_dial_failure(OnDialFailure::End);
    let kv = KvClient(Client::new(TcpConnector::new(address), options));
    let made = smol::block_on(make(&kv));
    kv.0.close_blocking();
    made.map_err(|why| format!("{address}: {why}"))
}
