//! Planted bugs that the checkers of [`history`](crate::history), [`killer`](crate::killer) and
//! [`driver_world`](crate::driver_world) must find.
//!
//! The product has no switch to break it, but for five faults that only a server can have ([`ServerFault`], behind a
//! feature). A mutant is in front of it: a proxy that reads the frames between a
//! client and its server and tampers with them, or a caller that does what the outcome forbids. The world of the core
//! has broken machines of its own ([`Broken`](crate::world::Broken)).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncewire_core::wire::{self, Decoded, Frame, ReplyHeader, Role};
use oncewire_core::{MethodId, NotExecuted, Status, Xid};
use oncewire_driver::faults::ServerFault;
use oncewire_driver::{BoxFuture, BoxStream, Client, ClientOptions, Connect, Outcome, Runtime};
use oncewire_pipe::memory;
use smol::channel::{Receiver, Sender, unbounded};
use smol::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::rng::Rng;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutant {
    /// A server that knows no duplicates: what it is asked about, it executes again.
    NoDedup,
    /// A server that forgets kept replies after a time: it has seen nothing, and executes the request that comes again.
    Forgetful,
    /// An xid is used twice, and the server looks at nothing else: a request is answered with the reply of another one.
    Reuse,
    /// A server that executes a request twice at once.
    Twice,
    /// The reply of an executed call is replaced by a refusal: a server that lost a kept reply and says "not executed".
    Denied,
    /// At least once: a caller that gets `Unknown` makes the same call again, and reports the second outcome.
    Again,
    /// A server whose turns have no bounds: it reads one connection for as long as there is something. This and those
    /// that follow are of the driver world only: no frame shows them.
    Greedy,
    /// A peer that receives a large body is not heard meanwhile.
    Mute,
    /// A server that does not wake handlers for their calls' cancels.
    LostCancel,
    /// A server that forgets at times that a call which ran has ended: it lets fewer and fewer run.
    Leak,
    /// A server's streams forget at times to say that there is something to read.
    Starved,
    /// A server reads a chunk of an upload again that comes again.
    Repeats,
    /// A client that sends calls without comparing what it means by their methods with what their server does.
    GateOpen,
}

/// Those that only the driver world has.
pub const OF_DRIVER_WORLD: [Mutant; 7] = [
    Mutant::Greedy,
    Mutant::Mute,
    Mutant::LostCancel,
    Mutant::Leak,
    Mutant::Starved,
    Mutant::Repeats,
    Mutant::GateOpen,
];

/// All mutants that callers can notice.
pub const ALL: [Mutant; 6] = [
    Mutant::NoDedup,
    Mutant::Forgetful,
    Mutant::Reuse,
    Mutant::Twice,
    Mutant::Denied,
    Mutant::Again,
];

impl Mutant {
    /// What is broken in the server itself.
    pub fn fault(self) -> Option<ServerFault> {
        match self {
            Mutant::Greedy => Some(ServerFault::Greedy),
            Mutant::LostCancel => Some(ServerFault::LostCancels),
            Mutant::Leak => Some(ServerFault::LeakedPermits),
            Mutant::Repeats => Some(ServerFault::RepeatedChunks),
            _ => None,
        }
    }

    /// Its name on a command line.
    pub fn name(self) -> String {
        crate::cli::name(&self)
    }
}

/// How often a proxy tampers: once in so many chances.
const TAMPER_ONE_IN: u64 = 8;
/// How long the second execution may take.
const SECOND_TIMEOUT: Duration = Duration::from_secs(1);

/// A connector whose connections pass through a proxy.
struct MutantConnector {
    proxy: Arc<Proxy>,
}

impl Connect for MutantConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = self.proxy.inner.connect().await?;
            let (ours, client) = memory::pair();
            self.proxy.runtime.spawn(Box::pin(pump(self.proxy.clone(), client, server)));
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        format!("{} broken by {}", self.proxy.inner.address(), self.proxy.mutant.name())
    }

    fn may_carry_token(&self) -> bool {
        self.proxy.inner.may_carry_token()
    }
}

/// A connector of any kind.
#[derive(Clone)]
pub struct AnyConnector(Arc<dyn Connect>);

impl std::fmt::Debug for AnyConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AnyConnector").field(&self.0.address()).finish()
    }
}

impl AnyConnector {
    /// Forgets of which kind `inner` is.
    pub fn new(inner: impl Connect) -> AnyConnector {
        AnyConnector(Arc::new(inner))
    }
}

/// What a client is to dial: `inner`, or the proxy of a mutant in front of it, which lives on `runtime`.
pub fn dial(
    inner: impl Connect,
    mutant: Option<Mutant>,
    seed: u64,
    runtime: &Arc<dyn Runtime>,
) -> AnyConnector {
    let inner = AnyConnector::new(inner);
    let mutant = match mutant {
        None | Some(Mutant::Again) => return inner,
        Some(mutant) if OF_DRIVER_WORLD.contains(&mutant) => return inner,
        Some(mutant) => mutant,
    };
    let second = Client::with_runtime(inner.clone(), ClientOptions::default(), runtime.clone());
    let known = Mutex::new(Known {
        chance: Rng::new(seed),
        requests: BTreeMap::new(),
        replies: HashMap::new(),
        forgotten: BTreeSet::new(),
    });
    let proxy = Proxy { inner, mutant, second, runtime: runtime.clone(), known };
    AnyConnector::new(MutantConnector { proxy: Arc::new(proxy) })
}

impl Connect for AnyConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.0.connect()
    }

    fn address(&self) -> String {
        self.0.address()
    }

    fn may_carry_token(&self) -> bool {
        self.0.may_carry_token()
    }
}

struct Proxy {
    inner: AnyConnector,
    mutant: Mutant,
    /// Executes a request a second time, in a session of its own.
    second: Client,
    runtime: Arc<dyn Runtime>,
    known: Mutex<Known>,
}

struct Known {
    chance: Rng,
    /// Method and body of requests that went by and are not acknowledged, by xid.
    requests: BTreeMap<u64, (MethodId, Vec<u8>)>,
    /// The last reply of each method.
    replies: HashMap<u64, Vec<u8>>,
    /// Xids that the server says it has not seen.
    forgotten: BTreeSet<u64>,
}

/// What becomes of a client's frame.
enum Upwards {
    Pass,
    /// It is swallowed, and answered with this.
    Answer(Vec<u8>),
    /// It is swallowed, and its call executed again.
    Execute(Xid, MethodId, Vec<u8>),
}

/// Carries frames both ways until either side ends.
async fn pump(proxy: Arc<Proxy>, client: memory::MemoryStream, server: BoxStream) {
    let (client_read, client_write) = smol::io::split(client);
    let (server_read, server_write) = smol::io::split(server);
    let (sender, frames) = unbounded();
    let upwards = up(&proxy, client_read, server_write, sender.clone());
    let downwards = down(&proxy, server_read, sender);
    let writes = write(frames, client_write);
    // An end of any kind is an end: the streams are dropped.
    let _ended = smol::future::or(upwards, smol::future::or(downwards, writes)).await;
}

async fn up(
    proxy: &Proxy,
    mut client: ReadHalf<memory::MemoryStream>,
    mut server: WriteHalf<BoxStream>,
    answers: Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let len = next_frame(&mut buffer, &mut client, Role::Client).await?;
        let frame: Vec<u8> = buffer.drain(..len).collect();
        let answer = match proxy.upwards(&frame) {
            Upwards::Pass => None,
            Upwards::Answer(answer) => Some(answer),
            Upwards::Execute(xid, method, body) => proxy
                .execute(method, body)
                .await
                .map(|reply| reply_frame(xid, Status::Done, &reply)),
        };
        match answer {
            Some(answer) => answers.send(answer).await.map_err(io::Error::other)?,
            None => server.write_all(&frame).await?,
        }
    }
}

async fn down(
    proxy: &Proxy,
    mut server: ReadHalf<BoxStream>,
    frames: Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let len = next_frame(&mut buffer, &mut server, Role::Server).await?;
        let frame: Vec<u8> = buffer.drain(..len).collect();
        let frame = proxy.tamper(frame).await;
        frames.send(frame).await.map_err(io::Error::other)?;
    }
}

async fn write(
    frames: Receiver<Vec<u8>>,
    mut client: WriteHalf<memory::MemoryStream>,
) -> io::Result<()> {
    while let Ok(frame) = frames.recv().await {
        client.write_all(&frame).await?;
    }
    Ok(())
}

/// Reads until a whole frame is at the front of `buffer`; returns its length.
async fn next_frame(
    buffer: &mut Vec<u8>,
    stream: &mut (impl smol::io::AsyncRead + Unpin),
    from: Role,
) -> io::Result<usize> {
    loop {
        match wire::decode(buffer, from, u32::MAX >> 8) {
            Ok(Decoded::Frame(_, len)) => return Ok(len),
            Ok(Decoded::Incomplete(_)) => {}
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
        let mut chunk = [0; 4096];
        let len = stream.read(&mut chunk).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&chunk[..len]);
    }
}

impl Proxy {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a client's frame.
    fn upwards(&self, frame: &[u8]) -> Upwards {
        let decoded = wire::decode(frame, Role::Client, u32::MAX >> 8);
        match decoded {
            Ok(Decoded::Frame(Frame::Request(header, body), _)) => {
                self.request(header.xid, header.acked, header.method, body)
            }
            Ok(Decoded::Frame(Frame::Ask(xid, ask), _)) => self.asked(xid, ask),
            _ => Upwards::Pass,
        }
    }

    fn request(&self, xid: Xid, acked: u64, method: MethodId, body: &[u8]) -> Upwards {
        let mut known = self.known();
        let known = &mut *known;
        known.requests = known.requests.split_off(&acked.saturating_add(1));
        known.requests.insert(xid.get(), (method, body.to_vec()));
        if known.forgotten.remove(&xid.get()) {
            return Upwards::Execute(xid, method, body.to_vec());
        }
        if self.mutant != Mutant::Reuse || !known.chance.one_in(TAMPER_ONE_IN) {
            return Upwards::Pass;
        }
        match known.replies.get(&method.number()) {
            Some(reply) => Upwards::Answer(reply_frame(xid, Status::Done, reply)),
            None => Upwards::Pass,
        }
    }

    /// The client wants to know what became of a call that this server has read.
    fn asked(&self, xid: Xid, ask: u16) -> Upwards {
        let mut known = self.known();
        let Some((method, body)) = known.requests.get(&xid.get()).cloned() else {
            return Upwards::Pass;
        };
        match self.mutant {
            Mutant::NoDedup => Upwards::Execute(xid, method, body),
            Mutant::Forgetful => {
                known.forgotten.insert(xid.get());
                Upwards::Answer(reply_frame(xid, Status::NotSeen { ask }, &[]))
            }
            _ => Upwards::Pass,
        }
    }

    /// Executes a request again, in a session of its own; the reply, if there is one.
    async fn execute(&self, method: MethodId, body: Vec<u8>) -> Option<Vec<u8>> {
        match self.second.call_raw(method, body).timeout(SECOND_TIMEOUT).await {
            Outcome::Reply(reply) => Some(reply.to_vec()),
            _ => None,
        }
    }

    /// What the client is to read instead of a server's frame.
    async fn tamper(&self, frame: Vec<u8>) -> Vec<u8> {
        let Ok(Decoded::Frame(Frame::Reply(header, body), _)) =
            wire::decode(&frame, Role::Server, u32::MAX >> 8)
        else {
            return frame;
        };
        if header.status != Status::Done {
            return frame;
        }
        let request = {
            let mut known = self.known();
            let Some((method, request)) = known.requests.remove(&header.xid.get()) else {
                return frame;
            };
            known.replies.insert(method.number(), body.to_vec());
            known.chance.one_in(TAMPER_ONE_IN).then_some((method, request))
        };
        match (self.mutant, request) {
            (Mutant::Denied, Some(_)) => {
                reply_frame(header.xid, Status::Refused(NotExecuted::Overloaded), &[])
            }
            (Mutant::Twice, Some((method, request))) => {
                // No call waits for its reply.
                self.execute(method, request).await;
                frame
            }
            _ => frame,
        }
    }
}

fn reply_frame(xid: Xid, status: Status, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; wire::REPLY_HEADER_LEN + body.len()];
    let frame = Frame::Reply(ReplyHeader { status, xid }, body);
    let len = wire::encode(&frame, &mut out).unwrap_or(0);
    out.truncate(len);
    out
}
