//! The machines do not allocate: never with inline storage, and in steady state not with heap storage either.

// An allocator cannot be written without it; the crate under test forbids it for itself.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::Write;
use std::num::NonZeroUsize;
use std::time::Duration;

use oncewire_core::*;

#[derive(Clone, Copy, PartialEq)]
enum Watch {
    Off,
    #[cfg(feature = "alloc")]
    Count,
    Abort,
}

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(Watch::Off) };
    #[cfg(feature = "alloc")]
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Watched;

/// Ends the process instead of unwinding, which an allocator may not do.
fn noted() {
    match WATCH.get() {
        Watch::Off => {}
        #[cfg(feature = "alloc")]
        Watch::Count => COUNT.set(COUNT.get() + 1),
        Watch::Abort => {
            WATCH.set(Watch::Off);
            let trace = Backtrace::force_capture();
            let _ = writeln!(std::io::stderr(), "allocated where nothing may be:\n{trace}");
            std::process::abort();
        }
    }
}

// SAFETY: everything is sent to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        noted();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        noted();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// While it lives, an allocation of this thread aborts the process and prints where it was.
struct NoAllocation;

impl NoAllocation {
    fn begin() -> NoAllocation {
        WATCH.set(Watch::Abort);
        NoAllocation
    }
}

impl Drop for NoAllocation {
    fn drop(&mut self) {
        WATCH.set(Watch::Off);
    }
}

const ADD_ONE: MethodId = MethodId::of("toy/add_one");
const SECRET: SessionId = SessionId::from_bytes([1; 16]);

/// A client, a server, and the bytes between them, without a buffer that grows.
struct Pair<S: ClientStorage, T: ServerStorage> {
    now: Instant,
    client: Client<S>,
    server: Server<T>,
    conn: Option<ConnId>,
    /// Answer requests at once, or keep the right to run the last one.
    hold: bool,
    held: Option<Running>,
    wire: [u8; 1024],
    /// The last outcomes, from received data or from events.
    replied: Option<(CallId, Result<u8, Executed>)>,
    ended: Option<(CallId, Outcome<'static>)>,
    replies: u64,
    cancels: u64,
}

impl<S: ClientStorage, T: ServerStorage> Pair<S, T> {
    fn new(service: &str) -> Pair<S, T> {
        let service = ServiceName::new(service).unwrap();
        let config = ServerConfig::new(ServerId::from_bytes([7; 16]), service);
        let spec = MethodSpec { reply_len_max: 16, ..MethodSpec::new(ADD_ONE) };
        Pair {
            now: Instant::ZERO,
            client: Client::new(ClientConfig::default()),
            server: Server::new(config, &[spec]).unwrap(),
            conn: None,
            hold: false,
            held: None,
            wire: [0; 1024],
            replied: None,
            ended: None,
            replies: 0,
            cancels: 0,
        }
    }

    fn connect(&mut self) {
        self.client.handle_connected(self.now);
        let conn = self.server.handle_connected(self.now, Principal::ANONYMOUS, SECRET);
        assert!(conn.is_some(), "the server takes the connection");
        self.conn = conn;
    }

    fn disconnect(&mut self) {
        self.client.handle_disconnected(self.now);
        if let Some(conn) = self.conn.take() {
            self.server.handle_disconnected(self.now, conn);
        }
    }

    fn call(&mut self, argument: u8, timeout: Duration) -> CallId {
        let body = [argument];
        let call = Call { timeout, ..Call::new(ADD_ONE, &body) };
        match self.client.call(self.now, call) {
            Ok(id) => id,
            Err(error) => panic!("{error}"),
        }
    }

    /// Carries bytes until nothing moves.
    fn drive(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            while let Some(len) = self.client.poll_transmit(self.now, &mut self.wire) {
                self.deliver_to_server(len);
                moved = true;
            }
            while let Some(event) = self.server.poll_event() {
                match event {
                    ServerEvent::Transmit(conn) => {
                        while let Some(len) =
                            self.server.poll_transmit(self.now, conn, &mut self.wire)
                        {
                            self.deliver_to_client(len);
                        }
                    }
                    ServerEvent::Close(..) => self.client.handle_disconnected(self.now),
                    _ => {}
                }
                moved = true;
            }
            while let Some(event) = self.client.poll_event() {
                if let ClientEvent::Ended { call, outcome, .. } = event {
                    self.ended = Some((call, outcome));
                }
                moved = true;
            }
        }
    }

    fn deliver_to_server(&mut self, len: NonZeroUsize) {
        let Some(conn) = self.conn else { return };
        let mut data = &self.wire[..len.get()];
        while !data.is_empty() {
            let received = match self.server.handle_data(self.now, conn, data) {
                Ok(received) => received,
                Err(error) => panic!("{error}"),
            };
            data = &data[received.consumed..];
            match received.item {
                Some(Incoming::Request(request)) => {
                    let reply = [request.body[0].wrapping_add(1)];
                    match self.server.start(self.now, request.admission) {
                        Ok(running) if self.hold => self.held = Some(running),
                        Ok(running) => {
                            assert_eq!(self.server.reply(self.now, running, &reply), Ok(()));
                        }
                        Err(CallRefused(_)) => {}
                    }
                }
                Some(Incoming::Cancel(_)) => self.cancels += 1,
                _ => {}
            }
        }
    }

    fn deliver_to_client(&mut self, len: NonZeroUsize) {
        let mut data = &self.wire[..len.get()];
        while !data.is_empty() {
            let received = match self.client.handle_data(self.now, data) {
                Ok(received) => received,
                Err(error) => panic!("{error}"),
            };
            data = &data[received.consumed..];
            if let Some(reply) = received.item {
                let result = match reply.outcome {
                    Outcome::Reply(&[byte]) => Ok(byte),
                    other => Err(other.executed()),
                };
                self.replied = Some((reply.call, result));
                self.replies += 1;
            }
        }
    }

    fn reply_to_durable(&mut self, reply: u8) {
        let Some(running) = self.held.take() else { panic!("nothing runs") };
        assert_eq!(self.server.reply(self.now, running, &[reply]), Ok(()));
    }

    /// Time passes; both machines learn of it whenever they want to.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.client.poll_timeout().into_iter().chain(self.server.poll_timeout());
            self.now = next.min().unwrap_or(end).max(self.now).min(end);
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
            self.drive();
            if self.now == end {
                return;
            }
        }
    }

    fn round_trips(&mut self, count: u64) {
        for number in 0..count {
            let call = self.call(number as u8, Duration::from_secs(30));
            self.drive();
            assert_eq!(self.replied, Some((call, Ok((number as u8).wrapping_add(1)))));
        }
    }
}

type Inline = Pair<InlineClient<8, 4, 16>, InlineServer<2, 3, 4, 1, 16>>;

const LONG: Duration = Duration::from_secs(3600);

fn give_up(pair: &mut Inline) {
    // A cancel reaches the server; the call ends as it really ended.
    pair.hold = true;
    let call = pair.call(30, LONG);
    pair.drive();
    pair.client.cancel(pair.now, call);
    pair.drive();
    assert_eq!(pair.cancels, 1);
    pair.reply_to_durable(31);
    pair.drive();
    assert_eq!(pair.replied, Some((call, Ok(31))));

    // A deadline passes while the call runs; the ticket brings the reply.
    let call = pair.call(40, Duration::from_secs(1));
    pair.drive();
    pair.pass(Duration::from_secs(2));
    let unknown = Outcome::Unknown { why: Unknown::DeadlinePassed, ticket: true };
    assert_eq!(pair.ended, Some((call, unknown)));
    pair.reply_to_durable(41);
    pair.drive();
    assert_eq!(pair.replied, Some((call, Ok(41))));
}

#[test]
fn with_inline_storage_nothing_is_ever_allocated() {
    let _watch = NoAllocation::begin();
    let mut pair = Inline::new("toy");
    let long = LONG;

    // Open, and many round trips.
    pair.connect();
    pair.round_trips(1000);
    assert_eq!(pair.client.counters().sessions, 1);

    // More calls than slots.
    for argument in 0..8 {
        pair.call(argument, long);
    }
    let full = pair.client.call(pair.now, Call::new(ADD_ONE, &[0]));
    assert_eq!(full, Err(NotBegun::TooManyCalls { max: 8 }));
    pair.drive();
    assert_eq!(pair.replies, 1008);

    // Acknowledgement: the client goes idle, and nothing is kept for it.
    assert_eq!(pair.server.counters().kept_bytes, 4);
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.server.counters().kept_bytes, 0);

    // The connection breaks before the reply leaves; the reply comes after the resume.
    pair.hold = true;
    let call = pair.call(9, long);
    pair.drive();
    pair.disconnect();
    pair.reply_to_durable(10);
    pair.connect();
    pair.drive();
    assert_eq!(pair.replied, Some((call, Ok(10))));
    let counters = pair.client.counters();
    assert_eq!((counters.resumes, counters.asks, counters.sessions), (1, 1, 1));

    // The connection breaks before the request arrives; it is sent again.
    let call = pair.call(20, long);
    let lost = pair.client.poll_transmit(pair.now, &mut pair.wire);
    assert!(lost.is_some());
    pair.disconnect();
    pair.connect();
    pair.hold = false;
    pair.drive();
    assert_eq!(pair.replied, Some((call, Ok(21))));
    assert_eq!(pair.client.counters().resends, 1);

    give_up(&mut pair);

    // The end: everything acknowledged, the session gone.
    pair.client.close(pair.now);
    pair.pass(Duration::from_secs(1));
    assert!(pair.client.is_closed());
    assert_eq!(pair.server.counters().sessions, 0);
}

/// Allocations in 1,000 lone calls, once every slot that the client uses and every table that grows has been used.
#[cfg(feature = "alloc")]
fn allocations_in_1000_heap_calls() -> u64 {
    let mut pair: Pair<Heap, Heap> = Pair::new("toy");
    pair.connect();
    pair.round_trips(100);
    COUNT.set(0);
    WATCH.set(Watch::Count);
    pair.round_trips(1000);
    WATCH.set(Watch::Off);
    COUNT.get()
}

#[cfg(feature = "alloc")]
#[test]
fn with_heap_storage_a_lone_call_allocates_nothing_in_steady_state() {
    assert_eq!(allocations_in_1000_heap_calls(), 0);
}
