//! The demonstration: a master and four workers, processes over unix sockets and TCP. One is stopped in the middle of a job, one is
//! killed, one is slow, and one joins late and is killed later. First with a naive master, then with the one that counts once.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use viewservice::demo::TempDir;

use crate::{App, Screen, files};

/// How long anything may take. Only what fails takes so long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a job may take before another worker gets it as well, in milliseconds.
const SLOW_AFTER_MS: &str = "1000";
const WORDS_PER_FILE: u64 = 12_000;

/// A process of this program, which dies with its handle. Errors say what did not come, or could not be done.
#[derive(Debug)]
pub struct Process {
    child: std::process::Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `program` with these arguments.
    ///
    /// # Errors
    /// Why it could not be started.
    pub fn start(program: &Path, args: &[&str]) -> Result<Process, String> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn();
        let mut child = child.map_err(|error| format!("cannot start a process: {error}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a process has no stdin or no stdout".to_owned());
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.into_iter().for_each(|line| drop(sender.send(line)));
        });
        Ok(Process { child, stdin, lines })
    }

    /// Its next line; none when it has ended.
    fn next(&self) -> Result<Option<String>, String> {
        match self.lines.recv_timeout(TIMEOUT) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err("a process says nothing more".to_owned()),
        }
    }

    /// Waits for a line with `wanted` in it; shows those that come to `see`, this one too.
    ///
    /// # Errors
    /// That it does not come.
    pub fn line(&self, wanted: &str, mut see: impl FnMut(&str)) -> Result<String, String> {
        while let Some(line) = self.next()? {
            see(&line);
            if line.contains(wanted) {
                return Ok(line);
            }
        }
        Err(format!("a process has ended without {wanted:?}"))
    }

    /// The job that a worker holds: waits until it does.
    ///
    /// # Errors
    /// That it does not.
    pub fn holds(&self) -> Result<String, String> {
        self.line("holds ", |_| ()).map(|line| line.trim_start_matches("holds ").to_owned())
    }

    /// Writes a line to it: a worker does the job that it holds.
    ///
    /// # Errors
    /// That it has ended.
    pub fn release(&mut self) -> Result<(), String> {
        self.stdin.write_all(b"\n").map_err(|error| error.to_string())
    }

    /// Stops it until what is returned is released; or until this process dies, so that nothing is left that is stopped for ever.
    fn stop(&self) -> Result<Process, String> {
        let script = "kill -STOP $0 && echo stopped && { read line; kill -CONT $0; }";
        let pid = self.child.id().to_string();
        let guard = Process::start(Path::new("sh"), &["-c", script, &pid])?;
        guard.line("stopped", |_| ())?;
        Ok(guard)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end, and shows the lines until then to `see`.
    ///
    /// # Errors
    /// That it does not end.
    pub fn end(&mut self, mut see: impl FnMut(&str)) -> Result<ExitStatus, String> {
        while let Some(line) = self.next()? {
            see(&line);
        }
        self.child.wait().map_err(|error| error.to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn say(line: &str) {
    Screen::default().line(line);
}

fn show(line: &str) {
    say(&format!("  master: {line}"));
}

fn start(args: &[&str]) -> Result<Process, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    Process::start(&program, args)
}

/// A folder, and the master that works there.
struct Stage<'a> {
    dir: &'a Path,
    master: Process,
    address: String,
}

impl<'a> Stage<'a> {
    fn new(dir: &'a Path, listen: &str, naive: bool, input: &[String]) -> Result<Self, String> {
        let out = dir.join("out").display().to_string();
        let mut args = vec!["master", "wordcount", listen, &out, "--tethered"];
        args.extend(["--chunk", "16", "--slow-after", SLOW_AFTER_MS]);
        args.extend(naive.then_some("--naive"));
        args.extend(input.iter().map(String::as_str));
        let master = start(&args)?;
        let line = master.line("listening at ", |_| ())?;
        let address = line.trim_start_matches("listening at ").to_owned();
        Ok(Stage { dir, master, address })
    }

    /// Starts a worker that holds these jobs, on a unix socket or over TCP.
    fn worker(&self, name: &str, over_tcp: bool, holds: &[&str]) -> Result<Process, String> {
        let socket = self.dir.join(name).display().to_string();
        let listen = if over_tcp { "127.0.0.1:0" } else { &socket };
        let mut args = vec!["worker", &self.address, listen, name];
        holds.iter().for_each(|hold| args.extend(["--hold", hold]));
        start(&args)
    }

    /// Shows what the master says, until it says this.
    fn until(&self, wanted: &str) -> Result<(), String> {
        self.master.line(wanted, show).map(drop)
    }

    /// All that happens to the workers; the master's last line, which sums it up.
    fn play(&mut self) -> Result<String, String> {
        let mut a = self.worker("a", false, &["map", "reduce"])?;
        let at_a = a.holds()?;
        let mut b = self.worker("b", true, &["map"])?;
        let at_b = b.holds()?;
        let mut c = self.worker("c", true, &["map", "reduce"])?;
        let at_c = c.holds()?;
        let mut stopped = a.stop()?;
        b.kill();
        say(&format!(
            "  a is stopped in {at_a}, b is killed in {at_b}, c is slow in {at_c}; d joins late"
        ));
        // In the slow one's job it waits as well: the map phase lasts until one of both is let go.
        let mut d = self.worker("d", false, &[&at_c, "reduce"])?;
        d.line(&format!("holds {at_c}"), |_| ())?;
        self.until(&format!("{at_c} goes to d"))?;
        say("  d has done all other jobs, a's and b's too; a continues, and does its job as well");
        stopped.release()?;
        stopped.end(|_| ())?;
        a.release()?;
        self.until(&format!("{at_a}: a's result"))?;
        say("  c does its job, and then d does it too");
        c.release()?;
        self.until(&format!("{at_c}: c's result"))?;
        d.release()?;
        self.until(&format!("{at_c}: d's result"))?;
        // The first three reduces wait in a, c and d.
        let at_d = d.holds()?;
        d.kill();
        say(&format!("  d is killed in {at_d}"));
        for worker in [&mut a, &mut c] {
            worker.holds()?;
            worker.release()?;
        }
        let mut last = String::new();
        let status = self.master.end(|line| {
            show(line);
            last = line.to_owned();
        })?;
        a.end(|_| ())?;
        c.end(|_| ())?;
        if status.success() { Ok(last) } else { Err(format!("the master has failed: {status}")) }
    }
}

/// Runs it; whether the naive master counted too much and the other one did not.
///
/// # Errors
/// Why it could not be tried.
pub fn run() -> Result<bool, String> {
    let dir = TempDir::new("oncewire-mapreduce")?;
    let mut input = Vec::new();
    for seed in 0..3 {
        let file = dir.path().join(format!("text-{seed}"));
        files::write_sample(&file, seed, WORDS_PER_FILE)?;
        input.push(file.display().to_string());
    }
    let (wanted, words) = crate::sequential(App::WordCount, &input)?;
    let mut held = true;
    for naive in [true, false] {
        let dir = dir.path().join(if naive { "naive" } else { "once" });
        let cannot = |error| format!("{}: {error}", dir.display());
        fs::create_dir(&dir).map_err(cannot)?;
        let socket = dir.join("master").display().to_string();
        let (what, listen) = match naive {
            true => ("A master that counts each result, on a unix socket:", &*socket),
            false => {
                ("A master that counts the first result of each job, over TCP:", "127.0.0.1:0")
            }
        };
        say(what);
        let summary = Stage::new(&dir, listen, naive, &input)?.play()?;
        let result = fs::read_to_string(dir.join("out").join(files::RESULT)).map_err(cannot)?;
        let is_right = result == wanted && summary.contains(&format!("; {words} words;"));
        held &= is_right != naive;
        let is = if is_right { "is" } else { "is NOT" };
        say(&format!("  a sequential run counts {words} words; the result {is} the same\n"));
    }
    say(if held { "Each job counts once, whichever workers execute it." } else { "WRONG" });
    Ok(held)
}
