//! Every vector decodes, encodes or is refused as it says, and there is one for everything that the wire has.

use std::collections::BTreeSet;

use oncewire_core::wire::{self, Decoded, Frame, FrameInfo, Refuse, ReplyHeader, Role};
use oncewire_core::*;

use crate::record::*;

/// The limit for decoding `frames.txt`.
const BODY_LEN_MAX: u32 = 1000;

/// Kinds of frames, as numbers without a gap. A new variant does not compile here until it has one.
fn kind_number(frame: &Frame<'_>) -> usize {
    match frame {
        Frame::Hello(_) => 0,
        Frame::Welcome(_) => 1,
        Frame::Refuse(..) => 2,
        Frame::Request(..) => 3,
        Frame::Reply(..) => 4,
        Frame::Ask(..) => 5,
        Frame::Ack(_) => 6,
        Frame::Cancel(_) => 7,
        Frame::Ping(Role::Client) => 8,
        Frame::Ping(Role::Server) => 9,
        Frame::Pong(Role::Client) => 10,
        Frame::Pong(Role::Server) => 11,
        Frame::Goodbye(Role::Client) => 12,
        Frame::Goodbye(Role::Server) => 13,
    }
}
const KINDS: usize = 14;

/// The same for refusals; these are also their numbers on the wire (W22).
fn refuse_number(refuse: &Refuse) -> usize {
    match refuse {
        Refuse::Protocol(_) => 0,
        Refuse::VersionUnsupported { .. } => 1,
        Refuse::SessionUnknown => 2,
        Refuse::WrongPrincipal => 3,
        Refuse::SessionsFull => 4,
        Refuse::PrincipalFull => 5,
        Refuse::WrongServer { .. } => 6,
        Refuse::ShuttingDown => 7,
        Refuse::Superseded => 8,
        Refuse::TooSlow => 9,
        Refuse::TokenMissing => 10,
        Refuse::TokenUnknown => 11,
    }
}
const REFUSALS: usize = 12;

fn assert_all_occur(what: &str, count: usize, found: &BTreeSet<usize>) {
    let missing: Vec<usize> = (0..count).filter(|number| !found.contains(number)).collect();
    assert!(missing.is_empty(), "frames.txt: no vector for {what} {missing:?}");
}

#[test]
fn every_valid_frame_decodes_to_its_fields_and_its_fields_encode_to_it() {
    for record in records("frames.txt") {
        let name = record.name();
        let bytes = record.bytes("hex");
        let body = if record.has("body") { record.bytes("body") } else { Vec::new() };
        let expected = described(&record, &body);
        let from = record.role();
        let decoded = wire::decode(&bytes, from, BODY_LEN_MAX);
        assert_eq!(decoded, Ok(Decoded::Frame(expected, bytes.len())), "{name}");
        if !record.has("decode_only") {
            assert_eq!(hex(&encode(&expected)), hex(&bytes), "{name}");
        }
        assert_eq!(wire::peek(&bytes), Some(FrameInfo { len: bytes.len(), from }), "{name}");
        for end in 0..bytes.len() {
            let needed = if end < wire::LEN_FIELD_LEN { wire::LEN_FIELD_LEN } else { bytes.len() };
            let cut = wire::decode(&bytes[..end], from, BODY_LEN_MAX);
            assert_eq!(cut, Ok(Decoded::Incomplete(needed)), "{name}, the first {end} bytes");
        }
    }
}

#[test]
fn every_invalid_frame_is_refused_with_its_code_without_waiting_for_more() {
    for record in records("invalid.txt") {
        let bytes = record.bytes("hex");
        let limit = record.number("body_len_max");
        let error = wire::decode(&bytes, record.role(), limit).expect_err(&record.name());
        assert_eq!(error.code(), record.number::<u8>("error"), "{}", record.name());
        let words = format!("{error:?}");
        let words = words.split([' ', '(']).next();
        assert_eq!(words, Some(record.text("error_name")), "{}", record.name());
    }
}

#[test]
fn every_kind_status_refusal_and_code_has_a_vector() {
    let (mut kinds, mut refusals) = (BTreeSet::new(), BTreeSet::new());
    let (mut statuses, mut codes) = (BTreeSet::new(), BTreeSet::new());
    for record in records("frames.txt") {
        let body = if record.has("body") { record.bytes("body") } else { Vec::new() };
        let frame = described(&record, &body);
        kinds.insert(kind_number(&frame));
        match frame {
            Frame::Reply(header, _) => {
                statuses.extend(header.status.to_byte().map(usize::from));
            }
            Frame::Refuse(refuse, _) => {
                refusals.insert(refuse_number(&refuse));
                let number = encode(&frame)[wire::LEN_FIELD_LEN + 1];
                assert_eq!(usize::from(number), refuse_number(&refuse));
                if let Refuse::Protocol(code) = refuse {
                    codes.insert(usize::from(code));
                }
            }
            _ => {}
        }
    }
    assert_all_occur("frame", KINDS, &kinds);
    assert_all_occur("refusal", REFUSALS, &refusals);
    let known = (0..=u8::MAX).filter(|byte| Status::from_byte(*byte).is_some()).map(usize::from);
    assert_eq!(statuses, known.collect(), "frames.txt: the statuses");
    let last = ProtocolError::AlreadySettled { xid: 1 }.code();
    assert_all_occur("protocol error", usize::from(last) + 1, &{
        codes.insert(0);
        codes
    });
}

#[test]
fn reasons_that_only_a_client_gives_have_no_byte() {
    for why in [
        NotExecuted::RequestTooLarge,
        NotExecuted::Disconnected,
        NotExecuted::NeverConnected,
        NotExecuted::SessionRefused,
        NotExecuted::Closed,
        NotExecuted::MetadataUnsupported,
        NotExecuted::NotBegun(NotBegun::Closed),
    ] {
        let header = ReplyHeader { status: Status::Refused(why), xid: Xid::new(1).unwrap() };
        assert_eq!(wire::encode(&Frame::Reply(header, b""), &mut [0; 64]), None, "{why:?}");
    }
    assert_eq!(Status::NoReply(NoReply::Undecodable).to_byte(), None);
    assert_eq!(Status::NoReply(NoReply::AlreadyGiven).to_byte(), None);
}

#[test]
fn no_control_frame_is_longer_than_its_limit() {
    for record in records("frames.txt") {
        if !["Request", "Reply"].contains(&record.text("frame")) {
            let frame = described(&record, b"");
            assert!(encode(&frame).len() <= wire::CONTROL_LEN_MAX, "{}", record.name());
        }
    }
}

#[test]
fn digests_and_method_numbers_are_as_in_their_vectors() {
    for record in records("digests.txt") {
        let method = MethodId::from_number(record.number("method"));
        let found = digest(method, record.number("flags"), &record.bytes("body"));
        assert_eq!(format!("{found:016x}"), record.text("digest"), "{}", record.name());
    }
    for record in records("methods.txt") {
        let found = MethodId::of(record.quoted("name")).number();
        assert_eq!(format!("{found:016x}"), record.text("method"), "{}", record.name());
    }
}
