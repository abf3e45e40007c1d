//! The last bytes of one connection, in memory of a fixed size.

use std::collections::VecDeque;

use oncewire_core::wire::{CONTROL_LEN_MAX, LEN_FIELD_LEN, Role};
use oncewire_core::{SessionId, SessionTag};

use crate::format::{EndedBy, Record, What};
use crate::hide::Key;
use crate::tap::Tap;

/// Bytes of an entry before its data: time, direction, where the first frame begins, bytes that were left out, length.
const ENTRY_LEN: usize = 8 + 1 + 4 + 4 + 4;
/// No frame begins in an entry.
const NOWHERE: u32 = u32::MAX;

/// What passed in one direction, as far as it takes to find where frames begin.
#[derive(Debug, Default)]
struct Framing {
    /// Bytes of the frame at hand that are still to come, once its length is known.
    left: usize,
    /// The bytes of the next length that are there.
    field: [u8; LEN_FIELD_LEN],
    have: usize,
}

impl Framing {
    /// Goes over bytes, and says where the first frame among them begins.
    fn pass(&mut self, data: &[u8]) -> u32 {
        let (mut at, mut first) = (0, NOWHERE);
        while at < data.len() {
            if self.left == 0 && self.have == 0 {
                // Most of what passes is whole frames, so this is what recording costs.
                let begin = at;
                while let Some(end) = frame_end(data, at) {
                    at = end;
                }
                if at > begin && first == NOWHERE {
                    first = begin as u32;
                }
                if at == data.len() {
                    break;
                }
            }
            let skipped = self.left.min(data.len() - at);
            (self.left, at) = (self.left - skipped, at + skipped);
            if at == data.len() {
                break;
            }
            if self.have == 0 && first == NOWHERE {
                first = at as u32;
            }
            let taken = (LEN_FIELD_LEN - self.have).min(data.len() - at);
            self.field[self.have..self.have + taken].copy_from_slice(&data[at..at + taken]);
            (self.have, at) = (self.have + taken, at + taken);
            if self.have == LEN_FIELD_LEN {
                self.have = 0;
                self.left = u32::from_le_bytes(self.field) as usize;
            }
        }
        first
    }
}

/// Where the frame ends that begins there, if all of it is there.
#[inline]
fn frame_end(data: &[u8], at: usize) -> Option<usize> {
    let rest = data.get(at..)?;
    let len = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    (len <= rest.len() - LEN_FIELD_LEN).then(|| at + LEN_FIELD_LEN + len)
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<u8>,
    len_max: usize,
    framing: [Framing; 2],
    /// The first bytes of each direction, in which the handshake is, and when they came.
    first: [(u64, Vec<u8>); 2],
    dropped: u64,
    opened_at: u64,
    peer: String,
    ended: Option<(u64, EndedBy)>,
}

fn place(from: Role) -> usize {
    match from {
        Role::Client => 0,
        Role::Server => 1,
    }
}

impl Ring {
    /// For a connection that is made now; `len_max` is how many bytes it keeps.
    pub(crate) fn new(len_max: usize, opened_at: u64, peer: String) -> Ring {
        Ring {
            // All at once: what is recorded later costs no allocation.
            entries: VecDeque::with_capacity(len_max),
            len_max,
            framing: Default::default(),
            first: Default::default(),
            dropped: 0,
            opened_at,
            peer,
            ended: None,
        }
    }

    /// Bytes have passed.
    pub(crate) fn push(&mut self, at: u64, from: Role, data: &[u8]) {
        let (when, first) = &mut self.first[place(from)];
        if first.len() < CONTROL_LEN_MAX {
            if first.is_empty() {
                *when = at;
            }
            first.extend_from_slice(&data[..data.len().min(CONTROL_LEN_MAX - first.len())]);
        }
        let begins = self.framing[place(from)].pass(data);
        let room = (self.len_max / 4).saturating_sub(ENTRY_LEN);
        let (kept, left_out) = data.split_at(data.len().min(room));
        let wanted = ENTRY_LEN + kept.len();
        if wanted > self.len_max {
            self.dropped += data.len() as u64;
            return;
        }
        while self.entries.len() + wanted > self.len_max {
            let len = self.entry_len();
            self.entries.drain(..ENTRY_LEN + len);
            self.dropped += len as u64;
        }
        let mut head = [0; ENTRY_LEN];
        head[..8].copy_from_slice(&at.to_le_bytes());
        head[8] = place(from) as u8;
        head[9..13].copy_from_slice(&begins.to_le_bytes());
        head[13..17].copy_from_slice(&(left_out.len() as u32).to_le_bytes());
        head[17..].copy_from_slice(&(kept.len() as u32).to_le_bytes());
        self.entries.extend(&head);
        self.entries.extend(kept);
    }

    /// Bytes of data in the oldest entry.
    fn entry_len(&self) -> usize {
        let mut len = [0; 4];
        for (byte, at) in len.iter_mut().zip(ENTRY_LEN - 4..) {
            *byte = self.entries.get(at).copied().unwrap_or(0);
        }
        // Never more than there is, so that dropping always ends.
        (u32::from_le_bytes(len) as usize).min(self.entries.len().saturating_sub(ENTRY_LEN))
    }

    /// The connection is gone.
    pub(crate) fn end(&mut self, at: u64, by: EndedBy) {
        self.ended.get_or_insert((at, by));
    }

    /// What it holds, as records of the connection with this number, and the connection's session.
    pub(crate) fn records(
        &self,
        key: &Key,
        plain_bodies: bool,
        conn: u64,
    ) -> (Vec<Record>, Option<(SessionTag, SessionId)>) {
        let (mut records, mut session) = (Vec::new(), None);
        let mut put = |at, what| records.push(Record { at, what });
        put(self.opened_at, What::Connected { conn, peer: self.peer.clone() });
        let mut tap = Tap::new(key.clone(), plain_bodies, conn);
        let mut synced = [true; 2];
        if self.dropped > 0 {
            for from in [Role::Client, Role::Server] {
                let (at, first) = &self.first[place(from)];
                // The first frame only: what was behind it may be in the ring, or is gone.
                let mut hello = Tap::new(key.clone(), plain_bodies, conn);
                let mut is_first = true;
                hello.push(from, first, |what| {
                    if std::mem::take(&mut is_first) {
                        put(*at, what);
                    }
                });
                session = hello.session().or(session);
            }
            let text = format!("connection {conn}: {} older bytes were not kept", self.dropped);
            put(self.opened_at, What::Note(text));
            synced = [false; 2];
        }
        let entries: Vec<u8> = self.entries.iter().copied().collect();
        let mut rest = &entries[..];
        while let Some((entry, behind)) = Entry::split(rest) {
            rest = behind;
            let Entry { at, from, begins, left_out, mut data } = entry;
            let is_synced = &mut synced[place(from)];
            if !*is_synced {
                let Some(front) = data.get(begins as usize..) else { continue };
                (data, *is_synced) = (front, true);
                tap.restart(from);
            }
            tap.push(from, data, |what| put(at, what));
            if left_out > 0 {
                *is_synced = false;
                tap.restart(from);
            }
        }
        if let Some((at, by)) = self.ended {
            put(at, tap.disconnected(by));
        }
        (records, tap.session().or(session))
    }
}

/// What passed at once.
struct Entry<'d> {
    at: u64,
    from: Role,
    begins: u32,
    left_out: u32,
    data: &'d [u8],
}

impl<'d> Entry<'d> {
    /// The entry at the front, and what is behind it.
    fn split(bytes: &'d [u8]) -> Option<(Entry<'d>, &'d [u8])> {
        let (&at, rest) = bytes.split_first_chunk()?;
        let (&from, rest) = rest.split_first()?;
        let (&begins, rest) = rest.split_first_chunk()?;
        let (&left_out, rest) = rest.split_first_chunk()?;
        let (&len, rest) = rest.split_first_chunk()?;
        let (data, behind) = rest.split_at_checked(u32::from_le_bytes(len) as usize)?;
        let entry = Entry {
            at: u64::from_le_bytes(at),
            from: if from == 0 { Role::Client } else { Role::Server },
            begins: u32::from_le_bytes(begins),
            left_out: u32::from_le_bytes(left_out),
            data,
        };
        Some((entry, behind))
    }
}
