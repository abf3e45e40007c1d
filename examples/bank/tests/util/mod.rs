//! The built program, and what it says.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test.
pub const BANK: &str = env!("CARGO_BIN_EXE_bank");

pub fn bank(arguments: &[&str]) -> Command {
    // A hang is a failure, not a wait for ever; on a busy machine all of it takes minutes.
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg("600").arg(BANK).args(arguments).stdin(Stdio::null());
    command
}

pub fn run(arguments: &[&str]) -> Output {
    bank(arguments).output().unwrap()
}

/// A process that says where it listens; killed in the end.
pub struct Listening {
    pub child: Child,
    pub address: String,
    pub line: String,
}

impl Listening {
    pub fn start(arguments: &[&str]) -> Listening {
        let mut command = Command::new(BANK);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = said.next().expect("it says something").unwrap();
        // One of several waits until it is its turn.
        while line.starts_with("waiting for ") {
            line = said.next().expect("it says that it listens").unwrap();
        }
        let rest = line.strip_prefix("listening on ").expect("a ready line");
        let address = rest.split_once(',').unwrap().0.to_owned();
        Listening { child, address, line }
    }

    /// Ends it cleanly.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client whose balances must be exact, and returns its report.
pub fn exact(address: &str, more: &[&str]) -> Value {
    let arguments = ["client", address, "--calls", "300", "--clients", "2", "--in-flight", "8"];
    let output = run(&[&arguments[..], &["--json"], more].concat());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).expect(&words);
    assert_eq!(output.status.code(), Some(0), "{report} {words}");
    assert_eq!(report["exact"], true, "{report}");
    assert_eq!(report["expected"], report["actual"], "{report}");
    let sum = ["replied", "not_executed", "unknown"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(report["calls"].as_u64(), Some(sum.iter().sum()), "{report}");
    report
}

/// A few kills of everything that a crash test starts.
pub fn crash_test(kills: &str, arguments: &[&str]) -> (Option<i32>, String) {
    crash_test_of("3", kills, arguments)
}

pub fn crash_test_of(seed: &str, kills: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(&[&["crash-test", "--kills", kills, "--seed", seed], arguments].concat());
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code(), text)
}

/// A cluster whose servers do not keep late effects out is found out. A pause shows it only where it comes in the middle of a
/// transaction: one run of eight in ten shows nothing on a busy machine, six runs in a row do not happen.
pub fn finds_no_fence(arguments: &[&str]) {
    let arguments = [arguments, &["--mutant=no-fence"]].concat();
    let mut seeds = ["3", "4", "5", "6", "7", "8"].into_iter();
    let found = seeds.any(|seed| match crash_test_of(seed, "8", &arguments) {
        (Some(0), _) => false,
        (code, text) => {
            assert_eq!(code, Some(1), "{text}");
            true
        }
    });
    assert!(found, "48 pauses showed nothing");
}
