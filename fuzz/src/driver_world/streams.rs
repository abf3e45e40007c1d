//! Streams and uploads: items come in order, each once, and what is said of their ends is true.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oncewire_driver::protocol::Executed;
use oncewire_driver::stream::{
    Incoming, Outgoing, StreamMethod, Upload, UploadBreak, UploadError, UploadMethod,
};
use oncewire_driver::{Client, ServerBuilder};

use super::World;
use super::awaited::Awaited;
use super::executor::{Group, Sleep, lock};
use super::profile::{MS, SECOND};
use crate::rng::Rng;

/// An item: the number of its stream, and its own.
type Item = (u64, u64);

/// As many items as the second number says, of the stream with the first.
const DOWN: StreamMethod<(u64, u64), Item> =
    StreamMethod::new("driver_world/down").chunk_len(40).credit(3);
/// The same from anywhere on.
const RESUMABLE: StreamMethod<(u64, u64), Item> =
    StreamMethod::new("driver_world/resumable").chunk_len(40).credit(3).resumable();
/// Returns how many items there were.
const UP: UploadMethod<u64, Item, u64> =
    UploadMethod::new("driver_world/up").chunk_len(40).credit(3);

/// Items of a stream at most.
const ITEMS_MAX: u64 = 60;

/// What is true of all streams.
#[derive(Debug, Default)]
pub struct Streams {
    uploads: Vec<Uploaded>,
    streams: u64,
    /// Functions and streams that are alive, by server.
    alive: BTreeMap<Group, u64>,
}

#[derive(Debug, Default)]
struct Uploaded {
    /// The function was begun.
    opened: u64,
    /// It has read the end.
    committed: u64,
    /// What its client knows, once that is final.
    known: Option<Executed>,
}

impl Streams {
    /// Functions and streams of a server that are alive.
    pub fn alive_at(&self, server: Group) -> u64 {
        self.alive.get(&server).copied().unwrap_or(0)
    }

    fn commit(&mut self, upload: u64) -> Result<(), String> {
        let known = &mut self.uploads[upload as usize];
        known.committed += 1;
        match (known.committed, known.known) {
            (1, None | Some(Executed::Unknown)) => Ok(()),
            (1, Some(executed)) => {
                Err(format!("upload {upload} is committed after its client was told {executed:?}"))
            }
            (count, _) => Err(format!("upload {upload} is committed {count} times")),
        }
    }

    fn observe(&mut self, upload: u64, executed: Executed) -> Result<(), String> {
        let known = &mut self.uploads[upload as usize];
        known.known = Some(executed);
        match (executed, known.committed) {
            (Executed::No, 0) | (Executed::Yes, 1) | (Executed::Unknown, 0 | 1) => Ok(()),
            (_, count) => Err(format!("upload {upload}: {executed:?}, and it has {count} commits")),
        }
    }
}

/// A function that is alive.
struct Alive {
    world: Arc<World>,
    server: Group,
}

impl Alive {
    fn new(world: &Arc<World>, server: Group) -> Alive {
        *lock(&world.streams).alive.entry(server).or_default() += 1;
        Alive { world: world.clone(), server }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        *lock(&self.world.streams).alive.entry(self.server).or_default() -= 1;
    }
}

/// How long a function waits at an item, if it does.
fn pause_at(world: &World, stream: u64, item: u64) -> Option<u64> {
    let mut rng = Rng::apart(world.profile.seed, (stream << 16) | (item << 8) | 0x75);
    rng.one_in(6).then(|| {
        let max = rng.pick(&[MS, 50 * MS, 5 * SECOND]);
        rng.delay(max)
    })
}

/// Offers them at a server.
pub fn offer(builder: ServerBuilder, world: &Arc<World>, server: Group) -> ServerBuilder {
    let [ups, downs, resumables] = [(); 3].map(|()| world.clone());
    builder
        .upload(&UP, move |_, id, items| up(ups.clone(), server, id, items))
        .stream(&DOWN, move |_, (id, len), from| {
            std::future::ready(down(downs.clone(), server, id, from, len))
        })
        .stream(&RESUMABLE, move |_, (id, len), from| {
            std::future::ready(down(resumables.clone(), server, id, from, len))
        })
}

async fn up(world: Arc<World>, server: Group, id: u64, mut items: Incoming<Item>) -> u64 {
    let _alive = Alive::new(&world, server);
    let opened = {
        let mut streams = lock(&world.streams);
        let upload = &mut streams.uploads[id as usize];
        upload.opened += 1;
        upload.opened
    };
    if opened > 1 {
        world.sim.fail(format!("upload {id} is opened {opened} times"));
    }
    let mut expected = 0;
    while let Some((of, number)) = items.next().await {
        if (of, number) != (id, expected) {
            world.sim.fail(format!(
                "upload {id}: item {number} of {of} was read, {expected} was its turn"
            ));
        }
        expected += 1;
        if let Some(pause) = pause_at(&world, id, number) {
            Sleep::new(&world.sim, pause).await;
        }
    }
    world.sim.note(|| format!("server {server} commits upload {id} of {expected}"));
    let committed = lock(&world.streams).commit(id);
    committed.unwrap_or_else(|what| world.sim.fail(what));
    if let Some(pause) = pause_at(&world, id, ITEMS_MAX) {
        Sleep::new(&world.sim, pause).await;
    }
    expected
}

fn down(world: Arc<World>, server: Group, id: u64, from: u64, len: u64) -> Outgoing<Item> {
    let alive = Alive::new(&world, server);
    let (mut at, mut pause) = (from, None);
    Outgoing::new(smol::stream::poll_fn(move |cx| {
        if at == len {
            return Poll::Ready(None);
        }
        if pause.is_none() {
            pause = pause_at(&alive.world, id, at).map(|nanos| Sleep::new(&alive.world.sim, nanos));
        }
        if let Some(pause) = &mut pause {
            std::task::ready!(Pin::new(pause).poll(cx));
        }
        (at, pause) = (at + 1, None);
        Poll::Ready(Some((id, at - 1)))
    }))
}

/// One task that reads streams and sends uploads.
#[derive(Debug)]
pub struct Streamer {
    world: Arc<World>,
    rng: Rng,
    client: Client,
}

/// Whether there are some in the world of this seed.
pub fn are_in(seed: u64) -> bool {
    seed % 5 == 4
}

impl Streamer {
    /// One that uses this client.
    pub fn new(world: &Arc<World>, client: Client) -> Streamer {
        Streamer { world: world.clone(), rng: Rng::apart(world.profile.seed, 0x74), client }
    }

    /// All that it does.
    pub async fn run(mut self) {
        for _ in 0..self.rng.range(3, 14) {
            match self.rng.below(3) {
                0 => self.read(&DOWN).await,
                1 => self.read(&RESUMABLE).await,
                _ => self.upload().await,
            }
        }
    }

    /// What an answer may take: calls that are repeated, and all pauses of a function.
    fn awaited(&self, what: String) -> Awaited {
        let timeout = self.world.profile.options.timeout.as_nanos() as u64;
        let due = self.world.sim.now() + 20 * timeout + (ITEMS_MAX + 60) * 5 * SECOND;
        Awaited::new(&self.world.sim, due, what)
    }

    fn check(&self, result: Result<(), String>) {
        result.unwrap_or_else(|what| self.world.sim.fail(what));
    }

    async fn read(&mut self, method: &StreamMethod<(u64, u64), Item>) {
        let id = {
            let mut streams = lock(&self.world.streams);
            streams.streams += 1;
            streams.streams
        };
        let len = self.rng.range(0, ITEMS_MAX);
        let mut stream = self.client.stream(method, &(id, len));
        let mut expected = 0;
        let kind = loop {
            if self.rng.one_in(50) {
                break "stream dropped";
            }
            let awaited = self.awaited(format!("item {expected} of stream {id}"));
            let item = stream.next().await;
            drop(awaited);
            match item {
                Some(Ok(item)) if item == (id, expected) && expected < len => expected += 1,
                None if expected == len => break "stream ended",
                Some(Err(error)) => {
                    self.world.sim.note(|| format!("stream {id} of {len}: {error}"));
                    if error.position != expected || stream.next().await.is_some() {
                        self.world.sim.fail(format!("stream {id} at {expected}: {error}"));
                    }
                    break "stream broke";
                }
                other => {
                    let what = format!("stream {id} of {len} gave {other:?} after {expected}");
                    self.world.sim.fail(what);
                    break "stream broke";
                }
            }
        };
        self.world.count(kind);
    }

    async fn upload(&mut self) {
        let id = {
            let mut streams = lock(&self.world.streams);
            streams.uploads.push(Uploaded::default());
            streams.uploads.len() as u64 - 1
        };
        let count = self.rng.range(0, ITEMS_MAX);
        let mut upload = self.client.upload(&UP, &id);
        if self.rng.one_in(4) {
            upload = upload.timeout(Duration::from_nanos(self.rng.range(10, 9_000) * MS));
        }
        let sent = self.send(id, &mut upload, count).await;
        let drops = self.rng.one_in(8);
        let (executed, kind) = match sent {
            Err(error) if error.why == UploadBreak::Lost => (Executed::No, "upload lost"),
            Err(error) => (error.executed(), "upload broke"),
            Ok(()) if drops => (Executed::No, "upload dropped"),
            Ok(()) => self.commit(id, &mut upload, count).await,
        };
        self.world.sim.note(|| format!("upload {id} of {count}: {kind}, executed: {executed:?}"));
        let observed = lock(&self.world.streams).observe(id, executed);
        self.check(observed);
        self.world.count(kind);
    }

    /// Futures are dropped now and then: the position says whether the item was taken.
    async fn send(
        &mut self,
        id: u64,
        upload: &mut Upload<Item, u64>,
        count: u64,
    ) -> Result<(), UploadError> {
        while upload.position() < count {
            let awaited = self.awaited(format!("item {} of upload {id}", upload.position()));
            let item = (id, upload.position());
            let mut polls = if self.rng.one_in(10) { self.rng.range(1, 3) } else { u64::MAX };
            {
                let mut send = std::pin::pin!(upload.send(item));
                let sent = std::future::poll_fn(|cx| {
                    let poll = send.as_mut().poll(cx);
                    polls -= 1;
                    if polls == 0 { Poll::Ready(Ok(())) } else { poll }
                });
                sent.await?;
            }
            drop(awaited);
            if self.rng.one_in(10) {
                let _awaited = self.awaited(format!("the flush of upload {id}"));
                upload.flush().await?;
            }
            if self.rng.one_in(20) {
                let pause = self.rng.delay(3 * SECOND);
                Sleep::new(&self.world.sim, pause).await;
            }
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        id: u64,
        upload: &mut Upload<Item, u64>,
        count: u64,
    ) -> (Executed, &'static str) {
        if self.rng.one_in(4) {
            // It goes on, though this future is dropped.
            let mut commit = std::pin::pin!(upload.commit());
            let begun = std::future::poll_fn(|cx| match commit.as_mut().poll(cx) {
                Poll::Ready(Ok(_)) => Poll::Ready(Some((Executed::Yes, "upload committed"))),
                _ => Poll::Ready(None),
            });
            if let Some(committed) = begun.await {
                return committed;
            }
        }
        loop {
            let awaited = self.awaited(format!("the commit of upload {id}"));
            let committed = upload.commit().await;
            drop(awaited);
            match committed {
                Ok(items) if items == count => return (Executed::Yes, "upload committed"),
                Ok(items) => {
                    self.world.sim.fail(format!("{items} of {count} items of upload {id}"));
                    return (Executed::Yes, "upload committed");
                }
                Err(error) => match (error.executed(), error.why) {
                    (Executed::No, UploadBreak::Commit(_)) if self.rng.one_in(2) => {
                        Sleep::new(&self.world.sim, SECOND).await;
                    }
                    (Executed::No, UploadBreak::Lost) => return (Executed::No, "upload lost"),
                    (Executed::Unknown, _) if self.rng.one_in(2) => {
                        // What is in doubt can be learnt when all faults are over, if it can be at all.
                        while !self.world.sim.is_calm() {
                            Sleep::new(&self.world.sim, 100 * MS).await;
                        }
                        return match upload.commit().await {
                            Ok(_) => (Executed::Yes, "upload committed"),
                            Err(error) => (error.executed(), "upload in doubt"),
                        };
                    }
                    (executed, _) => return (executed, "upload in doubt"),
                },
            }
        }
    }
}
