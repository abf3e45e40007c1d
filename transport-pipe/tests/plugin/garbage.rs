//! Programs that are no plugins.

use oncewire_pipe::plugin::{EndReason, PluginState};

use crate::{collect, fails_at_once, gone, plugin, shell, until, until_state};

crate::tests! {
    c133_what_a_program_prints_in_place_of_the_protocol_is_quoted,
    a_program_that_prints_too_little_and_ends_is_no_plugin,
    garbage_is_found_though_it_never_stops,
    a_program_that_closes_its_stdout_and_lives_is_killed,
}

fn c133_what_a_program_prints_in_place_of_the_protocol_is_quoted() {
    smol::block_on(async {
        let plugin = plugin("banner").start();
        // Where its host is late, what the server behind it says has come as well.
        let said = "not executed: no connection to the server could be made; plugin banner: the program wrote something else than Oncewire to its stdout: \"Welcome to the plugin!\\nVersion 1\\n";
        let text = fails_at_once(&plugin).await;
        assert!(text.starts_with(said), "{text}");
        assert_eq!(plugin.status().starts, 1);
        // The same if its host insists.
        assert!(!plugin.restart().await);
        assert_eq!(plugin.status().starts, 2);
    });
}

fn a_program_that_prints_too_little_and_ends_is_no_plugin() {
    smol::block_on(async {
        let plugin = shell("printf '\\n'; echo usage: me >&2; exit 2").start();
        until_state(&plugin, PluginState::GaveUp).await;
        let end = plugin.status().last_end.unwrap();
        assert_eq!(end.why, EndReason::Garbage(b"\n".to_vec()));
        assert!(end.to_string().ends_with("to its stdout: \"\\n\": usage: me"), "{end}");
    });
}

fn garbage_is_found_though_it_never_stops() {
    smol::block_on(async {
        let plugin = shell("yes >&2 & exec yes").start();
        until_state(&plugin, PluginState::GaveUp).await;
        let text = plugin.status().last_end.unwrap().to_string();
        assert!(text.contains("to its stdout: \"y\\ny\\ny\\n"), "{text}");
    });
}

fn a_program_that_closes_its_stdout_and_lives_is_killed() {
    smol::block_on(async {
        let (builder, lines) = collect(shell("echo $$ >&2; exec >&- sleep 1000"));
        let plugin = builder.restarts(oncewire_pipe::plugin::RestartPolicy::NEVER).start();
        until_state(&plugin, PluginState::GaveUp).await;
        let end = plugin.status().last_end.unwrap();
        assert_eq!(end.why, EndReason::ClosedPipe);
        until(|| !lines.lock().unwrap().is_empty()).await;
        let pid = lines.lock().unwrap()[0].text.parse().unwrap();
        gone(pid).await;
    });
}
