//! Reading a recording, within bounds.

use std::io::{self, Read};

use oncewire_core::wire::Role;
use oncewire_core::{MethodId, SessionId, Status, Xid};

use super::{
    About, BODY_LEN_MAX, Body, Delivery, EndedBy, MAGIC, RECORD_LEN_MAX, Record, RecordedFrame,
    Source, TEXT_LEN_MAX, What,
};
use crate::error::ReadError;

/// Reads a recording, record by record, in memory for one of them.
#[derive(Debug)]
pub struct Reader<R: Read> {
    input: R,
    about: About,
    /// The recording ends in the middle of a record: its writer was killed.
    is_cut: bool,
}

impl<R: Read> Reader<R> {
    /// Begins to read: best from a [`BufReader`](io::BufReader).
    ///
    /// # Errors
    /// It is no recording, or one of another version, or cannot be read.
    pub fn new(mut input: R) -> Result<Reader<R>, ReadError> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::NoRecording,
            _ => ReadError::Io(error),
        })?;
        if magic[..7] != MAGIC[..7] {
            return Err(ReadError::NoRecording);
        }
        if magic[7] != MAGIC[7] {
            return Err(ReadError::Version(magic[7]));
        }
        let (what, source) = (String::new(), Source::Relay);
        let about = About { source, plain_bodies: false, lossy: false, unix_ms: 0, what };
        let mut reader = Reader { input, about, is_cut: false };
        let Some((1, fields)) = reader.raw()? else { return Err(ReadError::NoRecording) };
        let mut fields = Fields(&fields);
        reader.about = fields.about().ok_or(ReadError::Malformed { kind: 1 })?;
        Ok(reader)
    }

    /// What the recording says of itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Whether the recording ended in the middle of a record, once [`next`](Reader::next) has returned `None`.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// What is wrong with the record, or with reading it.
    #[expect(clippy::should_implement_trait, reason = "an error is the end of it")]
    pub fn next(&mut self) -> Result<Option<Record>, ReadError> {
        while let Some((kind, fields)) = self.raw()? {
            if (2..=10).contains(&kind) {
                let record = Fields(&fields).record(kind);
                return record.map(Some).ok_or(ReadError::Malformed { kind });
            }
        }
        Ok(None)
    }

    fn raw(&mut self) -> Result<Option<(u8, Vec<u8>)>, ReadError> {
        let Some(kind) = self.byte()? else { return Ok(None) };
        let (mut len, mut shift) = (0_u64, 0);
        loop {
            let Some(byte) = self.byte()? else {
                self.is_cut = true;
                return Ok(None);
            };
            len |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 28 {
                return Err(ReadError::TooLong { kind });
            }
        }
        if len > RECORD_LEN_MAX {
            return Err(ReadError::TooLong { kind });
        }
        // What is announced and does not come takes no memory.
        let mut fields = Vec::new();
        (&mut self.input).take(len).read_to_end(&mut fields).map_err(ReadError::Io)?;
        if (fields.len() as u64) < len {
            self.is_cut = true;
            return Ok(None);
        }
        Ok(Some((kind, fields)))
    }

    fn byte(&mut self) -> Result<Option<u8>, ReadError> {
        let mut byte = [0];
        loop {
            match self.input.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(byte[0])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
    }
}

/// The fields of one record, as far as they were not read.
struct Fields<'d>(&'d [u8]);

impl<'d> Fields<'d> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
            shift += 7;
            if shift > 63 {
                return None;
            }
        }
    }

    fn take(&mut self, len: usize) -> Option<&'d [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn counted(&mut self) -> Option<&'d [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<String> {
        let text = self.counted()?;
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        String::from_utf8(text.to_vec()).ok()
    }

    fn role(&mut self) -> Option<Role> {
        match self.byte()? {
            0 => Some(Role::Client),
            1 => Some(Role::Server),
            _ => None,
        }
    }

    fn about(&mut self) -> Option<About> {
        let source = match self.byte()? {
            0 => Source::Relay,
            1 => Source::Server,
            2 => Source::Client,
            3 => Source::World,
            _ => return None,
        };
        let flags = self.byte()?;
        let (plain_bodies, lossy) = (flags & 1 != 0, flags & 2 != 0);
        Some(About { source, plain_bodies, lossy, unix_ms: self.number()?, what: self.text()? })
    }

    fn record(&mut self, kind: u8) -> Option<Record> {
        if kind == 2 {
            let number = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
            let what = What::Method(MethodId::from_number(number), self.text()?);
            return Some(Record { at: 0, what });
        }
        let at = self.number()?;
        let what = match kind {
            3 => What::Connected { conn: self.number()?, peer: self.text()? },
            4 => What::Frame(self.frame()?),
            5 => What::Garbage {
                conn: self.number()?,
                from: self.role()?,
                code: self.byte()?,
                len: self.number()?,
            },
            6 => What::Disconnected {
                conn: self.number()?,
                by: match self.byte()? {
                    0 => EndedBy::Client,
                    1 => EndedBy::Server,
                    2 => EndedBy::Network,
                    _ => return None,
                },
                client_rest: self.number()?,
                server_rest: self.number()?,
            },
            7 => What::Note(self.text()?),
            9 => What::Restarted,
            10 => What::DrainBegan { instance: u64::from_le_bytes(self.take(8)?.try_into().ok()?) },
            _ => What::Finished {
                session: SessionId::from_bytes(self.take(16)?.try_into().ok()?),
                xid: Xid::new(self.number()?)?,
                status: Status::from_byte(self.byte()?)?,
            },
        };
        Some(Record { at, what })
    }

    fn frame(&mut self) -> Option<RecordedFrame> {
        let (conn, from) = (self.number()?, self.role()?);
        let delivery = match self.byte()? {
            0 => Delivery::Arrived,
            1 => Delivery::Lost,
            _ => return None,
        };
        let under_way = self.number()?;
        let head = self.counted()?.to_vec();
        let len = u32::try_from(self.number()?).ok().filter(|len| *len <= BODY_LEN_MAX)?;
        let body = match self.byte()? {
            0 => Body::Plain(self.take(len as usize)?.to_vec()),
            1 => Body::Derived { hash: self.take(16)?.try_into().ok()?, len },
            _ => return None,
        };
        let frame = RecordedFrame { conn, from, delivery, under_way, head, body };
        frame.is_sound().then_some(frame)
    }
}
