//! Counts instructions of this program's own roles with valgrind's callgrind. Counts repeat, whatever else the machine does.

use std::process::{Command, Stdio};

use serde::Serialize;

use crate::Result;

pub(crate) fn is_there() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok()
}

/// Instructions of a run of a role that makes so many calls.
pub(crate) fn instructions(role: &str, setup: &impl Serialize, calls: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([role, &serde_json::to_string(setup)?, &calls.to_string()])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split("Collected : ").nth(1));
    Ok(line.ok_or("callgrind said nothing")?.trim().parse()?)
}
