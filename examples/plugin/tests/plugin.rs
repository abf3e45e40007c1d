//! The program as a person runs it.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plugin")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_case_is_as_it_should_be() {
    let output = run(&[]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.ends_with("16 of 16 cases were as they should be.\n"), "{text}");
    assert_eq!(text.matches("left running: nothing").count(), 16, "{text}");
}

#[test]
fn help_lists_the_cases_and_one_can_be_chosen() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("  crash       the plugin ends in mid call"));
    let output = run(&["crash"]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("the program ended with status 3: no space left"), "{text}");
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    for args in [&["nonsense"][..], &["--nonsense"], &["crash", "nonsense"], &["as-plugin", "x"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}
