//! Cases of streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use oncewire_core::NotExecuted;

use super::faulty_link::{Action, FaultyLink, Mark};
use super::service::ADD_ONE;
use super::world::World;
use super::{Direction, expect_reply, kind};
use crate::client::{CallFailure, Client};
use crate::server::ServerBuilder;
use crate::stream::{ServerStream, StreamBreak, StreamError, StreamMethod};

const CHUNK_LEN: u32 = 10_000;

/// The bytes of a body of this length.
const BODY: StreamMethod<u64, Bytes> = StreamMethod::bytes("conformance/body").chunk_len(CHUNK_LEN);
const RESUMABLE_BODY: StreamMethod<u64, Bytes> =
    StreamMethod::bytes("conformance/resumable_body").chunk_len(CHUNK_LEN).resumable();
/// Two of these may be open: their chunks could hold 90 MiB each.
const LARGE_BODY: StreamMethod<u64, Bytes> =
    StreamMethod::bytes("conformance/large_body").chunk_len(10 << 20).credit(8);
/// The numbers below this one, and then what the other says.
const NUMBERS: StreamMethod<(u64, Behind), String> =
    StreamMethod::new("conformance/numbers").chunk_len(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Behind {
    Nothing,
    Never,
    Panic,
    LongItem,
}

/// What the functions did.
#[derive(Default)]
struct Seen {
    opened: AtomicU64,
    /// Items that were made.
    made: AtomicU64,
    /// Streams that are alive.
    alive: AtomicU64,
}

impl Seen {
    fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    fn alive(&self) -> u64 {
        self.alive.load(Ordering::SeqCst)
    }
}

/// A stream of what a function makes. `None`: nothing for ever.
struct Made<F> {
    seen: Arc<Seen>,
    make: F,
}

impl<F> Made<F> {
    fn new(seen: &Arc<Seen>, make: F) -> Made<F> {
        seen.opened.fetch_add(1, Ordering::SeqCst);
        seen.alive.fetch_add(1, Ordering::SeqCst);
        Made { seen: seen.clone(), make }
    }
}

impl<T, F: FnMut() -> Poll<Option<T>> + Unpin> Stream for Made<F> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<T>> {
        let poll = (self.make)();
        if let Poll::Ready(Some(_)) = poll {
            self.seen.made.fetch_add(1, Ordering::SeqCst);
        }
        poll
    }
}

impl<F> Drop for Made<F> {
    fn drop(&mut self) {
        self.seen.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Pieces of 7,001 bytes, so that they do not fall together with chunks.
fn body(seen: &Arc<Seen>, len: u64, from: u64) -> impl Stream<Item = Bytes> + Send + use<> {
    let mut at = from;
    Made::new(seen, move || {
        let end = len.min(at + 7_001);
        let piece: Vec<u8> = (at..end).map(byte_at).collect();
        at = end;
        Poll::Ready((!piece.is_empty()).then(|| Bytes::from(piece)))
    })
}

fn numbers(
    seen: &Arc<Seen>,
    below: u64,
    behind: Behind,
) -> impl Stream<Item = String> + Send + use<> {
    let mut at = 0;
    Made::new(seen, move || {
        at += 1;
        match behind {
            _ if at <= below => Poll::Ready(Some((at - 1).to_string())),
            Behind::Nothing => Poll::Ready(None),
            Behind::Never => Poll::Pending,
            Behind::Panic => std::panic::resume_unwind(Box::new("as it should")),
            Behind::LongItem => Poll::Ready(Some("x".repeat(97))),
        }
    })
}

fn offer(world: &World, seen: &Arc<Seen>) -> ServerBuilder {
    let [of_body, of_resumable, of_large, of_numbers] = [(); 4].map(|()| seen.clone());
    let builder = world.service.offer("suite");
    builder
        .stream(&BODY, move |_, len, from| std::future::ready(body(&of_body, len, from)))
        .stream(&RESUMABLE_BODY, move |_, len, from| {
            std::future::ready(body(&of_resumable, len, from))
        })
        .stream(&LARGE_BODY, move |_, len, from| std::future::ready(body(&of_large, len, from)))
        .stream(&NUMBERS, move |_, (below, behind), _| {
            std::future::ready(numbers(&of_numbers, below, behind))
        })
}

/// Reads bytes until the position, and looks at each.
async fn read_until(
    stream: &mut ServerStream<Bytes>,
    position: u64,
) -> Option<Result<(), StreamError>> {
    while stream.position() < position {
        let from = stream.position();
        match stream.next().await? {
            Ok(bytes) => {
                let right = (from..).zip(&bytes).all(|(at, byte)| *byte == byte_at(at));
                assert!(right && !bytes.is_empty(), "other bytes behind {from}");
            }
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(()))
}

/// The items that came, and how it ended.
async fn all(stream: &mut ServerStream<String>) -> (Vec<String>, Option<StreamError>) {
    let mut items = Vec::new();
    loop {
        match stream.next().await {
            Some(Ok(item)) => items.push(item),
            Some(Err(error)) => {
                assert!(stream.next().await.is_none(), "an error is the last");
                return (items, Some(error));
            }
            None => return (items, None),
        }
    }
}

pub async fn c200_a_stream_through_cuts_brings_every_byte_once(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let len = 1_234_567;
    let mut stream = client.stream(&BODY, &len);
    for step in 1..=12 {
        let read = read_until(&mut stream, step * 100_000);
        assert_eq!(world.within("bytes", read).await, Some(Ok(())));
        match step % 3 {
            0 => link.cut(),
            1 => link.fault(Direction::Down, Mark::Inside(kind::REPLY, 5_000), Action::Cut),
            _ => link.fault(Direction::Up, Mark::Inside(kind::REQUEST, 20), Action::Cut),
        }
    }
    assert_eq!(world.within("the end", read_until(&mut stream, u64::MAX)).await, None);
    assert_eq!(stream.position(), len);
    assert!(client.status().reconnects >= 11, "{:?}", client.status());
    assert_eq!(seen.opened(), 1, "the server has kept what was on its way");
    world.until("the stream's end at the server", || seen.alive() == 0).await;
}

pub async fn c201_a_resumable_stream_goes_on_at_another_server_and_no_other(world: World) {
    let seen = Arc::new(Seen::default());
    let before = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(before.connector.clone());
    let client = world.connected(&link).await;
    let len = 300_000;
    let mut stream = client.stream(&RESUMABLE_BODY, &len).from_position(70_000);
    let mut other = client.stream(&BODY, &len);
    for stream in [&mut stream, &mut other] {
        let read = read_until(stream, 100_000);
        assert_eq!(world.within("bytes", read).await, Some(Ok(())));
    }
    let after = world.host_of(offer(&world, &seen)).await;
    link.lead_to(after.connector.clone());
    link.cut();
    assert_eq!(world.within("the end", read_until(&mut stream, u64::MAX)).await, None);
    assert_eq!((stream.position(), seen.opened()), (len, 3));
    let read = world.within("an end", read_until(&mut other, u64::MAX)).await;
    let Some(Err(error)) = read else { panic!("an error was expected, this came: {read:?}") };
    assert_eq!(error, StreamError { position: other.position(), why: StreamBreak::Lost });
    assert!(error.position < len);
}

pub async fn c202_a_stream_that_nothing_reads_comes_to_rest(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    // One that could go on for ever, and one of which nothing comes.
    let mut busy = client.stream(&BODY, &u64::MAX);
    let read = read_until(&mut busy, 500_000);
    assert_eq!(world.within("bytes", read).await, Some(Ok(())));
    let mut idle = client.stream(&NUMBERS, &(3, Behind::Never));
    for _ in 0..3 {
        assert!(world.within("an item", idle.next()).await.is_some_and(|item| item.is_ok()));
    }
    // It has asked for more.
    let polled = smol::future::poll_once(idle.next()).await;
    assert!(polled.is_none());
    world.until("a call to wait", || host.server.load().running > 0).await;
    world
        .advance_until(Duration::from_millis(100), "no call to run", || {
            host.server.load().running == 0
        })
        .await;
    let made = seen.made();
    // Of the bytes: those that were read, the credit, a chunk in the making, and a piece.
    assert!((made - 3) * 7_001 <= busy.position() + 3 * u64::from(CHUNK_LEN) + 2 * 7_001);
    world.advance(Duration::from_secs(100));
    world.moment().await;
    assert_eq!((seen.made(), host.server.load().running), (made, 0));
    // Both go on when they are read.
    let read = read_until(&mut busy, 1_000_000);
    assert_eq!(world.within("bytes", read).await, Some(Ok(())));
    assert!(smol::future::poll_once(idle.next()).await.is_none());
}

pub async fn c203_a_dropped_stream_frees_what_it_held_at_both_ends(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    for round in 0..5 {
        let mut busy = client.stream(&BODY, &u64::MAX);
        let read = read_until(&mut busy, 100_000);
        assert_eq!(world.within("bytes", read).await, Some(Ok(())));
        let mut idle = client.stream(&NUMBERS, &(1, Behind::Never));
        assert!(world.within("an item", idle.next()).await.is_some());
        assert!(smol::future::poll_once(idle.next()).await.is_none());
        assert_eq!(seen.alive(), 2);
        // One that is opened and dropped before its client knows that it was.
        let mut opening = client.stream(&BODY, &1);
        assert!(smol::future::poll_once(opening.next()).await.is_none());
        if round == 3 {
            link.cut();
        }
        drop((busy, idle, opening));
        world.until("the function's streams to be dropped", || seen.alive() == 0).await;
        world.until("no call to run", || host.server.load().running == 0).await;
    }
    world.counted(&host, "nothing to be kept", |counters| counters.kept_bytes <= 1).await;
}

pub async fn c204_what_ends_a_stream_is_reported_behind_the_items_before_it(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let numbers: Vec<String> = (0..100).map(|number: u64| number.to_string()).collect();
    let mut stream = client.stream(&NUMBERS, &(100, Behind::Nothing));
    assert_eq!(world.within("the end", all(&mut stream)).await, (numbers.clone(), None));
    let mut stream = client.stream(&NUMBERS, &(0, Behind::Nothing));
    assert_eq!(world.within("the end", all(&mut stream)).await, (Vec::new(), None));
    let mut stream = client.stream(&NUMBERS, &(100, Behind::LongItem));
    let too_long = StreamError { position: 100, why: StreamBreak::ItemTooLong };
    let ended = world.within("the end", all(&mut stream)).await;
    assert_eq!(ended, (numbers.clone(), Some(too_long)));
    let mut stream = client.stream(&NUMBERS, &(100, Behind::Panic));
    let (items, error) = world.within("the end", all(&mut stream)).await;
    assert_eq!(items, numbers[..items.len()]);
    let position = items.len() as u64;
    assert_eq!(error, Some(StreamError { position, why: StreamBreak::Panicked }));
    // A position that the method does not offer, and a method that the server does not.
    let not_opened = |why| {
        let why = StreamBreak::NotOpened(CallFailure::NotExecuted(why));
        Some(Err(StreamError { position: 0, why }))
    };
    let mut stream = client.stream(&BODY, &9).from_position(1);
    let error = world.within("an error", stream.next()).await;
    assert!(matches!(error, Some(Err(StreamError { position: 1, .. }))), "{error:?}");
    const UNKNOWN: StreamMethod<(), u64> = StreamMethod::new("conformance/unknown_stream");
    let error = world.within("an error", client.stream(&UNKNOWN, &()).next()).await;
    assert_eq!(error, not_opened(NotExecuted::UnknownMethod));
    world.until("the function's streams to be dropped", || seen.alive() == 0).await;
}

pub async fn c205_the_streams_of_a_session_end_with_it(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let mut stream = client.stream(&BODY, &u64::MAX);
    let read = read_until(&mut stream, 100_000);
    assert_eq!(world.within("bytes", read).await, Some(Ok(())));
    link.refuse_dials(true);
    link.cut();
    world.advance_until(Duration::from_secs(1), "the lease to be over", || seen.alive() == 0).await;
    assert_eq!(host.server.counters().sessions, 0);
}

pub async fn c206_small_calls_pass_a_stream_without_end(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let mut stream = client.stream(&BODY, &u64::MAX);
    let reading = world.spawn(async move { read_until(&mut stream, u64::MAX).await });
    world.until("the stream to begin", || seen.made() > 10).await;
    for n in 0..100 {
        expect_reply(&world, client.call(&ADD_ONE, &n), n + 1).await;
    }
    assert!(!reading.is_finished());
    drop(reading);
    world.until("the function's stream to be dropped", || seen.alive() == 0).await;
}

pub async fn c207_no_session_takes_the_last_place_from_others(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let why = StreamBreak::NotOpened(CallFailure::NotExecuted(NotExecuted::Overloaded));
    let too_many = Some(Err(StreamError { position: 0, why }));
    let mut streams = Vec::new();
    let mut open = async |client: &Client| {
        let mut stream = client.stream(&LARGE_BODY, &100);
        let first = world.within("a first item", stream.next()).await;
        streams.push(stream);
        first
    };
    let [one, other] = [(); 2].map(|()| FaultyLink::to(host.connector.clone()));
    let (one, other) = (world.connected(&one).await, world.connected(&other).await);
    assert!(open(&one).await.is_some_and(|item| item.is_ok()));
    assert_eq!(open(&one).await, too_many);
    assert!(open(&other).await.is_some_and(|item| item.is_ok()));
    assert_eq!(open(&other).await, too_many);
    assert_eq!(seen.opened(), 2);
}

pub async fn c207_no_session_has_more_streams_than_it_may(world: World) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(&world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = client.stream(&BODY, &u64::MAX);
        assert!(world.within("bytes", stream.next()).await.is_some_and(|item| item.is_ok()));
        streams.push(stream);
    }
    let why = StreamBreak::NotOpened(CallFailure::NotExecuted(NotExecuted::Overloaded));
    let too_many = Some(Err(StreamError { position: 0, why }));
    let mut stream = client.stream(&BODY, &u64::MAX);
    assert_eq!(world.within("an error", stream.next()).await, too_many);
    assert_eq!(seen.opened(), 64);
    streams.pop();
    world.until("the function's stream to be dropped", || seen.alive() == 63).await;
    let mut stream = client.stream(&BODY, &u64::MAX);
    assert!(world.within("bytes", stream.next()).await.is_some_and(|item| item.is_ok()));
}
