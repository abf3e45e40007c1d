//! Readers that leave: C358.
#![allow(missing_docs)]
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

fn lines(arguments: &[&str], out: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lines"));
    command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// As `head -1` does.
fn read_one(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "line 0\n");
}

#[test]
fn c358_a_program_whose_reader_leaves_ends_without_a_word_or_continues() {
    let mut main = lines(&["main"], Stdio::piped());
    read_one(&mut main);
    assert_eq!(end(main), (Some(101), "dropped\n".to_owned()));
    let mut other = lines(&[], Stdio::piped());
    read_one(&mut other);
    let continued = "ended\ndropped\n".to_owned();
    // What the guard prints is lost, on the main thread too: it ends only there.
    assert_eq!(end(other), (Some(101), continued));
}

#[test]
fn c358_a_disk_that_is_full_is_said_once() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (status, said) = end(lines(&["main"], full.into()));
    assert_eq!(status, Some(101), "{said}");
    let line = "stdout cannot be written: No space left on device (os error 28)\n";
    assert_eq!(said, format!("{line}dropped\n"));
}

#[test]
fn c358_a_stderr_that_is_closed_changes_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lines"));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = command.stdout(Stdio::null()).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
