//! The loop of the crate's README: what is between the markers is that code block, compiled here, and run.

// README begins
use oncewire_core::*;

/// The hardware, or the socket. Neither method waits.
trait Link {
    fn send(&mut self, bytes: &[u8]);
    /// Puts what has arrived at the front of `into` and returns how much that is.
    fn receive(&mut self, into: &mut [u8]) -> usize;
}

/// Bytes that have arrived and were not taken yet. It must hold the longest frame.
struct Inbox {
    bytes: [u8; 512],
    len: usize,
}

impl Inbox {
    fn fill(&mut self, link: &mut impl Link) {
        self.len += link.receive(&mut self.bytes[self.len..]);
    }

    fn take(&mut self, count: usize) {
        self.bytes.copy_within(count..self.len, 0);
        self.len -= count;
    }
}

/// Whether the connection is still there. If not, close it and make another one.
fn client_turn<S: ClientStorage>(
    now: Instant,
    client: &mut Client<S>,
    link: &mut impl Link,
    inbox: &mut Inbox,
    mut on_outcome: impl FnMut(CallId, Outcome<'_>),
) -> bool {
    inbox.fill(link);
    // After an error the machine has let go of the connection.
    let mut is_up = loop {
        let Ok(received) = client.handle_data(now, &inbox.bytes[..inbox.len]) else { break false };
        if let Some(reply) = &received.item {
            on_outcome(reply.call, reply.outcome);
        }
        let (consumed, more) = (received.consumed, received.item.is_some());
        inbox.take(consumed);
        if !more {
            break true;
        }
    };
    // Only after everything that has arrived was read.
    if client.poll_timeout().is_some_and(|at| at <= now) {
        client.handle_timeout(now);
    }
    let mut out = [0; wire::CONTROL_LEN_MAX];
    while let Some(len) = client.poll_transmit(now, &mut out) {
        link.send(&out[..len.get()]);
    }
    // Last, since what cannot be sent ends while it is to be.
    while let Some(event) = client.poll_event() {
        match event {
            ClientEvent::Ended { call, outcome, .. } => on_outcome(call, outcome),
            // Its reason is worth a message: it was refused, say, or the server fell silent.
            ClientEvent::Disconnect(_) => is_up = false,
            _ => {}
        }
    }
    // Sleep until bytes come or `client.poll_timeout()` has passed.
    is_up
}

/// The same for the server's side.
fn server_turn<T: ServerStorage>(
    now: Instant,
    server: &mut Server<T>,
    conn: ConnId,
    link: &mut impl Link,
    inbox: &mut Inbox,
    handler: impl Fn(&[u8]) -> [u8; 1],
) -> bool {
    inbox.fill(link);
    // After an error, a `Refuse` that says why is sent below, and then `Close` comes.
    while let Ok(received) = server.handle_data(now, conn, &inbox.bytes[..inbox.len]) {
        let more = received.item.is_some();
        if let Some(Incoming::Request(request)) = received.item
            && let Ok(running) = server.start(now, request.admission)
        {
            // A reply that is too large is recorded as such, and the client learns that.
            let _ = server.reply(now, running, &handler(request.body));
        }
        inbox.take(received.consumed);
        if !more {
            break;
        }
    }
    if server.poll_timeout().is_some_and(|at| at <= now) {
        server.handle_timeout(now);
    }
    let mut out = [0; wire::CONTROL_LEN_MAX];
    let mut is_up = true;
    while let Some(event) = server.poll_event() {
        match event {
            ServerEvent::Transmit(conn) => {
                while let Some(len) = server.poll_transmit(now, conn, &mut out) {
                    link.send(&out[..len.get()]);
                }
            }
            // Of all connections: this server has one.
            ServerEvent::Close(_, _) => is_up = false,
            _ => {}
        }
    }
    is_up
}
// README ends

#[derive(Default)]
struct Wire {
    sent: Vec<u8>,
    arrived: Vec<u8>,
}

impl Link for Wire {
    fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
    }

    fn receive(&mut self, into: &mut [u8]) -> usize {
        let len = self.arrived.len().min(into.len());
        into[..len].copy_from_slice(&self.arrived[..len]);
        self.arrived.drain(..len);
        len
    }
}

#[test]
fn the_loop_of_the_readme_makes_calls() {
    let add_one = MethodId::of("toy/add_one");
    let service = ServiceName::new("toy").unwrap();
    let config = ServerConfig::new(ServerId::from_bytes([7; 16]), service);
    let mut server: Server<InlineServer<1, 2, 4, 1, 16>> =
        Server::new(config, &[MethodSpec::new(add_one)]).unwrap();
    let mut client: Client<InlineClient<8, 4, 16>> = Client::new(ClientConfig::default());
    let (mut near, mut far) = (Wire::default(), Wire::default());
    let mut inboxes = [const { Inbox { bytes: [0; 512], len: 0 } }; 2];
    let [near_inbox, far_inbox] = &mut inboxes;

    let mut now = Instant::ZERO;
    let secret = SessionId::from_bytes([1; 16]);
    let conn = server.handle_connected(now, Principal::ANONYMOUS, secret).unwrap();
    client.handle_connected(now);
    let calls: Vec<CallId> =
        (0..8).map(|n| client.call(now, Call::new(add_one, &[n; 1])).unwrap()).collect();
    let mut replies = Vec::new();
    for _ in 0..20 {
        now = now + core::time::Duration::from_millis(10);
        let is_up = client_turn(now, &mut client, &mut near, near_inbox, |call, outcome| {
            let Outcome::Reply(&[byte]) = outcome else { panic!("{outcome:?}") };
            replies.push((call, byte));
        });
        assert!(is_up);
        far.arrived.append(&mut near.sent);
        assert!(server_turn(now, &mut server, conn, &mut far, far_inbox, |body| [body[0] + 1]));
        near.arrived.append(&mut far.sent);
    }
    let expected: Vec<(CallId, u8)> = calls.into_iter().zip(1..).collect();
    assert_eq!(replies, expected);
    assert_eq!(server.counters().kept_bytes, 0, "the client has acknowledged");
}

#[test]
fn the_loop_of_the_readme_is_this_one() {
    let this = include_str!("readme.rs");
    let (_, this) = this.split_once("// README begins\n").unwrap();
    let (this, _) = this.split_once("// README ends\n").unwrap();
    let readme = include_str!("../README.md");
    let (_, block) = readme.split_once("```rust\n").unwrap();
    let (block, rest) = block.split_once("```\n").unwrap();
    assert_eq!(block, this);
    assert!(!rest.contains("```rust"), "every block is compiled");
}
