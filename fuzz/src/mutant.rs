//! Breakage on purpose: what the checkers of [`history`](crate::history) and [`killer`](crate::killer) must catch.
//!
//! The product has no switch to break it. A mutant stands in front of it: a proxy that reads the frames between a
//! client and its server and tampers with them, or a caller that does what the outcome forbids.

use std::collections::HashMap;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire_core::wire::{self, Decoded, Frame, ReplyHeader, Role};
use oncewire_core::{MethodId, NotExecuted, Status, Xid};
use oncewire_driver::{BoxFuture, BoxStream, Client, ClientOptions, Connect};
use oncewire_pipe::memory;
use smol::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::rng::Rng;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A request that was executed is executed again in a session of its own: a server that knows no duplicates.
    Twice,
    /// A request is swallowed, and answered with the last reply of its method: somebody answers for the server.
    Fake,
    /// The reply of an executed call is replaced by a refusal: a server that lost a kept reply and says "not executed".
    Denied,
    /// A caller who is told `Unknown` makes the same call again and shows that one's outcome: at least once.
    Again,
}

/// All mutants.
pub const ALL: [Mutant; 4] = [Mutant::Twice, Mutant::Fake, Mutant::Denied, Mutant::Again];

impl FromStr for Mutant {
    type Err = String;

    fn from_str(name: &str) -> Result<Mutant, String> {
        let found = ALL.into_iter().find(|mutant| mutant.name() == name);
        found.ok_or_else(|| format!("no mutant is called {name:?}"))
    }
}

impl Mutant {
    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Mutant::Twice => "twice",
            Mutant::Fake => "fake",
            Mutant::Denied => "denied",
            Mutant::Again => "again",
        }
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

impl MutantConnector {
    /// Puts `mutant` between a client and what `inner` dials.
    fn new(inner: impl Connect, mutant: Mutant, seed: u64) -> MutantConnector {
        let inner: Arc<dyn Connect> = Arc::new(inner);
        let second = Client::new(AnyConnector(inner.clone()), ClientOptions::default());
        let known = Mutex::new(Known { chance: Rng::new(seed), ..Known::default() });
        MutantConnector { proxy: Arc::new(Proxy { inner, mutant, second, known }) }
    }
}

impl Connect for MutantConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = self.proxy.inner.connect().await?;
            let (ours, client) = memory::pair();
            smol::spawn(pump(self.proxy.clone(), client, server)).detach();
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        format!("{} broken by {}", self.proxy.inner.address(), self.proxy.mutant.name())
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

/// What a client is to dial: `inner`, or the proxy of a mutant in front of it.
pub fn dial(inner: impl Connect, mutant: Option<Mutant>, seed: u64) -> AnyConnector {
    match mutant {
        None | Some(Mutant::Again) => AnyConnector::new(inner),
        Some(mutant) => AnyConnector::new(MutantConnector::new(inner, mutant, seed)),
    }
}

impl Connect for AnyConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.0.connect()
    }

    fn address(&self) -> String {
        self.0.address()
    }
}

struct Proxy {
    inner: Arc<dyn Connect>,
    mutant: Mutant,
    /// Executes what is to be executed twice, in a session of its own.
    second: Client,
    known: Mutex<Known>,
}

struct Known {
    chance: Rng,
    /// Method and body of requests that went by.
    requests: HashMap<u64, (MethodId, Vec<u8>)>,
    /// The last reply of each method.
    replies: HashMap<u32, Vec<u8>>,
}

impl Default for Known {
    fn default() -> Self {
        Known { chance: Rng::new(0), requests: HashMap::new(), replies: HashMap::new() }
    }
}

type Down = smol::lock::Mutex<WriteHalf<memory::MemoryStream>>;

/// Carries frames both ways until either side ends.
async fn pump(proxy: Arc<Proxy>, client: memory::MemoryStream, server: BoxStream) {
    let (client_read, client_write) = smol::io::split(client);
    let (server_read, server_write) = smol::io::split(server);
    let down = Down::new(client_write);
    let upwards = up(&proxy, client_read, server_write, &down);
    let downwards = self::down(&proxy, server_read, &down);
    // An end of either kind is an end: the streams are dropped.
    let _ended = smol::future::or(upwards, downwards).await;
}

async fn up(
    proxy: &Proxy,
    mut client: ReadHalf<memory::MemoryStream>,
    mut server: WriteHalf<BoxStream>,
    down: &Down,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let len = next_frame(&mut buffer, &mut client, Role::Client).await?;
        let frame: Vec<u8> = buffer.drain(..len).collect();
        match proxy.fake(&frame) {
            Some(fake) => down.lock().await.write_all(&fake).await?,
            None => server.write_all(&frame).await?,
        }
    }
}

async fn down(proxy: &Proxy, mut server: ReadHalf<BoxStream>, down: &Down) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let len = next_frame(&mut buffer, &mut server, Role::Server).await?;
        let frame: Vec<u8> = buffer.drain(..len).collect();
        let frame = proxy.tamper(frame).await;
        down.lock().await.write_all(&frame).await?;
    }
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
    /// The answer to a client's frame that is not to reach the server.
    fn fake(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let decoded = wire::decode(frame, Role::Client, u32::MAX >> 8).ok()?;
        let Decoded::Frame(Frame::Request(header, body), _) = decoded else { return None };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.requests.insert(header.xid.get(), (header.method, body.to_vec()));
        if self.mutant != Mutant::Fake || !known.chance.one_in(TAMPER_ONE_IN) {
            return None;
        }
        let reply = known.replies.get(&header.method.number())?;
        Some(reply_frame(header.xid, Status::Done, reply))
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
        let second = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((method, request)) = known.requests.remove(&header.xid.get()) else {
                return frame;
            };
            known.replies.insert(method.number(), body.to_vec());
            known.chance.one_in(TAMPER_ONE_IN).then_some((method, request))
        };
        match (self.mutant, second) {
            (Mutant::Denied, Some(_)) => {
                reply_frame(header.xid, Status::Refused(NotExecuted::Overloaded), &[])
            }
            (Mutant::Twice, Some((method, request))) => {
                let call = self.second.call_raw(method, request);
                // Its outcome is nobody's.
                let _ = call.timeout(SECOND_TIMEOUT).await;
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
