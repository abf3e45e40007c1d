//! Hosts in processes of their own.

use std::process::Stdio;
use std::time::Duration;

use oncewire_pipe::plugin::RestartPolicy;

use crate::roles::{ECHO, LEAVE, PID};
use crate::{ended, gone, plugin, program, signal};

crate::tests! {
    a_write_to_a_plugin_that_is_gone_does_not_kill_its_host,
    a_host_that_returns_from_main_leaves_nothing_running,
}

fn a_write_to_a_plugin_that_is_gone_does_not_kill_its_host() {
    let output = program("host-sigpipe").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
}

/// Role: a host in which SIGPIPE is fatal, as in a program in C.
pub(crate) fn with_default_sigpipe() {
    use nix::sys::signal::{SigHandler, Signal};
    #[allow(unsafe_code)]
    // SAFETY: no other thread exists, and no handler is replaced.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
    let policy = RestartPolicy::at_most(u32::MAX, Duration::ZERO);
    smol::block_on(async {
        let plugin = plugin("serve").restarts(policy).start();
        for _ in 0..20 {
            let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
            signal("-STOP", pid);
            // More than the pipe holds: when the plugin is gone, the rest is written to no one.
            let call = plugin.client().call(&ECHO, &vec![0; 4 << 20]).start();
            signal("-KILL", pid);
            gone(pid).await;
            let _in_doubt_or_executed = call.await;
        }
    });
}

fn a_host_that_returns_from_main_leaves_nothing_running() {
    let mut host = program("host-returns").stdout(Stdio::piped()).spawn().unwrap();
    let mut pids = String::new();
    std::io::Read::read_to_string(&mut host.stdout.take().unwrap(), &mut pids).unwrap();
    assert!(host.wait().unwrap().success());
    let pids: Vec<u32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    smol::block_on(async {
        for pid in pids {
            ended(pid).await;
        }
    });
}

/// Role: a host whose `main` returns while its plugin, which is held, and what that started live.
pub(crate) fn returns() {
    let plugin = plugin("serve").start();
    let pid = plugin.client().call(&PID, &()).block().ok().unwrap();
    let child = plugin.client().call(&LEAVE, &()).block().ok().unwrap();
    signal("-STOP", pid);
    println!("{pid} {child}");
}
