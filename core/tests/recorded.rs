//! Conversations that each released version had, byte by byte: every later build speaks both sides of them.
//!
//! A file in `tests/recorded` has one line for each thing that happened:
//!
//! | line | is |
//! |---|---|
//! | `call KIND BODY` | the client is given a call |
//! | `close` | the client is asked to end its session |
//! | `connect SECRET`, `cut` | a connection is made, and is gone at both ends |
//! | `> HEX`, `< HEX` | bytes that the server, or the client, read |
//! | `run XID BODY` | the server executed a call |
//! | `told CALL OUTCOME` | the client learned what became of its call, counted from 0 |
//!
//! `lost HEX` are bytes that the server sent and that were lost; what a client did has no line. The ignored test writes
//! the file of a release, once.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::path::PathBuf;

use oncewire_core::wire::{self, Decoded, Frame, Role, ServiceName};
use oncewire_core::*;

const FILES: [(&str, &str); 1] = [("0.1", include_str!("recorded/0.1.txt"))];
const ECHO: MethodId = MethodId::of("test/echo");
const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// The server's end: a machine, and the connection that it has.
struct ServerEnd {
    server: Server<Heap>,
    conn: Option<ConnId>,
    unread: Vec<u8>,
    /// `run` lines.
    ran: Vec<String>,
}

/// The client's end.
struct ClientEnd {
    client: Client<Heap>,
    calls: Vec<CallId>,
    unread: Vec<u8>,
    /// Lines of outcomes.
    told: Vec<String>,
}

impl ServerEnd {
    fn new() -> ServerEnd {
        let id = ServerId::from_bytes([0x5e; 16]);
        let config = ServerConfig::new(id, ServiceName::new("test").unwrap());
        let mut method = MethodSpec::new(ECHO);
        method.idempotent = true;
        let server = Server::new(config, &[method]).unwrap();
        ServerEnd { server, conn: None, unread: Vec::new(), ran: Vec::new() }
    }

    fn connect(&mut self, secret: SessionId) {
        self.unread.clear();
        self.conn = self.server.handle_connected(NOW, Principal::ANONYMOUS, secret);
    }

    fn cut(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.server.handle_disconnected(NOW, conn);
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        let conn = self.conn.expect("a connection");
        self.unread.extend_from_slice(bytes);
        let unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        loop {
            let received = self.server.handle_data(NOW, conn, &unread[at..]).expect("sound bytes");
            at += received.consumed;
            let Some(item) = received.item else { break };
            let Incoming::Request(request) = item else { continue };
            if request.body == b"refuse" {
                self.server.refuse(NOW, request.admission, NotExecuted::Overloaded);
                continue;
            }
            let running = self.server.start(NOW, request.admission).expect("in time");
            self.ran.push(format!("run {} {}", running.key().xid().get(), text(request.body)));
            if request.body == b"abort" {
                self.server.abort(NOW, running);
            } else {
                self.server.reply(NOW, running, &[request.body, b"!"].concat()).unwrap();
            }
        }
        self.unread = unread[at..].to_vec();
    }

    fn write(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut out = [0; 512];
        while self.server.poll_event().is_some() {}
        while let Some(conn) = self.conn
            && let Some(len) = self.server.poll_transmit(NOW, conn, &mut out)
        {
            all.extend_from_slice(&out[..len.get()]);
            while self.server.poll_event().is_some() {}
        }
        all
    }
}

impl ClientEnd {
    fn new() -> ClientEnd {
        let mut config = ClientConfig::default();
        config.slots = 8;
        let client = Client::new(config);
        ClientEnd { client, calls: Vec::new(), unread: Vec::new(), told: Vec::new() }
    }

    fn call(&mut self, kind: &str, body: &str) {
        let mut call = Call::new(ECHO, body.as_bytes());
        (call.idempotent, call.one_way) = (kind == "idempotent", kind == "one-way");
        self.calls.push(self.client.call(NOW, call).unwrap());
    }

    fn connect(&mut self) {
        self.unread.clear();
        self.client.handle_connected(NOW);
    }

    fn read(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        loop {
            let received = self.client.handle_data(NOW, &unread[at..]).expect("sound bytes");
            at += received.consumed;
            let Some(reply) = received.item else { break };
            let call = self.calls.iter().position(|call| *call == reply.call).unwrap();
            let outcome = match reply.outcome {
                Outcome::Reply(body) => format!("reply {}", text(body)),
                other => format!("{other:?}"),
            };
            self.told.push(format!("told {call} {outcome}"));
        }
        self.unread = unread[at..].to_vec();
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Connected { .. } | ClientEvent::Closed => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn write(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut out = [0; 512];
        while let Some(len) = self.client.poll_transmit(NOW, &mut out) {
            all.extend_from_slice(&out[..len.get()]);
        }
        all
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("bodies here are text")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits")).collect()
}

/// The replies and the ends of sessions among a server's bytes. Everything else may come at another time in another build.
fn answers(mut bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(Decoded::Frame(frame, len)) = wire::decode(bytes, Role::Server, 1 << 20) {
        match frame {
            Frame::Reply(..) | Frame::Welcome(_) | Frame::Goodbye(_) => {
                all.push(format!("{frame:?}"))
            }
            _ => {}
        }
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty(), "half a frame: {}", hex(bytes));
    all.sort();
    all
}

#[test]
fn a_server_of_this_build_answers_clients_of_every_version() {
    for (version, file) in FILES {
        let mut end = ServerEnd::new();
        let (mut sent, mut answered, mut ran) = (Vec::new(), Vec::new(), Vec::new());
        for line in file.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("connect", secret) => {
                    end.connect(SessionId::from_bytes(unhex(secret).try_into().unwrap()))
                }
                ("cut", _) => end.cut(),
                (">", bytes) => {
                    end.read(&unhex(bytes));
                    sent.extend(end.write());
                }
                ("<", bytes) => answered.extend(unhex(bytes)),
                ("lost", bytes) => answered.extend(unhex(bytes)),
                ("run", _) => ran.push(line),
                _ => {}
            }
        }
        assert_eq!(end.ran, ran, "{version}");
        assert_eq!(answers(&sent), answers(&answered), "{version}");
    }
}

#[test]
fn a_client_of_this_build_understands_servers_of_every_version() {
    for (version, file) in FILES {
        let mut end = ClientEnd::new();
        let mut told = Vec::new();
        for line in file.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("call", call) => {
                    let (kind, body) = call.split_once(' ').unwrap();
                    end.call(kind, body);
                }
                ("close", _) => end.client.close(NOW),
                ("connect", _) => end.connect(),
                ("cut", _) => end.client.handle_disconnected(NOW),
                ("<", bytes) => end.read(&unhex(bytes)),
                ("told", _) => told.push(line),
                _ => {}
            }
            end.write();
        }
        assert_eq!(end.told, told, "{version}");
        assert!(end.client.is_closed(), "{version}");
    }
}

/// Both ends, and the file that they write.
struct Recorder {
    client: ClientEnd,
    server: ServerEnd,
    secrets: u8,
    file: String,
}

impl Recorder {
    fn line(&mut self, line: &str) {
        let is_empty = ["> ", "< "].contains(&line);
        if !is_empty {
            writeln!(self.file, "{line}").unwrap();
        }
    }

    fn call(&mut self, kind: &str, body: &str) {
        self.line(&format!("call {kind} {body}"));
        self.client.call(kind, body);
    }

    fn connect(&mut self) {
        self.secrets += 1;
        let secret = [self.secrets; 16];
        self.line(&format!("connect {}", hex(&secret)));
        self.client.connect();
        self.server.connect(SessionId::from_bytes(secret));
    }

    fn cut(&mut self) {
        self.line("cut");
        self.client.client.handle_disconnected(NOW);
        self.server.cut();
    }

    /// What the client has written arrives.
    fn up(&mut self) {
        let bytes = self.client.write();
        self.line(&format!("> {}", hex(&bytes)));
        let ran = self.server.ran.len();
        self.server.read(&bytes);
        for line in self.server.ran.split_off(ran) {
            self.line(&line);
            self.server.ran.push(line);
        }
    }

    /// What the server has written arrives.
    fn down(&mut self) {
        let bytes = self.server.write();
        self.line(&format!("< {}", hex(&bytes)));
        let told = self.client.told.len();
        self.client.read(&bytes);
        for line in self.client.told.split_off(told) {
            self.line(&line);
            self.client.told.push(line);
        }
    }

    fn both(&mut self) {
        self.up();
        self.down();
    }
}

/// `cargo test -p oncewire-core --test recorded -- --ignored` writes the file of a release.
#[test]
#[ignore = "makes the recording of a release"]
fn record_a_conversation() {
    let mut all = Recorder {
        client: ClientEnd::new(),
        server: ServerEnd::new(),
        secrets: 0,
        file: String::new(),
    };
    all.connect();
    all.both();
    for (kind, body) in [("plain", "first"), ("plain", "refuse"), ("plain", "abort")] {
        all.call(kind, body);
        all.both();
    }
    // The reply is lost: the client asks, and the server answers with what it kept.
    all.call("plain", "reply-lost");
    all.up();
    let lost = all.server.write();
    all.line(&format!("lost {}", hex(&lost)));
    all.cut();
    all.connect();
    all.both();
    all.both();
    // The request is lost: the Welcome says that the server has not seen it, and the client sends it again.
    all.call("plain", "request-lost");
    all.client.write();
    all.cut();
    all.connect();
    all.both();
    all.both();
    all.call("idempotent", "again");
    all.call("one-way", "unanswered");
    all.both();
    all.both();
    all.client.client.close(NOW);
    all.line("close");
    all.both();
    all.cut();
    assert!(all.client.client.is_closed(), "{}", all.file);
    let (version, _) = FILES[FILES.len() - 1];
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let path = folder.join(format!("{version}.txt"));
    let is_made = std::fs::read_to_string(&path).is_ok_and(|file| !file.is_empty());
    assert!(!is_made, "a recording is made once, and stays");
    std::fs::write(path, all.file).unwrap();
}
