//! Hosts that stop their plugins, and what is left running then.

use std::sync::Mutex;
use std::time::Duration;

use oncewire_pipe::plugin::{EndReason, Plugin, PluginState, RestartPolicy, StderrLine};

use crate::roles::{ECHO, EXIT, LEAVE, PID};
use crate::{collect, ended, gone, plugin, shell, signal, state_of, until, until_state};

crate::tests! {
    a_stop_lets_a_plugin_end_by_itself,
    a_stop_kills_a_plugin_that_does_not_end_by_itself,
    a_drop_kills_a_plugin_and_what_it_started,
    what_a_plugin_started_ends_with_it_though_it_holds_its_pipes,
    calls_of_a_client_that_outlives_its_plugin_end,
}

fn a_stop_lets_a_plugin_end_by_itself() {
    smol::block_on(async {
        let long = Duration::from_secs(3600);
        let plugin = plugin("serve")
            .stop_grace(long)
            .client_options(move |options| options.with_close_timeout(long))
            .start();
        let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
        let child = plugin.client().call(&LEAVE, &()).await.ok().unwrap();
        let call = plugin.client().call(&ECHO, &vec![0; 1 << 20]).start();
        let end = plugin.stop().await.unwrap();
        // The call that was pending has its reply, and the program its own exit status.
        assert_eq!(call.await.ok().unwrap().len(), 1 << 20);
        assert_eq!(end.why, EndReason::Ended);
        assert_eq!(end.status.unwrap().code(), Some(0));
        gone(pid).await;
        ended(child).await;
    });
}

fn a_stop_kills_a_plugin_that_does_not_end_by_itself() {
    smol::block_on(async {
        let plugin = shell("exec sleep 1000").stop_grace(Duration::ZERO).start();
        until(|| plugin.status().pid.is_some()).await;
        let pid = plugin.status().pid.unwrap();
        let end = plugin.stop().await.unwrap();
        assert_eq!(end.why, EndReason::Stopped);
        gone(pid).await;
    });
}

/// The process that a plugin in the role "with-child" has started.
async fn child_of(lines: &Mutex<Vec<StderrLine>>) -> u32 {
    until(|| !lines.lock().unwrap().is_empty()).await;
    lines.lock().unwrap()[0].text.strip_prefix("child ").unwrap().parse().unwrap()
}

fn a_drop_kills_a_plugin_and_what_it_started() {
    smol::block_on(async {
        let (builder, lines) = collect(plugin("with-child"));
        let plugin = builder.start();
        let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
        let child = child_of(&lines).await;
        assert!(!matches!(state_of(child), None | Some('Z')));
        // So that it cannot end by itself when its stdin is closed.
        signal("-STOP", pid);
        drop(plugin);
        gone(pid).await;
        ended(child).await;
    });
}

fn what_a_plugin_started_ends_with_it_though_it_holds_its_pipes() {
    smol::block_on(async {
        let (builder, lines) = collect(plugin("with-child"));
        let plugin = builder.restarts(RestartPolicy::NEVER).start();
        let pid = plugin.client().call(&PID, &()).await.ok().unwrap();
        let child = child_of(&lines).await;
        let call = plugin.client().call(&EXIT, &(4, "gone".to_owned()));
        let failure = call.timeout(Duration::from_secs(3600)).await.ok().unwrap_err();
        let text = plugin.explain(failure).to_string();
        assert!(text.contains("the program ended with status 4: "), "{text}");
        until_state(&plugin, PluginState::GaveUp).await;
        gone(pid).await;
        ended(child).await;
    });
}

fn calls_of_a_client_that_outlives_its_plugin_end() {
    smol::block_on(async {
        let plugin: Plugin = plugin("serve").start();
        let client = plugin.client();
        client.call(&PID, &()).await.ok().unwrap();
        let mut call = client.call(&crate::roles::HANG, &()).timeout(Duration::from_secs(3600));
        // This has it sent.
        assert!(smol::future::poll_once(&mut call).await.is_none());
        drop(plugin);
        let failure = call.await.ok().unwrap_err();
        assert_eq!(
            failure.to_string(),
            "unknown whether executed: the session ended before the answer came"
        );
    });
}
