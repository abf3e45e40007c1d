//! What a server does when time passes: keepalives, slow frames, leases, the end of a drain.

use core::time::Duration;

use super::conn::{Conn, Phase};
use super::session::{LEASE, Session};
use super::{Drain, Server};
use crate::error::CloseReason;
use crate::keepalive::{self, Keepalive, Liveness};
use crate::storage::list::List;
use crate::storage::{Places, ServerStorage};
use crate::time::Instant;

/// With none, no `Hello` could come in time, and a frame of a session that was granted a moment would be judged again and
/// again in that moment.
const FRAME_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Sessions and connections that one `handle_timeout` looks at, at most.
const WORK_MAX: usize = 256;

/// Bytes of tables after which one `handle_timeout` ends no further session. The last one may have more: what it takes to
/// drop a slot with what is kept on it is less than the request, or the `Ask`, took for which it was made.
const TABLE_BYTES_DROPPED: u32 = 1 << 20;

/// What a server waits for. Each timer is that of the first one of many, which are kept in the order of their moments.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// When to check the peer of a connection (S20). On from the connection's start to its end.
    Keepalive,
    /// When to give up a handshake or an incomplete frame (C42). On while there is one.
    SlowPeer,
    /// When to end a session that has no connection (S6). On while there is one.
    Lease,
    /// The same for one in which no request came.
    UnusedLease,
    /// When a drain has waited long enough for clients without a connection to come back (S25). Nothing is done then, but
    /// the drain may be complete.
    Return,
    /// When the grace of a drain is over (S25). On from its start.
    Drain,
}

impl<T: ServerStorage> Server<T> {
    /// Time has passed. Call it when [`poll_timeout`](Server::poll_timeout)'s moment has come, after everything that
    /// has arrived was given to [`handle_data`](Server::handle_data); poll events afterwards. Each call does bounded
    /// work: if much is due, `poll_timeout` still names the present.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance_clock(now);
        for _ in 0..WORK_MAX {
            let Some(index) = self.keepalives.front() else { break };
            if self.conns.live(index).is_none_or(|conn| conn.keepalive_at > self.now) {
                break;
            }
            self.check_peer(index);
        }
        for _ in 0..WORK_MAX {
            match self.first_too_slow() {
                Some((index, at)) if at <= self.now => self.close_if_slow(index),
                _ => break,
            }
        }
        let mut tables = 0;
        for _ in 0..WORK_MAX {
            match self.first_lease_over() {
                Some(index) if tables < TABLE_BYTES_DROPPED => {
                    tables += self.sessions.live(index).map_or(0, Session::table_bytes);
                    self.end_session(index);
                }
                _ => break,
            }
        }
        if self.due_at(Timer::Drain).is_some_and(|at| at <= self.now) {
            self.end_drain();
        }
    }

    /// When [`handle_timeout`](Server::handle_timeout) is next to be called; changes only after a `&mut self` call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        // Written out, so that each is a look at one list: as a loop it took twice the instructions.
        let timers = [
            self.due_at(Timer::Keepalive),
            self.due_at(Timer::SlowPeer),
            self.due_at(Timer::Lease),
            self.due_at(Timer::UnusedLease),
            self.due_at(Timer::Return),
            self.due_at(Timer::Drain),
        ];
        let first = timers.into_iter().flatten().min();
        first.filter(|at| *at != Instant::FAR_FUTURE)
    }

    /// When a timer is due; `None` while it is off.
    #[inline(always)]
    fn due_at(&self, timer: Timer) -> Option<Instant> {
        match timer {
            Timer::Keepalive => Some(self.conns.live(self.keepalives.front()?)?.keepalive_at),
            Timer::SlowPeer => self.first_too_slow().map(|(_, at)| at),
            Timer::Lease => self.lease_end(&self.leases, self.lease),
            Timer::UnusedLease => self.lease_end(&self.leases_unused, self.config.lease_unused),
            Timer::Return => {
                self.drain_under_way()?;
                self.returns_until().filter(|until| *until > self.now)
            }
            Timer::Drain => Some(self.drain_under_way()?.until),
        }
    }

    #[inline]
    fn drain_under_way(&self) -> Option<&Drain> {
        self.drain.as_ref().filter(|drain| !drain.over)
    }

    fn lease_end(&self, list: &List<LEASE>, lease: Duration) -> Option<Instant> {
        let session = self.sessions.live(list.front()?)?;
        Some(session.disconnected_at + lease)
    }

    fn first_lease_over(&self) -> Option<u32> {
        let over = |list: &List<LEASE>, lease| {
            let end = self.lease_end(list, lease)?;
            if end <= self.now { list.front() } else { None }
        };
        over(&self.leases_unused, self.config.lease_unused)
            .or_else(|| over(&self.leases, self.lease))
    }

    /// C42: the connection whose `Hello`, or whose frame, is the first to be judged, and when. The times are the same for
    /// all connections, so that the oldest is the first.
    fn first_too_slow(&self) -> Option<(u32, Instant)> {
        let hello = self.greeting.front().and_then(|index| {
            let since = self.conns.live(index)?.since;
            Some((index, since + self.config.handshake_timeout.max(FRAME_TIMEOUT_MIN)))
        });
        let frame = self.receiving.front().and_then(|index| {
            let judged = self.conns.live(index)?.incoming?.judged;
            Some((index, judged + self.frame_timeout(None)))
        });
        [hello, frame].into_iter().flatten().min_by_key(|(_, at)| *at)
    }

    /// The time of a `Hello` or of a frame has come.
    fn close_if_slow(&mut self, index: u32) {
        let Some(conn) = self.conns.live(index) else { return };
        debug_assert!(conn.is_read(), "a connection that closes is in no list of these");
        let timeout = self.frame_timeout(conn.session);
        let now = self.now;
        match self.conns.live_mut(index).and_then(|conn| conn.incoming.as_mut()) {
            // A session with a longer keepalive is judged again when others are; only those are judged to the moment.
            Some(frame) if self.receiving.front() == Some(index) && frame.since + timeout > now => {
                frame.judged = now;
                self.receiving.unlink(&mut self.conns, index);
                self.receiving.push_back(&mut self.conns, index);
            }
            _ => self.close_conn(index, CloseReason::TooSlow),
        }
    }

    /// How long the peer of a session may be silent.
    fn silence_max(&self, session: Option<u32>) -> Duration {
        let granted = session
            .and_then(|session| self.sessions.live(session))
            .map(|session| keepalive::from_millis(session.grants().keepalive_ms));
        granted.unwrap_or_default().max(self.config.keepalive)
    }

    /// How long an incomplete frame may take to get on: a peer that may stand still may do so in the middle of one.
    fn frame_timeout(&self, session: Option<u32>) -> Duration {
        self.silence_max(session).max(self.config.frame_timeout).max(FRAME_TIMEOUT_MIN)
    }

    /// Takes a connection off the list that its phase has put it on.
    pub(super) fn stop_timer(&mut self, index: u32) {
        let greets = |conn: &Conn<T::Body>| conn.phase == Phase::AwaitingHello;
        let list = match self.conns.live(index).is_some_and(greets) {
            true => &mut self.greeting,
            false => &mut self.receiving,
        };
        list.unlink(&mut self.conns, index);
    }

    /// S20: is the peer there?
    fn check_peer(&mut self, index: u32) {
        let Some(conn) = self.conns.live(index) else { return };
        debug_assert!(conn.keepalive_at <= self.now, "its time has come");
        let keepalive = self.silence_max(conn.session);
        let goodbye = self.repeats_goodbye();
        let Some(conn) = self.conns.live_mut(index) else { return };
        let liveness = match conn.phase {
            // There is nothing to ask, and the handshake's own time judges; or it waits for us.
            Phase::AwaitingHello | Phase::AwaitingRecord { .. } | Phase::AwaitingSession { .. } => {
                Liveness::Alive
            }
            Phase::WelcomeDue { .. } | Phase::Up | Phase::Finishing(_) | Phase::Closing(_) => {
                conn.keepalive.check(keepalive, self.check_period)
            }
        };
        if liveness == Liveness::Dead {
            self.close_conn(index, CloseReason::PeerSilent);
        } else {
            match liveness {
                Liveness::Alive | Liveness::Dead => {}
                Liveness::Reassure => {
                    conn.send.pong = true;
                    self.wake(index);
                }
                Liveness::Probe => {
                    conn.send.ping = true;
                    conn.send.goodbye |= goodbye;
                    self.wake(index);
                }
            }
            self.schedule_check(index);
        }
    }

    /// S27: a `Goodbye` may be lost, and is said again at each Ping of either side, since the side that looks at a silent
    /// link more often is the only one that sends any.
    pub(super) fn repeats_goodbye(&self) -> bool {
        self.config.lossy && self.drain.is_some()
    }

    pub(super) fn schedule_check(&mut self, index: u32) {
        self.keepalives.unlink(&mut self.conns, index);
        let Some(conn) = self.conns.live_mut(index) else { return };
        conn.keepalive_at = Keepalive::next_check(self.now, self.check_period);
        self.keepalives.push_back(&mut self.conns, index);
    }
}
