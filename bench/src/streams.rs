//! Streams: their rate beside that of W4's calls, and how long small calls wait beside a large body on their own connection.
//!
//! Server and client are two processes; with `/1` they share a core. Each figure of a client is of the same connection.

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use oncewire_core::{MethodId, MethodSpec};
use oncewire_driver::stream::{Incoming, StreamMethod, UploadMethod};
use oncewire_driver::{Client, Method, Server};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::case::Transport;
use crate::cells::median;
use crate::cli::Cli;
use crate::clock::{Duration, now, sleep};
use crate::goals::Goal;
use crate::parties::{self, Setting, Waits};
use crate::process::{LINE_TIMEOUT, Process};
use crate::{subjects, sys};

/// A body of so many bytes.
const DOWN: StreamMethod<u64, Bytes> = StreamMethod::bytes("bench/down");
/// Says how many bytes there were.
const UP: UploadMethod<(), Bytes, u64> = UploadMethod::bytes("bench/up");
const ECHO: MethodId = MethodId::of("bench/echo");
const SMALL: Method<u32, u32> = Method::new("bench/small");

const MIB: u64 = 1 << 20;
/// As in W4.
const ECHO_LEN: usize = 1 << 20;
const ECHOES: usize = 4;
/// What a user gives at once.
const PIECE_LEN: usize = 64 << 10;
/// What the small calls are beside.
const LARGE_LEN: u64 = 1 << 30;
/// Between two small calls.
const PAUSE: Duration = Duration::from_micros(200);

/// A role's process, as it is described to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    Serve { transport: Transport, address: String },
    Call { transport: Transport, address: String, sample_ms: u64 },
}

/// What a client saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Figures {
    /// MiB a second.
    echo: f64,
    down: f64,
    up: f64,
    /// Of small calls.
    alone: Waits,
    beside_down: Waits,
    beside_up: Waits,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamRow {
    round: u32,
    transport: Transport,
    cores: u32,
    figures: Figures,
}

pub(crate) fn all(cli: &Cli) -> Result<Vec<StreamRow>> {
    let mut rows = Vec::new();
    parties::each_setting(cli, |setting| {
        rows.push(measure(cli, setting)?);
        Ok(())
    })?;
    Ok(rows)
}

fn measure(cli: &Cli, setting: Setting) -> Result<StreamRow> {
    let Setting { round, transport, cores, .. } = setting;
    crate::run::progress(&format!("streams/{cores} {}", transport.name()));
    let server = setting.serve(|address| start(&Part::Serve { transport, address }))?;
    let address = server.address.clone();
    let client = start(&Part::Call { transport, address, sample_ms: cli.sample_ms })?;
    let figures = serde_json::from_str(&client.line(10 * LINE_TIMEOUT)?)?;
    Ok(StreamRow { round, transport, cores, figures })
}

fn start(part: &Part) -> Result<Process> {
    Process::start(&std::env::current_exe()?, "streams", part, 1)
}

/// Plays a part in a process of its own.
pub(crate) fn play(part: &Part) -> Result<()> {
    match part {
        Part::Serve { transport, address } => smol::block_on(serve(*transport, address)),
        Part::Call { transport, address, sample_ms } => {
            subjects::end_with_parent();
            let client = parties::client(*transport, address);
            let figures = smol::block_on(call(&client, Duration::from_millis(*sample_ms)))?;
            output::show!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }
    }
}

async fn serve(transport: Transport, address: &str) -> Result<()> {
    let mut echo = MethodSpec::new(ECHO);
    echo.reply_len_max = ECHO_LEN as u32;
    let piece = Bytes::from(vec![7; PIECE_LEN]);
    let server = Server::builder("bench")
        .method_raw(echo, |_, body: Bytes| std::future::ready(body))
        .method(&SMALL, |_, n| async move { n })
        .stream(&DOWN, move |_, len, _| std::future::ready(pieces(piece.clone(), len)))
        .upload(&UP, |_, (), body| count(body))
        .build()?;
    parties::serve(server, transport, address).await
}

fn pieces(piece: Bytes, len: u64) -> impl smol::stream::Stream<Item = Bytes> + Send {
    let mut left = len;
    smol::stream::iter(std::iter::from_fn(move || {
        let piece = piece.slice(..left.min(piece.len() as u64) as usize);
        left -= piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    }))
}

async fn count(mut body: Incoming<Bytes>) -> u64 {
    let mut len = 0;
    while let Some(bytes) = body.next().await {
        len += bytes.len() as u64;
    }
    len
}

async fn call(client: &Client, sample: Duration) -> Result<Figures> {
    client.call(&SMALL, &0).await.ok()?;
    sys::use_cubic()?;
    // Each once before it counts.
    echoes(client, sample / 8).await?;
    down(client, 16 * MIB).await?;
    up(client, 16 * MIB).await?;
    let echo = echoes(client, sample).await?;
    // As many bytes as the calls carry in their sample.
    let len = (echo * sample.as_secs_f64()) as u64 * MIB;
    let (down_rate, up_rate) = (down(client, len).await?, up(client, len).await?);
    let alone = small_calls(client, sleep(sample)).await?;
    let beside_down = small_calls(client, async { down(client, LARGE_LEN).await.ok() }).await?;
    let beside_up = small_calls(client, async { up(client, LARGE_LEN).await.ok() }).await?;
    Ok(Figures { echo, down: down_rate, up: up_rate, alone, beside_down, beside_up })
}

/// MiB a second of W4's calls.
async fn echoes(client: &Client, sample: Duration) -> Result<f64> {
    let body = Bytes::from(vec![7; ECHO_LEN]);
    let mut calls: FuturesUnordered<_> =
        (0..ECHOES).map(|_| client.call_raw(ECHO, body.clone())).collect();
    let begun = now();
    let mut count = 0;
    while begun.elapsed() < sample {
        calls.next().await.ok_or("there are calls")?.ok()?;
        count += 1;
        calls.push(client.call_raw(ECHO, body.clone()));
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    while calls.next().await.is_some() {}
    Ok(rate)
}

async fn down(client: &Client, len: u64) -> Result<f64> {
    let begun = now();
    let mut body = client.stream(&DOWN, &len);
    while let Some(bytes) = body.next().await {
        std::hint::black_box(bytes?.len());
    }
    if body.position() != len {
        Err("it ended early")?
    }
    Ok(len as f64 / MIB as f64 / begun.elapsed().as_secs_f64())
}

async fn up(client: &Client, len: u64) -> Result<f64> {
    let piece = Bytes::from(vec![7; PIECE_LEN]);
    let begun = now();
    let mut body = client.upload(&UP, &());
    while body.position() < len {
        let left = (len - body.position()).min(PIECE_LEN as u64);
        body.send(piece.slice(..left as usize)).await?;
    }
    if body.commit().await? != len {
        Err("some were left out")?
    }
    Ok(len as f64 / MIB as f64 / begun.elapsed().as_secs_f64())
}

/// One call after the other, with pauses, for as long as something else takes.
async fn small_calls<T>(client: &Client, beside: impl Future<Output = T>) -> Result<Waits> {
    let mut waits = Vec::new();
    let calls = async {
        loop {
            let before = now();
            if client.call(&SMALL, &1).await.ok().is_err() {
                return;
            }
            waits.push(before.elapsed().as_nanos() as f64 / 1e3);
            sleep(PAUSE).await;
        }
    };
    smol::future::or(async { drop(beside.await) }, calls).await;
    Waits::of(waits)
}

/// What is asked of a stream's rate beside W4's, and of a small call's p99.
const RATE_MIN: f64 = 0.7;
const SMALL_P99_US_MAX: f64 = 500.0;

fn cells(rows: &[StreamRow]) -> Vec<(&StreamRow, Vec<&StreamRow>)> {
    let first = rows.iter().filter(|row| row.round == 0);
    let same = |a: &StreamRow, b: &StreamRow| (a.transport, a.cores) == (b.transport, b.cores);
    first.map(|first| (first, rows.iter().filter(|row| same(row, first)).collect())).collect()
}

fn goals_of(first: &StreamRow, rounds: &[&StreamRow]) -> Vec<Goal> {
    let of =
        |figure: &dyn Fn(&Figures) -> f64| median(rounds.iter().map(|row| figure(&row.figures)));
    let name = format!("streams/{} {}", first.cores, first.transport.name());
    vec![
        Goal::least(&format!("{name}, down × W4"), of(&|f| f.down / f.echo), RATE_MIN),
        Goal::least(&format!("{name}, up × W4"), of(&|f| f.up / f.echo), RATE_MIN),
        Goal::most(
            &format!("{name}, small calls beside 1 GiB down, p99 µs"),
            of(&|f| f.beside_down.p99_us),
            SMALL_P99_US_MAX,
        ),
        Goal::most(
            &format!("{name}, small calls beside 1 GiB up, p99 µs"),
            of(&|f| f.beside_up.p99_us),
            SMALL_P99_US_MAX,
        ),
    ]
}

pub(crate) fn goals(rows: &[StreamRow]) -> Vec<Goal> {
    cells(rows).iter().flat_map(|(first, rounds)| goals_of(first, rounds)).collect()
}

pub(crate) fn print(rows: &[StreamRow]) {
    if rows.is_empty() {
        return;
    }
    output::show!(
        "\nStreams: MiB a second beside W4's calls; small calls beside 1 GiB on the same connection, µs"
    );
    output::show!(
        "  {:<6}{:>6}{:>8}{:>8}{:>8}{:>14}{:>16}{:>16}",
        "",
        "cores",
        "W4",
        "down",
        "up",
        "alone p50/p99",
        "down p50/p99",
        "up p50/p99"
    );
    for (first, rounds) in cells(rows) {
        let of = |figure: &dyn Fn(&Figures) -> f64| {
            median(rounds.iter().map(|row| figure(&row.figures)))
        };
        let waits = |waits: &dyn Fn(&Figures) -> Waits| {
            format!("{:.0}/{:.0}", of(&|f| waits(f).p50_us), of(&|f| waits(f).p99_us))
        };
        output::show!(
            "  {:<6}{:>6}{:>8.0}{:>8.0}{:>8.0}{:>14}{:>16}{:>16}",
            first.transport.name(),
            first.cores,
            of(&|f| f.echo),
            of(&|f| f.down),
            of(&|f| f.up),
            waits(&|f| f.alone),
            waits(&|f| f.beside_down),
            waits(&|f| f.beside_up),
        );
        for goal in goals_of(first, &rounds) {
            output::show!("    {}", goal.shown());
        }
    }
}
