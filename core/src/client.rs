//! The client machine: makes calls in one session over one connection after another.
//!
//! | file | what it does |
//! |---|---|
//! | `client.rs` | the type, its commands, its events |
//! | `client/call.rs` | one call |
//! | `client/calls.rs` | which calls wait, which are unsettled, which slot is whose |
//! | `client/calls/settle.rs` | how a call leaves that table |
//! | `client/receive.rs` | frames that come |
//! | `client/recovery.rs` | what happens to a call, and to the session: every decision, as pure functions |
//! | `client/transmit.rs` | frames that go |
//! | `client/transmit/acks.rs` | what is acknowledged, and when |
//! | `client/config.rs` | configuration, and a call to be made |
//! | `client/dial.rs` | attempts to connect that fail, and the calls that end by that |
//! | `client/event.rs` | replies, events, the session, counters |
//! | `client/timers.rs` | what happens when time passes |
//! | `client/compare.rs` | calls that wait until signatures were compared |
//! | `client/durable.rs` | calls that their owner keeps on disk: recorded before, settled after |

mod call;
mod calls;
mod compare;
mod config;
mod dial;
mod durable;
mod event;
mod receive;
mod recovery;
mod timers;
mod transmit;

pub use config::{Call, ClientConfig, Comparison, DialFailure, OnDialFailure};
pub use durable::UnjournaledCall;
pub use event::{ClientCounters, ClientEvent, ClientSession, Received, Reply, ServerInfo};

use core::time::Duration;

use crate::error::{CloseReason, SessionLoss};
use crate::ids::{CallId, Xid};
use crate::keepalive::Keepalive;
use crate::outcome::{NotBegun, NotExecuted, Outcome};
use crate::storage::{Body, ClientStorage, Places, Table};
use crate::time::{Instant, Timer};
use crate::wire::{self, Metadata};
use call::{CallState, Calls, Reason};
use calls::CallTable;
use event::PendingEvents;
use recovery::GiveUp;
use timers::ConnTimers;
use transmit::Output;

/// What a client has of a connection.
///
/// ```text
///  Start ─► Greeting ─► Up      an attempt or a connection fails: Down
///  Down  ─► Greeting ─► Up      an attempt fails, and calls are not to wait for another: Unreachable
///                               no attempt can do better: Refused
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
enum Phase {
    /// None, and no attempt at one has failed: so begins a client. Calls wait, those that fail fast as well. Next: a
    /// connection is made (`Greeting`), or is not (`Down`).
    Start,
    /// None: the last attempt at one failed, or it broke. Calls that fail fast end at once. Next: `Greeting`.
    Down,
    /// The same, and calls that have not left are not to wait for another attempt. Next: `Greeting`.
    Unreachable,
    /// There is one, and the `Hello` waits to be sent or was sent. Next: the `Welcome` comes (`Up`), the connection ends
    /// (`Down`), or the server refuses for good (`Refused`).
    Greeting {
        /// The server has said `Goodbye` already.
        server_leaving: bool,
    },
    /// The session is open on it. Next: the connection ends (`Down`), or the server refuses for good (`Refused`).
    Up {
        /// The highest xid that the server had read, from its `Welcome`.
        seen: u64,
        goodbye: Goodbye,
    },
    /// None, and no connection of this client can do better (S7): so it stays.
    Refused(CloseReason),
}

/// Who has said `Goodbye` on a connection (S25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
enum Goodbye {
    /// Neither side has. Next: either.
    NotSaid,
    /// The server: it drains, and no new call leaves. Next: `Said`, once nothing is unsettled.
    ServerSaid,
    /// We have, whether or not the server has: nothing is unsettled, and nothing new begins. The session is over when the
    /// connection is (W62).
    Said,
}

/// Whether the program has asked a client to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "_explore", derive(Hash))]
enum Closing {
    /// It takes calls. Next: `Asked`.
    No,
    /// It takes no calls, and those that it has continue. Next: `Reported`, once they are settled and the connection is gone.
    Asked,
    /// [`ClientEvent::Closed`] was polled.
    Reported,
}

/// The client machine.
///
/// ```
/// use oncewire_core::{Call, Client, ClientConfig, InlineClient, Instant, MethodId};
///
/// // At most 8 calls pending, 4 of them unsettled, requests of at most 64 bytes.
/// let mut client: Client<InlineClient<8, 4, 64>> = Client::new(ClientConfig::default());
/// let now = Instant::ZERO;
/// client.call(now, Call::new(MethodId::of("toy/add_one"), b"\x64")).unwrap();
/// client.handle_connected(now);
/// let mut out = [0; oncewire_core::wire::CONTROL_LEN_MAX];
/// let hello = client.poll_transmit(now, &mut out).unwrap();
/// assert_eq!(&out[5..9], b"1wir", "the first frame is a Hello of {hello} bytes");
/// ```
#[cfg_attr(feature = "_explore", derive(Clone, Hash))]
pub struct Client<S: ClientStorage> {
    config: ClientConfig,
    now: Instant,
    phase: Phase,
    closing: Closing,
    session: Option<ClientSession>,
    server_info: Option<ServerInfo>,
    table: CallTable<S>,
    output: Output,
    keepalive: Keepalive,
    timers: ConnTimers,
    pending_events: PendingEvents,
    /// Flags that no request of the session may have: that of metadata, until they are granted.
    flags_refused: u8,
    counters: ClientCounters,
}

/// With none, a connection would end before a `Welcome` could come.
const HANDSHAKE_TIMEOUT_MIN: Duration = Duration::from_millis(1);

impl<S: ClientStorage> Client<S> {
    /// A client without a connection.
    pub fn new(config: ClientConfig) -> Client<S> {
        Client {
            table: CallTable::new(config.durable, config.xid_before_first),
            config,
            now: Instant::ZERO,
            phase: Phase::Start,
            closing: Closing::No,
            session: None,
            server_info: None,
            output: Output::default(),
            keepalive: Keepalive::default(),
            timers: ConnTimers::default(),
            pending_events: PendingEvents::default(),
            flags_refused: wire::FLAG_METADATA,
            counters: ClientCounters::default(),
        }
    }

    /// Queues a call. It is sent by a later [`poll_transmit`](Client::poll_transmit), when there is a session and
    /// a free slot; until then it has no xid (S8). In a [durable](ClientConfig::durable) client its owner journals
    /// it in between.
    ///
    /// # Errors
    /// Why nothing was begun.
    #[inline]
    pub fn call(&mut self, now: Instant, call: Call<'_>) -> Result<CallId, NotBegun> {
        if call.with_len { self.call_with_len(now, call) } else { self.queue::<false>(now, call) }
    }

    #[cold]
    #[inline(never)]
    fn call_with_len(&mut self, now: Instant, call: Call<'_>) -> Result<CallId, NotBegun> {
        self.queue::<true>(now, call)
    }

    #[inline(always)]
    fn queue<const WITH_LEN: bool>(
        &mut self,
        now: Instant,
        call: Call<'_>,
    ) -> Result<CallId, NotBegun> {
        self.advance_clock(now);
        let len = call.len::<WITH_LEN>();
        let max = self.request_len_max();
        if self.closing != Closing::No || matches!(self.phase, Phase::Refused(_)) {
            return Err(NotBegun::Closed);
        }
        if len > max {
            return Err(NotBegun::RequestTooLarge { len, max });
        }
        if self.table.pending() >= self.config.calls_max {
            return Err(NotBegun::TooManyCalls { max: self.config.calls_max });
        }
        if self.table.pending_bytes().saturating_add(len) > self.config.pending_bytes_max {
            return Err(NotBegun::TooManyBytes { max: self.config.pending_bytes_max });
        }
        if self.config.durable && call.one_way {
            return Err(NotBegun::OneWay);
        }
        if call.metadata {
            let begin = if WITH_LEN { &[] } else { call.body.as_slice() };
            Metadata::split(begin).map_err(NotBegun::BadMetadata)?;
        }
        let (deadline, one_way) = (self.now + call.timeout, call.one_way);
        let sendable = matches!(call.comparison, Comparison::NotNeeded | Comparison::Same);
        let id = self
            .table
            .admit::<WITH_LEN>(call, deadline)
            .ok_or(NotBegun::TooManyCalls { max: Calls::<S>::CAPACITY })?;
        self.counters.one_way += u64::from(one_way);
        if matches!(self.phase, Phase::Down | Phase::Unreachable) {
            self.begin_unconnected(id);
        } else if !sendable {
            self.begin_compared(id);
        }
        Ok(id)
    }

    /// A call has begun and no attempt at a connection runs: it may end at once.
    #[cold]
    #[inline(never)]
    fn begin_unconnected(&mut self, id: CallId) {
        let reason = match self.phase {
            Phase::Unreachable => Reason::Unreachable,
            _ => Reason::Disconnected,
        };
        self.give_up(id.0.index, reason);
    }

    /// Bytes of the longest request that [`call`](Client::call) takes now.
    pub fn request_len_max(&self) -> usize {
        let granted = self.session.map_or(u32::MAX, |session| session.grants.request_len_max);
        S::Body::LEN_MAX.min(self.config.request_len_max.min(granted) as usize)
    }

    /// Asks that the call not be started. It still ends with an outcome: the true one (S19).
    pub fn cancel(&mut self, now: Instant, id: CallId) {
        self.advance_clock(now);
        if self.table.calls.contains(id.0) {
            self.give_up(id.0.index, Reason::Cancelled);
        }
    }

    /// Drops the call and its ticket: no outcome of it is reported, and if it was not sent it never will be. Its slot is
    /// freed when it is settled. The id is not valid any more.
    pub fn forget(&mut self, now: Instant, id: CallId) {
        self.advance_clock(now);
        let Some(entry) = self.table.calls.get_mut(id.0) else { return };
        entry.take_caller();
        self.give_up(id.0.index, Reason::Forgotten);
    }

    /// Takes no more calls; once those pending are settled, says `Goodbye`. The server closes the connection then, and
    /// when [`handle_disconnected`](Client::handle_disconnected) has said so, [`ClientEvent::Closed`] comes.
    pub fn close(&mut self, now: Instant) {
        self.advance_clock(now);
        if self.closing == Closing::No {
            self.closing = Closing::Asked;
        }
    }

    /// There is a connection to the server. An older one is forgotten: drop whatever of its bytes you have not given to
    /// [`handle_data`](Client::handle_data), and whatever of ours it did not take (S4). A client that was refused for good
    /// lets go of it at once.
    pub fn handle_connected(&mut self, now: Instant) {
        self.advance_clock(now);
        match self.phase {
            Phase::Start | Phase::Down | Phase::Unreachable => {}
            Phase::Greeting { .. } | Phase::Up { .. } => self.disconnect(),
            Phase::Refused(reason) => {
                self.pending_events.disconnect = Some(reason);
                return;
            }
        }
        // What was not polled was about the older one.
        self.pending_events.connected = None;
        self.pending_events.disconnect = None;
        self.server_info = None;
        self.phase = Phase::Greeting { server_leaving: false };
        let timeout = self.config.handshake_timeout.max(HANDSHAKE_TIMEOUT_MIN);
        self.timers.handshake = Timer::at(self.now + timeout);
        self.output.greet();
    }

    /// The connection is gone, or could not be made. Harmless if there was none.
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.advance_clock(now);
        match self.phase {
            // It is known, and no call can have begun since that ends at a break.
            Phase::Down | Phase::Unreachable | Phase::Refused(_) => {}
            Phase::Greeting { .. } => self.fail_greeting(DialFailure::Transient),
            Phase::Start | Phase::Up { .. } => self.disconnect(),
        }
    }

    /// The link has moved bytes that neither [`handle_data`](Client::handle_data) nor
    /// [`poll_transmit`](Client::poll_transmit) sees: it had no room for all that was sent, and has taken more of it; or
    /// it gives out whole frames only, and has received a part of one. The server is alive, though it may say nothing
    /// (S20). Without it, a server that does not say so while it receives is called dead when a request takes longer than
    /// the keepalive.
    pub fn handle_progress(&mut self, now: Instant) {
        self.advance_clock(now);
        self.keepalive.on_progress();
    }

    /// Whether [`close`](Client::close) is complete.
    pub fn is_closed(&self) -> bool {
        self.is_closing() && self.table.is_idle() && !self.has_connection()
    }

    /// Whether [`close`](Client::close) was called.
    pub fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    /// Whether a connection would serve a purpose: false once the client is closed or refused for good.
    pub fn wants_connection(&self) -> bool {
        let is_refused = matches!(self.phase, Phase::Refused(_));
        !(is_refused || self.is_closing() && self.table.is_idle())
    }

    /// Whether the session is open on the current connection.
    pub fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    #[inline]
    fn has_connection(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. } | Phase::Up { .. })
    }

    /// Whether calls may begin on this connection: neither side has said `Goodbye` (S25).
    #[inline]
    pub fn may_begin_calls(&self) -> bool {
        matches!(self.phase, Phase::Up { goodbye: Goodbye::NotSaid, .. })
    }

    #[inline]
    fn has_said_goodbye(&self) -> bool {
        matches!(self.phase, Phase::Up { goodbye: Goodbye::Said, .. })
    }

    /// The session, once the first handshake is through.
    pub fn session(&self) -> Option<&ClientSession> {
        self.session.as_ref()
    }

    /// What the server said of itself on this connection, in its `Welcome` or its `Refuse`; `None` before. It stays when
    /// the connection ends, until there is another one, so that an error may name the instance.
    pub fn server_info(&self) -> Option<&ServerInfo> {
        self.server_info.as_ref()
    }

    /// Why the server refuses this client for good, if it does (S7).
    pub fn refusal(&self) -> Option<CloseReason> {
        if let Phase::Refused(reason) = self.phase { Some(reason) } else { None }
    }

    /// Whether nothing is left to send: all calls are settled and acknowledged, and our `Goodbye` was sent last. When it has
    /// left, the connection may be closed without waiting for the server to do so (W62).
    pub fn is_goodbye_sent(&self) -> bool {
        self.has_said_goodbye() && !self.output.owes_ack()
    }

    /// The number that a call has in its session; `None` if no byte of it was sent, or it has ended.
    pub fn xid(&self, id: CallId) -> Option<Xid> {
        self.table.calls.get(id.0)?.state.xid()
    }

    /// Calls that have not ended.
    pub fn pending(&self) -> usize {
        self.table.pending()
    }

    /// Calls that occupy a slot.
    pub fn unsettled(&self) -> usize {
        self.table.unsettled_len()
    }

    /// How the client has fared.
    pub fn counters(&self) -> ClientCounters {
        self.counters
    }

    #[inline]
    fn advance_clock(&mut self, now: Instant) {
        if now > self.now {
            self.now = now.min(Instant::LAST);
        }
    }

    /// The connection is gone: what was carried on it is in doubt until the resume. Visits all calls, once for each
    /// connection, and not for failed attempts at one; a driver's dials have a backoff, and the calls are its own.
    fn disconnect(&mut self) {
        debug_assert!(!matches!(self.phase, Phase::Refused(_)), "there is none");
        // Nothing was unsettled then, and nothing began after it: the session is over (W62).
        let ended = self.has_said_goodbye();
        debug_assert!(!ended || self.table.nothing_unsettled());
        self.phase = Phase::Down;
        self.keepalive = Keepalive::default();
        self.timers = ConnTimers::default();
        self.output = Output::default();
        self.table.break_connection();
        debug_assert!(self.table.partial.is_none() && self.table.first_to_do().is_none());
        if ended {
            self.end_session();
        }
        let mut next = self.table.call_after(None);
        while let Some(index) = next {
            next = self.table.call_after(Some(index));
            self.give_up(index, Reason::Disconnected);
        }
    }

    fn end_session(&mut self) {
        self.session = None;
        self.flags_refused = wire::FLAG_METADATA;
        self.table.start_session(self.config.xid_before_first);
    }

    /// The call is not to be executed any more.
    fn give_up(&mut self, index: u32, reason: Reason) {
        let Some(entry) = self.table.calls.live_mut(index) else { return };
        let decision = recovery::give_up(entry.known(), reason);
        if let CallState::InFlight(sent) = &mut entry.state
            && decision != GiveUp::Nothing
        {
            sent.abandon(reason, decision == GiveUp::Cancel);
        }
        match decision {
            GiveUp::Nothing => {}
            GiveUp::End(outcome) => self.table.end(index, outcome),
            GiveUp::Settle(outcome) => self.settle_with(index, outcome),
            GiveUp::ReportUnknown(why) => self.table.report_unknown(index, why),
            GiveUp::Drop => self.table.drop_event(index),
            GiveUp::Cancel if self.is_connected() => self.table.note_todo(index),
            // The resume sends it.
            GiveUp::Cancel => {}
        }
    }

    /// Settles a call whose outcome no received data brings.
    fn settle_with(&mut self, index: u32, outcome: Outcome<'static>) {
        if self.table.settle_with(index, outcome) {
            self.note_settled(0);
        }
    }

    /// We end the connection.
    fn drop_connection(&mut self, reason: CloseReason) {
        let was_greeting = matches!(self.phase, Phase::Greeting { .. });
        self.disconnect();
        if was_greeting {
            self.note_dial_failed(DialFailure::of_refusal(&reason));
        }
        self.pending_events.disconnect = Some(reason);
    }

    /// S3: the session is over; what was sent in it is in doubt for good.
    fn session_lost(&mut self, why: SessionLoss, reason: CloseReason) {
        self.disconnect();
        self.pending_events.disconnect = Some(reason);
        debug_assert!(!self.has_connection());
        self.table.session_lost();
        self.end_session();
        self.pending_events.lost = Some(why);
    }

    /// S7: no connection of this client can do better.
    fn refuse_for_good(&mut self, reason: CloseReason) {
        self.session_lost(SessionLoss::Refused, reason);
        self.phase = Phase::Refused(reason);
        self.table.end_waiting(NotExecuted::SessionRefused);
        debug_assert!(self.table.is_idle());
    }
}

impl<S: ClientStorage> core::fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Client")
            .field("phase", &self.phase)
            .field("session", &self.session)
            .field("pending", &self.pending())
            .field("unsettled", &self.unsettled())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
