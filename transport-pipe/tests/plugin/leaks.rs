//! What runs of plugins leave behind: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use oncewire_pipe::plugin::{Plugin, RestartPolicy};

use crate::roles::{EXIT, PID};
use crate::{collect, plugin, shell, until};

crate::tests! {
    two_hundred_restarts_leave_no_descriptor_no_thread_and_no_process,
    a_plugin_inherits_its_three_streams_only,
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// Our children, zombies too.
fn children() -> BTreeSet<u32> {
    let us = std::process::id().to_string();
    let is_ours = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        parent == Some(us.as_str())
    };
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(is_ours).collect()
}

async fn restart(plugin: &Plugin, times: u32) {
    for _ in 0..times {
        let arguments = (1, "once more".to_owned());
        let failure = plugin.client().call(&EXIT, &arguments).await.ok().unwrap_err();
        let text = plugin.explain(failure).to_string();
        assert!(text.ends_with("ended with status 1: once more"), "{text}");
    }
    plugin.client().call(&PID, &()).await.ok().unwrap();
}

fn two_hundred_restarts_leave_no_descriptor_no_thread_and_no_process() {
    smol::block_on(async {
        let policy = RestartPolicy::at_most(u32::MAX, Duration::from_secs(3600))
            .backoff(Duration::ZERO, Duration::ZERO);
        let plugin = plugin("serve").restarts(policy).start();
        restart(&plugin, 3).await;
        let count = || (entries("/proc/self/fd"), children().len());
        let before = count();
        restart(&plugin, 200).await;
        assert_eq!(plugin.status().starts, 204);
        // Before, there may have been something of the last run, or of another test's plugin.
        until(|| count().0 <= before.0 && count().1 <= before.1).await;
        // Threads for code that may block come and go, but never one a run.
        until(|| entries("/proc/self/task") < 30).await;
        let pid = plugin.status().pid.unwrap();
        assert!(children().contains(&pid));
        drop(plugin);
        until(|| !children().contains(&pid)).await;
    });
}

fn a_plugin_inherits_its_three_streams_only() {
    let script = "ls /proc/self/fd >&2";
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    let usual = String::from_utf8(output.stderr).unwrap().lines().count();
    smol::block_on(async {
        // Others that run hold pipes meanwhile.
        let others: Vec<_> = (0..3).map(|_| plugin("serve").start()).collect();
        for other in &others {
            other.client().call(&PID, &()).await.ok().unwrap();
        }
        let (builder, lines) = collect(shell(script));
        let plugin = builder.restarts(RestartPolicy::NEVER).start();
        until(|| plugin.status().last_end.is_some()).await;
        until(|| lines.lock().unwrap().len() >= usual).await;
        assert_eq!(lines.lock().unwrap().len(), usual);
    });
}
