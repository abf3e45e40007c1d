//! Servers, clients and relays are really killed, on every transport; and planted bugs are found.

use std::process::{Command, Output};

use oncewire_fuzz::mutant::ALL;

fn killer(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_killer"));
    let output = command.args(arguments).output();
    output.expect("the killer was built with this test")
}

fn survive(transport: &str) {
    let output = killer(&["--transport", transport, "--kills", "20", "--seed", "1"]);
    let report = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}{complaint}");
    assert!(report.contains("20 kills"), "{report}");
    assert!(report.contains("every outcome was true"), "{report}");
}

#[test]
fn over_tcp_every_outcome_is_true_through_20_kills() {
    survive("tcp");
}

#[test]
fn over_a_unix_socket_every_outcome_is_true_through_20_kills() {
    survive("unix");
}

#[test]
fn over_pipes_every_outcome_is_true_through_20_kills() {
    survive("pipe");
}

#[test]
fn every_mutant_is_caught() {
    for mutant in ALL {
        let name = mutant.name();
        let arguments = ["--transport", "unix", "--kills", "20", "--seed", "1", "--mutant", &name];
        let output = killer(&arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{mutant:?} went unnoticed: {complaint}");
        assert!(complaint.contains("element"), "{mutant:?}: {complaint}");
        assert!(complaint.contains("--seed 1"), "{mutant:?}: {complaint}");
    }
}
