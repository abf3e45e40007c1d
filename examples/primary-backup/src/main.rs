//! The program: see the library's page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use oncewire::ClientOptions;
use primary_backup::processes::{UnixNet, check_views, client, serve};
use primary_backup::{naive, story};
use viewservice::Address;

const HELP: &str = "\
A key/value service with a backup that takes over: what was executed stays executed, once.

Usage: primary-backup [KILLS]                             shows it: three servers that are killed while clients append
       primary-backup --naive                             shows what goes wrong with plain sockets
       primary-backup node VIEWS DIR NAME [MS]            runs one server, which pings once in MS milliseconds, 100 unless said
       primary-backup put|append VIEWS DIR KEY VALUE      changes a value
       primary-backup get VIEWS DIR KEY                   prints a value

VIEWS is the address of a viewservice, host:port or a path with a / in it. DIR is a folder for the servers' sockets. Exit status 0:
all was as it should be; 1: something was not; 2: bad input, with a line that says what.";

/// What went wrong.
enum Failure {
    /// With what was asked for.
    Input(String),
    /// With what was tried.
    Trial(String),
}

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["--help" | "-h"] => {
            output::show!("{HELP}");
            Ok(true)
        }
        [] => smol::block_on(story::run(story::KILLS)).map_err(Failure::Trial),
        ["--naive"] => naive::run().map_err(Failure::Trial),
        [kills] => match kills.parse() {
            Ok(kills @ 1..=10_000) => smol::block_on(story::run(kills)).map_err(Failure::Trial),
            _ => Err(Failure::Input(format!("{kills:?} is no number of kills; see --help"))),
        },
        ["naive-backup", socket, killed] => {
            naive::backup(socket, killed).map(|()| true).map_err(Failure::Input)
        }
        ["node", views, dir, name] => node(views, dir, name, "100", false),
        ["node", views, dir, name, interval] => node(views, dir, name, interval, false),
        ["node", views, dir, name, interval, "tethered"] => node(views, dir, name, interval, true),
        ["put", views, dir, key, value] => call(views, dir, Request::Put(key, value)),
        ["append", views, dir, key, value] => call(views, dir, Request::Append(key, value)),
        ["get", views, dir, key] => call(views, dir, Request::Get(key)),
        _ => Err(Failure::Input("what is asked for is not clear; see --help".to_owned())),
    };
    let (status, text) = match result {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::FAILURE,
        Err(Failure::Trial(text)) => (1, text),
        Err(Failure::Input(text)) => (2, text),
    };
    output::note!("primary-backup: {text}");
    ExitCode::from(status)
}

fn places(views: &str, dir: &str) -> Result<(Address, PathBuf), Failure> {
    let views = Address::parse(views).map_err(Failure::Input)?;
    let dir = Path::new(dir);
    if !dir.is_dir() {
        return Err(Failure::Input(format!("there is no folder {}", dir.display())));
    }
    check_views(&views).map_err(Failure::Input)?;
    Ok((views, dir.to_owned()))
}

fn node(
    views: &str,
    dir: &str,
    name: &str,
    interval: &str,
    tethered: bool,
) -> Result<bool, Failure> {
    let (views, dir) = places(views, dir)?;
    if name.is_empty() || name.contains('/') {
        return Err(Failure::Input(format!("{name:?} is no name: it becomes part of a file's")));
    }
    let interval = match interval.parse() {
        Ok(millis @ 1..=60_000) => Duration::from_millis(millis),
        _ => {
            let text = format!("{interval:?} is not a number of milliseconds, 1 to 60000");
            return Err(Failure::Input(text));
        }
    };
    let net = UnixNet { dir, name: name.to_owned(), views };
    serve(net, interval, tethered).map(|()| true).map_err(Failure::Input)
}

enum Request<'a> {
    Put(&'a str, &'a str),
    Append(&'a str, &'a str),
    Get(&'a str),
}

fn call(views: &str, dir: &str, request: Request<'_>) -> Result<bool, Failure> {
    let (views, dir) = places(views, dir)?;
    let options = ClientOptions::default().with_timeout(Duration::from_secs(10));
    let kv = client(&views, &dir, options);
    let done = match request {
        Request::Put(key, value) => kv.put(key.to_owned(), value.to_owned()).block().ok(),
        Request::Append(key, value) => kv.append(key.to_owned(), value.to_owned()).block().ok(),
        Request::Get(key) => {
            kv.get(key.to_owned()).block().ok().map(|value| output::show!("{value}"))
        }
    };
    kv.0.close_blocking();
    done.map(|()| true).map_err(|why| Failure::Trial(why.to_string()))
}
