//! What plugins do to their hosts, one function each.

use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::time::Duration;

use oncewire::plugin::{Plugin, PluginBuilder, PluginState, RestartPolicy};
use oncewire::{CallFailure, Executed};

use crate::service::{Role, WordsClient};
use crate::system;

/// What a case has found out.
pub(crate) struct Finding {
    /// What the caller saw, or the host.
    pub(crate) seen: String,
    /// How long that took.
    pub(crate) took: Duration,
    /// What happened afterwards.
    pub(crate) then: String,
    /// Whether it was as it should be.
    pub(crate) held: bool,
}

type Running = Pin<Box<dyn Future<Output = Result<Finding, CallFailure>>>>;

/// A case: its name, what the plugin does, how it is run. It notes each process group that it sees.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) does: &'static str,
    pub(crate) run: fn(Groups) -> Running,
}

/// The process groups that a case has seen: nothing of them may be left in the end.
pub(crate) type Groups = std::rc::Rc<std::cell::RefCell<Vec<u32>>>;

macro_rules! cases {
    ($($name:literal $does:literal $run:ident,)+) => {
        pub(crate) const CASES: &[Case] = &[$(Case {
            name: $name,
            does: $does,
            run: |groups| Box::pin($run(groups)),
        }),+];
    };
}

cases! {
    "works" "serves" works,
    "crash" "ends in mid call with status 3" crash,
    "abort" "is ended by a signal in mid call" abort,
    "last-crash" "ends in mid call, and may not be started again" last_crash,
    "hang" "never answers one call" hang,
    "debugger" "is stopped for a second, as at a breakpoint" debugger,
    "stderr" "writes 2 MB to its stderr, which its host does not read" stderr,
    "banner" "prints a greeting before it serves" banner,
    "garbage" "speaks another protocol" garbage,
    "broken" "ends at once with status 1, each time" broken,
    "closed" "closes its stdout and lives on" closed,
    "children" "ends, and leaves a program that holds its pipes" children,
    "missing" "is not there" missing,
    "forbidden" "may not be executed" forbidden,
    "stop" "is asked to end by its host" stop,
    "restarts" "ends 200 times" restarts,
}

const TEXT: &str = "every call has one truthful outcome";
/// More than any call here needs: an outcome that comes at once must not take so long.
const LONG: Duration = Duration::from_secs(30);

fn program(role: Role) -> Command {
    // A running program has a path on Linux.
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "plugin".into()));
    command.args(["as-plugin", role.name()]);
    command
}

fn plugin(role: Role) -> PluginBuilder {
    build(program(role))
}

fn build(command: Command) -> PluginBuilder {
    // What it says on stderr is quoted when it has ended; a host would log it.
    Plugin::builder("words", command)
        .on_stderr(|_| {})
        .client_options(|options| options.with_timeout(LONG))
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn words(plugin: &Plugin) -> WordsClient {
    WordsClient(plugin.client())
}

/// The process that serves now.
async fn process(plugin: &Plugin, groups: &Groups) -> Result<u32, CallFailure> {
    let pid = words(plugin).process().await.ok()?;
    groups.borrow_mut().push(pid);
    Ok(pid)
}

/// Whether it serves, and in which run.
async fn serves(plugin: &Plugin, groups: &Groups) -> Result<String, CallFailure> {
    process(plugin, groups).await?;
    let count = words(plugin).count(TEXT.to_owned()).await.ok()?;
    Ok(format!("the next call: {count} words, from run {}", plugin.status().starts))
}

/// A call that should fail, and what its caller sees.
struct Failed {
    seen: String,
    took: Duration,
    executed: Executed,
}

async fn fails<R>(plugin: &Plugin, call: impl Future<Output = Result<R, CallFailure>>) -> Failed {
    let started = system::now();
    let result = call.await;
    let took = system::now().since(started);
    match result {
        Ok(_) => Failed { seen: "a reply".to_owned(), took, executed: Executed::Yes },
        Err(failure) => {
            let failure = plugin.explain(failure);
            Failed { seen: failure.to_string(), took, executed: failure.executed() }
        }
    }
}

impl Failed {
    /// It should have come soon, in these words, and with this certainty.
    fn finding(self, executed: Executed, words: &str, then: String) -> Finding {
        let held = self.executed == executed && self.seen.contains(words) && self.took < LONG / 3;
        Finding { seen: self.seen, took: self.took, then, held }
    }
}

async fn works(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Good).start();
    let started = system::now();
    let count = words(&plugin).count(TEXT.to_owned()).await.ok()?;
    let took = system::now().since(started);
    process(&plugin, &groups).await?;
    Ok(Finding { seen: format!("{count} words"), took, then: String::new(), held: count == 6 })
}

async fn crash(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Good).start();
    process(&plugin, &groups).await?;
    let call = async { words(&plugin).exit(3, "no space left".to_owned()).await.ok() };
    let failed = fails(&plugin, call).await;
    let then = serves(&plugin, &groups).await?;
    Ok(failed.finding(Executed::Unknown, "the program ended with status 3: no space left", then))
}

async fn abort(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Good).start();
    process(&plugin, &groups).await?;
    let failed = fails(&plugin, async { words(&plugin).abort().await.ok() }).await;
    let then = serves(&plugin, &groups).await?;
    Ok(failed.finding(Executed::Unknown, "signal: 6 (SIGABRT)", then))
}

async fn last_crash(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Good).restarts(RestartPolicy::NEVER).start();
    process(&plugin, &groups).await?;
    let call = async { words(&plugin).exit(3, "no space left".to_owned()).await.ok() };
    let failed = fails(&plugin, call).await;
    let next = fails(&plugin, async { words(&plugin).count(TEXT.to_owned()).await.ok() }).await;
    let held = next.executed == Executed::No && next.took < LONG / 3;
    let then = format!("the next call: {}", next.seen);
    let finding = failed.finding(Executed::Unknown, "ended with status 3: no space left", then);
    Ok(Finding { held: held && finding.held, ..finding })
}

async fn hang(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Good).start();
    process(&plugin, &groups).await?;
    let deadline = Duration::from_millis(300);
    let call = async { words(&plugin).hang().timeout(deadline).await.ok() };
    let failed = fails(&plugin, call).await;
    let then = serves(&plugin, &groups).await?;
    let finding = failed.finding(Executed::Unknown, "the deadline passed", then);
    Ok(Finding { held: finding.held && plugin.status().starts == 1, ..finding })
}

async fn debugger(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Good).start();
    let pid = process(&plugin, &groups).await?;
    let mut held = system::signal("-STOP", pid).is_ok();
    held &= system::until(|| plugin.status().state == PluginState::Held).await;
    let started = system::now();
    let call = words(&plugin).count(TEXT.to_owned()).start();
    system::sleep(Duration::from_secs(1)).await;
    held &= system::signal("-CONT", pid).is_ok();
    let count = call.await.ok()?;
    let took = system::now().since(started);
    let then = serves(&plugin, &groups).await?;
    held &= plugin.status().starts == 1;
    Ok(Finding { seen: format!("{count} words, when it runs again"), took, then, held })
}

async fn stderr(groups: Groups) -> Result<Finding, CallFailure> {
    let (gate, passes) = std::sync::mpsc::channel::<()>();
    let passes = std::sync::Mutex::new(passes);
    let plugin = plugin(Role::Good)
        .on_stderr(move |_| drop(passes.lock().map(|passes| passes.recv())))
        .start();
    process(&plugin, &groups).await?;
    let started = system::now();
    words(&plugin).complain(20_000).await.ok()?;
    let took = system::now().since(started);
    let then = serves(&plugin, &groups).await?;
    drop(gate);
    let held = plugin.status().starts == 1;
    Ok(Finding { seen: "the reply".to_owned(), took, then, held })
}

/// A program that cannot serve: what its first caller sees, after so many starts.
async fn useless(
    builder: PluginBuilder,
    starts: u64,
    text: &str,
    groups: Groups,
) -> Result<Finding, CallFailure> {
    let plugin = builder.start();
    let call = async { words(&plugin).count(TEXT.to_owned()).await.ok() };
    let failed = fails(&plugin, call).await;
    let status = plugin.status();
    groups.borrow_mut().extend(status.pid);
    let then = format!("started {} times, then given up", status.starts);
    let finding = failed.finding(Executed::No, text, then);
    let held = status.state == PluginState::GaveUp && status.starts == starts;
    Ok(Finding { held: held && finding.held, ..finding })
}

async fn banner(groups: Groups) -> Result<Finding, CallFailure> {
    useless(plugin(Role::Banner), 1, "to its stdout: \"words 1.0 (c) 2026", groups).await
}

async fn garbage(groups: Groups) -> Result<Finding, CallFailure> {
    useless(plugin(Role::Stranger), 1, "to its stdout: \"{\\\"jsonrpc\\\"", groups).await
}

async fn broken(groups: Groups) -> Result<Finding, CallFailure> {
    let builder = plugin(Role::Broken).restarts(RestartPolicy::at_most(3, LONG));
    useless(builder, 4, "ended with status 1: words: cannot open its dictionary", groups).await
}

async fn closed(groups: Groups) -> Result<Finding, CallFailure> {
    let builder = build(shell("exec >&-; sleep 1000")).restarts(RestartPolicy::NEVER);
    useless(builder, 1, "the program closed its stdin or stdout", groups).await
}

async fn missing(groups: Groups) -> Result<Finding, CallFailure> {
    let command = Command::new("/nowhere/words");
    useless(build(command), 0, "cannot start /nowhere/words: No such file", groups).await
}

async fn forbidden(groups: Groups) -> Result<Finding, CallFailure> {
    useless(build(Command::new("/proc/version")), 0, "Permission denied", groups).await
}

async fn children(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Parent).start();
    let pid = process(&plugin, &groups).await?;
    let had_child = system::until(|| system::followers_of(pid) == 1).await;
    let failed =
        fails(&plugin, async { words(&plugin).exit(0, "bye".to_owned()).await.ok() }).await;
    let then = serves(&plugin, &groups).await?;
    let finding = failed.finding(Executed::Unknown, "the program ended with status 0: bye", then);
    Ok(Finding { held: finding.held && had_child, ..finding })
}

async fn stop(groups: Groups) -> Result<Finding, CallFailure> {
    let plugin = plugin(Role::Good).start();
    process(&plugin, &groups).await?;
    let call = words(&plugin).count(TEXT.to_owned()).start();
    let started = system::now();
    let end = plugin.stop().await;
    let took = system::now().since(started);
    let count = call.await.ok()?;
    let seen = end.map_or("nothing".to_owned(), |end| end.to_string());
    let held = seen == "the program ended with status 0";
    Ok(Finding { seen, took, then: format!("the call that was pending: {count} words"), held })
}

async fn restarts(groups: Groups) -> Result<Finding, CallFailure> {
    let policy = RestartPolicy::at_most(u32::MAX, LONG).backoff(Duration::ZERO, Duration::ZERO);
    let plugin = plugin(Role::Good).restarts(policy).start();
    process(&plugin, &groups).await?;
    let before = system::descriptors();
    let started = system::now();
    let mut truthful = 0;
    for _ in 0..200 {
        let call = async { words(&plugin).exit(1, "again".to_owned()).await.ok() };
        let failed = fails(&plugin, call).await;
        let is_truthful = failed.executed == Executed::Unknown && failed.seen.ends_with("again");
        truthful += u32::from(is_truthful);
        process(&plugin, &groups).await?;
    }
    let took = system::now().since(started);
    let is_clean = system::until(|| system::descriptors() == before).await;
    let then = format!("{} descriptors, before and after", system::descriptors());
    let seen = format!("{truthful} of 200 callers: the program ended with status 1: again");
    Ok(Finding { seen, took, then, held: is_clean && truthful == 200 })
}
