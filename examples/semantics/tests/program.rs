//! The program as a person runs it.
#![allow(missing_docs)]

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_semantics")).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn each_cell_comes_out_as_it_claims() {
    let output = run(&[]);
    let text = text(&output);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("\nEach came out as it claims.\n"), "{text}");
    // Eight rows and five faults: the reader finds why for each.
    let is_reason = |line: &&str| line.starts_with("      ") && !line.ends_with("rules");
    assert_eq!(text.lines().filter(is_reason).count(), 40, "{text}");
    // Naive rows fail, and those of Oncewire do not.
    let wrong: Vec<&str> = text.lines().filter(|line| line.contains("WRONG")).collect();
    let is_naive = |line: &&str| line.contains("(naive)") || line.contains("net/rpc");
    assert!(wrong.len() == 10 && wrong.iter().all(is_naive), "{wrong:#?}");
}

#[test]
fn a_part_of_the_table_is_run_alone() {
    let text = text(&run(&["lost-reply"]));
    assert!(text.starts_with("LOST REPLY") && !text.contains("LOST REQUEST"), "{text}");
    let exactly_once = text.lines().find(|line| line.starts_with("exactly once")).unwrap();
    let words: Vec<&str> = exactly_once.split_whitespace().skip(6).collect();
    assert_eq!(words.join(" "), "reply ran 1x $89 10 20 k = 20 S2 S10 S21", "{text}");
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    let bad: &[&[&str]] =
        &[&["nonsense"], &["lost reply"], &["lost-reply", "think"], &["serve"], &["--all"]];
    for args in bad {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(run(&["--help"]).status.success());
}
