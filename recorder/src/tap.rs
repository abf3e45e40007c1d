//! From the bytes of a connection to what is recorded of them: frames are cut out, and secrets replaced.

use oncewire_core::wire::{
    self, CONTROL_LEN_MAX, Decoded, FEATURE_TOKEN, FLAG_METADATA, Frame, LEN_FIELD_LEN,
    METADATA_LEN_MAX, REPLY_HEADER_LEN, REQUEST_HEADER_LEN, Role,
};
use oncewire_core::{ProtocolError, SessionId, SessionTag};

use crate::format::{
    BODY_LEN_MAX, Body, Delivery, EndedBy, PLAIN_BODY_LEN_MAX, RecordedFrame, What,
};
use crate::hide::{Key, PERMUTED_LEN_MAX};
use crate::siphash::SipHash;

/// One connection: give it the bytes of both directions, in whatever pieces they come, and record what it returns.
///
/// It holds a little more than a kilobyte of them, and a body of at most 1 MiB where bodies are recorded as they are.
#[derive(Debug)]
pub struct Tap {
    key: Key,
    plain_bodies: bool,
    conn: u64,
    client: Direction,
    server: Direction,
    /// The short name of the session that was opened or resumed, and its pseudonym.
    session: Option<(SessionTag, SessionId)>,
}

#[derive(Debug)]
struct Direction {
    from: Role,
    stage: Stage,
    /// That of a `Welcome` that has just passed.
    session: Option<(SessionTag, SessionId)>,
}

enum Stage {
    /// The front of a frame.
    Head(Vec<u8>),
    Body(BodyStage),
    /// No frames come any more.
    Garbage(u8),
}

/// What is held of a frame may be a secret.
impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Head(head) => write!(f, "the first {} bytes of a frame", head.len()),
            Stage::Body(body) => body.fmt(f),
            Stage::Garbage(code) => write!(f, "no frames: error {code}"),
        }
    }
}

struct BodyStage {
    head: Vec<u8>,
    len: usize,
    /// Bytes of it that are still to come.
    left: usize,
    /// The bytes, as far as they are kept.
    bytes: Vec<u8>,
    hash: SipHash,
}

impl std::fmt::Debug for BodyStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.len - self.left, self.len)
    }
}

impl Tap {
    /// For the connection with this number. `plain_bodies` says whether bodies and metadata are recorded as they are;
    /// session ids never are.
    pub fn new(key: Key, plain_bodies: bool, conn: u64) -> Tap {
        let direction = |from| Direction { from, stage: Stage::Head(Vec::new()), session: None };
        let (client, server) = (direction(Role::Client), direction(Role::Server));
        Tap { key, plain_bodies, conn, client, server, session: None }
    }

    /// Bytes have passed; `what` gets what the recording holds of them.
    pub fn push(&mut self, from: Role, mut data: &[u8], mut what: impl FnMut(What)) {
        while !data.is_empty() {
            let direction = match from {
                Role::Client => &mut self.client,
                Role::Server => &mut self.server,
            };
            let (taken, item) = direction.take(data, &self.key, self.plain_bodies, self.conn);
            self.session = direction.session.take().or(self.session);
            data = &data[taken..];
            if let Some(item) = item {
                what(item);
            }
        }
    }

    /// What observers call the session of this connection, and what the recording calls it.
    pub(crate) fn session(&self) -> Option<(SessionTag, SessionId)> {
        self.session
    }

    /// Bytes of one direction were left out: the next one is the first of a frame.
    pub(crate) fn restart(&mut self, from: Role) {
        match from {
            Role::Client => self.client.stage = Stage::Head(Vec::new()),
            Role::Server => self.server.stage = Stage::Head(Vec::new()),
        }
    }

    /// The connection is gone.
    pub fn disconnected(&self, by: EndedBy) -> What {
        let (client_rest, server_rest) = (self.client.rest(), self.server.rest());
        What::Disconnected { conn: self.conn, by, client_rest, server_rest }
    }
}

impl Direction {
    fn rest(&self) -> u64 {
        match &self.stage {
            Stage::Head(head) => head.len() as u64,
            Stage::Body(body) => (body.head.len() + body.len - body.left) as u64,
            Stage::Garbage(_) => 0,
        }
    }

    /// Takes something from the front of `data`, which is not empty.
    fn take(&mut self, data: &[u8], key: &Key, plain: bool, conn: u64) -> (usize, Option<What>) {
        match &mut self.stage {
            Stage::Head(head) => {
                let wanted = match head_len(head, self.from) {
                    Ok(wanted) => wanted,
                    Err(error) => {
                        let held = head.len();
                        return self.garbage(error, held, data, conn);
                    }
                };
                let taken = data.len().min(wanted - head.len());
                head.extend_from_slice(&data[..taken]);
                let item = self.head_grown(key, plain, conn);
                (taken, item)
            }
            Stage::Body(body) => {
                let taken = data.len().min(body.left);
                body.put(&data[..taken], plain);
                if body.left > 0 {
                    return (taken, None);
                }
                let frame = body.finish(key, plain);
                self.stage = Stage::Head(Vec::new());
                (taken, Some(self.frame(conn, frame)))
            }
            Stage::Garbage(code) => {
                let len = data.len() as u64;
                (data.len(), Some(What::Garbage { conn, from: self.from, code: *code, len }))
            }
        }
    }

    /// More of a head has come; if it is all there, the body follows, or the frame is whole.
    fn head_grown(&mut self, key: &Key, plain: bool, conn: u64) -> Option<What> {
        let from = self.from;
        let Stage::Head(head) = &mut self.stage else { return None };
        let wanted = match head_len(head, from) {
            Ok(wanted) => wanted,
            Err(error) => {
                let held = head.len();
                return self.garbage(error, held, &[], conn).1;
            }
        };
        if head.len() < wanted {
            return None;
        }
        let body_len = whole_len(head).saturating_sub(head.len());
        let mut head = std::mem::take(head);
        if let Err(error) = check_head(&head, body_len, from) {
            return self.garbage(error, head.len(), &[], conn).1;
        }
        if !has_body(&head, from) {
            self.stage = Stage::Head(Vec::new());
            if let Ok(Decoded::Frame(Frame::Welcome(welcome), _)) =
                wire::decode(&head, from, BODY_LEN_MAX)
            {
                self.session = Some((welcome.session.tag(), key.session(welcome.session)));
            }
            let head = rewrite(&head, from, key);
            return Some(self.frame(conn, (head, Body::EMPTY)));
        }
        if !plain {
            hide_metadata(&mut head, from, key);
        }
        let body = BodyStage {
            head,
            len: body_len,
            left: body_len,
            bytes: Vec::new(),
            hash: key.body_hash(),
        };
        if body_len > 0 {
            self.stage = Stage::Body(body);
            return None;
        }
        self.stage = Stage::Head(Vec::new());
        Some(self.frame(conn, (body.head, Body::EMPTY)))
    }

    fn garbage(
        &mut self,
        error: ProtocolError,
        held: usize,
        data: &[u8],
        conn: u64,
    ) -> (usize, Option<What>) {
        let code = error.code();
        self.stage = Stage::Garbage(code);
        let len = (held + data.len()) as u64;
        (data.len(), Some(What::Garbage { conn, from: self.from, code, len }))
    }

    fn frame(&self, conn: u64, (head, body): (Vec<u8>, Body)) -> What {
        let (from, delivery) = (self.from, Delivery::Arrived);
        What::Frame(RecordedFrame { conn, from, delivery, under_way: 0, head, body })
    }
}

impl BodyStage {
    fn is_kept(&self, plain: bool) -> bool {
        self.len <= PERMUTED_LEN_MAX || plain && self.len <= PLAIN_BODY_LEN_MAX
    }

    fn put(&mut self, data: &[u8], plain: bool) {
        self.left -= data.len();
        if self.is_kept(plain) {
            self.bytes.extend_from_slice(data);
        } else {
            self.hash.write(data);
        }
    }

    fn finish(&mut self, key: &Key, plain: bool) -> (Vec<u8>, Body) {
        let head = std::mem::take(&mut self.head);
        let body = if self.is_kept(plain) {
            let mut bytes = std::mem::take(&mut self.bytes);
            if !plain {
                key.permute(&mut bytes);
            }
            Body::Plain(bytes)
        } else {
            Body::Derived { hash: self.hash.clone().finish(), len: self.len as u32 }
        };
        (head, body)
    }
}

/// Bytes of the frame whose length field is in `head`.
fn whole_len(head: &[u8]) -> usize {
    head.first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize + LEN_FIELD_LEN)
}

fn has_body(head: &[u8], from: Role) -> bool {
    matches!(
        (head.get(LEN_FIELD_LEN), from),
        (Some(0x02), Role::Client) | (Some(0x42), Role::Server)
    )
}

/// How many bytes the head has, as far as those that are there tell.
fn head_len(head: &[u8], from: Role) -> Result<usize, ProtocolError> {
    if head.len() <= LEN_FIELD_LEN {
        return Ok(LEN_FIELD_LEN + 1);
    }
    // A frame without even a kind is an error as soon as its length is there.
    wire::decode(&head[..LEN_FIELD_LEN + 1], from, BODY_LEN_MAX)?;
    let whole = whole_len(head);
    let wanted = match (has_body(head, from), from) {
        (false, _) => return Ok(whole.min(CONTROL_LEN_MAX)),
        (true, Role::Server) => REPLY_HEADER_LEN,
        (true, Role::Client) => {
            let has_metadata = head.get(5).is_some_and(|flags| flags & FLAG_METADATA != 0);
            let block = head.get(REQUEST_HEADER_LEN..REQUEST_HEADER_LEN + 2);
            match block.map(|len| 2 + usize::from(u16::from_le_bytes([len[0], len[1]]))) {
                _ if !has_metadata => REQUEST_HEADER_LEN,
                Some(len) if len <= METADATA_LEN_MAX => REQUEST_HEADER_LEN + len,
                // Its length alone shows that it cannot be read.
                _ => REQUEST_HEADER_LEN + 2,
            }
        }
    };
    Ok(wanted.min(whole))
}

/// Whether the head is one that its receiver reads, whatever the body.
fn check_head(head: &[u8], body_len: usize, from: Role) -> Result<(), ProtocolError> {
    let mut frame = head.to_vec();
    if has_body(head, from) {
        // Of a body only matters whether it has bytes.
        frame.extend_from_slice(&[0][..body_len.min(1)]);
        let len = (frame.len() - LEN_FIELD_LEN) as u32;
        frame[..LEN_FIELD_LEN].copy_from_slice(&len.to_le_bytes());
    }
    match wire::decode(&frame, from, BODY_LEN_MAX)? {
        Decoded::Frame(..) => Ok(()),
        Decoded::Incomplete(_) => {
            Err(ProtocolError::FrameTooShort { kind: head[LEN_FIELD_LEN], len: head.len() as u32 })
        }
    }
}

/// A control frame with the session's pseudonym in it, and without a token. What a later version appends to a frame is left out: what it is
/// cannot be known.
fn rewrite(head: &[u8], from: Role, key: &Key) -> Vec<u8> {
    let Ok(Decoded::Frame(mut frame, _)) = wire::decode(head, from, BODY_LEN_MAX) else {
        return head.to_vec();
    };
    match &mut frame {
        Frame::Hello(hello) => {
            if let Some(resume) = &mut hello.resume {
                resume.session = key.session(resume.session);
            }
            hello.token = None;
            hello.features &= !FEATURE_TOKEN;
        }
        Frame::Welcome(welcome) => {
            welcome.session = key.session(welcome.session);
            // As for a client that has shown none.
            welcome.features &= !FEATURE_TOKEN;
        }
        _ => {}
    }
    let mut out = [0; CONTROL_LEN_MAX];
    let len = wire::encode(&frame, &mut out).unwrap_or(0);
    out[..len].to_vec()
}

fn hide_metadata(head: &mut [u8], from: Role, key: &Key) {
    if from == Role::Client && head.len() > REQUEST_HEADER_LEN {
        let hidden = key.hide_metadata(&head[REQUEST_HEADER_LEN..]);
        head[REQUEST_HEADER_LEN..].copy_from_slice(&hidden);
    }
}
