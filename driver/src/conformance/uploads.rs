//! Cases of uploads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{Executed, NoReply, NotExecuted, Unknown};

use super::faulty_link::{Action, FaultyLink, Mark};
use super::service::ADD_ONE;
use super::world::{Host, World};
use super::{Direction, expect_reply, kind};
use crate::client::CallFailure;
use crate::server::ServerBuilder;
use crate::stream::{Incoming, Upload, UploadBreak, UploadError, UploadMethod};

const CHUNK_LEN: u32 = 10_000;

/// Looks at each byte, and returns how many there were.
const BODY: UploadMethod<(), Bytes, u64> =
    UploadMethod::bytes("conformance/upload_body").chunk_len(CHUNK_LEN);
const RESUMABLE_BODY: UploadMethod<(), Bytes, u64> =
    UploadMethod::bytes("conformance/resumable_upload").chunk_len(CHUNK_LEN).resumable();
/// Two of these may be open: their chunks could hold 90 MiB each.
const LARGE_BODY: UploadMethod<(), Bytes, u64> =
    UploadMethod::bytes("conformance/large_upload").chunk_len(10 << 20).credit(8);
/// The sum of numbers; it does what the argument says.
const SUM: UploadMethod<Then, u64, Result<u64, String>> =
    UploadMethod::new("conformance/sum").chunk_len(100).credit(4);
/// The same number, another type of item: a client of another version.
const SUM_OF_WORDS: UploadMethod<Then, Vec<String>, Result<u64, String>> =
    UploadMethod::new("conformance/sum").chunk_len(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Then {
    Return,
    /// Reads no item.
    Ignore,
    /// Returns when it has read two.
    Stop,
    /// Panics when it has read two.
    Panic,
    /// Panics when it has read all.
    PanicLate,
    /// Waits for a permit when it has read all.
    Wait,
}

/// What the functions did.
#[derive(Default)]
struct Seen {
    opened: AtomicU64,
    /// Functions that are alive.
    alive: AtomicU64,
    /// Items, or bytes, that were read.
    read: AtomicU64,
    /// Functions that have read all.
    committed: AtomicU64,
    /// Those of them that wait to return.
    waiting: AtomicU64,
    /// How many of those may return.
    permits: AtomicU64,
}

impl Seen {
    fn get(&self, count: fn(&Seen) -> &AtomicU64) -> u64 {
        count(self).load(Ordering::SeqCst)
    }
}

/// Counts the functions that are alive.
struct Alive(Arc<Seen>);

impl Alive {
    fn new(seen: &Arc<Seen>) -> Alive {
        seen.opened.fetch_add(1, Ordering::SeqCst);
        seen.alive.fetch_add(1, Ordering::SeqCst);
        Alive(seen.clone())
    }

    fn read(&self, len: u64) {
        self.0.read.fetch_add(len, Ordering::SeqCst);
    }

    fn commit(&self) {
        self.0.committed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Pieces of 7,001 bytes, so that they do not fall together with chunks.
fn piece(position: u64, len: u64) -> Bytes {
    (position..len.min(position + 7_001)).map(byte_at).collect()
}

async fn body(seen: Arc<Seen>, mut bytes: Incoming<Bytes>) -> u64 {
    let alive = Alive::new(&seen);
    let mut position = 0;
    while let Some(bytes) = bytes.next().await {
        let right = (position..).zip(&bytes).all(|(at, byte)| *byte == byte_at(at));
        assert!(right && !bytes.is_empty(), "other bytes behind {position}");
        position += bytes.len() as u64;
        alive.read(bytes.len() as u64);
    }
    alive.commit();
    position
}

async fn sum(
    world: World,
    seen: Arc<Seen>,
    then: Then,
    mut numbers: Incoming<u64>,
) -> Result<u64, String> {
    let alive = Alive::new(&seen);
    if then == Then::Ignore {
        std::future::pending::<()>().await;
    }
    let (mut sum, mut count) = (0, 0);
    while let Some(number) = numbers.next().await {
        alive.read(1);
        (sum, count) = (sum + number, count + 1);
        match then {
            Then::Stop if count == 2 => return Err(format!("enough: {sum}")),
            Then::Panic if count == 2 => std::panic::resume_unwind(Box::new("as it should")),
            _ => {}
        }
    }
    alive.commit();
    if then == Then::PanicLate {
        std::panic::resume_unwind(Box::new("as it should"));
    }
    if then == Then::Wait {
        seen.waiting.fetch_add(1, Ordering::SeqCst);
        world.until("a permit", || seen.get(|seen| &seen.permits) > 0).await;
        seen.permits.fetch_sub(1, Ordering::SeqCst);
    }
    Ok(sum)
}

fn offer(world: &World, seen: &Arc<Seen>) -> ServerBuilder {
    let [of_body, of_resumable, of_large, of_sum] = [(); 4].map(|()| seen.clone());
    let with = world.clone();
    world
        .service
        .offer("suite")
        .upload(&BODY, move |_, (), bytes| body(of_body.clone(), bytes))
        .upload(&RESUMABLE_BODY, move |_, (), bytes| body(of_resumable.clone(), bytes))
        .upload(&LARGE_BODY, move |_, (), bytes| body(of_large.clone(), bytes))
        .upload(&SUM, move |_, then, numbers| sum(with.clone(), of_sum.clone(), then, numbers))
}

async fn start(world: &World) -> (Arc<Seen>, Host, FaultyLink) {
    let seen = Arc::new(Seen::default());
    let host = world.host_of(offer(world, &seen)).await;
    let link = FaultyLink::to(host.connector.clone());
    (seen, host, link)
}

/// Sends bytes up to this position, of this many.
async fn send_until<R: serde::de::DeserializeOwned + 'static>(
    upload: &mut Upload<Bytes, R>,
    position: u64,
) -> Result<(), UploadError> {
    while upload.position() < position {
        upload.send(piece(upload.position(), position)).await?;
    }
    Ok(())
}

fn broken(position: u64, why: UploadBreak) -> UploadError {
    UploadError { position, why }
}

pub async fn c208_an_upload_through_cuts_is_read_once_and_committed_once(world: World) {
    let (seen, _host, link) = start(&world).await;
    let client = world.connected(&link).await;
    let len = 1_234_567;
    let mut upload = client.upload(&BODY, &());
    for step in 1..=12 {
        let sent = send_until(&mut upload, step * 100_000);
        assert_eq!(world.within("bytes to be sent", sent).await, Ok(()));
        match step % 3 {
            0 => link.cut(),
            1 => link.fault(Direction::Up, Mark::Inside(kind::REQUEST, 5_000), Action::Cut),
            _ => link.fault(Direction::Down, Mark::Inside(kind::REPLY, 3), Action::Cut),
        }
    }
    assert_eq!(world.within("bytes to be sent", send_until(&mut upload, len)).await, Ok(()));
    assert_eq!(seen.get(|seen| &seen.committed), 0, "its end was not read before the commit");
    link.fault(Direction::Down, Mark::Inside(kind::REPLY, 3), Action::Cut);
    assert_eq!(world.within("the commit", upload.commit()).await, Ok(len));
    let counts = [
        seen.get(|seen| &seen.opened),
        seen.get(|seen| &seen.committed),
        seen.get(|seen| &seen.read),
    ];
    assert_eq!(counts, [1, 1, len]);
    assert!(client.status().reconnects >= 11, "{:?}", client.status());
    let again = world.within("an error", upload.commit()).await;
    assert_eq!(again, Err(broken(len, UploadBreak::Over)));
}

pub async fn c209_an_upload_that_nothing_reads_comes_to_rest_and_frees_all_when_it_is_dropped(
    world: World,
) {
    let (seen, host, link) = start(&world).await;
    let client = world.connected(&link).await;
    for round in 0..3 {
        let mut upload = client.upload(&SUM, &Then::Ignore);
        // A chunk of 100 bytes takes 16 numbers of one byte and a length of four; four chunks are the credit.
        let mut sent = 0;
        loop {
            let mut send = std::pin::pin!(upload.send(1));
            let taken = async {
                (&mut send).await.expect("it is taken");
                true
            };
            let all_wait = || host.server.load().running >= 4;
            let waits = async {
                // Those that are waited for get no answer before two seconds have passed. Where one has it, more is taken soon.
                loop {
                    world.until("calls to wait", all_wait).await;
                    for _ in 0..20 {
                        world.settle().await;
                        world.moment().await;
                    }
                    if all_wait() {
                        return false;
                    }
                }
            };
            if !smol::future::or(taken, waits).await {
                break;
            }
            sent += 1;
        }
        assert!((80..=120).contains(&sent), "{sent} numbers were taken");
        // Nothing sends any more: the calls end, and no other follows.
        let rest = || host.server.load().running == 0;
        world.advance_until(Duration::from_millis(100), "no call to run", rest).await;
        world.advance(Duration::from_secs(100));
        world.moment().await;
        assert_eq!(host.server.load().running, 0);
        assert_eq!((seen.get(|seen| &seen.alive), seen.get(|seen| &seen.read)), (1, 0));
        // Others of the connection pass.
        expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
        // One that is opened and dropped before its client knows that it was.
        let mut opening = client.upload(&BODY, &());
        assert!(smol::future::poll_once(opening.ready()).await.is_none());
        if round == 1 {
            link.cut();
        }
        drop((upload, opening));
        world.until("the functions to be dropped", || seen.get(|seen| &seen.alive) == 0).await;
        world.until("no call to run", || host.server.load().running == 0).await;
    }
    assert_eq!(seen.get(|seen| &seen.committed), 0);
    world.counted(&host, "nothing to be kept", |counters| counters.kept_bytes <= 1).await;
}

pub async fn c240_an_upload_that_its_server_has_lost_is_not_executed(world: World) {
    let (seen, _before, link) = start(&world).await;
    let client = world.connected(&link).await;
    let [mut sending, mut committing] = [(); 2].map(|()| client.upload(&RESUMABLE_BODY, &()));
    for upload in [&mut sending, &mut committing] {
        assert_eq!(world.within("bytes", send_until(upload, 100_000)).await, Ok(()));
        assert_eq!(world.within("bytes", upload.flush()).await, Ok(()));
    }
    world.until("all to be read", || seen.get(|seen| &seen.read) == 200_000).await;
    let after = world.host_of(offer(&world, &seen)).await;
    link.lead_to(after.connector.clone());
    link.cut();
    // A commit that left for the server before would be in doubt.
    let id = Some(after.server.id());
    world.until("a session at the other server", || client.status().server == id).await;
    let committed = world.within("an outcome", committing.commit()).await;
    let error = committed.expect_err("it is lost");
    assert_eq!(error, broken(100_000, UploadBreak::Lost));
    assert_eq!(error.executed(), Executed::No);
    let sent = world.within("an error", send_until(&mut sending, 1_000_000)).await;
    assert_eq!(sent.map_err(|error| error.why), Err(UploadBreak::Lost));
    let committed = world.within("an outcome", sending.commit()).await;
    assert_eq!(committed.map_err(|error| error.why), Err(UploadBreak::Lost));
    assert_eq!(seen.get(|seen| &seen.committed), 0);
}

pub async fn c241_an_upload_is_resumed_where_it_is_and_its_old_writer_is_refused(world: World) {
    let (seen, host, link) = start(&world).await;
    let client = world.connected(&link).await;
    let len = 300_000;
    let mut before = client.upload(&RESUMABLE_BODY, &());
    assert_eq!(world.within("bytes", send_until(&mut before, 123_456)).await, Ok(()));
    let other_link = FaultyLink::to(host.connector.clone());
    let other = world.connected(&other_link).await;
    let mut upload = other.upload(&RESUMABLE_BODY, &()).resume(before.id());
    let position = world.within("the position", upload.ready()).await.expect("it is there");
    // What fills no chunk was not sent.
    assert!((80_000..=120_000).contains(&position), "{position}");
    let sent = world.within("an error", before.flush()).await;
    let sent = match sent {
        Ok(()) => world.within("an error", before.commit()).await.map(|_| ()),
        sent => sent,
    };
    assert_eq!(sent, Err(broken(123_456, UploadBreak::Lost)));
    // One that was replaced does not close it, but the one that continues it does.
    drop(before);
    expect_reply(&world, client.call(&ADD_ONE, &1), 2).await;
    assert_eq!(seen.get(|seen| &seen.alive), 1);
    let id = upload.id();
    drop(upload);
    let mut gone = other.upload(&RESUMABLE_BODY, &()).resume(id);
    world.until("the upload to be closed", || seen.get(|seen| &seen.alive) == 0).await;
    let error = world.within("an error", gone.ready()).await;
    assert_eq!(error, Err(broken(0, UploadBreak::NothingToResume)));
    // One that is left to be continued is not closed.
    let mut before = client.upload(&RESUMABLE_BODY, &());
    assert_eq!(world.within("bytes", send_until(&mut before, 123_456)).await, Ok(()));
    let id = before.detach();
    let mut upload = other.upload(&RESUMABLE_BODY, &()).resume(id);
    let position = world.within("the position", upload.ready()).await.expect("it is there");
    assert_eq!(position, upload.position());
    assert_eq!(world.within("bytes", send_until(&mut upload, len)).await, Ok(()));
    assert_eq!(world.within("the commit", upload.commit()).await, Ok(len));
    assert_eq!(seen.get(|seen| &seen.committed), 1);
}

pub async fn c242_what_ends_an_upload_is_reported_truthfully(world: World) {
    let (seen, _host, link) = start(&world).await;
    let client = world.connected(&link).await;
    let upload = async |then, numbers: std::ops::Range<u64>| {
        let mut upload = client.upload(&SUM, &then);
        for number in numbers {
            match world.within("an item to be taken", upload.send(number)).await {
                Ok(()) => {}
                Err(UploadError { why: UploadBreak::Stopped | UploadBreak::Panicked, .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let committed = world.within("the commit", upload.commit()).await;
        committed.map_err(|error| (error.why, error.executed()))
    };
    assert_eq!(upload(Then::Return, 0..0).await, Ok(Ok(0)));
    assert_eq!(upload(Then::Return, 0..1_000).await, Ok(Ok(499_500)));
    // The function has an opinion before all has come: it is the commit's reply.
    assert_eq!(upload(Then::Stop, 1..1_000).await, Ok(Err("enough: 3".to_owned())));
    let committed = seen.get(|seen| &seen.committed);
    let panicked = upload(Then::Panic, 1..1_000).await;
    assert_eq!(panicked, Err((UploadBreak::Panicked, Executed::No)));
    assert_eq!(seen.get(|seen| &seen.committed), committed);
    let aborted = UploadBreak::Commit(CallFailure::NoReply(NoReply::Aborted));
    assert_eq!(upload(Then::PanicLate, 1..3).await, Err((aborted, Executed::Yes)));

    let mut words = client.upload(&SUM_OF_WORDS, &Then::Return);
    let long = world.within("an error", words.send(vec!["x".repeat(200)])).await;
    assert_eq!(long, Err(broken(0, UploadBreak::ItemTooLong)));
    let word = vec!["no number".to_owned()];
    assert_eq!(world.within("an item to be taken", words.send(word)).await, Ok(()));
    let committed = world.within("the commit", words.commit()).await;
    let error = committed.expect_err("that is no number");
    assert_eq!((error.why, error.executed()), (UploadBreak::Undecodable, Executed::No));

    const UNKNOWN: UploadMethod<(), u64, u64> = UploadMethod::new("conformance/unknown_upload");
    let mut upload = client.upload(&UNKNOWN, &());
    let why = UploadBreak::NotOpened(CallFailure::NotExecuted(NotExecuted::UnknownMethod));
    assert_eq!(world.within("an error", upload.send(1)).await, Err(broken(0, why)));
    world.until("the functions to be dropped", || seen.get(|seen| &seen.alive) == 0).await;
}

pub async fn c243_a_commit_in_doubt_is_asked_for_and_never_made_twice(world: World) {
    let (seen, _host, link) = start(&world).await;
    let client = world.connected(&link).await;
    let mut upload = client.upload(&SUM, &Then::Wait).timeout(Duration::from_secs(1_000));
    assert_eq!(world.within("an item to be taken", upload.send(7)).await, Ok(()));
    let waits = || seen.get(|seen| &seen.waiting) == 1;
    {
        let mut commit = std::pin::pin!(upload.commit());
        let committing = smol::future::or(async { Some((&mut commit).await) }, async {
            world.until("the function to wait", waits).await;
            None
        });
        assert_eq!(world.within("the commit's start", committing).await, None);
        // This future is dropped, and the call continues.
    }
    world.advance(Duration::from_secs(2_000));
    let in_doubt = world.within("an outcome", upload.commit()).await;
    let why = UploadBreak::Commit(CallFailure::Unknown(Unknown::DeadlinePassed));
    let error = in_doubt.expect_err("its deadline has passed");
    assert_eq!((error.why, error.executed()), (why, Executed::Unknown));
    link.cut();
    seen.permits.fetch_add(1, Ordering::SeqCst);
    assert_eq!(world.within("the answer", upload.commit()).await, Ok(Ok(7)));
    let again = world.within("an error", upload.commit()).await;
    assert_eq!(again, Err(broken(1, UploadBreak::Over)));
    assert_eq!((seen.get(|seen| &seen.opened), seen.get(|seen| &seen.committed)), (1, 1));
}

pub async fn c244_an_upload_outlives_its_session_only_if_it_is_resumable(world: World) {
    let (seen, host, link) = start(&world).await;
    let client = world.connected(&link).await;
    let mut short = client.upload(&BODY, &());
    let mut long = client.upload(&RESUMABLE_BODY, &());
    for upload in [&mut short, &mut long] {
        assert_eq!(world.within("bytes", send_until(upload, 100_000)).await, Ok(()));
    }
    assert_eq!(seen.get(|seen| &seen.alive), 2);
    let ids = [short.detach(), long.detach()];
    drop(client);
    let one_left = || seen.get(|seen| &seen.alive) == 1;
    world.advance_until(Duration::from_secs(1), "the one to be dropped", one_left).await;
    let link = FaultyLink::to(host.connector.clone());
    let client = world.connected(&link).await;
    let mut lost = client.upload(&BODY, &()).resume(ids[0]);
    let error = world.within("an error", lost.ready()).await;
    assert_eq!(error, Err(broken(0, UploadBreak::NothingToResume)));
    // It is this session's from now on, and does not end while that lives.
    let mut upload = client.upload(&RESUMABLE_BODY, &()).resume(ids[1]);
    assert_eq!(world.within("the position", upload.ready()).await, Ok(upload.position()));
    for _ in 0..200 {
        world.advance(Duration::from_secs(1));
        world.moment().await;
    }
    assert_eq!(world.within("bytes", send_until(&mut upload, 200_000)).await, Ok(()));
    assert_eq!(world.within("the commit", upload.commit()).await, Ok(200_000));
    // Left alone, it ends after a minute.
    drop((lost, upload));
    let mut upload = client.upload(&RESUMABLE_BODY, &());
    assert!(world.within("the position", upload.ready()).await.is_ok());
    upload.detach();
    drop(client);
    world
        .advance_until(Duration::from_secs(1), "the upload to be dropped", || {
            seen.get(|seen| &seen.alive) == 0
        })
        .await;
}

pub async fn c245_no_session_has_more_uploads_than_it_may(world: World) {
    let (seen, host, link) = start(&world).await;
    let why = UploadBreak::NotOpened(CallFailure::NotExecuted(NotExecuted::Overloaded));
    let too_many = Err(broken(0, why));
    let client = world.connected(&link).await;
    let mut uploads = Vec::new();
    for _ in 0..64 {
        let mut upload = client.upload(&BODY, &());
        assert_eq!(world.within("a place", upload.ready()).await, Ok(0));
        uploads.push(upload);
    }
    let mut upload = client.upload(&BODY, &());
    assert_eq!(world.within("an error", upload.ready()).await, too_many);
    world.until("64 functions", || seen.get(|seen| &seen.alive) == 64).await;
    uploads.pop();
    world.until("a function to be dropped", || seen.get(|seen| &seen.alive) == 63).await;
    let mut upload = client.upload(&BODY, &());
    assert_eq!(world.within("a place", upload.ready()).await, Ok(0));
    // Of the large ones there are two places, and no session takes the last.
    let other_link = FaultyLink::to(host.connector.clone());
    let other = world.connected(&other_link).await;
    let mut large = Vec::new();
    for (client, opens) in [(&client, true), (&client, false), (&other, true), (&other, false)] {
        let mut upload = client.upload(&LARGE_BODY, &());
        let ready = world.within("a place", upload.ready()).await;
        assert_eq!(ready, if opens { Ok(0) } else { too_many });
        large.push(upload);
    }
}
