//! The records of the vector files, and the frames that they describe.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, str};

use oncewire_core::wire::{
    self, Ack, Frame, Grants, Hello, Refuse, ReplyHeader, RequestHeader, Resume, Role, Welcome,
};
use oncewire_core::*;

/// A record of a vector file: its keys and values, in order.
pub(crate) struct Record {
    pub(crate) file: &'static str,
    pub(crate) pairs: Vec<(String, String)>,
}

impl Record {
    pub(crate) fn name(&self) -> String {
        format!("{}: {}", self.file, self.text("name"))
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(other, _)| other == key)
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        let found = self.pairs.iter().find(|(other, _)| other == key);
        &found.unwrap_or_else(|| panic!("{}: no {key} in {:?}", self.file, self.pairs)).1
    }

    pub(crate) fn number<T: TryFrom<u64>>(&self, key: &str) -> T {
        let number: u64 = self.text(key).parse().unwrap_or_else(|_| panic!("{}", self.name()));
        T::try_from(number).unwrap_or_else(|_| panic!("{}: {key} is too large", self.name()))
    }

    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
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

    pub(crate) fn id(&self, key: &str) -> [u8; 16] {
        self.bytes(key).try_into().unwrap_or_else(|_| panic!("{}: {key}", self.name()))
    }

    pub(crate) fn quoted(&self, key: &str) -> &str {
        let text = self.text(key).strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        text.unwrap_or_else(|| panic!("{}: {key} is not in quotes", self.name()))
    }

    pub(crate) fn service(&self, key: &str) -> ServiceName {
        ServiceName::new(self.quoted(key)).unwrap()
    }

    pub(crate) fn option<T>(&self, key: &str, read: impl FnOnce(&Record, &str) -> T) -> Option<T> {
        (self.text(key) != "none").then(|| read(self, key))
    }

    pub(crate) fn role(&self) -> Role {
        match self.text("from") {
            "client" => Role::Client,
            "server" => Role::Server,
            other => panic!("{}: from = {other}", self.name()),
        }
    }
}

pub(crate) fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn records(file: &'static str) -> Vec<Record> {
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
    assert_eq!(names.len(), records.len(), "{file}: a name is there twice");
    records
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub(crate) fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = [0; 2048];
    let len = wire::encode(frame, &mut out).unwrap_or_else(|| panic!("{frame:?} is not encoded"));
    out[..len].to_vec()
}

/// The frame that a record's fields describe.
pub(crate) fn described<'d>(record: &Record, body: &'d [u8]) -> Frame<'d> {
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
            token: record.has("token").then(|| Token::new(&record.bytes("token")).unwrap()),
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
            instance: described_instance(record),
            schemas: described_schemas(record),
        }),
        "Refuse" => Frame::Refuse(described_refuse(record), described_instance(record)),
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

fn described_instance(record: &Record) -> Instance {
    let id = u64::from_le_bytes(record.bytes("instance.id").try_into().unwrap());
    Instance::new(id, record.quoted("instance.name"))
}

fn described_schemas(record: &Record) -> Schemas {
    let bytes = record.bytes("schemas");
    let (hashes, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty());
    let all = hashes.iter().map(|hash| u64::from_le_bytes(*hash));
    all.fold(Schemas::EMPTY, |schemas, hash| schemas.with(hash).unwrap())
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
        "TokenMissing" => Refuse::TokenMissing,
        "TokenUnknown" => Refuse::TokenUnknown,
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
