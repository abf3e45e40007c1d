//! What `PROTOCOL.md` shows is what the machines do, and the rules that are cited exist in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use oncewire_core::*;

use crate::record::*;

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
        let method = MethodId::from_number(u64::from_str_radix(method, 16).unwrap());
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
    let mut config = ServerConfig::new(ServerId::from_bytes([7; 16]), service);
    config.instance = Instance::new(0x1234, "toy-1");
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
    assert_eq!(semantic, (1..=34).collect::<Vec<u32>>());

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
