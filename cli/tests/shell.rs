//! Completions, the manual, and what exit statuses mean: C355 and C356.
#![allow(missing_docs)]
#![cfg(unix)]

use std::io::Write;
use std::process::{Command, Stdio};

use util::{Directory, run};

mod util;

const COMMANDS: [&str; 9] =
    ["ping", "list", "call", "top", "tls-check", "record", "replay", "completions", "man"];

/// Whether a program, if it is there, accepts this on its stdin without a word.
fn accepts(program: &str, arguments: &[&str], text: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        println!("{program} is not on this machine");
        return;
    };
    let stdin = child.stdin.take();
    let written = stdin.map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program}: {said} {written:?}");
}

#[test]
fn c355_shells_complete_the_command_line() {
    for (shell, check) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = run(&["completions", shell]);
        assert_eq!((script.status, &*script.err), (0, ""), "{script:?}");
        for word in COMMANDS.iter().chain(&["durable", "server-name", "fail-fast"]) {
            assert!(script.out.contains(word), "{shell} does not complete {word}");
        }
        accepts(shell, check, &script.out);
    }
    run(&["completions", "csh"]).failed(2, "csh");
    // Bash asks it as it does when TAB is pressed.
    let script = run(&["completions", "bash"]).out;
    let ask = r#"COMP_WORDS=(oncewire tls); COMP_CWORD=1; _oncewire oncewire tls oncewire; echo "${COMPREPLY[@]}""#;
    let asked = Command::new("bash").args(["-c", &format!("{script}\n{ask}")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "tls-check", "{asked:?}");
}

#[test]
fn c355_each_command_has_a_page_of_the_manual() {
    let directory = Directory::new("cli-man");
    let pages = directory.at("");
    assert_eq!(run(&["man", "--dir", &pages]).status, 0);
    for command in COMMANDS {
        let page = run(&["man", command]);
        assert_eq!((page.status, &*page.err), (0, ""), "{page:?}");
        let file = directory.at(&format!("oncewire-{command}.1"));
        assert_eq!(std::fs::read_to_string(file).unwrap(), page.out);
        accepts("groff", &["-man", "-Tutf8", "-ww"], &page.out);
    }
    let program = run(&["man"]);
    assert_eq!(std::fs::read_to_string(directory.at("oncewire.1")).unwrap(), program.out);
    for expected in ["oncewire\\-tls\\-check(1)", "EXIT STATUS", "UNKNOWN whether executed"] {
        assert!(program.out.contains(expected), "{expected:?} is not in {}", program.out);
    }
    accepts("groff", &["-man", "-Tutf8", "-ww"], &program.out);
    run(&["man", "woman"]).failed(2, "there is no command woman; there is ping");
    run(&["man", "--dir", "/nonexistent"]).failed(16, "/nonexistent");
}

#[test]
fn c356_help_and_readme_say_what_each_exit_status_means() {
    let rows = |text: &str, (begin, between): (&str, (&str, &str))| {
        let row = |line: &str| {
            let line = line.strip_prefix(begin)?.trim_start();
            let (status, meaning) = line.split_once(between.0)?;
            let meaning = meaning.split(between.1).next()?;
            let meaning = meaning.trim().replace("**", "").replace('`', "");
            Some((status.trim().parse::<u8>().ok()?, meaning.to_lowercase()))
        };
        text.lines().filter_map(row).collect::<Vec<_>>()
    };
    let help = run(&["--help"]);
    assert_eq!(help.status, 0);
    let said: Vec<_> = rows(&help.out, ("  ", ("  ", "\n")))
        .into_iter()
        .map(|(status, meaning)| {
            let meaning = meaning.trim_start_matches("not executed: ").to_owned();
            (status, meaning)
        })
        .collect();
    let readme = rows(include_str!("../README.md"), ("| ", (" | ", " | ")));
    assert!(said.len() >= 20, "{said:?}");
    assert_eq!(said, readme);
    for help in [&["call", "--help"][..], &["tls-check", "--help"]] {
        let help = run(help);
        assert_eq!(help.status, 0);
        assert!(help.out.contains("UNKNOWN whether executed"), "{help:?}");
    }
    // A wrong command line is one line, too.
    run(&["pong"]).failed(2, "unrecognized subcommand 'pong'");
    run(&["ping"]).failed(2, "<ADDRESS>");
    run(&["ping", "http://a"]).failed(2, "an address is tcp:HOST:PORT, tls:HOST:PORT, unix:PATH");
    run(&["ping", "tls:a"]).failed(2, "tls: wants HOST:PORT");
    run(&["ping", "tcp:a:1", "--timeout", "soon"]).failed(2, "is no time");
}
