//! Plugins that are silent.

use std::time::Duration;

use oncewire_pipe::plugin::{PluginState, RestartPolicy};
use oncewire_pipe::{CallFailure, Outcome, Runtime, SmolRuntime, Unknown};
use smol::future::{poll_fn, poll_once};

use crate::roles::{ECHO, HANG, HASTY, PID};
use crate::{gone, plugin, shell, signal, state_of, try_signal, until, until_state};

crate::tests! {
    c134_a_plugin_that_a_debugger_holds_is_not_given_up,
    a_plugin_that_is_silent_for_longer_than_was_asked_for_is_replaced,
    a_program_that_never_speaks_is_not_given_up_and_is_if_asked_for,
    a_call_that_hangs_ends_at_its_deadline_and_its_plugin_serves_on,
}

async fn pass(time: Duration) {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + time);
    poll_fn(|cx| timer.poll(cx)).await;
}

fn c134_a_plugin_that_a_debugger_holds_is_not_given_up() {
    smol::block_on(async {
        // Its server calls a client dead, and would be called so by another, within a moment.
        let plugin = plugin("hasty").start();
        let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
        assert_eq!(plugin.status().state, PluginState::Running);
        signal("-STOP", pid);
        until_state(&plugin, PluginState::Held).await;
        let call = plugin.client().call(&ECHO, &vec![7]).start();
        pass(10 * HASTY).await;
        assert_eq!((plugin.status().starts, plugin.status().pid), (1, Some(pid)));
        signal("-CONT", pid);
        assert_eq!(call.await.ok().unwrap(), [7]);
        assert_eq!(plugin.status().starts, 1);
    });
}

fn a_plugin_that_is_silent_for_longer_than_was_asked_for_is_replaced() {
    smol::block_on(async {
        let plugin = plugin("hasty")
            .give_up_after(HASTY)
            .restarts(RestartPolicy::at_most(u32::MAX, Duration::ZERO))
            .client_options(|options| options.with_connect_timeout(Duration::from_secs(3600)))
            .stop_grace(Duration::from_millis(10))
            .start();
        // On a busy machine it may be given up, and replaced, before it is stopped.
        let (pid, starts, call) = loop {
            let Ok(pid) = plugin.client().call(&PID, &()).await.ok() else { continue };
            let starts = plugin.status().starts;
            let mut call = plugin.client().call(&HANG, &()).timeout(Duration::from_secs(3600));
            assert!(poll_once(&mut call).await.is_none());
            let was_there = try_signal("-STOP", pid);
            until(|| matches!(state_of(pid), None | Some('T' | 'Z' | 'X'))).await;
            if was_there && state_of(pid) == Some('T') {
                break (pid, starts, call);
            }
        };
        let failure = call.await.ok().unwrap_err();
        assert_eq!(failure, CallFailure::Unknown(Unknown::SessionEnded));
        let text = plugin.explain(failure).to_string();
        assert!(
            text.ends_with("the program did not end with its connection, and was killed"),
            "{text}"
        );
        // The call has its outcome before the next program is started.
        until(|| plugin.status().starts > starts).await;
        gone(pid).await;
    });
}

fn a_program_that_never_speaks_is_not_given_up_and_is_if_asked_for() {
    smol::block_on(async {
        let silent = || shell("exec sleep 1000").stop_grace(Duration::ZERO);
        let patient = silent().start();
        let hasty = silent().give_up_after(Duration::from_millis(50)).start();
        until(|| hasty.status().starts >= 3 && patient.status().starts > 0).await;
        let status = patient.status();
        assert_eq!((status.state, status.starts), (PluginState::Starting, 1));
    });
}

fn a_call_that_hangs_ends_at_its_deadline_and_its_plugin_serves_on() {
    smol::block_on(async {
        let plugin = plugin("serve").start();
        assert_eq!(plugin.client().call(&ECHO, &vec![1]).await.ok().unwrap(), [1]);
        let call = plugin.client().call(&HANG, &()).timeout(Duration::from_millis(200));
        let outcome = call.await;
        let is_in_doubt = matches!(outcome, Outcome::Unknown(Unknown::DeadlinePassed, Some(_)));
        assert!(is_in_doubt, "{outcome:?}");
        assert_eq!(plugin.client().call(&ECHO, &vec![1]).await.ok().unwrap(), [1]);
        assert_eq!(plugin.status().starts, 1);
    });
}
