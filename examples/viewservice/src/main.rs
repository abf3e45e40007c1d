//! The program: see the library's page.

use std::process::ExitCode;
use std::time::Duration;

use oncewire::{Client, ClientOptions, OnDialFailure, Server, SmolRuntime};
use viewservice::{Address, ViewService, ViewsClient, ViewsServer, demo};

const HELP: &str = "\
Says which server is primary and which is backup.

Usage: viewservice                        shows it: three servers that die and start again
       viewservice serve ADDRESS [MS]     serves; servers ping once in MS milliseconds, 100 unless said
       viewservice get ADDRESS            prints the present view

ADDRESS is host:port, or the path of a unix socket with a / in it. Exit status 0: all was as it should be; 1: something was not;
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
        [] => Ok(show()),
        ["serve", address] => serve(address, "100"),
        ["serve", address, interval] => serve(address, interval),
        ["get", address] => get(address),
        _ => Err("what is asked for is not clear; --help says what can be".to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            output::note!("viewservice: {text}");
            ExitCode::from(2)
        }
    }
}

/// Whether all was as it should be. A demonstration that cannot be made is not, and that is not the input's fault.
fn show() -> bool {
    smol::block_on(demo::run()).unwrap_or_else(|why| {
        output::note!("viewservice: {why}");
        false
    })
}

fn serve(address: &str, interval: &str) -> Result<bool, String> {
    let address = Address::parse(address)?;
    let interval = match interval.parse() {
        Ok(millis @ 1..=60_000) => Duration::from_millis(millis),
        _ => return Err(format!("{interval:?} is not a number of milliseconds, 1 to 60000")),
    };
    let service = ViewService::new(interval, SmolRuntime::global());
    let server = Server::builder("views").service(ViewsServer(service)).build();
    let server = server.map_err(|error| error.to_string())?;
    smol::block_on(async {
        let cannot = |error| format!("cannot listen at {address}: {error}");
        let acceptor = address.bind().await.map_err(cannot)?;
        output::show!("serving at {address}");
        server.serve(acceptor).await.map_err(|error| error.to_string())?;
        Ok(true)
    })
}

fn get(address: &str) -> Result<bool, String> {
    let address = Address::parse(address)?;
    let options = ClientOptions::default()
        .with_timeout(Duration::from_secs(5))
        .with_on_dial_failure(OnDialFailure::End);
    let views = ViewsClient(Client::new(address.connector(), options));
    let view = views.get().block().ok();
    output::show!("{}", view.map_err(|why| format!("no view from {address}: {why}"))?);
    Ok(true)
}
