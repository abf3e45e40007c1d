//! The bodies of requests and replies: an operation's number, and a pattern that shows every changed byte. Some requests have
//! metadata too, which also follows from the operation's number.

use oncewire_core::wire::{FLAG_METADATA, Metadata, MetadataValue, MetadataWriter};

/// Bytes of the number at the front of a request.
pub const REQUEST_HEAD: usize = 8;
/// Bytes at the front of a reply: the operation's number and the execution's.
pub const REPLY_HEAD: usize = 16;
/// The longest pad.
pub const PAD_MAX: usize = 4096;

static PAD: [u8; PAD_MAX + 256] = pad();

const fn pad() -> [u8; PAD_MAX + 256] {
    let mut out = [0; PAD_MAX + 256];
    let mut at = 0;
    while at < out.len() {
        out[at] = (crate::rng::mix(at as u64) >> 56) as u8;
        at += 1;
    }
    out
}

fn pad_of(op: u32, len: usize) -> &'static [u8] {
    let from = op as usize % 251;
    &PAD[from..from + len.min(PAD_MAX)]
}

/// Writes the request of an operation, with a pad of `pad` bytes, and returns its length.
#[inline]
pub fn write_request(op: u32, pad: usize, out: &mut [u8]) -> usize {
    out[..8].copy_from_slice(&u64::from(op).to_le_bytes());
    out[8..8 + pad].copy_from_slice(pad_of(op, pad));
    REQUEST_HEAD + pad
}

/// Whether the request of an operation carries metadata.
#[inline]
pub fn has_metadata(op: u32) -> bool {
    op % 4 == 1
}

fn metadata_of(op: u32) -> [(&'static str, MetadataValue<'static>); 2] {
    let pad = MetadataValue::Bytes(pad_of(op, op as usize % 200));
    [("op", MetadataValue::Number(op.into())), ("pad", pad)]
}

/// The same with the operation's metadata before it, if it has any. Returns whether it has.
#[inline]
pub fn write_call(op: u32, pad: usize, out: &mut [u8]) -> (usize, bool) {
    if !has_metadata(op) {
        return (write_request(op, pad, out), false);
    }
    let mut writer = MetadataWriter::new(out);
    for (key, value) in metadata_of(op) {
        writer.push(key, value).expect("it is within the limits");
    }
    let block = writer.finish();
    (block + write_request(op, pad, &mut out[block..]), true)
}

/// Whether this is the metadata of an operation, as it was written.
#[inline]
pub fn is_metadata_of(op: u32, metadata: Metadata<'_>) -> bool {
    match has_metadata(op) {
        true => metadata.iter().eq(metadata_of(op)),
        false => metadata.is_empty(),
    }
}

/// What follows the metadata of a request with these flags.
pub fn arguments(flags: u8, body: &[u8]) -> &[u8] {
    match flags & FLAG_METADATA {
        0 => body,
        _ => Metadata::split(body).map_or(&[], |(_, arguments)| arguments),
    }
}

/// Writes the reply that the execution `run` of an operation gives, and returns its length.
#[inline]
pub fn write_reply(op: u32, run: u32, pad: usize, out: &mut [u8]) -> usize {
    out[..8].copy_from_slice(&u64::from(op).to_le_bytes());
    out[8..16].copy_from_slice(&u64::from(run).to_le_bytes());
    out[16..16 + pad].copy_from_slice(pad_of(op, pad));
    REPLY_HEAD + pad
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 8)?;
    u32::try_from(u64::from_le_bytes(field.try_into().ok()?)).ok()
}

/// The operation that a request or a reply names, whatever follows.
pub fn op_of(body: &[u8]) -> Option<u32> {
    number(body, 0)
}

/// The operation whose request this is; `None` if any byte is not as it was written.
#[inline]
pub fn read_request(body: &[u8]) -> Option<u32> {
    let op = number(body, 0)?;
    (body[REQUEST_HEAD..] == *pad_of(op, body.len() - REQUEST_HEAD)).then_some(op)
}

/// The operation and the execution whose reply this is; `None` if any byte is not as it was written.
#[inline]
pub fn read_reply(body: &[u8]) -> Option<(u32, u32)> {
    let (op, run) = (number(body, 0)?, number(body, 8)?);
    (body[REPLY_HEAD..] == *pad_of(op, body.len() - REPLY_HEAD)).then_some((op, run))
}
