//! Frames of a lossy link that come a second time, later (S27).
//!
//! What a second copy can break is what it says of a call that has gone on meanwhile: an `Ask`, its `NotSeen`, and an `Ack`.
//! These come a second time more often than others, and later. A `NotSeen` often comes right behind the next `Ask` for its
//! call: a client must not take it for the answer to that.

use oncewire_core::wire::{self, Decoded, Frame, ReplyHeader, Role};
use oncewire_core::{Status, Xid};

use super::World;
use super::link::{Link, Pipe};
use crate::rng::Rng;

/// When the second copy of a frame comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Behind so many more frames in its direction.
    Behind(u64),
    /// As soon as its client has asked for this call again.
    Asked(Xid),
}

/// The second copies that are on their way in one direction.
#[derive(Debug, Default)]
pub struct Copies(Vec<(When, Box<[u8]>)>);

/// The number of the last `Ask` for each call on a connection.
pub type LastAsks = Vec<(Xid, u16)>;

/// Whether, and when, a frame comes a second time.
fn second_time(frame: &Frame<'_>, rng: &mut Rng) -> Option<When> {
    match frame {
        Frame::Reply(ReplyHeader { status: Status::NotSeen { .. }, xid }, _) => {
            match rng.below(4) {
                0 => None,
                1 => Some(When::Behind(rng.below(24))),
                _ => Some(When::Asked(*xid)),
            }
        }
        Frame::Ask(..) | Frame::Ack(_) => rng.one_in(3).then(|| When::Behind(rng.below(24))),
        _ => rng.one_in(16).then(|| When::Behind(rng.below(8))),
    }
}

impl Copies {
    /// Keeps copies of some of the last `len` bytes that were written, and puts those behind them that come now, unless the
    /// last frame is not whole. Returns how many do.
    fn double(&mut self, pipe: &mut Pipe, role: Role, len: usize, rng: &mut Rng) -> u64 {
        let mut due = Vec::new();
        let mut whole = 0;
        for (frame, bytes) in frames(pipe.last(len), role) {
            whole += bytes.len();
            for (when, _) in &mut self.0 {
                if let When::Behind(frames) = when {
                    *frames = frames.saturating_sub(1);
                }
            }
            if let Some(when) = second_time(&frame, rng) {
                self.0.push((when, bytes.into()));
            }
        }
        if whole == len {
            self.take(When::Behind(0), &mut due);
        }
        due.iter().for_each(|frame| pipe.push(frame));
        due.len() as u64
    }

    /// Whether one comes behind an `Ask`.
    fn wait_for_ask(&self) -> bool {
        self.0.iter().any(|(when, _)| matches!(when, When::Asked(_)))
    }

    fn take(&mut self, now: When, due: &mut Vec<Box<[u8]>>) {
        self.0.retain_mut(|(when, frame)| {
            if *when == now {
                due.push(std::mem::take(frame));
            }
            *when != now
        });
    }
}

/// The frames at the front of `bytes`, each with its bytes.
fn frames<'d>(mut bytes: &'d [u8], role: Role) -> impl Iterator<Item = (Frame<'d>, &'d [u8])> {
    std::iter::from_fn(move || match wire::decode(bytes, role, u32::MAX / 2) {
        Ok(Decoded::Frame(frame, len)) => {
            let (front, rest) = bytes.split_at(len);
            bytes = rest;
            Some((frame, front))
        }
        _ => None,
    })
}

impl World {
    /// Whether the answer to an `Ask` of a client comes again as soon as it asks again: if the call was sent in between, and
    /// is given up while it runs, it will.
    pub(super) fn has_old_answer(&self, p: usize) -> bool {
        let link = self.peers[p].link.filter(|_| self.profile.doubles);
        link.is_some_and(|l| self.links[l].copies[1].wait_for_ask())
    }
}

impl Link {
    /// Some of the last `len` bytes that were written one way come a second time, later. Returns how many frames come so
    /// now.
    pub(super) fn double(&mut self, way: usize, len: usize, rng: &mut Rng) -> u64 {
        let (pipe, role) = match way {
            0 => (&mut self.up, Role::Client),
            _ => (&mut self.down, Role::Server),
        };
        self.copies[way].double(pipe, role, len, rng)
    }

    /// A client is about to send the first `len` bytes of its room, of which some may be lost. Where it asks again, an old
    /// answer may come. Returns how many do.
    pub(super) fn note_asks(&mut self, len: usize) -> u64 {
        let mut due = Vec::new();
        // Not behind half a frame, of which the server has more to write, or died before it did.
        let is_whole = self.conn.is_some() && !self.unsent;
        for (frame, _) in frames(self.up.room(len), Role::Client) {
            let Frame::Ask(xid, ask) = frame else { continue };
            if is_whole {
                self.copies[1].take(When::Asked(xid), &mut due);
            }
            match self.asks.iter_mut().find(|(of, _)| *of == xid) {
                Some((_, last)) => *last = ask,
                None => self.asks.push((xid, ask)),
            }
        }
        if self.client_open && !self.silent {
            due.iter().for_each(|frame| self.down.push(frame));
        }
        due.len() as u64
    }

    /// A client that takes any `NotSeen` for the answer to its last `Ask`.
    pub(super) fn renumber_not_seen(&mut self) {
        let asks = &self.asks;
        change_frames(&mut self.down, Role::Server, |frame| {
            if let Frame::Reply(ReplyHeader { status: Status::NotSeen { ask }, xid }, _) = frame
                && let Some((_, last)) = asks.iter().find(|(of, _)| of == xid)
            {
                *ask = *last;
            }
        });
    }

    /// A server that takes the bits of an `Ack` for what its client has sent since, too.
    pub(super) fn widen_acks(&mut self) {
        change_frames(&mut self.up, Role::Client, |frame| {
            if let Frame::Ack(ack) = frame {
                ack.last = Xid::MAX;
            }
        });
    }
}

/// Changes the frames on their way, if none of them is half there.
fn change_frames(pipe: &mut Pipe, role: Role, change: impl Fn(&mut Frame<'_>)) {
    if !pipe.arrived().is_empty() {
        return;
    }
    let bytes = pipe.on_the_way_mut().to_vec();
    let mut changed = Vec::with_capacity(bytes.len());
    let mut read = 0;
    for (mut frame, old) in frames(&bytes, role) {
        read += old.len();
        change(&mut frame);
        let mut out = vec![0; old.len() + wire::CONTROL_LEN_MAX];
        let len = wire::encode(&frame, &mut out).unwrap_or(0);
        changed.extend_from_slice(&out[..len]);
    }
    changed.extend_from_slice(&bytes[read..]);
    pipe.lose(bytes.len());
    pipe.push(&changed);
}
