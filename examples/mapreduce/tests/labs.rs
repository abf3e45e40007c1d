//! The lab's tests, by its names: real processes, which are killed in the middle of jobs.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mapreduce::demo::Process;
use mapreduce::{App, files, sequential};
use viewservice::demo::TempDir;

/// A master, its input, and its folder.
struct Lab {
    dir: TempDir,
    input: Vec<String>,
    master: Process,
    place: Place,
}

/// Where workers are started.
struct Place {
    dir: PathBuf,
    master: String,
}

impl Place {
    fn worker(&self, name: &str, over_tcp: bool, holds: &[&str]) -> Process {
        let socket = self.dir.join(name);
        let listen = if over_tcp { "127.0.0.1:0" } else { socket.to_str().unwrap() };
        let mut args = vec!["worker", &*self.master, listen, name];
        holds.iter().for_each(|hold| args.extend(["--hold", hold]));
        start(&args)
    }
}

fn start(args: &[&str]) -> Process {
    Process::start(Path::new(env!("CARGO_BIN_EXE_mapreduce")), args).unwrap()
}

impl Lab {
    fn new(over_tcp: bool) -> Lab {
        let dir = TempDir::new("oncewire-mapreduce-lab").unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let input: Vec<String> = (0..2).map(|number| path(&format!("text-{number}"))).collect();
        for (seed, file) in (0..).zip(&input) {
            files::write_sample(Path::new(file), seed, 6_000).unwrap();
        }
        let (out, socket) = (path("out"), path("master"));
        let listen = if over_tcp { "127.0.0.1:0" } else { &*socket };
        let mut args = vec!["master", "wordcount", listen, &*out, "--tethered", "--chunk", "2"];
        args.extend(input.iter().map(String::as_str));
        let master = start(&args);
        let line = master.line("listening at ", |_| ()).unwrap();
        let address = line.trim_start_matches("listening at ").to_owned();
        let place = Place { dir: dir.path().to_owned(), master: address };
        Lab { dir, input, master, place }
    }

    /// The master's last line, when its result is that of one process.
    fn check(mut self) -> String {
        let mut last = String::new();
        let status = self.master.end(|line| last = line.to_owned()).unwrap();
        assert!(status.success(), "{last}");
        let result = self.dir.path().join("out").join(files::RESULT);
        let (wanted, words) = sequential(App::WordCount, &self.input).unwrap();
        assert!(std::fs::read_to_string(result).unwrap() == wanted, "{last}");
        assert!(last.contains(&format!("; {words} words;")), "{last}");
        last
    }
}

#[test]
fn basic() {
    let lab = Lab::new(false);
    // Both have a job before either does one, so that both do some of the work.
    let mut workers =
        [lab.place.worker("a", false, &["map"]), lab.place.worker("b", true, &["map"])];
    for worker in &workers {
        worker.holds().unwrap();
    }
    for worker in &mut workers {
        worker.release().unwrap();
    }
    let last = lab.check();
    assert!(!last.contains(" a 0") && !last.contains(" b 0"), "{last}");
    for mut worker in workers {
        assert!(worker.end(|_| ()).unwrap().success(), "it was shut down");
    }
}

#[test]
fn one_failure() {
    let lab = Lab::new(true);
    let mut a = lab.place.worker("a", true, &["map-7"]);
    assert_eq!(a.holds().unwrap(), "map-7");
    let _b = lab.place.worker("b", false, &["reduce-9"]);
    lab.master.line("b joins", |_| ()).unwrap();
    a.kill();
    let last = lab.check();
    assert!(last.contains("by worker: a 7 b "), "seven jobs, 0 to 6: {last}");
}

#[test]
fn many_failures() {
    const HELD: [&str; 8] =
        ["map-0", "map-3", "map-6", "map-9", "map-12", "map-15", "reduce-0", "reduce-2"];
    let lab = Lab::new(false);
    // Each of these jobs kills one worker. The next one that gets it does it.
    let (place, killed) = (&lab.place, Mutex::new(BTreeSet::new()));
    let slot = |name: char| {
        for start in 0.. {
            let name = format!("{name}{start}");
            let mut worker = place.worker(&name, start % 2 == 1, &HELD);
            loop {
                // A worker that ends by itself does so because the run is over.
                let Ok(job) = worker.holds() else { return };
                let (is_killed, count) = {
                    let mut killed = killed.lock().unwrap();
                    (killed.insert(job), killed.len())
                };
                match (is_killed, count == HELD.len()) {
                    (false, _) => worker.release().unwrap(),
                    (true, false) => {
                        worker.kill();
                        break;
                    }
                    // The other slot's worker does the rest.
                    (true, true) => return worker.kill(),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| slot('a'));
        scope.spawn(|| slot('b'));
    });
    let last = lab.check();
    assert_eq!(killed.into_inner().unwrap().len(), HELD.len(), "{last}");
}

#[test]
#[ignore = "minutes"]
fn fifty_times() {
    for _ in 0..50 {
        basic();
        one_failure();
        many_failures();
    }
}
