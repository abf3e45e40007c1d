//! The golden vectors' frames, mutated.

use std::sync::OnceLock;

use oncewire_core::wire::{self, Decoded, Role};

use super::decode::round_trip;
use super::script::Script;

const VECTORS: &str = include_str!("../../../core/tests/vectors/frames.txt");

/// The frames of `core/tests/vectors/frames.txt`, and who sends them.
pub(super) fn frames() -> &'static [(Role, Vec<u8>)] {
    static FRAMES: OnceLock<Vec<(Role, Vec<u8>)>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let mut from = Role::Client;
        let mut all = Vec::new();
        for (key, value) in VECTORS.lines().filter_map(|line| line.split_once(" = ")) {
            match key {
                "from" if value == "server" => from = Role::Server,
                "from" => from = Role::Client,
                "hex" => all.push((from, bytes(value))),
                _ => {}
            }
        }
        all
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.chars().filter_map(|digit| digit.to_digit(16)).collect::<Vec<_>>();
    digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// Changes a few bytes of a golden frame, its length too, and decodes it: what decodes is encoded and decoded again.
pub fn golden(data: &[u8]) {
    let mut script = Script::new(data);
    let (from, golden) = &frames()[usize::from(script.byte()) % frames().len()];
    let mut frame = golden.clone();
    while !script.is_over() {
        let (what, at) = (script.byte(), usize::from(script.byte()));
        let at = at % frame.len().max(1);
        match what % 4 {
            0 => frame[at] ^= script.byte(),
            1 => frame[at] = script.byte(),
            2 => frame.insert(at, script.byte()),
            _ if frame.len() > 5 => drop(frame.remove(at)),
            _ => {}
        }
        if what & 0x80 != 0 {
            // The length is right again.
            let len = (frame.len() as u32 - 4).to_le_bytes();
            frame[..4].copy_from_slice(&len);
        }
    }
    if let Ok(Decoded::Frame(decoded, len)) = wire::decode(&frame, *from, 1_000) {
        round_trip(&decoded, &frame[..len], *from);
    }
}
