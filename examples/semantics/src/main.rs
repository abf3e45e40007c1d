//! What a call means when messages are lost, late or come twice. It teaches what each answer of the lectures is worth: at least once, at most
//! once with and without retries, exactly once. Each cell of the table is a run: a server's process, a fault injector, a client.
//!
//! | file | what it does |
//! |---|---|
//! | `main.rs` | the program |
//! | `table.rs`, `claims.txt` | rows and columns; what each cell claims, and whether it came out so |
//! | `cell.rs` | one run |
//! | `relay.rs` | the fault injector |
//! | `server.rs` | the server's process: naive, in memory or on a ledger |
//! | `account.rs` | what is called: deduct and put |
//! | `naive.rs` | an RPC as one writes it in an afternoon |
//! | `frames.rs` | frames on a connection |
//! | `think.rs` | the lecture's "things to think about" |

mod account;
mod cell;
mod frames;
mod naive;
mod relay;
mod server;
mod table;
mod think;

use std::process::ExitCode;

use table::{Fault, Row, STORIES};

const HELP: &str = "\
What a call means when messages are lost, late or come twice: each answer of the lectures, run and checked.

Usage: semantics            the whole table, and the things to think about
       semantics WHAT       a part of it: lost-request, lost-reply, delayed-duplicate, slow-server, server-crash or think

Exit status 0: each cell came out as it claims, the failures of the naive rows too; 1: one did not; 2: bad input, with a line that
says what.";

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["--help" | "-h"] => {
            output::show!("{HELP}");
            Ok(true)
        }
        ["serve", ref args @ ..] => {
            smol::block_on(server::serve(args)).map(|()| true).map_err(|error| error.to_string())
        }
        [] => Ok(show("")),
        [what] if what == "think" || Fault::ALL.iter().any(|(_, name, _)| *name == what) => {
            Ok(show(what))
        }
        [what] => Err(format!("{what:?} is no part of the table; --help says what is")),
        _ => Err("what is asked for is not clear; --help says what can be".to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            output::note!("semantics: {text}");
            ExitCode::from(2)
        }
    }
}

/// Shows this part, or all; whether it was as it claims. What cannot be run was not, and that is not the input's fault.
fn show(part: &str) -> bool {
    let wrong = smol::block_on(async {
        let mut wrong = 0;
        for (fault, name, what) in Fault::ALL {
            if part.is_empty() || part == name {
                output::show!("{}: {what}", name.replace('-', " ").to_uppercase());
                wrong += column(fault, name).await;
            }
        }
        if part.is_empty() || part == "think" {
            wrong += think::show().await;
        }
        wrong
    });
    match wrong {
        0 => output::show!("Each came out as it claims."),
        wrong => output::show!("NOT AS CLAIMED: {wrong}"),
    }
    wrong == 0
}

/// Runs all rows with one fault, and prints them; how many cells were not as they claim.
async fn column(fault: Fault, name: &str) -> usize {
    let heads = ("", "deduct $10 of $100, then $1", "put 10, put 20, copy");
    output::show!("{:<45}{:<38}{:<27}rules", heads.0, heads.1, heads.2);
    let run = |row, acts| smol::spawn(cell::in_time(cell::run(row, fault, acts)));
    let runs = Row::ALL.map(|(row, title)| (title, STORIES.map(|acts| (acts, run(row, acts)))));
    let mut wrong = Vec::new();
    for (title, stories) in runs {
        let Some(claim) = table::claim(title, name) else {
            wrong.push(format!("nothing is claimed of {title}"));
            continue;
        };
        let mut line = format!("{title:<45}");
        for (acts, run) in stories {
            let run = run.await.map(|seen| claim.check(fault, acts, &seen));
            let (printed, contradiction) = run.unwrap_or_else(|why| (String::new(), Some(why)));
            line += &printed;
            wrong.extend(contradiction.map(|what| format!("{}: {what}", title.trim())));
        }
        output::show!("{line}{}\n      {}", claim.rules(), claim.why);
    }
    wrong.iter().for_each(|what| output::show!("NOT AS CLAIMED: {what}"));
    output::show!();
    wrong.len()
}
