//! A trace that goes through three processes: see `README.md`.

mod services;
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::{env, fs, io};

const HELP: &str = "\
Makes a trace that goes through three processes, over unix sockets, and prints it.

Usage: trace          writes the spans to a file that is removed
       trace FILE     appends them to a file that stays, as lines of OTLP JSON

Exit status 0: the trace is as it should be; 1: it is not; 2: bad input, with a line that says what.";

fn main() -> ExitCode {
    let args: Vec<String> =
        env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["--help" | "-h"] => {
            output::show!("{HELP}");
            Ok(())
        }
        [] => show(None),
        [file] if !file.starts_with('-') => {
            match fs::OpenOptions::new().append(true).create(true).open(file) {
                Ok(_) => show(Some(file.as_ref())),
                Err(error) => return bad_input(&format!("cannot write to {file}: {error}")),
            }
        }
        // The other two processes.
        ["--serve", "middle", folder, file] => {
            services::serve_middle(folder.as_ref(), file.as_ref()).map_err(Failure::from)
        }
        ["--serve", "back", folder, file] => {
            services::serve_back(folder.as_ref(), file.as_ref()).map_err(Failure::from)
        }
        _ => return bad_input("what is asked for is not clear; --help says what can be"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("trace: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn bad_input(text: &str) -> ExitCode {
    output::note!("trace: {text}");
    ExitCode::from(2)
}

/// A folder of this run's own, which is removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        let path = env::temp_dir().join(format!("oncewire-trace-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            output::note!("trace: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A process that ends when its stdin does.
struct Process(Child);

impl Process {
    fn start(name: &str, folder: &Path, file: &Path) -> io::Result<Process> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--serve", name]).arg(folder).arg(file).stdin(Stdio::piped());
        command.spawn().map(Process)
    }

    fn end(mut self) -> Result<(), Failure> {
        drop(self.0.stdin.take());
        match self.0.wait()? {
            status if status.success() => Ok(()),
            status => Err(format!("a process ended with {status}").into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn show(file: Option<&Path>) -> Result<(), Failure> {
    let folder = Folder::new()?;
    let own = folder.0.join("spans.json");
    let file = file.unwrap_or(&own);
    let before = fs::metadata(file).map_or(0, |file| file.len());
    let back = Process::start("back", &folder.0, file)?;
    let middle = Process::start("middle", &folder.0, file)?;
    let answer = services::visit(&folder.0, file)?;
    middle.end()?;
    back.end()?;
    let text = fs::read_to_string(file)?;
    let text = text.get(usize::try_from(before)?..).unwrap_or_default();
    output::show!("{answer}\n");
    tree::show(text)?;
    if file != own {
        output::show!("\nThe spans are in {}.", file.display());
    }
    Ok(())
}
