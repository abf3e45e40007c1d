//! The way between a client and a server, with everything that can go wrong on it.
//!
//! A [`FaultyLink`] is a [`Connect`] around a transport's own. It knows where frames begin and end, so that a test can say
//! what happens at which frame, or inside of it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_io::{AsyncRead, AsyncWrite};

pub(crate) use super::half_link::{Action, Mark};
use super::half_link::{Flow, HalfLink};
use crate::transport::{BoxFuture, BoxStream, Connect};

/// From the client to the server, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// What the next connection will suffer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) up: Option<(Mark, Action)>,
    pub(crate) down: Option<(Mark, Action)>,
}

/// A connector that a test holds in its peer.
#[derive(Clone)]
pub(crate) struct FaultyLink(Arc<Mutex<LineState>>);

struct LineState {
    connector: Arc<dyn Connect>,
    refusing: bool,
    /// Reads and writes carry one byte at a time.
    single: bool,
    dials: u64,
    plans: VecDeque<Plan>,
    wires: Vec<Arc<Wire>>,
}

impl FaultyLink {
    pub(crate) fn to(connector: Arc<dyn Connect>) -> FaultyLink {
        FaultyLink(Arc::new(Mutex::new(LineState {
            connector,
            refusing: false,
            single: false,
            dials: 0,
            plans: VecDeque::new(),
            wires: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, LineState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Later dials go elsewhere.
    pub(crate) fn lead_to(&self, connector: Arc<dyn Connect>) {
        self.lock().connector = connector;
    }

    pub(crate) fn refuse_dials(&self, refuse: bool) {
        self.lock().refusing = refuse;
    }

    pub(crate) fn one_byte_at_a_time(&self) {
        self.lock().single = true;
    }

    /// What the next connection that has no plan yet will suffer.
    pub(crate) fn plan(&self, plan: Plan) {
        self.lock().plans.push_back(plan);
    }

    /// Attempts to connect, refused ones included.
    pub(crate) fn dials(&self) -> u64 {
        self.lock().dials
    }

    /// Connections that were made.
    pub(crate) fn connections(&self) -> usize {
        self.lock().wires.len()
    }

    /// Frames of a kind that have passed one way, on all connections.
    pub(crate) fn frames(&self, way: Direction, kind: u8) -> u64 {
        let wires = self.lock().wires.clone();
        wires.iter().map(|wire| wire.lock().half(way).count_of(kind)).sum()
    }

    fn newest(&self) -> Arc<Wire> {
        self.lock().wires.last().expect("no connection was made yet").clone()
    }

    /// Cuts all connections: the client reads the end of the stream.
    pub(crate) fn cut(&self) {
        self.cut_with(None);
    }

    /// Cuts all connections: the client reads this error.
    pub(crate) fn cut_with(&self, error: Option<io::ErrorKind>) {
        let wires = self.lock().wires.clone();
        wires.iter().for_each(|wire| wire.with(|state| state.cut(error)));
    }

    /// Something happens to the newest connection at a mark that it has not passed.
    pub(crate) fn fault(&self, way: Direction, mark: Mark, action: Action) {
        self.newest().with(|state| state.lane_mut(way).fault = Some((mark, action)));
    }

    /// Holds back what comes on the newest connection from now on.
    pub(crate) fn hold(&self, way: Direction) {
        self.newest().with(|state| state.lane_mut(way).flow = Flow::Held);
    }

    /// Swallows what comes on the newest connection from now on, the end of the stream included.
    pub(crate) fn swallow(&self, way: Direction) {
        self.newest().with(|state| state.lane_mut(way).flow = Flow::Swallowed);
    }

    /// Lets flow what was held back on the newest connection.
    pub(crate) fn release(&self, way: Direction) {
        self.newest().with(|state| {
            state.lane_mut(way).flow = Flow::Free;
            let mut cx = Context::from_waker(Waker::noop());
            // What does not leave at once leaves when the writer, who is woken now, tries again.
            let _rest = state.poll_drain(&mut cx);
        });
    }

    /// Whole frames that are held back, on the newest connection.
    pub(crate) fn held_frames(&self, way: Direction) -> usize {
        self.newest().lock().half(way).whole_frames()
    }

    /// Bytes held back on the newest connection.
    pub(crate) fn held(&self, way: Direction) -> usize {
        self.newest().lock().half(way).waiting.len()
    }

    /// The server loses the newest connection; the client does not notice, reads what is held once it is released, and
    /// writes into the void.
    pub(crate) fn detach(&self) {
        self.newest().with(|state| {
            state.inner = None;
            state.up.flow = Flow::Swallowed;
        });
    }
}

impl Connect for FaultyLink {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let connector = {
                let mut state = self.lock();
                state.dials += 1;
                if state.refusing {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                state.connector.clone()
            };
            let inner = connector.connect().await?;
            let mut state = self.lock();
            let plan = state.plans.pop_front().unwrap_or_default();
            let wire = Arc::new(Wire(Mutex::new(WireState::new(inner, plan, state.single))));
            state.wires.push(wire.clone());
            Ok(Box::new(FaultyStream(wire)) as BoxStream)
        })
    }

    fn address(&self) -> String {
        self.lock().connector.address()
    }

    /// No one reads what passes between a case's ends, whatever the transport.
    fn may_carry_token(&self) -> bool {
        true
    }
}

/// One connection.
struct Wire(Mutex<WireState>);

struct WireState {
    /// The transport's stream; `None` when the server has lost the connection.
    inner: Option<BoxStream>,
    up: HalfLink,
    down: HalfLink,
    /// The connection was cut, and the error that the client reads.
    cut: Option<Option<io::ErrorKind>>,
    /// A cut is due as soon as what passed before it has left.
    cut_due: bool,
    single: bool,
    scratch: Vec<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Bytes that a half holds at most before its writer has to wait.
const HELD_MAX: usize = 64 << 10;

impl Wire {
    fn lock(&self) -> MutexGuard<'_, WireState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, then has both sides look again.
    fn with(&self, change: impl FnOnce(&mut WireState)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl WireState {
    fn new(inner: BoxStream, plan: Plan, single: bool) -> WireState {
        WireState {
            inner: Some(inner),
            up: HalfLink::new(plan.up),
            down: HalfLink::new(plan.down),
            cut: None,
            cut_due: false,
            single,
            scratch: vec![0; HELD_MAX],
            reader: None,
            writer: None,
        }
    }

    fn half(&self, way: Direction) -> &HalfLink {
        match way {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn lane_mut(&mut self, way: Direction) -> &mut HalfLink {
        match way {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    fn cut(&mut self, error: Option<io::ErrorKind>) {
        self.inner = None;
        self.cut.get_or_insert(error);
    }

    /// Passes on what may leave for the server.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.up.ready.is_empty() {
                let Some(inner) = &mut self.inner else {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                };
                let len = if self.single { 1 } else { self.up.ready.len() };
                let len = ready!(Pin::new(inner).poll_write(cx, &self.up.ready[..len]))?;
                self.up.ready.drain(..len);
            } else if self.cut_due {
                if let Some(inner) = &mut self.inner {
                    let _flushed = Pin::new(inner).poll_flush(cx);
                }
                self.cut(None);
                self.reader.take().into_iter().for_each(Waker::wake);
                return Poll::Ready(Ok(()));
            } else {
                let passed = self.up.pass();
                self.cut_due = passed.cut;
                if !passed.any && !passed.cut {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Passes on what has come from the server.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if !self.down.ready.is_empty() {
                let len = self.down.ready.len().min(buf.len()).min(if self.single {
                    1
                } else {
                    usize::MAX
                });
                buf[..len].copy_from_slice(&self.down.ready[..len]);
                self.down.ready.drain(..len);
                return Poll::Ready(Ok(len));
            }
            if let Some(error) = self.cut {
                return Poll::Ready(error.map_or(Ok(0), |kind| Err(kind.into())));
            }
            let passed = self.down.pass();
            if passed.cut {
                self.cut(None);
                continue;
            }
            if passed.any {
                continue;
            }
            if self.down.waiting.len() >= HELD_MAX {
                return Poll::Pending;
            }
            let Some(inner) = &mut self.inner else { return Poll::Pending };
            let len = match ready!(Pin::new(inner).poll_read(cx, &mut self.scratch)) {
                Ok(len) if len > 0 => len,
                end if self.down.flow == Flow::Free => {
                    // The beginning of a frame that will never be whole.
                    let rest = std::mem::take(&mut self.down.waiting);
                    if rest.is_empty() {
                        return Poll::Ready(end);
                    }
                    self.down.ready = rest;
                    continue;
                }
                // The end is not reported either.
                _ => {
                    self.inner = None;
                    return Poll::Pending;
                }
            };
            self.down.waiting.extend_from_slice(&self.scratch[..len]);
        }
    }
}

/// A stream that does what its wire's halves say.
struct FaultyStream(Arc<Wire>);

impl AsyncRead for FaultyStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        state.reader = Some(cx.waker().clone());
        state.poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        state.writer = Some(cx.waker().clone());
        if state.cut.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(state.poll_drain(cx))?;
        let room = HELD_MAX - state.up.waiting.len().min(HELD_MAX);
        if room == 0 {
            return Poll::Pending;
        }
        let len = buf.len().min(if state.single { 1 } else { room });
        state.up.waiting.extend_from_slice(&buf[..len]);
        // They are on their way, whatever becomes of them.
        let _drained = state.poll_drain(cx);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        state.writer = Some(cx.waker().clone());
        if state.cut.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(state.poll_drain(cx))?;
        match &mut state.inner {
            Some(inner) => Pin::new(inner).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        ready!(state.poll_drain(cx))?;
        match &mut state.inner {
            Some(inner) => Pin::new(inner).poll_close(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        self.0.lock().inner = None;
    }
}
