//! Second copies of frames that come after a reconnect, or after the server was started again (S27).

use oncewire_core::wire::{Frame, Refuse, RequestHeader, Welcome};
use oncewire_core::*;

use crate::util::durable::*;
use crate::util::*;

/// A client on a lossy link whose server the test plays, and a `Welcome` to its first `Hello`.
fn played() -> (Pair, usize, Welcome) {
    let mut server = Pair::new();
    let welcome = Welcome { nonce: 1, commit: 5, ..server.raw_session().1 };
    let mut config = ClientConfig::default();
    config.resend_after = Some(ms(200));
    let mut pair = Pair::with(default_server_config(), config);
    let link = pair.connect_by_hand(0);
    (pair, link, welcome)
}

#[test]
fn c153_an_old_welcome_after_a_reconnect_is_not_taken() {
    let (mut pair, first, welcome) = played();
    pair.send_down(first, &Frame::Welcome(welcome));
    let call = pair.call(b"a");
    let second = pair.connect_by_hand(0);
    pair.send_down(second, &Frame::Welcome(Welcome { nonce: 2, commit: 9, ..welcome }));
    assert!(pair.client().is_connected());

    let third = pair.connect_by_hand(0);
    pair.send_down(third, &Frame::Welcome(welcome));
    assert_eq!(pair.sessions_lost(), [], "its commit is of the past, and no ledger was put back");
    assert!(!pair.client().is_connected(), "it answers another Hello");
    pair.send_down(third, &Frame::Welcome(Welcome { nonce: 3, commit: 9, ..welcome }));
    assert!(pair.client().is_connected());
    assert_eq!(pair.outcome(call), None);
    assert_eq!(pair.peers[0].errors, []);
}

#[test]
fn c153_an_old_refusal_after_a_reconnect_ends_nothing() {
    let (mut pair, first, welcome) = played();
    pair.send_down(first, &Frame::Welcome(welcome));
    pair.call(b"a");
    let second = pair.connect_by_hand(0);
    let refuse = |nonce| Frame::Refuse(Refuse::SessionUnknown, Instance::UNNAMED, nonce);
    pair.send_down(second, &refuse(1));
    assert_eq!((pair.sessions_lost(), pair.disconnects()), (vec![], vec![]));
    pair.send_down(second, &refuse(2));
    assert_eq!(pair.sessions_lost(), [SessionEnd::SessionUnknown]);
}

#[test]
fn c153_on_a_stream_a_welcome_to_another_hello_is_a_protocol_error() {
    let (_, _, welcome) = played();
    let mut pair = Pair::unconnected();
    let link = pair.connect_by_hand(0);
    pair.send_down(link, &Frame::Welcome(Welcome { nonce: 2, ..welcome }));
    assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedWelcome]);
}

/// Both ends lossy, a ledger, and an instance with this id.
fn with_ledger(instance: u64) -> Pair {
    let mut server = default_server_config();
    (server.lossy, server.instance) = (true, Instance::new(instance, ""));
    let mut client = ClientConfig::default();
    client.resend_after = Some(ms(200));
    Pair::with(server, client).connected()
}

#[test]
fn c154_a_copy_of_a_request_after_a_restart_does_not_run() {
    let mut pair = with_ledger(0x1_0001);
    pair.mode = Mode::Hold;
    let call = pair.call(b"a");
    pair.record_session();
    let session = pair.session_id();
    pair.refuse(b"a", NotExecuted::Overloaded);
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::Overloaded));

    // Refusals are in no ledger. Of the Hello and of the request, a second copy comes to the next process.
    pair.server_config.instance = Instance::new(0x1_0002, "");
    pair.restart_server_with_ledger();
    pair.mode = Mode::Echo;
    let (raw, welcome) = pair.raw_resume(session, 0);
    let xid = u64::from(welcome.grants.slots);
    let [low, high, ..] = session.to_bytes();
    let of_session = u16::from_le_bytes([low, high]);
    let copy = RequestHeader { instance: 1 ^ of_session, ..header(xid, xid - 1) };
    pair.send(raw, &Frame::Request(copy, b"a"));
    assert_eq!(pair.ran(b"a"), 0);
    assert_eq!(pair.server_errors, []);
    // A client that has not heard of the restart learns of it so.
    let OwnedFrame::Welcome(again) = pair.got(raw)[0] else { panic!("no Welcome") };
    assert_eq!(again.instance.id(), 0x1_0002);
    let of_another = RequestHeader { instance: 2 ^ !of_session, ..copy };
    pair.send(raw, &Frame::Request(of_another, b"a"));
    assert_eq!(pair.ran(b"a"), 0, "of another session");
    pair.send(raw, &Frame::Request(RequestHeader { instance: 2 ^ of_session, ..copy }, b"a"));
    assert_eq!(pair.ran(b"a"), 1, "from a client that knows this instance");
}

#[test]
fn c154_a_client_whose_server_was_started_again_unnoticed_greets_it() {
    let (mut pair, link, welcome) = played();
    pair.send_down(link, &Frame::Welcome(welcome));
    pair.call(b"a");
    pair.send_down(link, &Frame::Welcome(welcome));
    assert_eq!(pair.disconnects(), [], "the same answer twice");
    let instance = Instance::new(9, "");
    pair.send_down(link, &Frame::Welcome(Welcome { instance, ..welcome }));
    assert_eq!(pair.disconnects(), [CloseReason::ServerRestarted]);
    assert_eq!(pair.sessions_lost(), []);
}

#[test]
fn c154_on_a_stream_a_request_names_no_instance() {
    let mut pair = Pair::unconnected();
    let (raw, _) = pair.raw_session();
    pair.send(raw, &Frame::Request(RequestHeader { instance: 1, ..header(1, 0) }, b"a"));
    assert_eq!(pair.server_errors, [ProtocolError::Malformed { kind: 0x02 }]);
    assert_eq!(pair.runs.len(), 0);
}

#[test]
fn c154_a_copy_between_a_hello_and_its_welcome_is_dropped_and_no_fault() {
    let mut config = default_server_config();
    (config.lossy, config.records_sessions) = (true, true);
    let mut pair = Pair::with(config, ClientConfig::default());
    let raw = pair.raw(ALICE);
    pair.send(raw, &hello(None));
    for frame in [request(1, 0, &[7; 5_000]), Frame::Ask(xid(1), 1), Frame::Cancel(xid(1))] {
        pair.send(raw, &frame);
    }
    assert_eq!(pair.server_errors, []);
    let conn = pair.conn(raw).expect("it goes on");
    pair.server.confirm_session(conn);
    pair.drive();
    assert!(matches!(pair.got(raw)[..], [OwnedFrame::Welcome(_)]));
    assert_eq!(pair.runs.len(), 0);
}

/// The end of C125 on a link where second copies of an `Ask` come, and are not to be accused.
#[test]
fn c157_a_client_on_an_old_copy_learns_it_on_a_lossy_link_too() {
    let mut pair = durable_on_lossy_link();
    let mut disk = Disk::default();
    pair.link().hold_up = true;
    let mut call = Call::new(ECHO, b"a");
    call.timeout = secs(1);
    let call = pair.call_with(0, call);
    record(&mut pair, &mut disk);
    let old = disk.clone();
    pair.cut();
    pair.advance(secs(2));
    pair.reconnect();
    settle(&mut pair, call);
    pair.advance(secs(1));
    let late = pair.client().counters().late_answers;

    let calls = restart(&mut pair, &old);
    pair.reconnect();
    record(&mut pair, &mut Disk::default());
    pair.advance(secs(1));
    assert_eq!(pair.server_errors, []);
    assert_eq!(pair.sessions_lost(), [SessionEnd::RolledBack]);
    assert_eq!(pair.outcome(only(&calls)), unknown(Unknown::SessionEnded));
    assert_eq!((pair.ran(b"a"), late), (0, 0));
}

#[test]
fn c157_a_second_copy_of_an_ask_changes_nothing() {
    let mut pair = with_ledger(1);
    let call = pair.call(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
    pair.advance(secs(1));
    let asked = Xid::new(u64::from(pair.client().session().unwrap().grants.slots)).unwrap();
    let copy = bytes_of(&Frame::Ask(asked, 1));
    pair.link().up.extend(copy);
    pair.drive();
    assert_eq!(pair.client().counters().late_answers, 1, "Settled, and nothing waits for it");
    assert_eq!((pair.sessions_lost(), pair.disconnects()), (vec![], vec![]));
    assert_eq!((&pair.peers[0].errors, &pair.server_errors), (&vec![], &vec![]));
}
