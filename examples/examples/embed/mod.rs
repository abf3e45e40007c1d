//! What `embed_blocking.rs` and `embed_tokio.rs` have in common: all that is not I/O.

use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncewire_core::*;

/// "toy/add_one": a little-endian u32 in, the next one out.
const ADD_ONE: MethodId = MethodId::from_number(22);
/// How often it has run.
static EXECUTED: AtomicU32 = AtomicU32::new(0);

/// The machines' time. Any monotonic clock will do, from any origin.
#[allow(
    clippy::disallowed_methods,
    reason = "a program that embeds the core reads the clock for it"
)]
pub fn now() -> Instant {
    static ORIGIN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    Instant::ZERO + ORIGIN.elapsed()
}

/// How long until `poll_timeout`'s moment; never zero, which a socket takes for "for ever".
pub fn wait(at: Option<Instant>) -> Duration {
    let wait = at.map_or(Duration::from_secs(3600), |at| at.since(now()));
    wait.max(Duration::from_millis(1))
}

fn random() -> io::Result<[u8; 16]> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    Ok(bits)
}

/// What names the session that a connection may open: another one for every connection.
pub fn secret() -> io::Result<SessionId> {
    random().map(SessionId::from_bytes)
}

pub fn new_server() -> io::Result<Server<Heap>> {
    let name = ServiceName::new("toy").ok_or(ErrorKind::InvalidInput)?;
    let config = ServerConfig::new(ServerId::from_bytes(random()?), name);
    Server::new(config, &[MethodSpec::new(ADD_ONE)]).map_err(io::Error::other)
}

/// Gives a connection's bytes to the server, runs the calls among them, and leaves in `input` what
/// is not a whole frame yet. True if the third call ran: its reply must be lost.
pub fn execute(machine: &mut Server<Heap>, conn: ConnId, input: &mut Vec<u8>) -> bool {
    let (mut at, mut cut) = (0, false);
    // An error closes the connection: `poll_event` says so, once its last frame has left.
    while let Ok(received) = machine.handle_data(now(), conn, &input[at..]) {
        at += received.consumed;
        let request = match received.item {
            Some(Incoming::Request(request)) => request,
            Some(_) => continue, // the cancel of a call that runs: here none runs for long
            None => break,
        };
        let &[a, b, c, d] = request.body else {
            machine.refuse(now(), request.admission, NotExecuted::BadArguments);
            continue;
        };
        // A slow handler runs elsewhere: `running` can wait, and nothing else waits for it.
        let Ok(running) = machine.start(now(), request.admission) else { continue };
        let sum = u32::from_le_bytes([a, b, c, d]).wrapping_add(1);
        cut |= EXECUTED.fetch_add(1, Ordering::Relaxed) == 2;
        if let Err(error) = machine.reply(now(), running, &sum.to_le_bytes()) {
            output::note!("{error}");
        }
    }
    input.drain(..at);
    cut
}

/// The outcome, for a caller that only wants the reply.
pub type Answer = Result<u32, String>;

pub fn begin(machine: &mut Client<Heap>, argument: u32) -> Result<CallId, String> {
    let body = argument.to_le_bytes();
    machine.call(now(), Call::new(ADD_ONE, &body)).map_err(|error| error.to_string())
}

/// Gives a connection's bytes to the client and tells which calls they answer.
pub fn take(
    machine: &mut Client<Heap>,
    input: &mut Vec<u8>,
    mut ended: impl FnMut(CallId, Answer),
) -> io::Result<()> {
    let mut at = 0;
    loop {
        let received = machine.handle_data(now(), &input[at..]).map_err(io::Error::other)?;
        at += received.consumed;
        let Some(reply) = received.item else { break };
        ended(reply.call, answer(reply.outcome));
    }
    input.drain(..at);
    Ok(())
}

pub fn answer(outcome: Outcome<'_>) -> Answer {
    match outcome {
        Outcome::Reply(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
        other => Err(format!("{other:?}")),
    }
}

/// Says what happened. Right are five calls, a lost reply among them, and five runs.
pub fn judge(answers: &[Answer], client: ClientCounters) -> ExitCode {
    let executed = EXECUTED.load(Ordering::Relaxed);
    output::show!("{} calls, {executed} executed: {answers:?}", answers.len());
    output::show!("connections resumed: {}, replies asked for: {}", client.resumes, client.asks);
    let replies = [101, 102, 103, 104, 105].map(Ok);
    let once = answers == replies && executed == 5 && (client.resumes, client.asks) == (1, 1);
    output::show!("{}", if once { "every call ran once" } else { "that is wrong" });
    if once { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
