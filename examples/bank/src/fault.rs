//! The fault injector: a relay between clients and a server that damages their connections.
//!
//! It knows where frames begin and end, so that it can cut a connection before a frame, inside one, or right after one, in
//! either direction; swallow a reply and what follows it; and hold frames back. What it does to its n-th connection
//! depends on the seed and n.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_signal::{Signal, Signals};
use oncewire::protocol::wire::{self, Decoded, Frame, Role};
use oncewire::{Accept, BoxStream, Connect};
use smol::Task;
use smol::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use smol::stream::StreamExt;

use crate::address::{Address, Dial, Listen};
use crate::chance::{Rng, pause};

/// Longer frames than these are not the bank's.
const BODY_LEN_MAX: u32 = 1 << 20;
/// By default, a connection is cut within so many frames.
pub(crate) const FRAMES_MAX: u64 = 300;
/// A tenth of them within so many: in its handshake or right after it.
const EARLY_FRAMES_MAX: u64 = 4;
/// One frame of so many is held back,
const DELAY_EVERY: u64 = 400;
/// and at most for so long.
const DELAY_MAX_MS: u64 = 15;

/// How often it did what.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) before: AtomicU64,
    pub(crate) inside: AtomicU64,
    pub(crate) after: AtomicU64,
    pub(crate) swallowed: AtomicU64,
    pub(crate) delays: AtomicU64,
}

impl Counts {
    /// Connections that were cut, in whatever way.
    pub(crate) fn cuts(&self) -> u64 {
        [&self.before, &self.inside, &self.after, &self.swallowed].map(get).into_iter().sum()
    }
}

/// Its value.
pub(crate) fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn add(count: &AtomicU64) -> u64 {
    count.fetch_add(1, Ordering::Relaxed)
}

/// An injector at work; dropping it closes its listener.
#[derive(Debug)]
pub(crate) struct Injector {
    pub(crate) counts: Arc<Counts>,
    accepting: Task<()>,
}

impl Injector {
    /// Takes connections from `acceptor` and passes them on to `target`, in its own way.
    pub(crate) fn start(
        acceptor: Listen,
        target: &Address,
        seed: u64,
        frames_max: u64,
    ) -> Result<Injector, String> {
        let counts = Arc::new(Counts::default());
        let (counted, target) = (counts.clone(), Arc::new(target.connector()?));
        let accepting = smol::spawn(async move {
            // A listener that fails once may do better the next time; the clients will tell.
            loop {
                let Ok((client, _)) = acceptor.accept().await else {
                    pause(Duration::from_millis(10)).await;
                    continue;
                };
                let number = add(&counted.connections);
                let plans = draw(&mut Rng::new(seed, number + 1), frames_max);
                smol::spawn(treat(client, target.clone(), plans, counted.clone())).detach();
            }
        });
        Ok(Injector { counts, accepting })
    }

    /// Closes its listener; when this is complete a unix socket's file is gone.
    pub(crate) async fn stop(self) {
        self.accepting.cancel().await;
    }
}

/// Treats connections badly until `SIGTERM` or `SIGINT` comes, and says what it did.
///
/// # Errors
/// Why it could not begin.
pub(crate) async fn run(
    entrance: &Address,
    server: &Address,
    seed: u64,
    frames_max: u64,
) -> Result<(), String> {
    let mut signals = Signals::new([Signal::Term, Signal::Int])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let acceptor = entrance.bind().await.map_err(|error| format!("cannot listen: {error}"))?;
    // A reader that has gone is not the injector's concern.
    let ready = format!("listening on {}, seed {seed}", acceptor.address());
    let _ = writeln!(std::io::stdout(), "{ready}");
    let injector = Injector::start(acceptor, server, seed, frames_max)?;
    signals.next().await;
    let counts = injector.counts.clone();
    injector.stop().await;
    let Counts { connections, before, inside, after, swallowed, delays } = &*counts;
    let [connections, before, inside] = [connections, before, inside].map(get);
    let [after, swallowed, delays] = [after, swallowed, delays].map(get);
    let _ = writeln!(
        std::io::stderr(),
        "{connections} connections; cuts: {before} before a frame, {inside} inside, {after} after, {swallowed} with a \
         reply swallowed; {delays} delays"
    );
    Ok(())
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Before,
    Inside,
    After,
    /// A reply is dropped, though the server sent it.
    Swallow,
}

/// What happens in one direction of a connection.
#[derive(Clone, Debug)]
struct Plan {
    from: Role,
    /// The fault, and the number of the frame at which it strikes.
    fault: Option<(u64, Fault)>,
    rng: Rng,
}

/// One connection, to its end.
async fn treat(
    client: BoxStream,
    target: Arc<Dial>,
    (up, down): (Plan, Plan),
    counts: Arc<Counts>,
) {
    // No server: the client's connection ends, too.
    let Ok(server) = target.connect().await else { return };
    let (from_client, to_client) = smol::io::split(client);
    let (from_server, to_server) = smol::io::split(server);
    let up = Pump { plan: up, counts: &counts, from: from_client, to: to_server };
    let down = Pump { plan: down, counts: &counts, from: from_server, to: to_client };
    // When one direction has ended, by itself or by a fault, both are closed.
    smol::future::or(up.run(), down.run()).await;
}

/// The plans for what the client sends and for what the server sends.
fn draw(rng: &mut Rng, frames_max: u64) -> (Plan, Plan) {
    let early = rng.percent(10);
    let frame = rng.below(if early { EARLY_FRAMES_MAX } else { frames_max });
    let fault = match rng.below(5) {
        0 => Fault::Before,
        1 => Fault::Inside,
        2 => Fault::After,
        _ => Fault::Swallow,
    };
    let downwards = fault == Fault::Swallow || rng.percent(50);
    let strike = Some((frame, fault));
    let plan = |from, fault, rng| Plan { from, fault, rng };
    let (one, two) = (Rng::new(rng.next(), 1), Rng::new(rng.next(), 2));
    (
        plan(Role::Client, strike.filter(|_| !downwards), one),
        plan(Role::Server, strike.filter(|_| downwards), two),
    )
}

/// Passes frames on, until the fault or the end.
struct Pump<'c> {
    plan: Plan,
    counts: &'c Counts,
    from: ReadHalf<BoxStream>,
    to: WriteHalf<BoxStream>,
}

/// What is done with the frame at the front.
enum Step {
    Pass,
    Delay(Duration),
    /// So many of its bytes leave, and then nothing more.
    Cut(usize),
}

impl Pump<'_> {
    async fn run(mut self) {
        // An error of either side ends the connection: there is no one to report it to.
        let _ = self.pump().await;
    }

    async fn pump(&mut self) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 16 * 1024];
        let mut number = 0;
        loop {
            let len = self.from.read(&mut chunk).await?;
            if len == 0 {
                return Ok(());
            }
            buffer.extend_from_slice(&chunk[..len]);
            // Frames up to `at` have left, those up to `end` may.
            let (mut at, mut end) = (0, 0);
            while let Some((len, is_reply)) = front(&buffer[end..], self.plan.from)? {
                match self.step(number, len, is_reply) {
                    Step::Pass => end += len,
                    Step::Delay(delay) => {
                        self.to.write_all(&buffer[at..end]).await?;
                        at = end;
                        end += len;
                        pause(delay).await;
                    }
                    Step::Cut(bytes) => {
                        return self.to.write_all(&buffer[at..end + bytes]).await;
                    }
                }
                number += 1;
            }
            self.to.write_all(&buffer[at..end]).await?;
            buffer.drain(..end);
        }
    }

    fn step(&mut self, number: u64, len: usize, is_reply: bool) -> Step {
        let Plan { fault, rng, .. } = &mut self.plan;
        let struck =
            fault.filter(|(at, fault)| number >= *at && (is_reply || *fault != Fault::Swallow));
        let (count, bytes) = match struck {
            Some((_, Fault::Before)) => (&self.counts.before, 0),
            Some((_, Fault::Inside)) => {
                (&self.counts.inside, 1 + rng.below(len as u64 - 1) as usize)
            }
            Some((_, Fault::After)) => (&self.counts.after, len),
            Some((_, Fault::Swallow)) => (&self.counts.swallowed, 0),
            None if rng.below(DELAY_EVERY) == 0 => {
                add(&self.counts.delays);
                return Step::Delay(Duration::from_millis(1 + rng.below(DELAY_MAX_MS)));
            }
            None => return Step::Pass,
        };
        add(count);
        Step::Cut(bytes)
    }
}

/// The length of the frame at the front, if it is all there, and whether it is a reply.
fn front(data: &[u8], from: Role) -> std::io::Result<Option<(usize, bool)>> {
    match wire::decode(data, from, BODY_LEN_MAX) {
        Ok(Decoded::Frame(frame, len)) => Ok(Some((len, matches!(frame, Frame::Reply(..))))),
        Ok(Decoded::Incomplete(_)) => Ok(None),
        Err(error) => Err(std::io::Error::other(error)),
    }
}
