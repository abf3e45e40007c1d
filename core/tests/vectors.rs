//! The golden vectors of `tests/vectors`, both ways, and what `PROTOCOL.md` shows and numbers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use std::{fs, str};

use oncewire_core::wire::{
    self, Ack, Decoded, Frame, FrameInfo, Grants, Hello, Refuse, ReplyHeader, RequestHeader,
    Resume, Role, Welcome,
};
use oncewire_core::*;

/// The limit with which `frames.txt` is to be decoded.
const BODY_LEN_MAX: u32 = 1000;

/// A record of a vector file: its keys and values, in order.
struct Record {
    file: &'static str,
    pairs: Vec<(String, String)>,
}

impl Record {
    fn name(&self) -> String {
        format!("{}: {}", self.file, self.text("name"))
    }

    fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(other, _)| other == key)
    }

    fn text(&self, key: &str) -> &str {
        let found = self.pairs.iter().find(|(other, _)| other == key);
        &found.unwrap_or_else(|| panic!("{}: no {key} in {:?}", self.file, self.pairs)).1
    }

    fn number<T: TryFrom<u64>>(&self, key: &str) -> T {
        let number: u64 = self.text(key).parse().unwrap_or_else(|_| panic!("{}", self.name()));
        T::try_from(number).unwrap_or_else(|_| panic!("{}: {key} is too large", self.name()))
    }

    fn bytes(&self, key: &str) -> Vec<u8> {
        let text = self.text(key);
        if text == "empty" {
            return Vec::new();
        }
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn id(&self, key: &str) -> [u8; 16] {
        self.bytes(key).try_into().unwrap_or_else(|_| panic!("{}: {key}", self.name()))
    }

    fn quoted(&self, key: &str) -> &str {
        let text = self.text(key).strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        text.unwrap_or_else(|| panic!("{}: {key} is not in quotes", self.name()))
    }

    fn service(&self, key: &str) -> ServiceName {
        ServiceName::new(self.quoted(key)).unwrap()
    }

    fn option<T>(&self, key: &str, read: impl FnOnce(&Record, &str) -> T) -> Option<T> {
        (self.text(key) != "none").then(|| read(self, key))
    }

    fn role(&self) -> Role {
        match self.text("from") {
            "client" => Role::Client,
            "server" => Role::Server,
            other => panic!("{}: from = {other}", self.name()),
        }
    }
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn records(file: &'static str) -> Vec<Record> {
    let text = read(&format!("tests/vectors/{file}"));
    let records: Vec<Record> = text
        .split("\n\n")
        .map(|block| block.lines().filter(|line| !line.starts_with('#') && !line.is_empty()))
        .map(|lines| {
            let pair = |line: &str| {
                let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
                (key.to_owned(), value.to_owned())
            };
            Record { file, pairs: lines.map(pair).collect() }
        })
        .filter(|record| !record.pairs.is_empty())
        .collect();
    let names: BTreeSet<&str> = records.iter().map(|record| record.text("name")).collect();
    assert_eq!(names.len(), records.len(), "{file}: a name stands there twice");
    records
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = [0; 2048];
    let len = wire::encode(frame, &mut out).unwrap_or_else(|| panic!("{frame:?} is not encoded"));
    out[..len].to_vec()
}

/// The frame that a record's fields describe.
fn described<'d>(record: &Record, body: &'d [u8]) -> Frame<'d> {
    let xid = |key| Xid::new(record.number(key)).unwrap();
    match record.text("frame") {
        "Hello" => Frame::Hello(Hello {
            magic: wire::MAGIC,
            version_min: record.number("version_min"),
            version_max: record.number("version_max"),
            features: record.number("features"),
            resume: record.option("resume.session", |record, key| Resume {
                session: SessionId::from_bytes(record.id(key)),
                acked: record.number("resume.acked"),
            }),
            slots: record.number("slots"),
            request_len_max: record.number("request_len_max"),
            reply_len_max: record.number("reply_len_max"),
            service: record.option("service", Record::service),
            server: record.option("server", |r, key| ServerId::from_bytes(r.id(key))),
        }),
        "Welcome" => Frame::Welcome(Welcome {
            version: record.number("version"),
            features: record.number("features"),
            server: ServerId::from_bytes(record.id("server")),
            service: record.service("service"),
            session: SessionId::from_bytes(record.id("session")),
            seen: record.number("seen"),
            commit: record.number("commit"),
            grants: Grants {
                slots: record.number("slots"),
                request_len_max: record.number("request_len_max"),
                reply_len_max: record.number("reply_len_max"),
                lease_ms: record.number("lease_ms"),
                keepalive_ms: record.number("keepalive_ms"),
            },
        }),
        "Refuse" => Frame::Refuse(described_refuse(record)),
        "Request" => {
            let header = RequestHeader {
                flags: record.number("flags"),
                method: MethodId::from_number(record.number("method")),
                remaining_ms: record.number("remaining_ms"),
                xid: xid("xid"),
                acked: record.number("acked"),
            };
            Frame::Request(header, body)
        }
        "Reply" => {
            let ask = if record.has("ask") { record.number("ask") } else { 0 };
            let status = Status::from_wire(record.number("status"), ask).unwrap();
            assert_eq!(status_name(status), record.text("status_name"), "{}", record.name());
            Frame::Reply(ReplyHeader { status, xid: xid("xid") }, body)
        }
        "Ask" => Frame::Ask(xid("xid"), record.number("number")),
        "Ack" => Frame::Ack(Ack {
            acked: record.number("acked"),
            last: record.number("last"),
            base: record.number("base"),
            settled: record.number("settled"),
        }),
        "Cancel" => Frame::Cancel(xid("xid")),
        "Ping" => Frame::Ping(record.role()),
        "Pong" => Frame::Pong(record.role()),
        "Goodbye" => Frame::Goodbye(record.role()),
        other => panic!("{}: frame = {other}", record.name()),
    }
}

fn described_refuse(record: &Record) -> Refuse {
    match record.text("refuse") {
        "Protocol" => Refuse::Protocol(record.number("refuse.code")),
        "VersionUnsupported" => Refuse::VersionUnsupported {
            min: record.number("refuse.min"),
            max: record.number("refuse.max"),
        },
        "SessionUnknown" => Refuse::SessionUnknown,
        "WrongPrincipal" => Refuse::WrongPrincipal,
        "SessionsFull" => Refuse::SessionsFull,
        "PrincipalFull" => Refuse::PrincipalFull,
        "WrongServer" => Refuse::WrongServer {
            service: record.service("refuse.service"),
            server: ServerId::from_bytes(record.id("refuse.server")),
        },
        "ShuttingDown" => Refuse::ShuttingDown,
        "Superseded" => Refuse::Superseded,
        "TooSlow" => Refuse::TooSlow,
        other => panic!("{}: refuse = {other}", record.name()),
    }
}

fn status_name(status: Status) -> String {
    match status {
        Status::Done | Status::Interrupted => format!("{status:?}"),
        Status::NotSeen { .. } => "NotSeen".to_owned(),
        Status::NoReply(why) => format!("NoReply.{why:?}"),
        Status::Refused(why) => format!("Refused.{why:?}"),
    }
}

/// Kinds of frames, as numbers without a gap. A new variant does not compile here until it has one.
fn kind_number(frame: &Frame<'_>) -> usize {
    match frame {
        Frame::Hello(_) => 0,
        Frame::Welcome(_) => 1,
        Frame::Refuse(_) => 2,
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
    }
}
const REFUSALS: usize = 10;

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
            Frame::Refuse(refuse) => {
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
        NotExecuted::SessionRefused,
        NotExecuted::Closed,
        NotExecuted::NotBegun(CallError::Closed),
    ] {
        let header = ReplyHeader { status: Status::Refused(why), xid: Xid::new(1).unwrap() };
        assert_eq!(wire::encode(&Frame::Reply(header, b""), &mut [0; 64]), None, "{why:?}");
    }
    assert_eq!(Status::NoReply(NoReply::Undecodable).to_byte(), None);
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
        assert_eq!(format!("{found:08x}"), record.text("method"), "{}", record.name());
    }
}

/// The lines of the fenced block of `PROTOCOL.md` that is marked `mark`.
fn fenced(mark: &str) -> Vec<String> {
    let text = read("PROTOCOL.md");
    let open = format!("```{mark}\n");
    let (_, block) = text.split_once(&open).unwrap_or_else(|| panic!("no block {mark}"));
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(str::to_owned).collect()
}

#[test]
fn the_digests_in_the_protocol_are_right() {
    let lines = fenced("digest");
    assert!(lines.len() >= 4);
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [method, flags, body, expected] = words[..] else { panic!("{line}") };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let record = Record { file: "PROTOCOL.md", pairs: vec![pair("body", body)] };
        let method = MethodId::from_number(u32::from_str_radix(method, 16).unwrap());
        let flags = u8::from_str_radix(flags, 16).unwrap();
        assert_eq!(format!("{:016x}", digest(method, flags, &record.bytes("body"))), expected);
    }
}

/// The machines of the worked example, and what they have said: the sender's mark and the bytes.
struct Example {
    now: Instant,
    client: Client<InlineClient<4, 4, 16>>,
    server: Server<InlineServer<1, 2, 4, 1, 16>>,
    conn: Option<ConnId>,
    said: Vec<(char, String)>,
}

impl Example {
    fn connect(&mut self) {
        self.client.handle_connected(self.now);
        let secret = SessionId::from_bytes(std::array::from_fn(|at| 0xa0 + at as u8));
        self.conn = self.server.handle_connected(self.now, Principal::ANONYMOUS, secret);
        assert!(self.conn.is_some());
        self.said.push(('=', "connected".to_owned()));
    }

    fn disconnect(&mut self) {
        self.client.handle_disconnected(self.now);
        self.server.handle_disconnected(self.now, self.conn.take().unwrap());
        self.said.push(('=', "disconnected".to_owned()));
    }

    fn say(&mut self, who: char, bytes: &[u8]) {
        match self.said.last_mut() {
            Some((last, said)) if *last == who => said.push_str(&hex(bytes)),
            _ => self.said.push((who, hex(bytes))),
        }
    }

    /// Carries what the client has to say; returns what the server is to execute.
    fn listen(&mut self) -> Option<Running> {
        let (mut out, mut running) = ([0; 1024], None);
        while let Some(len) = self.client.poll_transmit(self.now, &mut out) {
            self.say('>', &out[..len.get()]);
            let mut rest = &out[..len.get()];
            while !rest.is_empty() {
                let received = self.server.handle_data(self.now, self.conn.unwrap(), rest).unwrap();
                rest = &rest[received.consumed..];
                if let Some(Incoming::Request(request)) = received.item {
                    assert_eq!(request.method.number(), 22);
                    running = Some(self.server.start(self.now, request.admission).unwrap());
                }
            }
        }
        running
    }

    /// Carries what the server has to say; returns the reply that came.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let (mut out, mut reply) = ([0; 1024], None);
        while let Some(len) = self.server.poll_transmit(self.now, self.conn.unwrap(), &mut out) {
            self.say('<', &out[..len.get()]);
            let mut rest = &out[..len.get()];
            while !rest.is_empty() {
                let received = self.client.handle_data(self.now, rest).unwrap();
                rest = &rest[received.consumed..];
                if let Some(Reply { outcome: Outcome::Reply(body), .. }) = received.item {
                    reply = Some(body.to_vec());
                }
            }
        }
        reply
    }
}

#[test]
fn the_worked_example_is_what_the_machines_say() {
    let method = MethodId::from_number(22);
    let service = ServiceName::new("toy").unwrap();
    let config = ServerConfig::new(ServerId::from_bytes([7; 16]), service);
    let mut example = Example {
        now: Instant::ZERO,
        client: Client::new(ClientConfig::default()),
        server: Server::new(config, &[MethodSpec::new(method)]).unwrap(),
        conn: None,
        said: Vec::new(),
    };
    example.connect();
    assert!(example.listen().is_none());
    example.answer();

    example.client.call(example.now, Call::new(method, &[100])).unwrap();
    let running = example.listen().unwrap();
    example.server.reply(example.now, running, &[101]).unwrap();
    assert_eq!(example.answer(), Some(vec![101]));

    example.now = example.now + Duration::from_millis(100);
    example.said.push(('=', "100 ms pass".to_owned()));
    example.client.handle_timeout(example.now);
    assert!(example.listen().is_none());

    example.client.call(example.now, Call::new(method, &[200])).unwrap();
    let running = example.listen().unwrap();
    example.server.reply(example.now, running, &[201]).unwrap();
    example.disconnect();

    example.connect();
    assert!(example.listen().is_none());
    example.answer();
    assert!(example.listen().is_none());
    assert_eq!(example.answer(), Some(vec![201]));

    let mut written: Vec<(char, String)> = Vec::new();
    for line in fenced("wire") {
        let (who, rest) = line.split_at(1);
        let who = who.chars().next().unwrap();
        let words = rest.split(';').next().unwrap().trim();
        let digits = if who == '=' { words.to_owned() } else { words.replace(' ', "") };
        match written.last_mut() {
            Some((last, said)) if *last == who && who != '=' => said.push_str(&digits),
            _ => written.push((who, digits)),
        }
    }
    assert_eq!(written, example.said);
}

/// The numbers of the rules that a text cites: a `letter` that begins a word, and digits.
fn cited(text: &str, letter: char) -> BTreeSet<u32> {
    let starts = text.char_indices().filter(|(_, char)| *char == letter);
    let begins = |at: &usize| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let number = |at: usize| {
        let digits: String = text[at + 1..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    starts.map(|(at, _)| at).filter(begins).filter_map(number).collect()
}

fn sources(folder: &Path, texts: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|end| end == "rs" || end == "txt") {
            texts.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_rule_that_is_cited_exists() {
    let protocol = read("PROTOCOL.md");
    let lines = || protocol.lines();
    let wire: Vec<u32> = lines()
        .filter_map(|line| line.strip_prefix("**W")?.split_once('.')?.0.parse().ok())
        .collect();
    assert!(wire.is_sorted_by(|one, two| one < two), "{wire:?}: each once, in order");
    let semantic: Vec<u32> = lines()
        .filter_map(|line| line.strip_prefix("- **S")?.split(['.', '*']).next()?.parse().ok())
        .collect();
    assert_eq!(semantic, (1..=32).collect::<Vec<u32>>());

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![("PROTOCOL.md".to_owned(), protocol.clone())];
    sources(&root.join("src"), &mut texts);
    sources(&root.join("tests"), &mut texts);
    let mut found = 0;
    for (file, text) in &texts {
        for (letter, rules) in [('W', &wire), ('S', &semantic)] {
            let numbers = cited(text, letter);
            found += numbers.len();
            let missing: Vec<&u32> = numbers.iter().filter(|n| !rules.contains(n)).collect();
            assert!(missing.is_empty(), "{file} cites {letter}{missing:?}, which does not exist");
        }
    }
    assert!(found > 100, "the search finds citations");
}
