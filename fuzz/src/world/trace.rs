//! A log of what happened, to be read, and a hash of it, to compare runs.

use std::collections::VecDeque;

use oncewire_core::wire::{self, Decoded, Frame, Role};
use oncewire_core::{SessionId, Status, Xid};
use oncewire_recorder::{EndedBy, Film};

use super::profile::session_number;
use crate::rng::mix;

/// A broken promise, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub Box<str>);

/// What every check returns.
pub type Check = Result<(), Violation>;

/// Ends the run with a violation if the condition does not hold.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err($crate::world::Violation(format!($($message)+).into()));
        }
    };
}
pub(crate) use ensure;

/// The last lines of what happened, and a hash of everything.
#[derive(Debug, Default)]
pub struct Trace {
    /// Whether lines are kept.
    pub on: bool,
    /// The lines kept, oldest first.
    pub lines: VecDeque<String>,
    /// How many to keep.
    pub lines_max: usize,
    /// A recording of what passes, if it is wanted.
    pub film: Option<Film>,
    /// Connections that were made.
    conns: u64,
    hash: u64,
}

impl Trace {
    /// Keeps the last `lines_max` lines.
    pub fn keeping(lines_max: usize) -> Trace {
        Trace { on: true, lines_max, ..Trace::default() }
    }

    /// Records what passes.
    pub fn filming(film: Film) -> Trace {
        Trace { film: Some(film), ..Trace::default() }
    }

    /// Notes a line, if lines are kept.
    #[inline]
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.on {
            if self.lines.len() >= self.lines_max {
                self.lines.pop_front();
            }
            self.lines.push_back(line());
        }
    }

    /// Notes a number in the hash.
    #[inline]
    pub fn count(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// A hash of everything that was counted: the same for the same run.
    pub fn hash(&self) -> u64 {
        mix(self.hash)
    }

    /// A connection is made; returns its number.
    pub fn connected(&mut self, now: u64, peer: impl FnOnce() -> String) -> u64 {
        self.conns += 1;
        if let Some(film) = &mut self.film {
            film.connected(now, self.conns, peer());
        }
        self.conns
    }

    /// Bytes leave one end of a connection.
    #[inline]
    pub fn sent(&mut self, now: u64, conn: u64, from: Role, bytes: &[u8]) {
        if let Some(film) = &mut self.film {
            film.sent(now, conn, from, bytes);
        }
    }

    /// Bytes are read at the other end.
    #[inline]
    pub fn arrived(&mut self, now: u64, conn: u64, from: Role, bytes: &[u8]) {
        if let Some(film) = &mut self.film {
            film.arrived(now, conn, from, bytes);
        }
    }

    /// The server's end of a connection is gone.
    pub fn disconnected(&mut self, now: u64, conn: u64, by: EndedBy) {
        if let Some(film) = &mut self.film {
            film.disconnected(now, conn, by);
        }
    }

    /// A call has finished at its server.
    pub fn finished(&mut self, now: u64, session: SessionId, xid: Xid, status: Status) {
        if let Some(film) = &mut self.film {
            film.finished(now, session, xid, status);
        }
    }

    /// Notes whole frames that one side has read.
    pub fn frames(&mut self, link: usize, who: &dyn std::fmt::Debug, from: Role, bytes: &[u8]) {
        if !self.on {
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match wire::decode(rest, from, u32::MAX / 2) {
                Ok(Decoded::Frame(frame, len)) => {
                    let said = describe(&frame);
                    self.note(|| format!("  link {link} {who:?} reads {said}"));
                    rest = &rest[len..];
                }
                other => {
                    let len = rest.len();
                    self.note(|| format!("  link {link} {who:?} reads {len} bytes: {other:?}"));
                    return;
                }
            }
        }
    }
}

/// A frame in words.
pub fn describe(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Request(header, body) => format!(
            "Request xid {} X {} op {:?} flags {} remaining {} ms, {} bytes",
            header.xid,
            header.acked,
            super::body::op_of(super::body::arguments(header.flags, body)),
            header.flags,
            header.remaining_ms,
            body.len()
        ),
        Frame::Reply(header, body) => {
            format!("Reply xid {} {:?}, {} bytes", header.xid, header.status, body.len())
        }
        Frame::Hello(hello) => match hello.resume {
            None => "Hello".into(),
            Some(resume) => {
                let number = session_number(resume.session);
                format!("Hello resume session {number} X {}", resume.acked)
            }
        },
        Frame::Welcome(welcome) => format!(
            "Welcome session {} h {} slots {} commit {}",
            session_number(welcome.session),
            welcome.seen,
            welcome.grants.slots,
            welcome.commit
        ),
        other => format!("{other:?}"),
    }
}
