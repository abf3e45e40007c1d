//! Plugins that end.

use std::time::Duration;

use oncewire_pipe::plugin::{EndReason, Plugin, PluginState, RestartPolicy};
use oncewire_pipe::{CallFailure, Executed, Unknown};

use crate::roles::{ABORT, ECHO, EXIT, EXIT_UNLESS, HANG, PID};
use crate::{fails_at_once, gone, plugin, program, shell, signal, until, until_state};

crate::tests! {
    c130_a_plugin_that_ends_in_mid_call_is_the_reason_of_its_calls,
    a_plugin_that_a_signal_ends_says_which,
    an_idempotent_call_runs_again_in_the_next_run,
    a_plugin_that_ends_at_once_is_given_up_after_its_restarts,
    a_plugin_that_ends_for_the_last_time_in_mid_call_ends_that_call,
    calls_of_a_program_that_cannot_be_started_fail_at_once,
    a_plugin_that_was_given_up_is_started_again_on_demand,
    restarts_are_paused_and_calls_wait_for_them,
    a_call_that_fails_by_itself_is_not_blamed_on_an_end,
}

fn c130_a_plugin_that_ends_in_mid_call_is_the_reason_of_its_calls() {
    smol::block_on(async {
        let plugin = plugin("serve").start();
        let first = plugin.client().call(&PID, &()).await.ok().unwrap();
        let hanging = plugin.client().call(&HANG, &()).start();
        let arguments = (3, "no disk\nbye".to_owned());
        let failure = plugin.client().call(&EXIT, &arguments).await.ok().unwrap_err();
        assert_eq!(failure, CallFailure::Unknown(Unknown::SessionEnded));
        // The other call in flight learns the same.
        assert_eq!(hanging.await.ok().unwrap_err(), failure);
        let failure = plugin.explain(failure);
        assert_eq!(
            failure.to_string(),
            "unknown whether executed: the session ended before the answer came; plugin serve: the program ended \
             with status 3: no disk | bye"
        );
        assert_eq!(failure.executed(), Executed::Unknown);
        // It has been started again.
        let second = plugin.client().call(&PID, &()).await.ok().unwrap();
        assert!(first != second);
        assert_eq!(plugin.status().starts, 2);
        gone(first).await;
    });
}

fn a_plugin_that_a_signal_ends_says_which() {
    smol::block_on(async {
        let plugin = plugin("serve").start();
        let failure = plugin.client().call(&ABORT, &()).await.ok().unwrap_err();
        let text = plugin.explain(failure).to_string();
        assert!(text.contains("the program was killed by signal: 6 (SIGABRT)"), "{text}");
        let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
        // Not the one by which its host kills it.
        signal("-TERM", pid);
        until(|| plugin.status().starts == 3).await;
        let end = plugin.status().last_end.unwrap();
        assert_eq!(end.to_string(), "the program was killed by signal: 15 (SIGTERM)");
    });
}

fn an_idempotent_call_runs_again_in_the_next_run() {
    smol::block_on(async {
        let path = std::env::temp_dir().join(format!("oncewire-plugin-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let plugin = plugin("serve").start();
        let first = plugin.client().call(&PID, &()).await.ok().unwrap();
        let path = (path.to_str().unwrap().to_owned(),);
        let second = plugin.client().call(&EXIT_UNLESS, &path).await.ok().unwrap();
        assert!(first != second);
    });
}

fn a_plugin_that_ends_at_once_is_given_up_after_its_restarts() {
    smol::block_on(async {
        let policy = RestartPolicy::at_most(3, Duration::from_secs(3600))
            .backoff(Duration::from_millis(1), Duration::from_millis(4));
        let plugin = shell("echo cannot read its settings >&2; exit 7").restarts(policy).start();
        // Those that begin later learn it as well.
        for _ in 0..3 {
            let text = fails_at_once(&plugin).await;
            let end = "the program ended with status 7: cannot read its settings";
            assert!(text.starts_with("not executed: ") && text.ends_with(end), "{text}");
        }
        let status = plugin.status();
        assert_eq!((status.starts, status.pid), (4, None));
    });
}

fn a_plugin_that_ends_for_the_last_time_in_mid_call_ends_that_call() {
    smol::block_on(async {
        let plugin = plugin("serve").restarts(RestartPolicy::NEVER).start();
        let arguments = (1, "last words".to_owned());
        let call = plugin.client().call(&EXIT, &arguments).timeout(Duration::from_secs(3600));
        let failure = call.await.ok().unwrap_err();
        assert_eq!(failure, CallFailure::Unknown(Unknown::SessionEnded));
        let text = plugin.explain(failure).to_string();
        assert!(text.ends_with("the program ended with status 1: last words"), "{text}");
        assert_eq!(plugin.status().state, PluginState::GaveUp);
    });
}

fn calls_of_a_program_that_cannot_be_started_fail_at_once() {
    smol::block_on(async {
        let file = std::env::temp_dir().join(format!("oncewire-plugin-{}", std::process::id()));
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        // A file that may not be executed, one that is not there, and a directory.
        for (path, why) in [
            (file.to_str().unwrap(), "Permission denied"),
            ("/nowhere/to/be/found", "No such file"),
            ("/tmp", "Permission denied"),
        ] {
            let text = format!("cannot start {path}: {why}");
            let plugin = Plugin::builder("none", std::process::Command::new(path)).start();
            assert!(fails_at_once(&plugin).await.contains(&text));
            let status = plugin.status();
            let end = status.last_end.unwrap();
            assert!(matches!(end.why, EndReason::NotStarted(_)));
            assert!(end.to_string().starts_with(&text), "{end}");
            assert_eq!((status.starts, status.pid), (0, None));
        }
        std::fs::remove_file(file).unwrap();
    });
}

fn a_plugin_that_was_given_up_is_started_again_on_demand() {
    smol::block_on(async {
        let plugin = plugin("serve").restarts(RestartPolicy::NEVER).start();
        for starts in 1..4 {
            let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
            assert_eq!(plugin.status().starts, starts);
            signal("-9", pid);
            until_state(&plugin, PluginState::GaveUp).await;
            assert!(plugin.restart().await);
        }
        // One that runs is ended first.
        let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
        assert!(plugin.restart().await);
        assert_eq!(plugin.status().starts, 5);
        assert!(plugin.client().call(&PID, &()).await.ok().unwrap() != pid);
        assert_eq!(plugin.status().last_end.unwrap().why, EndReason::Stopped);
        gone(pid).await;
    });
}

fn restarts_are_paused_and_calls_wait_for_them() {
    smol::block_on(async {
        let pause = Duration::from_millis(50);
        let policy = RestartPolicy::at_most(3, Duration::from_secs(3600)).backoff(pause, pause);
        let plugin = Plugin::builder("serve", program("serve")).restarts(policy).start();
        for starts in 1..4 {
            let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
            assert_eq!(plugin.status().starts, starts);
            signal("-9", pid);
            until(|| plugin.status().pid.is_none_or(|next| next != pid)).await;
            // It waits for the next run, if it did not leave before the end was seen.
            let reply = plugin.client().call(&ECHO, &vec![1]).await.ok();
            assert!(
                matches!(reply, Ok(_) | Err(CallFailure::Unknown(Unknown::SessionEnded))),
                "{reply:?}"
            );
            until(|| plugin.status().starts == starts + 1).await;
        }
    });
}

fn a_call_that_fails_by_itself_is_not_blamed_on_an_end() {
    smol::block_on(async {
        let plugin = plugin("serve").start();
        signal("-9", plugin.client().call(&PID, &()).await.ok().unwrap());
        until(|| plugin.status().last_end.is_some()).await;
        // Answered by the next run, though it may have left for the last.
        plugin.client().call(&PID, &()).await.ok().unwrap();
        const UNKNOWN: oncewire_pipe::Method<(), ()> = oncewire_pipe::Method::new("test/none");
        let failure = plugin.client().call(&UNKNOWN, &()).await.ok().unwrap_err();
        let text = plugin.explain(failure).to_string();
        assert_eq!(text, "not executed: the server has no such method; plugin serve");
    });
}
