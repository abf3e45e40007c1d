//! A bank in a process of its own, and what the program under test has said and ended with.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod authority;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The program under test.
pub(crate) const ONCEWIRE: &str = env!("CARGO_BIN_EXE_oncewire");
/// Asks this test program to be a bank: the lines are an address, and arguments.
const BANK: &str = "ONCEWIRE_TEST_BANK";

/// `bank serve`, in a process of its own: this program, started again.
#[test]
#[ignore = "is started by the other tests"]
fn bank() {
    if let Ok(lines) = std::env::var(BANK) {
        let arguments: Vec<&str> = ["bank", "serve"].into_iter().chain(lines.lines()).collect();
        let status = oncewire_bank::main_with(&arguments);
        assert_eq!(format!("{status:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
    }
}

/// Killed in the end.
pub(crate) struct Bank {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Bank {
    pub(crate) fn start(address: &str) -> Bank {
        Bank::with(&[address])
    }

    /// With a ledger, say.
    pub(crate) fn with(arguments: &[&str]) -> Bank {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "--nocapture", "util::bank"])
            .env(BANK, arguments.join("\n"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The test program has a line of its own before it, or in front of it.
        let ready = |line: String| {
            let line = line.split_once("listening on ")?.1.to_owned();
            Some(line.split_once(',')?.0.to_owned())
        };
        let address = lines.map_while(Result::ok).find_map(ready).expect("it serves");
        Bank { child, address }
    }

    pub(crate) fn tcp() -> Bank {
        Bank::start("tcp:127.0.0.1:0")
    }

    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Ended {
        run(&[&[command, &*self.address], arguments].concat())
    }

    pub(crate) fn call(&self, method: &str, arguments: &str) -> Ended {
        self.run("call", &[method, arguments])
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Its status, and whether the one line that it has on stderr says this.
    pub(crate) fn failed(&self, status: i32, says: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("oncewire: ") && self.err.contains(says), "{self:?}");
    }

    pub(crate) fn replied(&self) -> serde_json::Value {
        assert_eq!((self.status, &*self.err), (0, ""), "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

pub(crate) fn run(arguments: &[&str]) -> Ended {
    // A hang is a failure, not a wait for ever.
    let mut command = Command::new("timeout");
    command.arg("600").arg(ONCEWIRE).args(arguments).stdin(Stdio::null());
    ended(command.output().unwrap())
}

/// What a program has left; one that was killed has the status -1.
pub(crate) fn ended(output: Output) -> Ended {
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { status: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// A directory that is removed in the end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("oncewire-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    /// A path in it.
    pub(crate) fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// A relay that records; killed in the end.
pub(crate) struct Recorder {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Recorder {
    pub(crate) fn start(file: &Path, listen: &str, to: &str, more: &[&str]) -> Recorder {
        let mut command = Command::new(ONCEWIRE);
        command.arg("record").arg(file).args(["--listen", listen, "--to", to]);
        let mut child = command.args(more).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = |line: String| {
            let address = line.strip_prefix("listening on ")?.split_once(',')?.0;
            Some(address.to_owned())
        };
        let address = lines.map_while(Result::ok).find_map(ready).expect("it listens");
        Recorder { child, address }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

pub(crate) const OPEN: &str =
    r#"{"open": {"operation": {"client": 1, "number": 1}, "opening": 500}}"#;

/// A deduction from an account.
pub(crate) fn deduct(account: u64, amount: &str) -> String {
    format!(
        r#"{{"change": {{"operation": {{"client": 1, "number": 2}}, "account": {account}, "amount": {amount}}}}}"#
    )
}
