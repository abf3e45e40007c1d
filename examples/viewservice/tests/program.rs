//! The program as a person runs it.
#![allow(missing_docs)]

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_viewservice")).args(args).output().unwrap()
}

#[test]
fn the_demonstration_ends_by_itself_and_all_views_are_as_they_should_be() {
    let output = run(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.ends_with("All views were as they should be.\n"), "{text}");
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let bad: &[&[&str]] = &[
        &["nonsense"],
        &["serve"],
        &["serve", "nowhere"],
        &["serve", "127.0.0.1:0", "soon"],
        &["serve", &taken],
        &["serve", "/nowhere/at/all.sock"],
        &["get", "/nowhere/at/all.sock"],
        &["get", "no.such.host.invalid:1"],
    ];
    for args in bad {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(run(&["--help"]).status.success());
}
