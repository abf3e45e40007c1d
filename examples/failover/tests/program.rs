//! The program as a person runs it.
#![allow(missing_docs)]

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_failover")).args(args).output().unwrap()
}

#[test]
fn each_wait_ends_as_it_should_and_the_chart_is_drawn() {
    let file = std::env::temp_dir().join(format!("oncewire-failover-{}.svg", std::process::id()));
    let output = run(&["2", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let chart = std::fs::read_to_string(&file).unwrap();
    let _ = std::fs::remove_file(&file);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("Each wait ended as it should.\n"), "{text}");
    assert!(chart.starts_with("<svg") && chart.ends_with("</svg>\n"), "{chart}");
    assert_eq!(chart.matches("#4a7ebb").count(), 4);
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    for args in [&["nonsense"][..], &["0"], &["1", "/nowhere/chart.svg"], &["1", "2", "3"]] {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(run(&["--help"]).status.success());
}
