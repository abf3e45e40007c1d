//! Real plugins. This program has no test harness, since a plugin must have its stdout for itself: called with the name of
//! a role it is the plugin, or a host that ends; otherwise it runs the tests.

mod ends;
mod garbage;
mod health;
mod hosts;
mod leaks;
mod roles;
mod stderr;
mod stops;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_pipe::plugin::{Plugin, PluginBuilder, PluginState, StderrLine};
use oncewire_pipe::{CallFailure, NotExecuted, Runtime, SmolRuntime};
use smol::future::{or, poll_fn, yield_now};

type Test = (&'static str, fn());

/// The names of functions, and the functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[$crate::Test] = &[$((stringify!($name), $name)),+];
    };
}

fn main() {
    let first = std::env::args().nth(1);
    if let Some(role) = first.as_deref().and_then(|arg| arg.strip_prefix("role=")) {
        return roles::play(role);
    }
    let wanted =
        |name: &str| first.as_ref().is_none_or(|w| w.starts_with('-') || name.contains(w.as_str()));
    let all = [
        ends::TESTS,
        garbage::TESTS,
        health::TESTS,
        hosts::TESTS,
        leaks::TESTS,
        stderr::TESTS,
        stops::TESTS,
    ];
    for (name, test) in all.concat().into_iter().filter(|(name, _)| wanted(name)) {
        test();
        println!("test {name} ... ok");
    }
}

fn program(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("role={role}"));
    command
}

/// A plugin that plays a role, and whose stderr goes nowhere.
fn plugin(role: &str) -> PluginBuilder {
    Plugin::builder(role, program(role)).on_stderr(|_| {})
}

fn shell(script: &str) -> PluginBuilder {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Plugin::builder("shell", command).on_stderr(|_| {})
}

/// Keeps the lines of a plugin's stderr.
fn collect(builder: PluginBuilder) -> (PluginBuilder, Arc<Mutex<Vec<StderrLine>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    (builder.on_stderr(move |line| kept.lock().unwrap().push(line)), lines)
}

/// Waits for a condition. One that never holds fails the test after two minutes, instead of holding it up.
async fn until(mut condition: impl FnMut() -> bool) {
    let runtime = SmolRuntime::global();
    let mut timer = runtime.timer();
    timer.set(runtime.now() + Duration::from_secs(120));
    let late = async {
        poll_fn(|cx| timer.poll(cx)).await;
        panic!("what is waited for has not happened in two minutes");
    };
    let holds = async {
        while !condition() {
            yield_now().await;
        }
    };
    or(holds, late).await;
}

async fn until_state(plugin: &Plugin, state: PluginState) {
    until(|| plugin.status().state == state).await;
}

/// The state of a process: `None` if it is no more, not even as a zombie.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until a child of ours is no more, not even as a zombie.
async fn gone(pid: u32) {
    until(|| !Path::new(&format!("/proc/{pid}")).exists()).await;
}

/// Waits until a process that is no child of ours runs no more. Whether it stays a zombie is up to its new parent.
async fn ended(pid: u32) {
    until(|| matches!(state_of(pid), None | Some('Z' | 'X'))).await;
}

/// Makes a call that would wait for an hour, of a plugin that is given up, and returns what its caller sees.
async fn fails_at_once(plugin: &Plugin) -> String {
    let call = plugin.client().call(&roles::PID, &()).timeout(Duration::from_secs(3600));
    let failure = call.await.ok().unwrap_err();
    assert_eq!(failure, CallFailure::NotExecuted(NotExecuted::NeverConnected));
    assert_eq!(plugin.status().state, PluginState::GaveUp);
    plugin.explain(failure).to_string()
}

fn signal(name: &str, pid: u32) {
    assert!(try_signal(name, pid));
}

/// Whether there is such a process.
fn try_signal(name: &str, pid: u32) -> bool {
    Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success()
}
