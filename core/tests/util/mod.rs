//! Two machines, the bytes between them, and the time: everything a test needs to hold a dialogue.
//!
//! A [`Pair`] is one server and any number of clients. Each connection is a [`Link`] of two byte queues that a test
//! can hold back, cut at any byte, or deliver byte by byte; an old link's bytes stay readable. Time does not pass until
//! [`Pair::advance`]. Either end of a link can be played by the test itself, frame by frame.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | methods, numbers, chance |
//! | `outcomes.rs` | outcomes and frames in a form that a test compares, and frames by hand |
//! | `pair.rs` | what a [`Pair`] is made of; connections, cuts, restarts |
//! | `durable.rs` | a durable client's disk, and its death |
//! | `dialogue.rs` | calls, handlers, and frames that the test plays |
//! | `delivery.rs` | time, and how bytes move |
//! | `bare.rs` | a server alone, whose clients are played frame by frame |

#![allow(dead_code, unreachable_pub)]

pub mod bare;
mod delivery;
mod dialogue;
pub mod durable;
mod outcomes;
mod pair;

use std::time::Duration;

use oncewire_core::*;
pub use outcomes::*;
pub use pair::*;

/// Answers with its arguments.
pub const ECHO: MethodId = MethodId::of("test/echo");
/// The same, declared idempotent.
pub const IDEM: MethodId = MethodId::of("test/idem");
/// Replies of up to 1 MiB.
pub const BIG: MethodId = MethodId::of("test/big");
/// Not offered.
pub const ABSENT: MethodId = MethodId::of("test/absent");

pub const ALICE: Principal = Principal(1);
pub const BOB: Principal = Principal(2);

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn xid(number: u64) -> Xid {
    Xid::new(number).unwrap()
}

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// What the echo methods answer.
pub fn echo(body: &[u8]) -> Vec<u8> {
    [b"re:", body].concat()
}

/// A body that is sent behind its length, as the server gets it.
pub fn behind_len(body: &[u8]) -> Vec<u8> {
    let (mut bytes, mut left) = (Vec::new(), body.len());
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes.extend(body);
    bytes
}

/// A small generator whose whole state is its seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
