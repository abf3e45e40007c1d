//! The command lines of the simulators are alike, and a failure prints the command that repeats it.

use std::process::{Command, Output};

const PROGRAMS: [(&str, &str); 5] = [
    ("world", env!("CARGO_BIN_EXE_world")),
    ("driver_world", env!("CARGO_BIN_EXE_driver_world")),
    ("storage_world", env!("CARGO_BIN_EXE_storage_world")),
    ("explore", env!("CARGO_BIN_EXE_explore")),
    ("killer", env!("CARGO_BIN_EXE_killer")),
];

fn run(program: &str, arguments: &str) -> Output {
    let path = PROGRAMS.iter().find(|(name, _)| *name == program).expect("one of them").1;
    let output = Command::new(path).args(arguments.split_whitespace()).output();
    output.expect("it was built with this test")
}

#[test]
fn every_simulator_says_which_bugs_it_can_plant() {
    for (program, _) in PROGRAMS {
        let output = run(program, "--mutant none-such");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{program}: {said}");
        assert!(said.contains("possible values") && said.contains("-"), "{program}: {said}");
    }
}

#[test]
fn a_failure_prints_the_command_that_repeats_it() {
    let first = [
        ("world", "--calls 400 --seeds 0..10 --mutant no-dedup"),
        ("driver_world", "--seeds 0..10 --mutant no-dedup"),
    ];
    for (program, arguments) in first {
        let output = run(program, arguments);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{program}: {said}");
        let command = said.lines().find_map(|line| line.strip_prefix("to see all of it: "));
        let (name, arguments) = command.and_then(|line| line.split_once(' ')).expect("a command");
        assert_eq!(name, program);
        let again = run(program, arguments);
        let all = String::from_utf8_lossy(&again.stdout);
        assert_eq!(again.status.code(), Some(1), "{program} {arguments}");
        let why = said.lines().find(|line| line.starts_with("seed ")).expect("the broken promise");
        assert!(all.contains(why), "{program} {arguments}: {all}");
    }
}
