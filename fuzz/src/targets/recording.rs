//! The recorder: its reader and the replay under hostile files, its tap under hostile bytes.

use oncewire_core::wire::{Frame, Hello, MAGIC as HELLO_MAGIC, Role};
use oncewire_recorder::{
    About, EndedBy, Key, MAGIC, Page, Reader, Record, Source, Story, Tap, Transcript, What, Writer,
};

use super::golden::frames;
use super::script::bytes_of;

/// The first byte says what follows: a file behind its magic, or pieces of bytes that pass a tap, each behind its length,
/// from the client and from the server in turn.
///
/// A file is an error or is read; what was read is written and read again to the same. What is recorded of any bytes can be
/// read. Either way the replay ends, and its text and its page are made.
pub fn recording(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    let (about, records) = match mode & 1 {
        0 => match read(&[&MAGIC[..], rest].concat()) {
            Some(recording) => recording,
            None => return,
        },
        _ => tapped(mode, rest),
    };
    let mut writer = Writer::new(Vec::new(), &about).expect("memory takes it");
    for record in &records {
        writer.write(record).expect("memory takes it");
    }
    let file = writer.into_inner();
    assert_eq!(read(&file), Some((about.clone(), records.clone())));
    if let Ok(story) = Story::of(about, &records, &["toy/add_one".to_owned()]) {
        let text = Transcript { story: &story, all: true }.to_string();
        assert!(text.lines().count() > story.steps.len());
        assert!(Page(&story).to_string().ends_with("</html>\n"));
    }
}

fn read(file: &[u8]) -> Option<(About, Vec<Record>)> {
    let mut reader = Reader::new(file).ok()?;
    let mut records = Vec::new();
    while let Ok(Some(record)) = reader.next() {
        records.push(record);
    }
    Some((reader.about().clone(), records))
}

fn tapped(mode: u8, mut rest: &[u8]) -> (About, Vec<Record>) {
    let plain_bodies = mode & 2 != 0;
    let mut tap = Tap::new(Key::from_bytes([mode; 16]), plain_bodies, 1);
    let mut records = vec![record(0, What::Connected { conn: 1, peer: String::new() })];
    let mut from = Role::Client;
    let mut at = 0;
    while let Some((&len, behind)) = rest.split_first() {
        let (piece, behind) = behind.split_at(behind.len().min(usize::from(len)));
        at += 1_000_000;
        tap.push(from, piece, |what| records.push(record(at, what)));
        from = if from == Role::Client { Role::Server } else { Role::Client };
        rest = behind;
    }
    records.push(record(at, tap.disconnected(EndedBy::Network)));
    let (source, what) = (Source::Relay, String::new());
    (About { source, plain_bodies, lossy: mode & 4 != 0, unix_ms: 0, what }, records)
}

fn record(at: u64, what: What) -> Record {
    Record { at, what }
}

/// Every frame of the golden ones through the tap, and the recordings that come of it as files.
pub(super) fn recording_seeds() -> Vec<Vec<u8>> {
    let hello = Hello {
        magic: HELLO_MAGIC,
        version_min: 1,
        version_max: 1,
        features: 7,
        resume: None,
        slots: 8,
        request_len_max: 1000,
        reply_len_max: 1000,
        service: None,
        server: None,
        token: None,
    };
    let mut pieces = piece(&bytes_of(&Frame::Hello(hello)));
    let mut seeds = Vec::new();
    let mut from = Role::Server;
    for (sender, frame) in frames() {
        if *sender != from {
            pieces.push(0);
        }
        pieces.extend(piece(frame));
        from = if *sender == Role::Client { Role::Server } else { Role::Client };
    }
    for mode in [1, 3, 5] {
        let (about, records) = tapped(mode, &pieces);
        let mut writer = Writer::new(Vec::new(), &about).expect("memory takes it");
        records.iter().for_each(|record| writer.write(record).expect("memory takes it"));
        seeds.push([&[0][..], &writer.into_inner()[MAGIC.len()..]].concat());
        seeds.push([&[mode][..], &pieces].concat());
    }
    seeds
}

fn piece(frame: &[u8]) -> Vec<u8> {
    // A frame of more than 255 bytes comes in several pieces, with nothing from the other side between them.
    let pieces: Vec<Vec<u8>> =
        frame.chunks(255).map(|part| [&[part.len() as u8][..], part].concat()).collect();
    pieces.join(&0)
}
