//! What the system says of processes.

use std::fs;
use std::time::Duration;

use oncewire::{Runtime, SmolRuntime};
use smol::future::poll_fn;

/// How long a condition may take to come true. Only a claim that fails takes so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);

/// The time since the first call.
pub(crate) fn now() -> oncewire::Instant {
    SmolRuntime::global().now()
}

pub(crate) async fn sleep(time: Duration) {
    let mut timer = SmolRuntime::global().timer();
    timer.set(now() + time);
    poll_fn(|cx| timer.poll(cx)).await;
}

/// Waits for a condition; whether it came true.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) -> bool {
    let started = now();
    while !condition() {
        if now().since(started) > GIVE_UP_AFTER {
            return false;
        }
        sleep(Duration::from_millis(1)).await;
    }
    true
}

/// A process, as /proc has it.
struct Process {
    pid: u32,
    state: char,
    parent: u32,
    group: u32,
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| read(name.parse().ok()?)).collect()
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state parent group …", and the name may have anything in it.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Process { pid, state, parent, group })
}

/// The processes that are left of these process groups, and our own zombies.
pub(crate) fn left_of(groups: &[u32]) -> usize {
    let us = std::process::id();
    let is_left = |process: &Process| {
        let is_dead = matches!(process.state, 'Z' | 'X');
        match process.parent == us {
            true => groups.contains(&process.group),
            // A zombie of another parent is that one's to wait for.
            false => groups.contains(&process.group) && !is_dead,
        }
    };
    processes().iter().filter(|process| is_left(process)).count()
}

/// The processes of a group, without its leader.
pub(crate) fn followers_of(group: u32) -> usize {
    processes().iter().filter(|other| other.group == group && other.pid != group).count()
}

pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Sends a signal by its name.
pub(crate) fn signal(name: &str, pid: u32) -> std::io::Result<()> {
    let status = std::process::Command::new("kill").arg(name).arg(pid.to_string()).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("kill failed")) }
}
