//! What the plugins do.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use oncewire_pipe::{Method, Server, ServerConfig, StdioAcceptor};

pub(crate) const ECHO: Method<Vec<u8>, Vec<u8>> = Method::new("test/echo").reply_len_max(8 << 20);
pub(crate) const PID: Method<(), u32> = Method::new("test/pid").idempotent();
/// Ends the plugin in mid call.
pub(crate) const EXIT: Method<(i32, String), ()> = Method::new("test/exit");
pub(crate) const ABORT: Method<(), ()> = Method::new("test/abort");
pub(crate) const HANG: Method<(), ()> = Method::new("test/hang");
/// The same, and it may run more than once.
pub(crate) const EXIT_UNLESS: Method<(String,), u32> = Method::new("test/exit_unless").idempotent();
/// Writes so many lines of 100 bytes to stderr.
pub(crate) const COMPLAIN: Method<u32, ()> = Method::new("test/complain");
/// Starts a program that lives long, and returns its number.
pub(crate) const LEAVE: Method<(), u32> = Method::new("test/leave");

/// How long a peer of [`serve`]'s may be silent in the role "hasty".
pub(crate) const HASTY: Duration = Duration::from_millis(200);

// What is left to its host is the point.
#[expect(clippy::zombie_processes)]
pub(crate) fn play(role: &str) {
    match role {
        "serve" => serve(|_| {}),
        "hasty" => {
            serve(|config| config.keepalive = HASTY);
        }
        "banner" => {
            println!("Welcome to the plugin!\nVersion 1");
            serve(|_| {});
        }
        "with-child" => {
            // It holds all three of our pipes.
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            eprintln!("child {}", child.id());
            serve(|_| {});
        }
        "host-sigpipe" => crate::hosts::with_default_sigpipe(),
        "host-returns" => crate::hosts::returns(),
        other => panic!("no role {other}"),
    }
}

fn serve(configure: impl FnOnce(&mut ServerConfig)) {
    let acceptor = StdioAcceptor::new().unwrap();
    let server = Server::builder("test")
        .configure(configure)
        .method(&ECHO, |_, bytes| async move { bytes })
        .method(&PID, |_, ()| async { std::process::id() })
        .method(&EXIT, |_, (code, last_words): (i32, String)| async move {
            eprintln!("{last_words}");
            std::process::exit(code)
        })
        .method(&ABORT, |_, ()| async { std::process::abort() })
        .method(&HANG, |_, ()| std::future::pending())
        .method(&EXIT_UNLESS, |_, (path,): (String,)| async move {
            if std::fs::remove_file(path).is_ok() {
                std::process::exit(1);
            }
            std::process::id()
        })
        .method(&COMPLAIN, |_, lines: u32| async move {
            let line = format!("{:99}\n", "complaint");
            let mut stderr = std::io::stderr().lock();
            for _ in 0..lines {
                stderr.write_all(line.as_bytes()).unwrap();
            }
        })
        .method(&LEAVE, |_, ()| async {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null());
            command.spawn().unwrap().id()
        })
        .build()
        .unwrap();
    smol::block_on(server.serve(acceptor)).unwrap();
}
