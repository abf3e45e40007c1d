//! Metadata of calls: W17, W13 and W32, on two machines whose bytes the test carries.
#![allow(missing_docs)]
#![cfg(feature = "alloc")]

mod util;

use oncewire_core::wire::{Frame, MetadataError, MetadataValue, MetadataWriter};
use oncewire_core::*;
use util::*;

const NOW: Instant = Instant::from_millis(1_000);

/// A block of one pair, and a body behind it.
fn with_tenant(tenant: &str, body: &[u8]) -> Vec<u8> {
    let mut out = [0; 1024];
    let mut writer = MetadataWriter::new(&mut out);
    writer.push("tenant", MetadataValue::Text(tenant)).unwrap();
    let len = writer.finish();
    [&out[..len], body].concat()
}

fn call<'a>(body: &'a [u8]) -> Call<'a> {
    let mut call = Call::new(ECHO, body);
    call.metadata = true;
    call
}

/// A client and a server, and the connection between them.
struct Two {
    client: Client<Heap>,
    server: Server<Heap>,
    conn: ConnId,
    secrets: u8,
    /// Each call that was admitted: its tenant and its body.
    seen: Vec<(Option<String>, Vec<u8>)>,
    outcomes: Vec<OwnedOutcome>,
    running: Vec<Running>,
}

impl Two {
    fn new() -> Two {
        let mut server = Server::new(default_server_config(), &methods()).unwrap();
        let secret = SessionId::from_bytes([1; 16]);
        let conn = server.handle_connected(NOW, ALICE, secret).unwrap();
        let mut client = Client::new(ClientConfig::default());
        client.handle_connected(NOW);
        let (seen, outcomes, running) = Default::default();
        let mut two = Two { client, server, conn, secrets: 1, seen, outcomes, running };
        two.carry();
        assert!(two.client.is_connected());
        two
    }

    fn reconnect(&mut self) {
        self.server.handle_disconnected(NOW, self.conn);
        self.client.handle_disconnected(NOW);
        self.secrets += 1;
        let secret = SessionId::from_bytes([self.secrets; 16]);
        self.conn = self.server.handle_connected(NOW, ALICE, secret).unwrap();
        self.client.handle_connected(NOW);
    }

    fn up(&mut self) -> Vec<u8> {
        let mut out = [0; 4096];
        let len = self.client.poll_transmit(NOW, &mut out).map_or(0, |len| len.get());
        out[..len].to_vec()
    }

    /// Gives the server bytes; every call that it admits is started.
    fn give(&mut self, data: &[u8]) -> Result<(), ProtocolError> {
        let mut at = 0;
        while at < data.len() {
            let taken = self.server.handle_data(NOW, self.conn, &data[at..])?;
            at += taken.consumed;
            let Some(Incoming::Request(request)) = taken.item else { return Ok(()) };
            let tenant = match request.metadata.get("tenant") {
                Some(MetadataValue::Text(tenant)) => Some(tenant.to_owned()),
                _ => None,
            };
            self.seen.push((tenant, request.body.to_vec()));
            self.running.push(self.server.start(NOW, request.admission).unwrap());
        }
        Ok(())
    }

    fn down(&mut self) {
        let mut out = [0; 4096];
        while let Some(len) = self.server.poll_transmit(NOW, self.conn, &mut out) {
            let mut at = 0;
            while at < len.get() {
                let taken = self.client.handle_data(NOW, &out[at..len.get()]).unwrap();
                at += taken.consumed;
                if let Some(settled) = taken.item {
                    self.outcomes.push(settled.outcome.into());
                }
            }
        }
        while let Some(event) = self.client.poll_event() {
            if let ClientEvent::Ended { outcome, .. } = event {
                self.outcomes.push(outcome.into());
            }
        }
    }

    fn carry(&mut self) {
        for _ in 0..4 {
            let up = self.up();
            self.give(&up).unwrap();
            self.down();
        }
    }
}

#[test]
fn c211_what_a_caller_sends_beside_the_arguments_is_what_the_handler_sees() {
    let mut two = Two::new();
    two.client.call(NOW, call(&with_tenant("acme", b"hello"))).unwrap();
    two.client.call(NOW, Call::new(ECHO, b"plain")).unwrap();
    two.carry();
    let expected = [(Some("acme".to_owned()), b"hello".to_vec()), (None, b"plain".to_vec())];
    assert_eq!(two.seen, expected);
}

#[test]
fn c212_a_request_that_is_sent_again_carries_the_same_metadata_and_runs_once() {
    let mut two = Two::new();
    two.client.call(NOW, call(&with_tenant("acme", b"hello"))).unwrap();
    let lost = two.up();
    two.reconnect();
    two.carry();
    assert_eq!(two.seen, [(Some("acme".to_owned()), b"hello".to_vec())], "sent again after a cut");
    // The lost copy after all, on the present connection: a duplicate. Nothing runs.
    two.give(&lost).unwrap();
    assert_eq!(two.seen.len(), 1);
    assert_eq!(two.server.counters().duplicates, 1);
    // The same number with another tenant, or with none, is another request.
    let at = lost.windows(4).position(|bytes| bytes == b"acme").unwrap();
    let mut forged = lost.clone();
    forged[at] = b'A';
    assert_eq!(two.give(&forged), Err(ProtocolError::FalseRetry { xid: 4 }));

    let mut two = Two::new();
    two.client.call(NOW, call(&with_tenant("acme", b"hello"))).unwrap();
    let mut sent = two.up();
    two.give(&sent).unwrap();
    sent[5] &= !wire::FLAG_METADATA;
    assert_eq!(
        two.give(&sent),
        Err(ProtocolError::FalseRetry { xid: 4 }),
        "the flag is part of it"
    );
}

#[test]
fn c213_a_broken_block_costs_its_call_and_not_its_connection() {
    let mut two = Two::new();
    two.client.call(NOW, call(&with_tenant("acme", b"hello"))).unwrap();
    let mut sent = two.up();
    let at = sent.windows(4).position(|bytes| bytes == b"acme").unwrap();
    sent[at] = 0xff;
    two.give(&sent).unwrap();
    two.down();
    assert_eq!(two.outcomes, [not_executed(NotExecuted::BadMetadata).unwrap()]);
    assert!(two.seen.is_empty());
    two.client.call(NOW, call(&with_tenant("acme", b"next"))).unwrap();
    two.carry();
    assert_eq!(two.seen.len(), 1);
}

#[test]
fn c214_metadata_goes_to_no_server_that_takes_none() {
    // At the client: it is not sent.
    let mut pair = Pair::unconnected();
    let number = pair.connect_by_hand(0);
    pair.drive();
    pair.send_down(number, &Frame::Welcome(welcome()));
    pair.drive();
    assert!(pair.client().is_connected());
    let body = with_tenant("acme", b"hello");
    let now = pair.now;
    let id = pair.client().call(now, call(&body)).unwrap();
    pair.drive();
    // Its outcome is an event, and no bytes move.
    pair.drive();
    assert_eq!(pair.client().counters().sent, 0);
    assert_eq!(pair.outcome(id), not_executed(NotExecuted::MetadataUnsupported));
    // Before it has left, and by its limits: it is not begun.
    let error = NotBegun::BadMetadata(MetadataError::Truncated);
    assert_eq!(pair.client().call(now, call(&[9, 0, 1])), Err(error));
    // At the server: it was not agreed on.
    let mut pair = Pair::new();
    let (raw, welcome) = pair.raw_session();
    assert_eq!(welcome.features, 0, "this hello offers nothing");
    let header = wire::RequestHeader { flags: wire::FLAG_METADATA, ..header(4, 3) };
    pair.send(raw, &Frame::Request(header, &body));
    pair.drive();
    assert_eq!(pair.server_errors, [ProtocolError::Malformed { kind: 2 }]);
}

/// A session of a client that the test plays, which offers metadata.
fn raw_with_metadata(pair: &mut Pair, resume: Option<SessionId>) -> (usize, wire::Welcome) {
    let raw = pair.raw(ALICE);
    let Frame::Hello(hello) = hello(resume.map(|session| (session, 0))) else { unreachable!() };
    let hello = wire::Hello { features: wire::FEATURE_METADATA, ..hello };
    let welcome = pair.raw_greet(raw, &Frame::Hello(hello));
    (raw, welcome)
}

fn send_with(pair: &mut Pair, raw: usize, flags: u8, body: &[u8]) {
    let header =
        wire::RequestHeader { flags: flags | wire::FLAG_METADATA, method: ECHO, ..header(1, 0) };
    pair.send(raw, &Frame::Request(header, body));
}

#[test]
fn c216_on_a_lossy_link_a_request_is_sent_again_with_its_metadata_and_an_altered_copy_is_refused() {
    let mut config = default_server_config();
    config.lossy = true;
    let mut client = ClientConfig::default();
    client.resend_after = Some(ms(200));
    let mut pair = Pair::with(config, client).connected();
    let loses = std::rc::Rc::new(std::cell::Cell::new(true));
    let lost = loses.clone();
    pair.luck = Some(Box::new(move || if lost.get() { Luck::Lost } else { Luck::Once }));
    let call = pair.call_with(0, call(&with_tenant("acme", b"hello")));
    loses.set(false);
    assert_eq!((pair.outcome(call), pair.ran(b"hello")), (None, 0));
    pair.advance(ms(200));
    assert_eq!((pair.outcome(call), pair.ran(b"hello")), (reply(b"hello"), 1));
    assert_eq!(pair.client().counters().resends, 1);
    let (raw, _) = raw_with_metadata(&mut pair, None);
    send_with(&mut pair, raw, 0, &with_tenant("acme", b"a"));
    send_with(&mut pair, raw, 0, &with_tenant("acme", b"a"));
    assert_eq!((pair.ran(b"a"), pair.server_errors.len()), (1, 0));
    send_with(&mut pair, raw, 0, &with_tenant("other", b"a"));
    assert_eq!(pair.server_errors, [ProtocolError::FalseRetry { xid: 1 }]);
}

#[test]
fn c217_a_record_in_a_ledger_knows_the_metadata_of_its_call() {
    // A started record, and one of a reply: that is all a transactional call leaves.
    for done in [None, Some(&b"kept"[..])] {
        let mut pair = Pair::unconnected();
        pair.mode = Mode::Start;
        let (raw, welcome) = raw_with_metadata(&mut pair, None);
        send_with(&mut pair, raw, 0, &with_tenant("acme", b"a"));
        let key = pair.started[0].running.key();
        pair.record(key, done);
        pair.restart_server_with_ledger();
        let (raw, resumed) = raw_with_metadata(&mut pair, Some(welcome.session));
        assert_eq!(resumed.features, wire::FEATURE_METADATA);
        send_with(&mut pair, raw, 0, &with_tenant("acme", b"a"));
        let status = if done.is_some() { Status::Done } else { Status::Interrupted };
        let kept = done.unwrap_or_default().to_vec();
        assert_eq!(pair.got(raw), [OwnedFrame::Reply(status, 1, kept)]);
        send_with(&mut pair, raw, 0, &with_tenant("other", b"a"));
        assert_eq!(pair.server_errors, [ProtocolError::FalseRetry { xid: 1 }]);
    }
}

#[test]
fn c218_a_one_way_call_carries_metadata_like_any_other() {
    let mut two = Two::new();
    let body = with_tenant("acme", b"hello");
    two.client.call(NOW, Call { one_way: true, ..call(&body) }).unwrap();
    let lost = two.up();
    two.reconnect();
    two.carry();
    assert_eq!(two.seen, [(Some("acme".to_owned()), b"hello".to_vec())]);
    two.give(&lost).unwrap();
    assert_eq!((two.seen.len(), two.server.counters().duplicates), (1, 1));
}
