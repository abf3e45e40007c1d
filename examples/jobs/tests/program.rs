//! The program as a person runs it.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use jobs::processes::TempDir;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_jobs"))
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A process that dies with the test, and what it says next.
struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    instance: String,
    address: String,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut child = program().args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (instance, address) = line.trim().split_once(": serving at ").expect(&line);
        let (instance, address) = (instance.to_owned(), address.to_owned());
        Running { child, stdout, instance, address }
    }

    /// Reads until a line has this in it.
    fn says(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it has ended");
            assert!(line.starts_with(&self.instance), "a line without its instance: {line}");
            if line.contains(part) {
                return line;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_story_is_shown_and_then_no_job_vanishes() {
    let output = run(&["--story"]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.ends_with("40 jobs were taken: 40 ran once, 0 more than once, 0 never\n"),
        "{text}"
    );
    assert!(text.contains("fenced, token"), "{text}");
    assert!(text.contains("cannot become owner: runner/acquire at tcp:127."), "{text}");
}

#[test]
fn each_job_runs_once_whichever_process_is_killed_or_paused() {
    let output = run(&["200", "1"]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("Each job ran exactly once.\n"), "{text}");
}

#[test]
#[ignore = "takes minutes: ten seeds of a thousand jobs"]
fn ten_seeds_of_a_thousand_jobs() {
    for seed in 1..=10 {
        let output = run(&["1000", &seed.to_string()]);
        let text = text(&output.stdout);
        println!("{text}");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
#[ignore = "takes a minute: it needs a pause in the right moment"]
fn without_the_fence_some_jobs_run_twice_and_that_is_noticed() {
    let found = (1..=10).any(|seed: u32| {
        let output = run(&["300", &seed.to_string(), "--mutant", "no-fence"]);
        output.status.code() == Some(1) && text(&output.stdout).contains("WRONG")
    });
    assert!(found);
}

#[test]
fn every_answer_names_the_instance_that_gave_it() {
    let dir = TempDir::new().unwrap();
    let ledger = dir.path().join("ledger");
    let spool = dir.path().to_str().unwrap();
    let runner = Running::start(&["runner", "127.0.0.1:0", ledger.to_str().unwrap(), "60000"]);
    let serve = |name| Running::start(&["serve", name, "127.0.0.1:0", spool, &runner.address]);
    let mut one = serve("one");
    let owns = one.says("owns the spool with token 1");
    assert!(owns.contains(&format!("says {}", runner.instance)), "{owns}");
    let mut two = serve("two");
    let stands_by = two.says("stands by");
    assert!(stands_by.contains(&format!("{} owns the spool", one.instance)), "{stands_by}");

    let refused = run(&["submit", &two.address, "job-1", "echo"]);
    let line = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{line}");
    let owner = format!("stands by: {} owns the spool with token 1", one.instance);
    assert!(line.contains(&two.instance) && line.contains(&owner), "{line}");
    let both = format!("{},{}", two.address, one.address);
    for _ in 0..2 {
        // A busy machine takes its time.
        let taken = run(&["submit", &both, "job-1", "echo", "60"]);
        let said = format!("{}{}", text(&taken.stdout), text(&taken.stderr));
        assert_eq!(said, format!("{}: has taken job job-1\n", one.instance));
    }
    let started = one.says("job job-1 started");
    assert!(started.contains(&format!("by {} as run 1", runner.instance)), "{started}");
    let other = run(&["submit", &both, "job-1", "something else", "60"]);
    assert_eq!(other.status.code(), Some(2), "{}", text(&other.stderr));
    let runs = run(&["runs", &runner.address]);
    assert_eq!(text(&runs.stdout), format!("1 job-1 1 {} \"echo\"\n", one.instance));
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let dir = TempDir::new().unwrap();
    let spool = dir.path().to_str().unwrap();
    let ledger = dir.path().join("ledger");
    let ledger = ledger.to_str().unwrap();
    let bad: &[&[&str]] = &[
        &["nonsense"],
        &["0"],
        &["200", "seed"],
        &["serve"],
        &["serve", "one", "nowhere", spool, "127.0.0.1:1"],
        &["serve", "one", "127.0.0.1:0", spool, "nowhere"],
        &["serve", "one", "127.0.0.1:0", "/nowhere/at/all", "127.0.0.1:1"],
        &["serve", "one", &taken, spool, "127.0.0.1:1"],
        &["serve", "", "127.0.0.1:0", spool, "127.0.0.1:1"],
        &["runner", "127.0.0.1:0", "/nowhere/at/all"],
        &["runner", &taken, ledger],
        &["runner", "127.0.0.1:0", ledger, "0"],
        &["runner", "127.0.0.1:0", ledger, "300", "--mutant", "nonsense"],
        &["submit", "127.0.0.1:1", "job", "text"],
        &["submit", "nowhere", "job", "text"],
        &["submit", "127.0.0.1:1", "job", "text", "soon"],
        &["runs", "127.0.0.1:1"],
        &["runs", "no.such.host.invalid:1"],
    ];
    for args in bad {
        let output = run(args);
        let text = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(run(&["--help"]).status.success());
}
