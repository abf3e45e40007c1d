//! The program: see the library's page.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jobs::{Job, Rules, RunnerClient, Submitter, chaos, processes, serve, story};
use oncewire::{Client, ClientOptions, OnDialFailure, TcpAcceptor, TcpConnector};

const HELP: &str = "\
A job server with a stand-by: each job starts exactly once, whichever process is killed or paused.

Usage: jobs [JOBS [SEED]]                       shows it: servers and runner are killed and paused while jobs come in, 200 unless said
       jobs --story                             shows how half of the jobs vanish, and then how none does
       jobs runner HOST:PORT LEDGER [MS]        runs the runner, whose leases last MS milliseconds, 1000 unless said
       jobs serve NAME HOST:PORT SPOOL RUNNER   runs a server on a spool directory; RUNNER is the runner's HOST:PORT
       jobs submit HOST:PORT[,HOST:PORT] NAME TEXT [SECONDS]
                                                submits a job to whichever of these servers takes it, within 5 seconds unless said
       jobs runs RUNNER                         prints what was started: run, job, token, server, text

Exit status 0: done, or all was as it should be; 1: no server has taken the job, or something was not as it should be; 2: bad input,
with a line that says what.";

/// What went wrong, with the exit status: 1 for what was tried, 2 for what was asked for.
type Failure = (u8, String);

fn bad_input(text: impl ToString) -> Failure {
    (2, text.to_string())
}

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match smol::block_on(run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err((status, text)) => {
            output::note!("jobs: {text}");
            ExitCode::from(status)
        }
    }
}

async fn run(args: &[&str]) -> Result<bool, Failure> {
    match *args {
        ["--tethered", ref args @ ..] => {
            processes::tether().map_err(|error| (1, error.to_string()))?;
            Box::pin(run(args)).await
        }
        ["--help" | "-h"] => {
            output::show!("{HELP}");
            Ok(true)
        }
        ["--story"] => story::run().await.map_err(|why| (1, why)),
        ["runner", address, ledger] => runner(address, ledger, "1000", Rules::ALL).await,
        ["runner", address, ledger, millis] => runner(address, ledger, millis, Rules::ALL).await,
        // A known bug, planted on purpose.
        ["runner", address, ledger, millis, "--mutant", "no-fence"] => {
            runner(address, ledger, millis, Rules { fences: false, ..Rules::ALL }).await
        }
        [kind @ ("serve" | "naive"), name, address, spool, runner] => {
            if name.is_empty() || name.contains(|c: char| c.is_control() || c == ':') {
                return Err(bad_input(format!("{name:?} is no name of a server")));
            }
            let (address, runner) = (host_and_port(address)?, host_and_port(runner)?);
            let served = serve(name, &address, Path::new(spool), &runner, kind == "naive").await;
            served.map_err(bad_input).map(|()| true)
        }
        ["submit", servers, name, text] => submit(servers, name, text, "5").await,
        ["submit", servers, name, text, seconds] => submit(servers, name, text, seconds).await,
        ["runs", runner] => runs(runner).await,
        [] => show(chaos::JOBS, chaos::SEED, &[]).await,
        [jobs] => show(number(jobs, 1..=10_000)?, chaos::SEED, &[]).await,
        [jobs, seed] | [jobs, seed, "--mutant", "no-fence"] => {
            show(number(jobs, 1..=10_000)?, number(seed, 0..=u64::MAX)?, &args[2..]).await
        }
        _ => Err(bad_input("what is asked for is not clear; see --help")),
    }
}

fn number(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, Failure> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    let (least, most) = (range.start(), range.end());
    let bad = || bad_input(format!("{text:?} is no number from {least} to {most}; see --help"));
    number.ok_or_else(bad)
}

fn host_and_port(text: &str) -> Result<String, Failure> {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let bad = || bad_input(format!("{text:?} is not host:port"));
    port.map(|_| text.to_owned()).ok_or_else(bad)
}

async fn show(jobs: u64, seed: u64, of_runner: &[&str]) -> Result<bool, Failure> {
    chaos::run(jobs, seed, of_runner).await.map_err(|why| (1, why))
}

async fn runner(address: &str, ledger: &str, millis: &str, rules: Rules) -> Result<bool, Failure> {
    let address = host_and_port(address)?;
    let lease = Duration::from_millis(number(millis, 1..=3_600_000)?);
    let instance = format!("runner:{}", std::process::id());
    let server = jobs::runner(Path::new(ledger), &instance, lease, rules).map_err(bad_input)?;
    let cannot = |error| bad_input(format!("cannot listen at {address}: {error}"));
    let acceptor = TcpAcceptor::bind(&address).await.map_err(cannot)?;
    output::show!("{instance}: serving at {}", acceptor.local_addr());
    server.serve(acceptor).await.map_err(|error| (1, error.to_string()))?;
    Ok(true)
}

async fn submit(servers: &str, name: &str, text: &str, seconds: &str) -> Result<bool, Failure> {
    let within = Duration::from_secs(number(seconds, 0..=3_600)?);
    let servers: Result<Vec<_>, _> = servers.split(',').map(host_and_port).collect();
    let job = Job { name: name.to_owned(), text: text.to_owned() };
    let taken = Submitter::new(servers?).submit(&job, within).await;
    let taken =
        taken.map_err(|why| (if why.is_worth_another { 1 } else { 2 }, why.said.join("; ")))?;
    output::show!("{}: has taken job {name}", taken.by);
    Ok(true)
}

async fn runs(address: &str) -> Result<bool, Failure> {
    let options = ClientOptions::default().with_on_dial_failure(OnDialFailure::End);
    let runner = RunnerClient(Client::new(TcpConnector::new(host_and_port(address)?), options));
    let mut run = 1;
    loop {
        let page = runner.runs(run).result().await.map_err(bad_input)?;
        if page.is_empty() {
            runner.0.close().await;
            return Ok(true);
        }
        for started in page {
            let (job, token) = (&started.job, started.token.0);
            output::show!("{run} {} {token} {} {:?}", job.name, started.owner, job.text);
            run += 1;
        }
    }
}
