//! The program as a person runs it.
#![allow(missing_docs)]

use std::path::Path;
use std::process::{Command, Output};

use mapreduce::demo::Process;
use mapreduce::files;
use viewservice::demo::TempDir;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mapreduce")).args(args).output().unwrap()
}

fn start(args: &[&str]) -> Process {
    Process::start(Path::new(env!("CARGO_BIN_EXE_mapreduce")), args).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_demonstration_shows_both_masters_and_ends_by_itself() {
    let output = run(&[]);
    let text = text(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("counted AGAIN").count(), 2, "{text}");
    assert_eq!(text.matches("comes second, is dropped").count(), 2, "{text}");
    assert!(text.ends_with("Each job counts once, whichever workers execute it.\n"), "{text}");
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(progress.contains("map 24/24, reduce 4/4"), "{progress}");
}

#[test]
fn an_index_is_that_of_one_process_also_if_a_file_is_empty() {
    let dir = TempDir::new("oncewire-mapreduce-index").unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (one, two, empty) = (path("one"), path("two words"), path("empty"));
    std::fs::write(&one, "a stone's throw\u{2014}Größe\n").unwrap();
    std::fs::write(&two, "a throw").unwrap();
    std::fs::write(&empty, "").unwrap();
    let (at, out) = (path("master"), path("out"));
    let master = ["master", "index", &at, &out, "--tethered", "--reduces", "3"];
    let mut master = start(&[&master[..], &[&one, &two, &empty]].concat());
    let mut worker = start(&["worker", &at, &path("worker")]);
    assert!(master.end(|_| ()).unwrap().success());
    assert!(worker.end(|_| ()).unwrap().success());
    let result = std::fs::read_to_string(dir.path().join("out").join(files::RESULT)).unwrap();
    assert_eq!(result, text(&run(&["sequential", "index", &one, &two, &empty]).stdout));
    assert!(result.contains("Größe\t") && result.contains(&format!("throw\t{one}\t{two}\n")));
    assert!(!dir.path().join("out/parts").exists(), "nothing lies in between any more");
}

#[test]
fn a_worker_that_starts_again_at_its_address_is_another_worker() {
    let dir = TempDir::new("oncewire-mapreduce-again").unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (input, at, out, socket) = (path("text"), path("master"), path("out"), path("worker"));
    std::fs::write(&input, "one two three").unwrap();
    let mut master = start(&["master", "wordcount", &at, &out, "--tethered", &input]);
    let mut first = start(&["worker", &at, &socket, "first", "--hold", "map"]);
    first.holds().unwrap();
    first.kill();
    let mut second = start(&["worker", &at, &socket, "second", "--hold", "reduce"]);
    second.holds().unwrap();
    // The address answers, but not as the one that had the job.
    master.line("first is gone: ", |_| ()).unwrap();
    second.release().unwrap();
    assert!(master.end(|_| ()).unwrap().success());
    assert!(second.end(|_| ()).unwrap().success());
}

#[test]
fn a_job_that_cannot_be_done_ends_the_run_with_exit_status_1() {
    let dir = TempDir::new("oncewire-mapreduce-failing").unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (input, at, out) = (path("text"), path("master"), path("out"));
    std::fs::write(&input, "words").unwrap();
    let mut master = start(&["master", "wordcount", &at, &out, "--tethered", &input]);
    master.line("listening at ", |_| ()).unwrap();
    std::fs::remove_file(&input).unwrap();
    let mut worker = start(&["worker", &at, &path("worker")]);
    assert_eq!(master.end(|_| ()).unwrap().code(), Some(1));
    assert_eq!(worker.end(|_| ()).unwrap().code(), Some(1), "the master is gone");
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    let dir = TempDir::new("oncewire-mapreduce-bad").unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, out, at, here) = (path("file"), path("out"), path("at"), path("."));
    std::fs::write(&file, "words").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let bad: &[&[&str]] = &[
        &["nonsense"],
        &["master", "wordcount", &at, &out],
        &["master", "nonsense", &at, &out, &file],
        &["master", "wordcount", "nowhere", &out, &file],
        &["master", "wordcount", &taken, &out, &file],
        &["master", "wordcount", &at, &here, &file],
        &["master", "wordcount", &at, &out, &here],
        &["master", "wordcount", &at, &out, "/nowhere/at/all"],
        &["master", "wordcount", &at, &out, &file, "--reduces", "0"],
        &["master", "wordcount", &at, &out, &file, "--nonsense"],
        &["master", "wordcount", "0.0.0.0:0", &out, &file],
        &["worker", "nowhere", &at],
        &["worker", &at, "0.0.0.0:0"],
        &["worker", &at, &taken],
        &["worker", "/nowhere/at/all", &at],
        &["worker", "no.such.host.invalid:1", &at],
        &["worker", &at, &at, "name", "another"],
        &["sequential", "wordcount"],
        &["sequential", "wordcount", "/nowhere/at/all"],
    ];
    for args in bad {
        let output = run(args);
        let text = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(!Path::new(&out).exists(), "nothing was begun");
    assert!(run(&["--help"]).status.success());
}
