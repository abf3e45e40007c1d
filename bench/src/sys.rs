//! Queries of the system: cores, processor time, memory, congestion control.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// The cores that this thread may run on.
pub(crate) fn cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Keeps this thread, and what it starts from now on, on these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Nanoseconds of processor time that the threads of a process have had. Threads that have ended are not counted.
pub(crate) fn cpu_ns(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_task = |task: fs::DirEntry| -> Option<u64> {
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse().ok()
    };
    tasks.flatten().filter_map(of_task).sum()
}

/// Bytes of memory that a process holds.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("statm has no second field")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The load averages, as the system words them.
pub(crate) fn load_average() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// Sets TCP's congestion control to cubic on every socket of this process, also those that libraries made: the system's default
/// may be another, which paces what loopback need not. Accepted sockets inherit it from their listener.
pub(crate) fn use_cubic() -> Result<()> {
    let own = match pidfd_open(getpid(), PidfdFlags::empty()) {
        // Valgrind does not know the call. Under it instructions are counted, and the sockets do not matter.
        Err(Errno::NOSYS) => return Ok(()),
        own => own?,
    };
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_string_lossy().parse::<i32>();
        let (true, Ok(number)) = (is_socket, number) else { continue };
        if let Ok(socket) = pidfd_getfd(&own, number, PidfdGetfdFlags::empty()) {
            // A socket that is not TCP's has no such thing.
            let _ = rustix::net::sockopt::set_tcp_congestion(&socket, "cubic");
        }
    }
    Ok(())
}

pub(crate) fn own_pid() -> u32 {
    Pid::as_raw_nonzero(getpid()).get().unsigned_abs()
}
