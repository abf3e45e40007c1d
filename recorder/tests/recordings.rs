//! Recordings of real conversations, run again: C310 to C314.
#![allow(missing_docs)]

use oncewire_core::wire::{self, Frame, MetadataValue, MetadataWriter, RequestHeader, Role};
use oncewire_core::*;
use oncewire_recorder::*;

const ECHO: MethodId = MethodId::of("test/echo");
const SECRET: &[u8] = b"hunter2-and-more-of-it";
const MILLISECOND: u64 = 1_000_000;

/// A client and a server, the relay between them, and what it records.
struct Line {
    client: Client<Heap>,
    server: Server<Heap>,
    conn: Option<ConnId>,
    number: u64,
    tap: Tap,
    plain: bool,
    records: Vec<Record>,
    at: u64,
    /// Calls that run and are answered later.
    running: Vec<(Running, Vec<u8>)>,
    holds: bool,
    server_error: Option<ProtocolError>,
    pieces: usize,
}

impl Line {
    fn new(plain: bool) -> Line {
        let id = ServerId::from_bytes([0x5e; 16]);
        let config = ServerConfig::new(id, wire::ServiceName::new("test").unwrap());
        let mut client_config = ClientConfig::default();
        client_config.slots = 1;
        Line {
            client: Client::new(client_config),
            server: Server::new(config, &[MethodSpec::new(ECHO)]).unwrap(),
            conn: None,
            number: 0,
            tap: tap(plain, 0),
            plain,
            records: Vec::new(),
            at: 0,
            running: Vec::new(),
            holds: false,
            server_error: None,
            pieces: usize::MAX,
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.at + 1_000_000_000)
    }

    fn write(&mut self, what: What) {
        self.records.push(Record { at: self.at, what });
    }

    fn pass(&mut self, from: Role, bytes: &[u8]) {
        self.at += MILLISECOND;
        let mut whats = Vec::new();
        for piece in bytes.chunks(self.pieces) {
            self.tap.push(from, piece, |what| whats.push(what));
        }
        whats.into_iter().for_each(|what| self.write(what));
    }

    fn connect(&mut self) {
        self.at += MILLISECOND;
        self.number += 1;
        self.tap = tap(self.plain, self.number);
        self.write(What::Connected { conn: self.number, peer: "a test".to_owned() });
        self.client.handle_connected(self.now());
        self.conn =
            self.server.handle_connected(self.now(), Principal::ANONYMOUS, secret(self.number));
    }

    fn cut(&mut self) {
        self.at += MILLISECOND;
        self.write(self.tap.disconnected(EndedBy::Network));
        self.client.handle_disconnected(self.now());
        if let Some(conn) = self.conn.take() {
            self.server.handle_disconnected(self.now(), conn);
        }
    }

    /// What the client wants to send passes the relay and arrives.
    fn up(&mut self) -> Vec<u8> {
        let (now, mut out, mut all) = (self.now(), [0; 512], Vec::new());
        while let Some(len) = self.client.poll_transmit(now, &mut out) {
            all.extend_from_slice(&out[..len.get()]);
        }
        self.say(&all);
        all
    }

    /// The server gets these bytes.
    fn say(&mut self, bytes: &[u8]) {
        self.pass(Role::Client, bytes);
        let (now, conn) = (self.now(), self.conn.unwrap());
        let mut rest = bytes;
        while !rest.is_empty() {
            let received = match self.server.handle_data(now, conn, rest) {
                Ok(received) => received,
                Err(error) => return self.server_error = Some(error),
            };
            rest = &rest[received.consumed..];
            let Some(Incoming::Request(request)) = received.item else { continue };
            let reply = [request.body, b"!"].concat();
            self.running.push((self.server.start(now, request.admission).unwrap(), reply));
        }
        if !self.holds {
            self.answer();
        }
    }

    fn answer(&mut self) {
        let now = self.now();
        for (running, reply) in std::mem::take(&mut self.running) {
            self.server.reply(now, running, &reply[..]).unwrap();
        }
    }

    /// What the server wants to send passes the relay; it arrives, or is lost behind it.
    fn down(&mut self, arrives: bool) {
        let (now, mut out, mut all) = (self.now(), [0; 512], Vec::new());
        while self.server.poll_event().is_some() {}
        while let Some(len) = self.server.poll_transmit(now, self.conn.unwrap(), &mut out) {
            all.extend_from_slice(&out[..len.get()]);
        }
        self.pass(Role::Server, &all);
        let mut rest = &all[..];
        while arrives && !rest.is_empty() {
            rest = &rest[self.client.handle_data(now, rest).unwrap().consumed..];
        }
        while self.client.poll_event().is_some() {}
    }

    fn turn(&mut self) {
        self.up();
        self.down(true);
    }

    fn call(&mut self, body: &[u8]) {
        self.client.call(self.now(), Call::new(ECHO, body)).unwrap();
    }

    fn file(&self) -> Vec<u8> {
        let what = "a test".to_owned();
        let about = About {
            source: Source::Relay,
            plain_bodies: self.plain,
            lossy: false,
            unix_ms: 7,
            what,
        };
        let mut writer = Writer::new(Vec::new(), &about).unwrap();
        self.records.iter().for_each(|record| writer.write(record).unwrap());
        writer.into_inner()
    }

    fn story(&self) -> Story {
        Story::read(&self.file()[..], &["test/echo".to_owned()]).unwrap()
    }
}

fn tap(plain: bool, number: u64) -> Tap {
    Tap::new(Key::from_bytes([9; 16]), plain, number)
}

fn secret(number: u64) -> SessionId {
    let mut bits = *b"Qz81kXw7pT5vR2m0";
    bits[15] += number as u8;
    SessionId::from_bytes(bits)
}

fn holds(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|bytes| bytes == part)
}

fn request(xid: u64, acked: u64, body: &[u8]) -> Vec<u8> {
    let (method, xid) = (ECHO, Xid::new(xid).unwrap());
    let header = RequestHeader { flags: 0, method, remaining_ms: 30_000, xid, acked };
    let mut out = [0; 256];
    let len = wire::encode(&Frame::Request(header, body), &mut out).unwrap();
    out[..len].to_vec()
}

fn verdicts(story: &Story) -> Vec<(u64, bool, Decision)> {
    let steps = story.steps.iter();
    steps
        .filter_map(|step| match step.kind {
            StepKind::Verdict { asked, verdict, .. } => Some((step.xid?, asked, verdict)),
            _ => None,
        })
        .collect()
}

fn outcomes(story: &Story) -> Vec<(u64, Executed)> {
    let steps = story.steps.iter();
    steps
        .filter_map(|step| match step.kind {
            StepKind::Outcome { executed, .. } => Some((step.xid?, executed)),
            _ => None,
        })
        .collect()
}

fn agrees(story: &Story) {
    let text = Transcript { story, all: true }.to_string();
    let differs = story.steps.iter().any(|step| matches!(step.kind, StepKind::Differs(_)));
    assert!(!differs, "{text}");
}

/// A reply that is lost, asked for, and kept; a request that comes twice while its call runs.
fn conversation(plain: bool, pieces: usize) -> Line {
    let mut line = Line::new(plain);
    line.pieces = pieces;
    line.connect();
    line.turn();
    line.call(SECRET);
    line.up();
    line.down(false);
    line.cut();
    line.connect();
    line.turn();
    line.turn();
    line.holds = true;
    line.call(SECRET);
    let twice = line.up();
    line.say(&twice);
    line.answer();
    line.down(false);
    line.say(&twice);
    line.down(true);
    line.holds = false;
    line
}

#[test]
fn c310_no_session_id_and_no_body_is_in_a_recording() {
    let mut out = [0; 256];
    let mut writer = MetadataWriter::new(&mut out);
    writer.push("tenant", MetadataValue::Text("hunter2-and-more-of-it")).unwrap();
    writer.push("trace", MetadataValue::Bytes(SECRET)).unwrap();
    let len = writer.finish();
    let with_metadata = [&out[..len], SECRET].concat();
    for plain in [false, true] {
        let mut line = conversation(plain, usize::MAX);
        let mut call = Call::new(ECHO, &with_metadata[..]);
        call.metadata = true;
        line.client.call(line.now(), call).unwrap();
        line.turn();
        let (file, story) = (line.file(), line.story());
        let (text, page) =
            (Transcript { story: &story, all: true }.to_string(), Page(&story).to_string());
        for shown in [&file[..], text.as_bytes(), page.as_bytes()] {
            for number in 1..=2 {
                let id = secret(number).to_bytes();
                let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                assert!(!holds(shown, &id[..8]) && !holds(shown, &hex.as_bytes()[..16]));
                assert!(!holds(shown, &id[8..]) && !holds(shown, &hex.as_bytes()[16..]));
            }
            assert!(plain || !holds(shown, b"hunter2"));
        }
        assert_eq!(plain, holds(&file, SECRET));
        assert_eq!(plain, holds(page.as_bytes(), SECRET));
    }
}

#[test]
fn c187_no_token_is_in_a_recording() {
    let token = Token::new(SECRET).unwrap();
    for pieces in [usize::MAX, 7] {
        let mut line = Line::new(false);
        line.pieces = pieces;
        line.client.set_token(token);
        line.connect();
        assert!(holds(&line.up(), SECRET), "it was sent");
        assert!(!format!("{:?}", line.tap).contains("104, 117"), "{:?}", line.tap);
        line.turn();
        line.call(b"a body");
        line.turn();
        let story = line.story();
        agrees(&story);
        let text = Transcript { story: &story, all: true }.to_string();
        for shown in [&line.file()[..], text.as_bytes(), Page(&story).to_string().as_bytes()] {
            assert!(!holds(shown, b"hunter2"));
        }
    }
}

#[test]
fn c311_a_recording_is_judged_as_the_conversation_was() {
    for plain in [false, true] {
        let story = conversation(plain, usize::MAX).story();
        agrees(&story);
        let expected =
            [(1, true, Decision::Kept), (2, false, Decision::WhenDone), (2, false, Decision::Kept)];
        assert_eq!(verdicts(&story), expected, "{}", Transcript { story: &story, all: true });
        assert_eq!(outcomes(&story), [(1, Executed::Yes), (2, Executed::Yes)]);
        let text = Transcript { story: &story, all: false }.to_string();
        assert!(text.contains("Request 1: test/echo, 22 bytes"), "{text}");
        assert!(text.contains("call 1: asked for: answered from what is kept"), "{text}");
        let page = Page(&story).to_string();
        assert!(
            page.contains(r#""y":"verdict""#) && !page.contains("http://")
                || page.contains("www.w3.org")
        );
    }
}

#[test]
fn c312_short_bodies_that_differ_are_a_false_retry_in_the_replay_too() {
    for (second, is_false) in [(&[2_u8][..], true), (&[1], false), (&[], true)] {
        let mut line = Line::new(false);
        line.connect();
        line.turn();
        line.holds = true;
        line.say(&request(1, 0, &[1]));
        line.say(&request(1, 0, second));
        assert_eq!(line.server_error.is_some(), is_false);
        let story = line.story();
        let text = Transcript { story: &story, all: true }.to_string();
        assert_eq!(text.contains("the same xid came with other arguments"), is_false, "{text}");
        assert_eq!(verdicts(&story).len(), usize::from(!is_false), "{text}");
    }
}

#[test]
fn c313_a_damaged_recording_is_an_error_and_a_cut_one_is_read_to_its_end() {
    let file = conversation(false, usize::MAX).file();
    for len in 0..file.len() {
        match Story::read(&file[..len], &[]) {
            Ok(story) => assert!(len > MAGIC.len() && story.steps.len() < 100),
            Err(error) => assert!(matches!(error, ReadError::NoRecording), "{len}: {error}"),
        }
    }
    let whole = Story::read(&file[..], &[]).unwrap();
    assert!(!whole.is_cut);
    assert!(Story::read(&file[..file.len() - 1], &[]).unwrap().is_cut);
    let mut read = 0;
    for place in 0..file.len() {
        let mut broken = file.clone();
        broken[place] ^= 1 << (place % 8);
        read += usize::from(Story::read(&broken[..], &[]).is_ok());
    }
    // A time or a peer's name may be another one; what is no frame is found.
    assert!(read > 0 && read < file.len());
    let mut other = file;
    other[7] = 2;
    let error = Story::read(&other[..], &[]).unwrap_err();
    assert!(matches!(error, ReadError::Version(2)), "{error}");
}

#[test]
fn c314_the_pieces_in_which_bytes_come_do_not_matter() {
    let whole = conversation(false, usize::MAX);
    for pieces in [1, 7, 40] {
        assert_eq!(conversation(false, pieces).records, whole.records);
    }
    // What is no frame is counted, and not recorded.
    let mut tap = tap(true, 1);
    let mut whats = Vec::new();
    tap.push(Role::Client, b"GET / HTTP/1.1\r\nCookie: hunter2\r\n\r\n", |what| whats.push(what));
    let garbage: u64 = whats
        .iter()
        .map(|what| match what {
            What::Garbage { len, .. } => *len,
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(garbage, 35);
}
