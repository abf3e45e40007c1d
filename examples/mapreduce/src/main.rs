//! The program: see the library's page.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use mapreduce::{App, Failure, Plan, Screen, demo, listen, sequential, serve};
use viewservice::Address;

const HELP: &str = "\
Word counts and indexes by a master and workers, each job counted once.

Usage: mapreduce                                              shows it: workers that are stopped, killed, slow and late
       mapreduce master APP ADDRESS DIR [OPTION]... FILE...   serves until the result is in DIR, which it makes
       mapreduce worker MASTER ADDRESS [NAME] [OPTION]...     takes jobs at ADDRESS from the master at MASTER
       mapreduce sequential APP FILE...                       prints the result as one process computes it

APP is wordcount or index. An address is host:port, or the path of a unix socket with a / in it.
Options of a master:
  --reduces N       reduce jobs, 4 unless said
  --chunk KIB       text of a map job, 64 unless said
  --slow-after MS   a job that takes longer is given to an idle worker as well, 10000 unless said
  --naive           counts each result, as a master would that relied on at-most-once alone
Options of a worker:
  --hold JOB        waits in this job (map-3, or map for its first) for a line on stdin; may be repeated
Exit status 0: done, or all was as it should be; 1: something was not; 2: bad input, with a line that says what.";

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match &words[..] {
        ["--help" | "-h"] => {
            output::show!("{HELP}");
            Ok(true)
        }
        [] => demo::run().map_err(Failure::Trial),
        ["master", app, address, dir, rest @ ..] => master(app, address, dir, rest),
        ["worker", master, address, rest @ ..] => worker(master, address, rest),
        ["sequential", name, input @ ..] if !input.is_empty() => app(name).and_then(|app| {
            let input: Vec<String> = input.iter().copied().map(str::to_owned).collect();
            let (result, _) = sequential(app, &input).map_err(Failure::Input)?;
            output::print(format_args!("{result}"));
            Ok(true)
        }),
        _ => Err(Failure::Input("what is asked for is not clear; see --help".to_owned())),
    };
    let (status, text) = match result {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::FAILURE,
        Err(Failure::Trial(text)) => (1, text),
        Err(Failure::Input(text)) => (2, text),
    };
    output::note!("mapreduce: {text}");
    ExitCode::from(status)
}

fn app(name: &str) -> Result<App, Failure> {
    match name {
        "wordcount" => Ok(App::WordCount),
        "index" => Ok(App::Index),
        _ => Err(Failure::Input(format!("{name:?} is neither wordcount nor index"))),
    }
}

fn address(text: &str) -> Result<Address, Failure> {
    Address::parse(text).map_err(Failure::Input)
}

/// The number after an option.
fn number(option: &str, text: Option<&str>, max: u64) -> Result<u64, Failure> {
    let number =
        text.and_then(|text| text.parse().ok()).filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| Failure::Input(format!("{option} needs a number, 1 to {max}")))
}

fn unknown(option: &str) -> Failure {
    Failure::Input(format!("there is no option {option}; see --help"))
}

/// Ends this process when its stdin does: nothing is left running when the demonstration is killed.
fn tether() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

fn master(name: &str, at: &str, dir: &str, rest: &[&str]) -> Result<bool, Failure> {
    let (at, app, input, dir) = (address(at)?, app(name)?, Vec::new(), dir.into());
    let (reduces, chunk_len, slow_after) = (4, 64 << 10, Duration::from_secs(10));
    let mut plan = Plan { app, input, dir, reduces, chunk_len, slow_after, naive: false };
    let mut rest = rest.iter().copied();
    while let Some(word) = rest.next() {
        match word {
            "--reduces" => plan.reduces = number(word, rest.next(), 1000)? as u32,
            "--chunk" => plan.chunk_len = number(word, rest.next(), 1 << 20)? << 10,
            "--slow-after" => {
                plan.slow_after = Duration::from_millis(number(word, rest.next(), 86_400_000)?);
            }
            "--naive" => plan.naive = true,
            "--tethered" => tether(),
            option if option.starts_with("--") => return Err(unknown(option)),
            file => plan.input.push(file.to_owned()),
        }
    }
    if plan.input.is_empty() {
        return Err(Failure::Input("there is no FILE; see --help".to_owned()));
    }
    smol::block_on(async {
        let (acceptor, address) = listen(&at).await?;
        let prepared = plan.prepare().map_err(Failure::Input)?;
        let mut screen = Screen::default();
        screen.line(&format!("listening at {address}"));
        let summary = plan.run(prepared, acceptor, &mut screen).await.map_err(Failure::Trial)?;
        screen.line(&summary);
        Ok(true)
    })
}

fn worker(master: &str, listen: &str, rest: &[&str]) -> Result<bool, Failure> {
    let (master, listen) = (address(master)?, address(listen)?);
    let (mut name, mut holds, mut rest) = (None, Vec::new(), rest.iter().copied());
    while let Some(word) = rest.next() {
        match word {
            "--hold" => match rest.next() {
                Some(job) => holds.push(job.to_owned()),
                None => return Err(Failure::Input("--hold needs a job".to_owned())),
            },
            option if option.starts_with("--") => return Err(unknown(option)),
            text if name.is_none() => name = Some(text),
            _ => return Err(Failure::Input("a worker has one name; see --help".to_owned())),
        }
    }
    smol::block_on(serve(&master, &listen, name, holds)).map(|()| true)
}
