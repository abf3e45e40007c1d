//! The frame decoder: both roles, any limit.

use oncewire_core::wire::{self, Decoded, Frame, Metadata, MetadataWriter, Role};

use super::script::bytes_of;

/// Decodes frame after frame. The first byte says who sent them, the next four the limit for bodies.
///
/// A frame that decodes is encoded and decoded again to the same; requests and replies are encoded to the same bytes.
/// What is incomplete wants more than there is, and no prefix of a frame decodes.
pub fn decode(data: &[u8]) {
    let Some((&[role, a, b, c, d], mut rest)) = data.split_first_chunk() else { return };
    let from = if role & 1 == 0 { Role::Client } else { Role::Server };
    let body_len_max = match role >> 1 {
        0 => u32::from_le_bytes([a, b, c, d]),
        _ => u32::from(a),
    };
    loop {
        match wire::decode(rest, from, body_len_max) {
            Err(error) => {
                assert!((1..=15).contains(&error.code()));
                return;
            }
            Ok(Decoded::Incomplete(wanted)) => {
                assert!(wanted > rest.len(), "{wanted} wanted, {} there", rest.len());
                return;
            }
            Ok(Decoded::Frame(frame, len)) => {
                round_trip(&frame, &rest[..len], from);
                prefixes(&rest[..len], from, body_len_max);
                rest = &rest[len..];
            }
        }
    }
}

/// Encodes a frame and decodes it again.
pub(super) fn round_trip(frame: &Frame<'_>, bytes: &[u8], from: Role) {
    let again = bytes_of(frame);
    let decoded = wire::decode(&again, from, u32::MAX / 2);
    assert_eq!(decoded, Ok(Decoded::Frame(*frame, again.len())), "from {bytes:02x?}");
    assert!(again.len() <= bytes.len(), "{frame:?} became longer");
    if let Frame::Request(..) | Frame::Reply(..) = frame {
        assert_eq!(again, bytes);
    }
    if let Frame::Request(header, body) = frame
        && header.flags & wire::FLAG_METADATA != 0
    {
        metadata(body);
    }
    let front = wire::peek(&again).expect("a frame has a front");
    assert_eq!((front.len, front.from), (again.len(), from));
}

/// A block that is well-formed is written to the same bytes.
fn metadata(body: &[u8]) {
    let Ok((pairs, rest)) = Metadata::split(body) else { return };
    let mut out = [0; wire::METADATA_LEN_MAX];
    let mut writer = MetadataWriter::new(&mut out);
    for (key, value) in pairs.iter() {
        assert_eq!(pairs.get(key), Some(value));
        writer.push(key, value).expect("it was read");
    }
    let len = writer.finish();
    assert_eq!([&out[..len], rest].concat(), body);
}

fn prefixes(bytes: &[u8], from: Role, body_len_max: u32) {
    let near_end = bytes.len().saturating_sub(3);
    for len in (0..bytes.len().min(40)).chain(near_end..bytes.len()) {
        match wire::decode(&bytes[..len], from, body_len_max) {
            Ok(Decoded::Incomplete(wanted)) => assert!(wanted > len && wanted <= bytes.len()),
            other => panic!("a prefix of {len} bytes of a frame gives {other:?}"),
        }
    }
}
