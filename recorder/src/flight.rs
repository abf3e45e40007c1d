//! The flight recorder: what passes a client's or a server's connections, in rings or in a file.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_core::wire::Role;
use oncewire_core::{Instant, SessionId, SessionTag, Status, Xid};
use oncewire_driver::observe::{Event, Observer, Source};
use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Runtime, SmolRuntime, Subject};

use crate::film::status_of;
use crate::format::{self, About, EndedBy, Record, What, Writer};
use crate::hide::Key;
use crate::ring::Ring;
use crate::tap::Tap;

/// Connections that have ended and whose rings are kept.
const ENDED_MAX: usize = 16;
/// Events that are kept where connections have rings, and sessions that are known where everything is written.
const SEEN_MAX: usize = 16_384;
/// The least that a ring holds: a handshake.
const RING_LEN_MIN: usize = 4096;

/// Records what passes connections: wrap a connector or an acceptor in it.
///
/// It works on bytes, below the driver and above encryption: wrap a TLS connector or acceptor, not what is in it. A connection
/// that is not wrapped costs nothing.
///
/// At a server it is an observer as well, if it is given to `ServerBuilder::observe`: the recording then says when calls ended, which
/// bytes cannot say of a reply that was never sent, and when it began to drain. That costs what observing costs, for each call.
///
/// ```
/// use oncewire_driver::Connect;
/// use oncewire_recorder::FlightRecorder;
///
/// fn watched(connector: impl Connect) -> std::io::Result<(impl Connect, FlightRecorder)> {
///     // The last 64 KiB of each connection. When something has gone wrong: `recorder.dump(file)`.
///     let recorder = FlightRecorder::ring(64 << 10)?;
///     Ok((recorder.connector(connector), recorder))
/// }
/// ```
#[derive(Clone)]
pub struct FlightRecorder {
    shared: Arc<Shared>,
}

struct Shared {
    key: Key,
    plain_bodies: bool,
    runtime: Arc<dyn Runtime>,
    began: Instant,
    conns: Mutex<Conns>,
}

struct Conns {
    next: u64,
    sink: Sink,
    /// Pseudonyms of sessions, by what observers call them; where everything is written.
    sessions: BTreeMap<SessionTag, SessionId>,
}

/// What a server's observer has seen.
#[derive(Clone, Copy, Debug)]
enum Seen {
    CallEnded(SessionTag, Xid, Status),
    DrainBegan(u64),
}

impl Seen {
    fn record(self, at: u64, sessions: &BTreeMap<SessionTag, SessionId>) -> Option<Record> {
        let what = match self {
            Seen::CallEnded(session, xid, status) => {
                What::Finished { session: *sessions.get(&session)?, xid, status }
            }
            Seen::DrainBegan(instance) => What::DrainBegan { instance },
        };
        Some(Record { at, what })
    }
}

enum Sink {
    Rings {
        len_max: usize,
        open: BTreeMap<u64, Arc<Mutex<Ring>>>,
        ended: VecDeque<(u64, Arc<Mutex<Ring>>)>,
        /// What was observed, and when.
        seen: VecDeque<(u64, Seen)>,
    },
    Writer(Box<Writer<Box<dyn Write + Send>>>),
    /// The writer has failed, and nothing more is recorded.
    Failed(io::Error),
}

impl std::fmt::Debug for FlightRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlightRecorder")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FlightRecorder {
    /// Keeps the last bytes of each connection in memory: at most `len_max` of them, times and lengths included, and at least
    /// 4 KiB. The rings of the last 16 connections that have ended are kept as well.
    ///
    /// # Errors
    /// If the operating system has no random bits for the key.
    pub fn ring(len_max: usize) -> io::Result<FlightRecorder> {
        let len_max = len_max.clamp(RING_LEN_MIN, u32::MAX as usize);
        let (ended, seen) = (VecDeque::new(), VecDeque::new());
        let sink = Sink::Rings { len_max, open: BTreeMap::new(), ended, seen };
        Ok(FlightRecorder::with(sink, Key::random()?, false))
    }

    /// Writes everything to `out`, as it happens.
    ///
    /// # Errors
    /// Those of `out`, or if the operating system has no random bits for the key.
    pub fn writer(out: impl Write + Send + 'static, what: &str) -> io::Result<FlightRecorder> {
        let key = Key::random()?;
        let out: Box<dyn Write + Send> = Box::new(out);
        let sink = Sink::Writer(Box::new(Writer::new(out, &about(what, false))?));
        Ok(FlightRecorder::with(sink, key, false))
    }

    fn with(sink: Sink, key: Key, plain_bodies: bool) -> FlightRecorder {
        let runtime: Arc<dyn Runtime> = SmolRuntime::global();
        let began = runtime.now();
        let conns = Mutex::new(Conns { next: 1, sink, sessions: BTreeMap::new() });
        FlightRecorder { shared: Arc::new(Shared { key, plain_bodies, runtime, began, conns }) }
    }

    /// What `connector` dials is recorded.
    pub fn connector<C: Connect>(&self, connector: C) -> RecordedConnector<C> {
        RecordedConnector { recorder: self.clone(), connector }
    }

    /// What `acceptor` accepts is recorded.
    pub fn acceptor<A: Accept>(&self, acceptor: A) -> RecordedAcceptor<A> {
        RecordedAcceptor { recorder: self.clone(), acceptor }
    }

    /// Writes what the rings hold as a recording, without session ids and bodies.
    ///
    /// # Errors
    /// Those of `out`; [`Unsupported`](io::ErrorKind::Unsupported) if everything is written as it happens.
    pub fn dump(&self, out: impl Write, what: &str) -> io::Result<()> {
        let (rings, seen): (Vec<_>, _) = match &lock(&self.shared.conns).sink {
            Sink::Rings { open, ended, seen, .. } => {
                let ended = ended.iter().map(|(conn, ring)| (*conn, ring.clone()));
                let open = open.iter().map(|(conn, ring)| (*conn, ring.clone()));
                (ended.chain(open).collect(), seen.clone())
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let shared = &self.shared;
        let (mut records, mut sessions) = (Vec::new(), BTreeMap::new());
        for (conn, ring) in rings {
            let (of_ring, session) = lock(&ring).records(&shared.key, shared.plain_bodies, conn);
            records.extend(of_ring);
            sessions.extend(session);
        }
        records.extend(seen.iter().filter_map(|(at, seen)| seen.record(*at, &sessions)));
        records.sort_by_key(|record| record.at);
        let mut writer = Writer::new(out, &about(what, shared.plain_bodies))?;
        records.iter().try_for_each(|record| writer.write(record))?;
        writer.flush()
    }

    /// Why nothing more is written, if that is so.
    pub fn error(&self) -> Option<String> {
        match &lock(&self.shared.conns).sink {
            Sink::Failed(error) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Its server's observer has seen something.
    fn see(&self, seen: Seen) {
        let at = self.now();
        let conns = &mut *lock(&self.shared.conns);
        match &mut conns.sink {
            Sink::Rings { seen: all, .. } => {
                if all.len() == SEEN_MAX {
                    all.pop_front();
                }
                all.push_back((at, seen));
            }
            sink => sink.write(seen.record(at, &conns.sessions)),
        }
    }

    fn now(&self) -> u64 {
        let since = self.shared.runtime.now().since(self.shared.began);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A stream on which `reads` is who sends what is read.
    fn stream(&self, stream: BoxStream, reads: Role, peer: String) -> BoxStream {
        let at = self.now();
        let mut conns = lock(&self.shared.conns);
        let conn = conns.next;
        conns.next += 1;
        let tape = match &mut conns.sink {
            Sink::Rings { len_max, open, .. } => {
                let ring = Arc::new(Mutex::new(Ring::new(*len_max, at, peer)));
                open.insert(conn, ring.clone());
                Tape::Ring(ring)
            }
            sink => {
                sink.write([Record { at, what: What::Connected { conn, peer } }]);
                let key = self.shared.key.clone();
                Tape::Tap(Box::new(Tap::new(key, self.shared.plain_bodies, conn)))
            }
        };
        let recorder = self.clone();
        Box::new(RecordedStream { stream, recorder, conn, reads, tape, ended: EndedBy::Network })
    }
}

fn about(what: &str, plain_bodies: bool) -> About {
    let (source, what) = (format::Source::Relay, what.to_owned());
    About { source, plain_bodies, lossy: false, unix_ms: 0, what }
}

/// A server's recorder also learns when calls end, and when it drains: a reply that could not be sent is known to the recording then.
/// It takes no notice of anything else, and none of clients.
impl Observer for FlightRecorder {
    fn observe(&self, source: &Source, event: &Event) {
        let Source::Server { instance, .. } = source else { return };
        let (call, status) = match event {
            Event::DrainBegan => return self.see(Seen::DrainBegan(instance.id())),
            Event::CallEnded { call, end, .. } => (call, status_of(end)),
            Event::CallRefused { call, why, .. } => (call, Some(Status::Refused(*why))),
            _ => return,
        };
        if let (Some(session), Some(xid), Some(status)) = (call.session, call.xid, status) {
            self.see(Seen::CallEnded(session, xid, status));
        }
    }
}

impl Conns {
    /// What the recording calls a session.
    fn learn_session(&mut self, session: Option<(SessionTag, SessionId)>) {
        let Some((tag, pseudonym)) = session else { return };
        if self.sessions.len() == SEEN_MAX && !self.sessions.contains_key(&tag) {
            self.sessions.pop_first();
        }
        self.sessions.insert(tag, pseudonym);
    }
}

impl Sink {
    fn write(&mut self, records: impl IntoIterator<Item = Record>) {
        let Sink::Writer(writer) = self else { return };
        let mut written = Ok(());
        for record in records {
            written = written.and_then(|()| writer.write(&record));
        }
        if let Err(error) = written.and_then(|()| writer.flush()) {
            *self = Sink::Failed(error);
        }
    }
}

/// A [`Connect`] whose connections are recorded.
#[derive(Debug)]
pub struct RecordedConnector<C> {
    recorder: FlightRecorder,
    connector: C,
}

impl<C: Connect> Connect for RecordedConnector<C> {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let stream = self.connector.connect().await?;
            Ok(self.recorder.stream(stream, Role::Server, self.connector.address()))
        })
    }

    fn address(&self) -> String {
        self.connector.address()
    }

    fn is_permanent(&self, error: &io::Error) -> bool {
        self.connector.is_permanent(error)
    }

    fn may_carry_token(&self) -> bool {
        self.connector.may_carry_token()
    }

    fn handshake_failed(&self) {
        self.connector.handshake_failed();
    }
}

/// An [`Accept`] whose connections are recorded.
#[derive(Debug)]
pub struct RecordedAcceptor<A> {
    recorder: FlightRecorder,
    acceptor: A,
}

impl<A: Accept> RecordedAcceptor<A> {
    fn record(&self, (stream, subject): (BoxStream, Subject)) -> (BoxStream, Subject) {
        (self.recorder.stream(stream, Role::Client, subject.to_string()), subject)
    }
}

impl<A: Accept> Accept for RecordedAcceptor<A> {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async { Ok(self.record(self.acceptor.accept().await?)) })
    }

    fn accept_protected(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async { Ok(self.record(self.acceptor.accept_protected().await?)) })
    }

    fn address(&self) -> String {
        self.acceptor.address()
    }
}

enum Tape {
    Ring(Arc<Mutex<Ring>>),
    Tap(Box<Tap>),
}

struct RecordedStream {
    stream: BoxStream,
    recorder: FlightRecorder,
    conn: u64,
    reads: Role,
    tape: Tape,
    ended: EndedBy,
}

impl RecordedStream {
    fn writes(&self) -> Role {
        match self.reads {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }

    fn push<'d>(&mut self, from: Role, parts: impl Iterator<Item = &'d [u8]>) {
        let at = self.recorder.now();
        match &mut self.tape {
            Tape::Ring(ring) => {
                let mut ring = lock(ring);
                parts.for_each(|part| ring.push(at, from, part));
            }
            Tape::Tap(tap) => {
                let mut records = Vec::new();
                for part in parts {
                    tap.push(from, part, |what| records.push(Record { at, what }));
                }
                if !records.is_empty() {
                    let mut conns = lock(&self.recorder.shared.conns);
                    conns.learn_session(tap.session());
                    conns.sink.write(records);
                }
            }
        }
    }

    /// What a read came to.
    fn note_end(&mut self, read: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(0)) = read {
            self.ended = if self.reads == Role::Client { EndedBy::Client } else { EndedBy::Server };
        }
    }
}

/// The first `len` bytes of some slices.
fn front<'d>(
    slices: impl Iterator<Item = &'d [u8]>,
    mut len: usize,
) -> impl Iterator<Item = &'d [u8]> {
    let parts = slices.map(move |slice| {
        let part = &slice[..slice.len().min(len)];
        len -= part.len();
        part
    });
    parts.filter(|part| !part.is_empty())
}

impl AsyncRead for RecordedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(len @ 1..)) = read {
            this.push(this.reads, std::iter::once(&buf[..len]));
        } else if !buf.is_empty() {
            this.note_end(&read);
        }
        read
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read_vectored(cx, bufs);
        if let Poll::Ready(Ok(len @ 1..)) = read {
            this.push(this.reads, front(bufs.iter().map(|buf| &**buf), len));
        } else if bufs.iter().any(|buf| !buf.is_empty()) {
            this.note_end(&read);
        }
        read
    }
}

impl AsyncWrite for RecordedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(len @ 1..)) = written {
            this.push(this.writes(), std::iter::once(&buf[..len]));
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(len @ 1..)) = written {
            this.push(this.writes(), front(bufs.iter().map(|buf| &**buf), len));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

impl Drop for RecordedStream {
    fn drop(&mut self) {
        let at = self.recorder.now();
        let ended = match self.ended {
            // The other end had not closed: this one does.
            EndedBy::Network if self.reads == Role::Client => EndedBy::Server,
            EndedBy::Network => EndedBy::Client,
            ended => ended,
        };
        let mut conns = lock(&self.recorder.shared.conns);
        match &self.tape {
            Tape::Ring(ring) => {
                lock(ring).end(at, ended);
                if let Sink::Rings { open, ended, .. } = &mut conns.sink {
                    ended.extend(open.remove_entry(&self.conn));
                    if ended.len() > ENDED_MAX {
                        ended.pop_front();
                    }
                }
            }
            Tape::Tap(tap) => {
                let what = tap.disconnected(ended);
                conns.sink.write([Record { at, what }]);
            }
        }
    }
}
