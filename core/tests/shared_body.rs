//! Frames whose rest is passed on in shared memory, without a copy.

mod util;

use bytes::Bytes;
use oncewire_core::*;
use util::behind_len;

const ECHO: MethodId = MethodId::of("test/echo");
const IDEM: MethodId = MethodId::of("test/idem");
const NOW: Instant = Instant::ZERO;

struct Both {
    client: Client<Heap>,
    server: Server<Heap>,
    conn: ConnId,
    /// Rests that were passed on in shared memory.
    rests: usize,
}

fn secret(number: u8) -> SessionId {
    SessionId::from_bytes([number; 16])
}

impl Both {
    fn new() -> Both {
        Both::with(ClientConfig::default(), false)
    }

    fn with(client: ClientConfig, lossy: bool) -> Both {
        let service = ServiceName::new("test").unwrap();
        let mut config = ServerConfig::new(ServerId::from_bytes([7; 16]), service);
        config.lossy = lossy;
        let mut idempotent = MethodSpec::new(IDEM);
        idempotent.idempotent = true;
        let specs = [MethodSpec::new(ECHO), idempotent].map(|spec| {
            let mut spec = spec;
            spec.reply_len_max = 1 << 20;
            spec
        });
        let mut server: Server<Heap> = Server::new(config, &specs).unwrap();
        let mut client: Client<Heap> = Client::new(client);
        client.handle_connected(NOW);
        let conn = server.handle_connected(NOW, Principal::ANONYMOUS, secret(1)).unwrap();
        let mut both = Both { client, server, conn, rests: 0 };
        assert!(both.up().is_empty());
        assert!(both.down().is_empty());
        both
    }

    /// What the client sends now, with a slice of 4 KiB to write into.
    fn sent_up(&mut self) -> Vec<u8> {
        let (mut bytes, mut out) = (Vec::new(), [0; 4096]);
        while let Some(len) = self.client.poll_transmit(NOW, &mut out) {
            bytes.extend(&out[..len.get()]);
            if let Some(rest) = self.client.take_shared_tail() {
                self.rests += 1;
                bytes.extend(&rest);
            }
        }
        assert!(self.client.take_shared_tail().is_none());
        bytes
    }

    /// Carries all of it up; the calls that were admitted, with their bodies.
    fn up(&mut self) -> Vec<(Admission, Bytes)> {
        let bytes = self.sent_up();
        let (mut at, mut admitted) = (0, Vec::new());
        loop {
            let received = self.server.handle_data(NOW, self.conn, &bytes[at..]).unwrap();
            at += received.consumed;
            match received.item {
                Some(Incoming::Request(request)) => {
                    admitted.push((request.admission, Bytes::copy_from_slice(request.body)));
                }
                Some(_) => {}
                None => break,
            }
        }
        assert_eq!(at, bytes.len());
        admitted
    }

    /// Carries what the server sends down; the replies.
    fn down(&mut self) -> Vec<(CallId, Vec<u8>)> {
        let (mut bytes, mut out) = (Vec::new(), [0; 4096]);
        while self.server.poll_event().is_some() {}
        while let Some(len) = self.server.poll_transmit(NOW, self.conn, &mut out) {
            bytes.extend(&out[..len.get()]);
            if let Some(rest) = self.server.take_shared_tail(self.conn) {
                self.rests += 1;
                bytes.extend(&rest);
            }
        }
        let (mut at, mut replies) = (0, Vec::new());
        loop {
            let received = self.client.handle_data(NOW, &bytes[at..]).unwrap();
            at += received.consumed;
            match received.item {
                Some(Reply { call, outcome: Outcome::Reply(body), .. }) => {
                    replies.push((call, body.to_vec()));
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
        while self.client.poll_event().is_some() {}
        assert_eq!(at, bytes.len());
        replies
    }

    fn answer_all(&mut self, calls: Vec<(Admission, Bytes)>) {
        for (admission, body) in calls {
            let running = self.server.start(NOW, admission).unwrap();
            self.server.reply(NOW, running, body).unwrap();
        }
    }

    /// The connection breaks, and there is a new one.
    fn reconnect(&mut self, number: u8) {
        self.client.handle_disconnected(NOW);
        self.server.handle_disconnected(NOW, self.conn);
        self.client.handle_connected(NOW);
        self.conn =
            self.server.handle_connected(NOW, Principal::ANONYMOUS, secret(number)).unwrap();
    }
}

fn large(len: usize) -> Bytes {
    (0..len).map(|at| (at * 7) as u8).collect()
}

#[test]
fn large_shared_bodies_arrive_whole_between_small_ones() {
    let mut both = Both::new();
    let bodies = [large(3), large(5_000), large(200_000), large(10), large(4_096)];
    let calls: Vec<CallId> = bodies
        .iter()
        .map(|body| both.client.call(NOW, Call::new(ECHO, body.clone())).unwrap())
        .collect();
    let admitted = both.up();
    assert!(admitted.iter().map(|(_, body)| body).eq(&bodies));
    // Those that fit no slice of 4 KiB, header and all.
    assert_eq!(std::mem::take(&mut both.rests), 3);
    both.answer_all(admitted);
    let replies = both.down();
    let expected: Vec<_> = calls.into_iter().zip(bodies.iter().map(|body| body.to_vec())).collect();
    assert_eq!(replies, expected);
    assert_eq!(both.rests, 3);
    assert_eq!(both.client.pending(), 0);
}

#[test]
fn a_rest_counts_as_sent_and_the_call_is_in_doubt_when_the_connection_breaks() {
    let mut both = Both::new();
    let body = large(100_000);
    let call = both.client.call(NOW, Call::new(ECHO, body.clone())).unwrap();
    let lost = both.sent_up();
    assert!(lost.len() > body.len());
    both.reconnect(2);
    assert!(both.up().is_empty(), "the handshake comes first");
    assert!(both.down().is_empty());
    // The server never read it: it is sent again, whole, and runs once.
    let admitted = both.up();
    assert_eq!(admitted.len(), 1);
    both.answer_all(admitted);
    assert_eq!(both.down(), [(call, body.to_vec())]);
}

#[test]
fn a_reply_whose_rest_was_taken_and_lost_is_sent_again() {
    let mut both = Both::new();
    let body = large(100_000);
    let call = both.client.call(NOW, Call::new(ECHO, body.clone())).unwrap();
    let admitted = both.up();
    both.answer_all(admitted);
    let mut out = [0; 4096];
    let written = both.server.poll_transmit(NOW, both.conn, &mut out).unwrap();
    assert_eq!(written.get(), wire::REPLY_HEADER_LEN);
    assert!(both.server.take_shared_tail(both.conn).is_some());
    assert!(both.server.take_shared_tail(both.conn).is_none(), "once");
    both.reconnect(2);
    assert!(both.up().is_empty());
    assert!(both.down().is_empty());
    assert!(both.up().is_empty(), "asked for, not sent again");
    assert_eq!(both.down(), [(call, body.to_vec())]);
}

#[test]
fn s22_of_an_idempotent_reply_nothing_is_kept_once_its_rest_was_taken() {
    let mut both = Both::new();
    let mut call = Call::new(IDEM, large(100_000));
    call.idempotent = true;
    both.client.call(NOW, call).unwrap();
    let admitted = both.up();
    both.answer_all(admitted);
    assert!(both.server.counters().kept_bytes >= 100_000);
    assert_eq!(both.down().len(), 1);
    assert_eq!(both.server.counters().kept_bytes, 0);
}

#[test]
fn s16_what_a_server_has_forgotten_is_not_acknowledged_for_its_length() {
    for idempotent in [false, true] {
        let mut both = Both::new();
        let mut call = Call::new(IDEM, large(100_000));
        call.idempotent = idempotent;
        both.client.call(NOW, call).unwrap();
        let admitted = both.up();
        both.answer_all(admitted);
        assert_eq!(both.down().len(), 1);
        // With a reply that is kept, that would be an `Ack` of its own for each chunk of a stream.
        assert_eq!(both.sent_up().is_empty(), idempotent);
        assert!(both.client.poll_timeout().is_some(), "later it is acknowledged like all others");
    }
}

#[test]
fn there_is_no_rest_of_what_is_not_shared_or_has_not_begun() {
    let mut both = Both::new();
    let body = large(100_000);
    both.client.call(NOW, Call::new(ECHO, &body[..])).unwrap();
    assert!(both.client.take_shared_tail().is_none(), "nothing is leaving");
    let mut out = [0; 4096];
    assert!(both.client.poll_transmit(NOW, &mut out).is_some());
    assert!(both.client.take_shared_tail().is_none(), "it was copied, and goes on being copied");
    assert!(both.client.poll_transmit(NOW, &mut out).is_some());
    assert!(both.server.take_shared_tail(both.conn).is_none());
}

#[test]
fn a_long_body_leaves_from_where_it_lies_whatever_room_there_is() {
    let mut both = Both::new();
    let body = large(64 << 10);
    both.client.call(NOW, Call::new(ECHO, body.clone())).unwrap();
    both.client.call(NOW, Call::new(ECHO, &b"short"[..])).unwrap();
    let mut out = vec![0; 1 << 20];
    let written = both.client.poll_transmit(NOW, &mut out).unwrap();
    assert_eq!(written.get(), wire::REQUEST_HEADER_LEN);
    let rest = both.client.take_shared_tail().unwrap();
    assert_eq!((rest.as_ptr(), rest.len()), (body.as_ptr(), body.len()), "no copy");
    let mut bytes = out[..written.get()].to_vec();
    bytes.extend(&rest);
    let written = both.client.poll_transmit(NOW, &mut out).unwrap();
    bytes.extend(&out[..written.get()]);
    let received = both.server.handle_data(NOW, both.conn, &bytes).unwrap();
    let Some(Incoming::Request(request)) = received.item else { panic!("{received:?}") };
    assert_eq!(request.body, body);
    let running = both.server.start(NOW, request.admission).unwrap();
    both.server.reply(NOW, running, body.clone()).unwrap();
    let written = both.server.poll_transmit(NOW, both.conn, &mut out).unwrap();
    assert_eq!(written.get(), wire::REPLY_HEADER_LEN);
    let rest = both.server.take_shared_tail(both.conn).unwrap();
    assert_eq!((rest.as_ptr(), rest.len()), (body.as_ptr(), body.len()), "no copy");
}

#[test]
fn a_long_body_that_is_not_taken_is_copied_behind_its_header() {
    let mut both = Both::new();
    let body = large(100_000);
    both.client.call(NOW, Call::new(ECHO, body.clone())).unwrap();
    let (mut bytes, mut out) = (Vec::new(), vec![0; 1 << 20]);
    while let Some(len) = both.client.poll_transmit(NOW, &mut out) {
        bytes.extend(&out[..len.get()]);
    }
    let received = both.server.handle_data(NOW, both.conn, &bytes).unwrap();
    let Some(Incoming::Request(request)) = received.item else { panic!("{received:?}") };
    assert_eq!(request.body, body);
}

fn call_with_len<'a>(method: MethodId, body: impl Into<Payload<'a>>) -> Call<'a> {
    let mut call = Call::new(method, body);
    call.with_len = true;
    call
}

#[test]
fn metadata_behind_a_length_are_refused() {
    let mut both = Both::new();
    let mut call = call_with_len(ECHO, large(70_000));
    call.metadata = true;
    let refused = both.client.call(NOW, call.clone());
    assert!(matches!(refused, Err(NotBegun::BadMetadata(_))), "{refused:?}");
    assert_eq!(both.client.call_ahead(NOW, call), None);
    assert_eq!(both.client.pending(), 0);
}

#[test]
fn a_body_behind_its_length_is_one_on_the_wire_whether_it_is_shared_or_not() {
    let mut both = Both::new();
    for len in [0, 1, 61, 62, 63, 127, 128, 1_023, 1_024, 5_000, 65_533, 65_536, 200_000] {
        let body = large(len);
        let whole = behind_len(&body);
        for shared in [false, true] {
            let call = match shared {
                true => call_with_len(ECHO, body.clone()),
                false => call_with_len(ECHO, &body[..]),
            };
            let call = both.client.call(NOW, call).unwrap();
            let small = both.client.call(NOW, Call::new(ECHO, large(3))).unwrap();
            let mut admitted = both.up();
            assert!(admitted.len() == 2 && admitted[0].1 == whole && admitted[1].1 == large(3));
            let (admission, _) = admitted.remove(0);
            let (_, kept) = both.server.record_of(admission.key()).unwrap();
            assert_eq!(kept, digest(ECHO, 0, &whole), "the digest of the same bytes in one piece");
            let running = both.server.start(NOW, admission).unwrap();
            both.server.reply_with_len(NOW, running, body.clone()).unwrap();
            both.answer_all(admitted);
            assert!(both.down() == [(call, whole.clone()), (small, large(3).to_vec())]);
        }
    }
    assert_eq!(both.client.pending(), 0);
    both.client.close(NOW);
    assert!(both.up().is_empty());
    assert_eq!(both.server.counters().kept_bytes, 0, "all of it was counted, and given back");
}

#[test]
fn what_is_shared_behind_its_length_leaves_from_where_it_lies_and_counts_until_it_has() {
    let mut both = Both::new();
    let (body, mut out) = (large(70_000), vec![0; 1 << 20]);
    let whole = behind_len(&body).len();
    both.client.call(NOW, call_with_len(ECHO, body.clone())).unwrap();
    let written = both.client.poll_transmit(NOW, &mut out).unwrap().get();
    assert_eq!(written, wire::REQUEST_HEADER_LEN + 3);
    let rest = both.client.take_shared_tail().unwrap();
    assert_eq!((rest.as_ptr(), rest.len()), (body.as_ptr(), body.len()), "no copy");
    let frame = [&out[..written], &rest].concat();
    let received = both.server.handle_data(NOW, both.conn, &frame).unwrap();
    let Some(Incoming::Request(request)) = received.item else { panic!("{received:?}") };
    let running = both.server.start(NOW, request.admission).unwrap();
    both.server.reply_with_len(NOW, running, body.clone()).unwrap();
    assert_eq!(both.server.counters().kept_bytes, whole as u64);
    let written = both.server.poll_transmit(NOW, both.conn, &mut out).unwrap().get();
    assert_eq!(written, wire::REPLY_HEADER_LEN + 3);
    let rest = both.server.take_shared_tail(both.conn).unwrap();
    assert_eq!((rest.as_ptr(), rest.len()), (body.as_ptr(), body.len()), "no copy");
    assert_eq!(both.server.counters().kept_bytes, whole as u64);
}

#[test]
fn what_is_behind_its_length_is_sent_again_whole_wherever_it_was_cut() {
    let body = large(100_000);
    for room in wire::REQUEST_HEADER_LEN..wire::REQUEST_HEADER_LEN + 6 {
        let mut both = Both::new();
        let call = both.client.call(NOW, call_with_len(ECHO, body.clone())).unwrap();
        let mut out = [0; 4096];
        let written = both.client.poll_transmit(NOW, &mut out[..room]).unwrap().get();
        let mut bytes = out[..written].to_vec();
        match both.client.take_shared_tail() {
            Some(rest) => bytes.extend(&rest),
            None => bytes.extend(both.sent_up()),
        }
        assert!(bytes[wire::REQUEST_HEADER_LEN..] == behind_len(&body));
        // All of that is lost.
        both.reconnect(2);
        assert!(both.up().is_empty() && both.down().is_empty());
        let mut admitted = both.up();
        assert!(admitted.len() == 1 && admitted[0].1 == behind_len(&body), "it is sent again");
        let running = both.server.start(NOW, admitted.remove(0).0).unwrap();
        both.server.reply_with_len(NOW, running, body.clone()).unwrap();
        let mut out = [0; wire::REPLY_HEADER_LEN + 2];
        assert!(both.server.poll_transmit(NOW, both.conn, &mut out).is_some());
        both.reconnect(3);
        assert!(both.up().is_empty() && both.down().is_empty());
        assert!(both.up().is_empty(), "asked for, not sent again");
        assert!(both.down() == [(call, behind_len(&body))]);
    }
}

#[test]
fn s15_and_s23_a_reply_behind_its_length_is_kept_within_its_bounds_and_not_for_one_way_calls() {
    let mut both = Both::new();
    // With its length it is one byte too long.
    let body = large((1 << 20) - 2);
    both.client.call(NOW, Call::new(ECHO, large(3))).unwrap();
    let mut admitted = both.up();
    let running = both.server.start(NOW, admitted.remove(0).0).unwrap();
    let len = behind_len(&body).len();
    let too_large = both.server.reply_with_len(NOW, running, body.clone());
    assert_eq!(too_large, Err(ReplyTooLarge { len, max: 1 << 20 }));
    let mut call = Call::new(IDEM, large(3));
    call.one_way = true;
    both.client.call(NOW, call).unwrap();
    let mut admitted = both.up();
    let running = both.server.start(NOW, admitted.remove(0).0).unwrap();
    assert_eq!(both.server.reply_with_len(NOW, running, large(5_000)), Ok(()));
    assert_eq!(both.server.counters().kept_bytes, 0);
    // Metadata is first in a body.
    let mut call = call_with_len(ECHO, large(5_000));
    call.metadata = true;
    assert!(matches!(both.client.call(NOW, call), Err(NotBegun::BadMetadata(_))));
}

#[test]
fn s27_where_messages_are_lost_a_body_behind_its_length_is_in_one_frame_and_is_known_again() {
    let after = core::time::Duration::from_millis(10);
    let mut config = ClientConfig::default();
    config.resend_after = Some(after);
    let mut both = Both::with(config, true);
    let (body, mut out) = (large(100_000), vec![0; 1 << 20]);
    let whole = behind_len(&body).len();
    both.client.call(NOW, call_with_len(ECHO, body.clone())).unwrap();
    let (mut now, mut frames) = (NOW, Vec::new());
    for _ in 0..2 {
        let written = both.client.poll_transmit(now, &mut out).unwrap().get();
        assert_eq!(written, wire::REQUEST_HEADER_LEN + whole);
        assert!(both.client.take_shared_tail().is_none(), "it left in one piece");
        frames.push(out[..written].to_vec());
        now = now + after;
        both.client.handle_timeout(now);
    }
    let received = both.server.handle_data(now, both.conn, &frames[0]).unwrap();
    let Some(Incoming::Request(request)) = received.item else { panic!("{received:?}") };
    let running = both.server.start(now, request.admission).unwrap();
    let again = both.server.handle_data(now, both.conn, &frames[1]).unwrap();
    assert!(again.item.is_none(), "it is known by its digest, and runs once");
    both.server.reply_with_len(now, running, body.clone()).unwrap();
    let written = both.server.poll_transmit(now, both.conn, &mut out).unwrap().get();
    assert_eq!(written, wire::REPLY_HEADER_LEN + whole);
    assert!(both.server.take_shared_tail(both.conn).is_none());
}

#[test]
fn the_bytes_of_calls_behind_their_length_are_given_back_to_the_last_one() {
    let body = large(100_000);
    let mut config = ClientConfig::default();
    config.pending_bytes_max = behind_len(&body).len();
    let mut both = Both::with(config, false);
    for _ in 0..5 {
        let call = both.client.call(NOW, call_with_len(ECHO, body.clone()));
        let call = call.expect("nothing of the calls before it is counted any more");
        let mut admitted = both.up();
        let running = both.server.start(NOW, admitted.remove(0).0).unwrap();
        both.server.reply_with_len(NOW, running, body.clone()).unwrap();
        assert!(both.down() == [(call, behind_len(&body))]);
    }
}
