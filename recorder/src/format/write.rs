//! Writing a recording.

use std::io::{self, Write};

use oncewire_core::wire::Role;

use super::{
    About, Body, Delivery, EndedBy, MAGIC, Record, RecordedFrame, Source, TEXT_LEN_MAX, What,
};

/// Writes a recording.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W, about: &About) -> io::Result<Writer<W>> {
        out.write_all(&MAGIC)?;
        let flags = u8::from(about.plain_bodies) | u8::from(about.lossy) << 1;
        let mut fields = vec![source_byte(about.source), flags];
        put_number(&mut fields, about.unix_ms);
        put_text(&mut fields, &about.what);
        let mut writer = Writer { out };
        writer.put(1, &fields)?;
        Ok(writer)
    }

    /// Writes one record.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        let (kind, fields) = encode(record);
        self.put(kind, &fields)
    }

    /// Has everything that was written leave.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// What it wrote to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn put(&mut self, kind: u8, fields: &[u8]) -> io::Result<()> {
        let mut head = vec![kind];
        put_number(&mut head, fields.len() as u64);
        self.out.write_all(&head)?;
        self.out.write_all(fields)
    }
}

fn source_byte(source: Source) -> u8 {
    match source {
        Source::Relay => 0,
        Source::Server => 1,
        Source::Client => 2,
        Source::World => 3,
    }
}

fn encode(record: &Record) -> (u8, Vec<u8>) {
    let mut fields = Vec::new();
    let out = &mut fields;
    if !matches!(record.what, What::Method(..)) {
        put_number(out, record.at);
    }
    let kind = match &record.what {
        What::Method(id, name) => {
            out.extend_from_slice(&id.number().to_le_bytes());
            put_text(out, name);
            2
        }
        What::Connected { conn, peer } => {
            put_number(out, *conn);
            put_text(out, peer);
            3
        }
        What::Frame(frame) => {
            put_frame(out, frame);
            4
        }
        What::Garbage { conn, from, code, len } => {
            put_number(out, *conn);
            out.extend([role_byte(*from), *code]);
            put_number(out, *len);
            5
        }
        What::Disconnected { conn, by, client_rest, server_rest } => {
            put_number(out, *conn);
            out.push(match by {
                EndedBy::Client => 0,
                EndedBy::Server => 1,
                EndedBy::Network => 2,
            });
            put_number(out, *client_rest);
            put_number(out, *server_rest);
            6
        }
        What::Note(text) => {
            put_text(out, text);
            7
        }
        What::Finished { session, xid, status } => {
            out.extend_from_slice(&session.to_bytes());
            put_number(out, xid.get());
            // A status without a byte is a client's own, which no server's call has.
            out.push(status.to_byte().unwrap_or(0x01));
            8
        }
        What::Restarted => 9,
        What::DrainBegan { instance } => {
            out.extend_from_slice(&instance.to_le_bytes());
            10
        }
    };
    (kind, fields)
}

fn put_frame(out: &mut Vec<u8>, frame: &RecordedFrame) {
    put_number(out, frame.conn);
    out.extend([role_byte(frame.from), u8::from(frame.delivery == Delivery::Lost)]);
    put_number(out, frame.under_way);
    put_number(out, frame.head.len() as u64);
    out.extend_from_slice(&frame.head);
    put_number(out, frame.body.len() as u64);
    match &frame.body {
        Body::Plain(bytes) => {
            out.push(0);
            out.extend_from_slice(bytes);
        }
        Body::Derived { hash, .. } => {
            out.push(1);
            out.extend_from_slice(hash);
        }
    }
}

fn role_byte(role: Role) -> u8 {
    match role {
        Role::Client => 0,
        Role::Server => 1,
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut len = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    put_number(out, len as u64);
    out.extend_from_slice(&text.as_bytes()[..len]);
}
