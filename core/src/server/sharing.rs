//! Sessions that move between servers with the same records (S34): they are claimed, and yielded.
//!
//! ```text
//!  client            this server             its owner               another server
//!    │  Hello(resume)   │                       │                          │
//!    ├─────────────────►│  SessionWanted(conn)  │                          │
//!    │                  ├──────────────────────►│  claims the session      │
//!    │                  │     restore_session   │  in the store            │
//!    │                  │◄──── restore_call ────┤                          │
//!    │     Welcome      │◄──── answer_wanted ───┤        yield_session     │
//!    │◄─────────────────┤                       │   it learns of it, late ─┤
//! ```
//!
//! A server asks of every session that a client resumes, also of one that it has: since its client left, it may have been
//! at another server, and back again. Several connections may wait for the answer, and get it in any order: the one whose
//! `Hello` came last has the session in the end (S4).

use super::Server;
use super::conn::{Conn, Phase};
use super::session::SessionState;
use crate::error::{CloseReason, ProtocolError};
use crate::ids::{ConnId, SessionId, SessionKey};
use crate::storage::list::NIL;
use crate::storage::{Index, Places, ServerStorage, Table};
use crate::time::Instant;
use crate::wire::{Hello, Refuse, Resume};

/// What an owner has found out about a session that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is this server's, and here: either nothing has changed since it was, or it was
    /// [restored](Server::restore_session) with all its calls just now.
    Found,
    /// It is in no server's records: it has ended.
    Unknown,
    /// It is another principal's, and was not claimed.
    WrongPrincipal,
    /// The records cannot be read now, or there is no room for it here. Its client tries again, here or elsewhere.
    Unavailable,
}

impl<B> Conn<B> {
    /// Whether to ask for the session that it wants now: once.
    pub(super) fn takes_claim(&mut self) -> bool {
        match &mut self.phase {
            Phase::AwaitingSession { asked, .. } => !core::mem::replace(asked, true),
            _ => false,
        }
    }
}

impl<T: ServerStorage> Server<T> {
    /// The session that the client of a connection wants to resume, by what it is known by here: with
    /// [`ServerEvent::SessionWanted`](super::ServerEvent::SessionWanted). `None` if the connection is gone.
    pub fn wanted_session(&self, conn: ConnId) -> Option<SessionId> {
        let conn = self.conns.get(conn.0)?;
        matches!(conn.phase, Phase::AwaitingSession { .. }).then(|| self.known_by(conn.secret))
    }

    /// A session that is here, by what it is known by.
    pub fn find_session(&self, id: SessionId) -> Option<SessionKey> {
        let index = self.session_index.find(id.prefix())?;
        self.sessions.live(index).filter(|session| session.id == id)?;
        self.sessions.key_at(index).map(SessionKey)
    }

    /// Answers [`ServerEvent::SessionWanted`](super::ServerEvent::SessionWanted): the `Hello` is judged again. Nothing
    /// happens if the connection is gone.
    ///
    /// Before [`Claimed::Found`], [`set_commit`](Server::set_commit) to what the records have, and if another server had the session meanwhile,
    /// [yield](Server::yield_session) what is here of it and restore it. With
    /// [`notices`](super::ServerConfig::notices), [`take_notice`](Server::take_notice) afterwards.
    pub fn answer_wanted(&mut self, now: Instant, conn: ConnId, claimed: Claimed) {
        self.advance_clock(now);
        let Some(live) = self.conns.get(conn.0) else { return };
        let Phase::AwaitingSession { acked, .. } = live.phase else { return };
        let (index, resume) = (conn.0.index, Resume { session: live.secret, acked });
        let refuse = match claimed {
            Claimed::Found => return self.resume_claimed(index, &resume),
            Claimed::Unknown => Refuse::SessionUnknown,
            Claimed::WrongPrincipal => Refuse::WrongPrincipal,
            Claimed::Unavailable => Refuse::ShuttingDown,
        };
        self.close_conn(index, CloseReason::Refused(refuse));
    }

    fn resume_claimed(&mut self, index: u32, resume: &Resume) {
        match self.resume(index, resume) {
            Ok(()) => self.note_resumed(index),
            Err(error) => self.close_conn(index, CloseReason::Protocol(error)),
        }
    }

    /// S34: asks for the session that a client resumes.
    pub(super) fn want_session(&mut self, index: u32, resume: &Resume) {
        let known = self.find_session(self.known_by(resume.session));
        if self.drain.is_some() && known.is_none() {
            // Another server takes it, and need not take it back.
            return self.close_conn(index, CloseReason::Refused(Refuse::ShuttingDown));
        }
        self.stop_timer(index);
        self.hellos += 1;
        let Some(conn) = self.conns.live_mut(index) else { return };
        conn.secret = resume.session;
        conn.hello = self.hellos;
        conn.phase = Phase::AwaitingSession { asked: false, acked: resume.acked };
        self.wake(index);
    }

    /// S27: a second copy of a `Hello` comes while its session is waited for.
    pub(super) fn want_again(&self, index: u32, hello: &Hello) -> Result<(), ProtocolError> {
        let wanted = self.conns.live(index).map(|conn| conn.secret);
        let same = hello.resume.map(|resume| resume.session) == wanted;
        if self.config.lossy && same { Ok(()) } else { Err(ProtocolError::SecondHello) }
    }

    /// Another server has claimed a session (S34): for its client here it is superseded. What runs in it finishes, unheard,
    /// and [`ServerEvent::SessionEnded`](super::ServerEvent::SessionEnded) follows with [`SessionEnd::Taken`](super::SessionEnd::Taken): its records
    /// are the other server's, and stay. It may be restored here again at once, under another key.
    pub fn yield_session(&mut self, now: Instant, key: SessionKey) {
        self.advance_clock(now);
        let Some(index) = self.live_session(key) else { return };
        let conn = self.sessions.live(index).map_or(NIL, |session| session.conn);
        if conn != NIL {
            self.close_conn(conn, CloseReason::Refused(Refuse::Superseded));
        }
        // One that was opened on that connection has ended with it.
        let may_resume = |state: SessionState| state.may_resume();
        let state = self.sessions.live(index).map(|session| session.state);
        if self.live_session(key).is_some() && state.is_some_and(may_resume) {
            self.abort_session(index, SessionState::Yielded);
        }
    }
}
