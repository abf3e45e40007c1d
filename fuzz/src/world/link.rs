//! Connections as two byte queues that can be split, delayed, held back and cut at any byte.

use oncewire_core::{ConnId, wire};

use super::doubled::{Copies, LastAsks};

/// Bytes on their way in one direction: written at the end, read from the front.
#[derive(Default)]
pub struct Pipe {
    buf: Vec<u8>,
    /// The reader has taken everything before this.
    head: usize,
    /// The reader may see everything before this.
    arrived: usize,
    /// Everything before this was written.
    tail: usize,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}..{}", self.head, self.arrived, self.tail)
    }
}

impl Pipe {
    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.head, self.arrived, self.tail) = (0, 0, 0);
    }

    /// Bytes written and not seen by the reader.
    pub fn on_the_way(&self) -> usize {
        self.tail - self.arrived
    }

    /// Bytes that the reader has taken of those that are there.
    pub fn taken(&self) -> usize {
        self.head
    }

    /// The last `len` bytes that were written.
    pub fn last(&self, len: usize) -> &[u8] {
        &self.buf[self.tail - len..self.tail]
    }

    /// Whether the reader has taken every byte.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Room of `len` bytes for a writer; say how many were used with [`wrote`](Pipe::wrote).
    #[inline]
    pub fn room(&mut self, len: usize) -> &mut [u8] {
        if self.head == self.tail {
            self.clear();
        }
        let end = self.tail + len;
        if self.buf.len() < end {
            self.buf.resize(end, 0);
        }
        &mut self.buf[self.tail..end]
    }

    /// Bytes of the room that were written.
    #[inline]
    pub fn wrote(&mut self, len: usize) {
        self.tail += len;
    }

    /// Puts bytes at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.wrote(bytes.len());
    }

    /// Lets at most `len` more bytes arrive; returns how many did.
    #[inline]
    pub fn arrive(&mut self, len: usize) -> usize {
        let len = len.min(self.on_the_way());
        self.arrived += len;
        len
    }

    /// What has arrived and was not taken.
    #[inline]
    pub fn arrived(&self) -> &[u8] {
        &self.buf[self.head..self.arrived]
    }

    /// The same, to be damaged.
    pub fn on_the_way_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.arrived..self.tail]
    }

    /// The last `len` bytes on the way never arrive, and nothing may be written after them.
    pub fn lose(&mut self, len: usize) {
        self.tail -= len.min(self.on_the_way());
    }

    /// The reader never sees the first `len` bytes on the way; everything before them was taken.
    pub fn skip(&mut self, len: usize) {
        self.arrived += len;
        self.head = self.arrived;
    }

    /// The reader took `len` bytes.
    #[inline]
    pub fn take(&mut self, len: usize) {
        self.head += len;
    }
}

/// Takes out of whole frames those that are lost; returns how many bytes are left, and how many frames were lost.
pub fn lose_frames(bytes: &mut [u8], mut lost: impl FnMut() -> bool) -> (usize, u64) {
    let (mut at, mut kept, mut count) = (0, 0, 0);
    while let Some(front) = wire::peek(&bytes[at..]) {
        let end = (at + front.len).min(bytes.len());
        if lost() {
            count += 1;
        } else {
            bytes.copy_within(at..end, kept);
            kept += end - at;
        }
        at = end;
    }
    (kept, count)
}

/// One connection.
#[derive(Debug, Default)]
pub struct Link {
    /// Its number among all connections that were ever made.
    pub number: u64,
    /// Which client dialled.
    pub peer: usize,
    /// Which server answered.
    pub host: usize,
    /// The server's name for it, until it has let go or learned of the end.
    pub conn: Option<ConnId>,
    /// The session that it is bound to, once the server has said so.
    pub session: Option<u32>,
    /// To the server.
    pub up: Pipe,
    /// To the client.
    pub down: Pipe,
    /// The client has not let go of it.
    pub client_open: bool,
    /// The server has not let go of it.
    pub server_open: bool,
    /// What is written is lost, and neither end notices.
    pub silent: bool,
    /// Neither end learns of the other's close before faults stop or a fault says so.
    pub held: bool,
    /// The server has more to write, perhaps the rest of a frame.
    pub unsent: bool,
    /// Time jumped, or stood still, for one of its ends or both: to be called dead is no surprise.
    pub disturbed: bool,
    /// Up to when its rate is used up, to the server and to the client.
    pub busy_until: [u64; 2],
    /// Whether the place is taken.
    pub used: bool,
    /// Second copies of frames, to the server and to the client.
    pub copies: [Copies; 2],
    /// On such a link, a frame was lost and later ones were not.
    pub has_hole: bool,
    /// What the client has asked for on a link that doubles frames.
    pub asks: LastAsks,
    /// Since when a part of a frame has been waiting for the rest at the server, and at the client.
    pub partial_since: [Option<u64>; 2],
    /// Who dialled, if no client did.
    pub stranger: Option<Stranger>,
    /// Its `Hello`, while its session is claimed.
    pub hello: Vec<u8>,
}

/// Who connects beside the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// It sends a call in the same write as its `Hello`.
    Early,
    /// It says nothing, or half a `Hello`, and is closed at this time on the server's clock.
    Silent(u64),
    /// It acknowledges replies of which it has read the beginning only.
    Hasty,
    /// It sends a call a second time with other metadata.
    Altering,
}

impl Link {
    /// How many of `len` bytes a line of this rate carries to the server, or to the client, until `now`.
    pub fn carry(&mut self, way: usize, rate: u64, now: u64, len: usize) -> usize {
        if rate == 0 || len == 0 {
            self.busy_until[way] = now;
            return len;
        }
        let busy_until = &mut self.busy_until[way];
        let room = (now.saturating_sub(*busy_until)) * rate / 1_000_000_000;
        let carried = room.min(len as u64);
        // What it could have carried and did not is not saved up.
        *busy_until =
            if carried < room { now } else { *busy_until + carried * 1_000_000_000 / rate };
        carried as usize
    }

    /// What has arrived one way was given to its reader, who `took` some of it. Whether a frame has become whole that took
    /// longer than `limit`.
    pub fn note_partial(&mut self, way: usize, now: u64, took: bool, limit: u64) -> bool {
        let pipe = if way == 0 { &self.up } else { &self.down };
        let since = self.partial_since[way];
        if took || since.is_none() {
            self.partial_since[way] = (!pipe.arrived().is_empty()).then_some(now);
        }
        took && since.is_some_and(|since| now - since > limit)
    }

    /// Whether a stranger is at its other end who says nothing until it is closed.
    pub fn is_silent_stranger(&self) -> bool {
        matches!(self.stranger, Some(Stranger::Silent(_))) && self.conn.is_some()
    }

    /// Whether either end may call the other one dead.
    pub fn may_look_dead(&self) -> bool {
        let open = self.client_open && self.server_open;
        self.disturbed || self.silent || self.held || !open || self.stranger.is_some()
    }

    /// A new connection in this place.
    pub fn open(&mut self, peer: usize, host: usize, conn: ConnId) {
        self.up.clear();
        self.down.clear();
        let (up, down) = (std::mem::take(&mut self.up), std::mem::take(&mut self.down));
        *self = Link {
            peer,
            host,
            conn: Some(conn),
            up,
            down,
            client_open: true,
            server_open: true,
            used: true,
            ..Link::default()
        };
    }
}
