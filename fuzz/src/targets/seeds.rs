//! The first inputs of the corpora: ordinary exchanges, encoded for each target.

use oncewire_core::wire::{FLAG_METADATA, Frame, RequestHeader, Role};
use oncewire_core::{MethodId, Xid};

use super::golden::frames;
use super::script::bytes_of;
use super::typed::Argument;

/// Inputs for a target to begin with.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "client" => CLIENT.iter().map(|script| script.concat()).collect(),
        "decode" => {
            let head = |from| [u8::from(from == Role::Server), 0xe8, 3, 0, 0];
            let requests = METADATA.iter().map(|data| (Role::Client, request(data)));
            let all = frames().iter().cloned().chain(requests);
            all.map(|(from, frame)| [&head(from)[..], &frame].concat()).collect()
        }
        "golden" => (0..frames().len() as u8).map(|at| vec![at, 0x80, 5, 1]).collect(),
        "handshake" => vec![
            [&[0, 0][..], &[0; 40]].concat(),
            [&[0, 1][..], &[1, 2, 0, 0, 0, 0, 0, 1, 1, 0, 4, 100, 100, 3, 1, 0, 3]].concat(),
            [&[1, 3, 1, 0][..], &[0, 3, 1, 0, 2, 1, 0, 3, 9, 0, 2, 9, 9, 9, 9, 0, 3]].concat(),
            [&[1, 3, 1, 1][..], &[6, 2, 0, 0, 1]].concat(),
            // With tokens: whose is known, and one that is not.
            [&[0, 2, 1][..], &[0, 8, 0, 0, 1, 1, 4, 100, 100, 3, 1, 2, 0, 2]].concat(),
            [&[0, 2, 0][..], &[0, 8, 3, 0, 1, 1, 4, 100, 100, 3, 1, 2, 0, 2]].concat(),
            [&[1, 3, 1, 1, 1][..], &[6, 10, 0, 0, 1]].concat(),
        ],
        "json" => super::json::json_seeds(),
        "pair" => (0..16u64)
            .map(|seed| [(seed << 57 | seed).to_le_bytes(), [seed as u8 * 13; 8]].concat())
            .collect(),
        "recording" => super::recording::recording_seeds(),
        "server" => SERVER.iter().map(|script| script.concat()).collect(),
        "typed" => typed(),
        _ => Vec::new(),
    }
}

/// Blocks of metadata, most of them broken: two pairs; too long; cut off; a key that is empty, twice or not UTF-8; a text
/// that is not UTF-8; a number of one byte; an unknown kind.
const METADATA: &[&[u8]] = &[
    &[18, 0, 1, b'a', 2, 8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, b'b', 1, 0, 0, 9],
    &[0xff, 0xff, 1],
    &[4, 0, 1, b'a', 1],
    &[4, 0, 0, 0, 0, 0],
    &[10, 0, 1, b'a', 0, 0, 0, 1, b'a', 0, 0, 0],
    &[5, 0, 1, 0xff, 0, 0, 0],
    &[6, 0, 1, b'a', 1, 1, 0, 0xff],
    &[6, 0, 1, b'a', 2, 1, 0, 7],
    &[5, 0, 1, b'a', 9, 0, 0],
];

/// A request with such a block.
fn request(data: &[u8]) -> Vec<u8> {
    let header = RequestHeader {
        flags: FLAG_METADATA,
        method: MethodId::of("toy/add_one"),
        remaining_ms: 30_000,
        xid: Xid::new(1).expect("1 is one"),
        acked: 0,
    };
    bytes_of(&Frame::Request(header, data))
}

const CONNECTED: &[u8] = &[7, 0, 10, 0, 0, 0];
const CALL: &[u8] = &[0, 0, 5, 0];
const ANSWER: &[u8] = &[12, 0, 0, 9, 0];
const BROKEN: &[u8] = &[8, 0, 7, 0, 10, 1, 1, 0];

/// A call and its reply; a break, a resume and the reply; a give-up; a cancel; a close; a lost session.
const CLIENT: &[&[&[u8]]] = &[
    &[&[3, 0, 0], CONNECTED, CALL, ANSWER],
    &[&[3, 0, 0], CONNECTED, CALL, CALL, BROKEN, ANSWER, ANSWER],
    &[&[3, 0, 0], CONNECTED, &[0, 8, 5, 1, 0], &[6, 200, 0], ANSWER],
    &[&[3, 0, 0], CONNECTED, CALL, &[4, 0, 0], &[12, 5, 0, 0]],
    &[&[3, 0, 0], CONNECTED, CALL, &[15, 7, 0], ANSWER, &[8, 0]],
    &[&[3, 0, 0], CONNECTED, CALL, &[0, 1, 5, 0], &[15, 3, 0], CONNECTED, ANSWER],
    &[&[3, 1, 0, 99, 0], CONNECTED, CALL, &[6, 100, 0], &[6, 250, 0], ANSWER],
];

const OPEN: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0, 0];
const REQUEST: &[u8] = &[6, 0, 1, 0, 0, 0];
const SECOND: &[u8] = &[6, 16, 2, 1, 0, 0];
const HANDLE: &[u8] = &[10, 40, 0, 10, 40, 0, 0];

/// A call; two; a break and a resume with an `Ask`; an `Ack`; a cancel and a `Goodbye`; a lease.
const SERVER: &[&[&[u8]]] = &[
    &[&[3, 0], OPEN, REQUEST, HANDLE],
    &[&[3, 0], OPEN, REQUEST, HANDLE, SECOND, HANDLE, &[14, 2, 2, 0, 0, 0, 0]],
    &[&[3, 0], OPEN, REQUEST, &[1, 0], &[0, 0, 1, 4, 1, 0, 0, 0, 0], &[14, 0, 1, 0, 0], HANDLE],
    &[&[3, 0], OPEN, REQUEST, &[14, 1, 1, 0], HANDLE, &[14, 4, 0, 0]],
    &[&[3, 0], OPEN, REQUEST, HANDLE, &[1, 0], &[2, 254, 9]],
    &[&[3, 7], OPEN, REQUEST, REQUEST, HANDLE, &[13, 255, 0]],
];

fn typed() -> Vec<Vec<u8>> {
    let all = [
        Argument::Unit,
        Argument::Numbers(1, -2, 3, -4, 5, true, 'ö'),
        Argument::Floats(1, 2),
        Argument::Text("text".into(), vec![1, 2, 3]),
        Argument::Tree(vec![Argument::Tree(vec![Argument::Unit]), Argument::Unit]),
        Argument::Table { entries: [("a".into(), Some(1))].into(), result: Err("no".into()) },
    ];
    let encode = |value: &Argument| postcard::to_stdvec(value).unwrap_or_default();
    let mut seeds: Vec<_> = all.iter().map(|value| [&[0][..], &encode(value)].concat()).collect();
    // Nesting that overflows a stack, in sequences and in boxes; more elements of no size than anything has time for, and
    // many that need more memory than they have bytes; a value with something behind it.
    seeds.push([&[0][..], &[4, 1].repeat(10_000), &[0]].concat());
    seeds.push([&[6][..], &[0, 1].repeat(10_000)].concat());
    seeds.push([&[7][..], &[0xff; 8], &[0x7f]].concat());
    seeds.push([&[8, 1, 0, 0xa0, 0x9c, 1][..], &[0; 20_000]].concat());
    seeds.push(vec![1, 1, 2, 3]);
    seeds
}
