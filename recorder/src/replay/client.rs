//! One client of a recording: the real machine, given the calls that its requests show and the frames that it got.

use std::collections::BTreeMap;

use oncewire_core::wire::{
    self, Decoded, FLAG_IDEMPOTENT, FLAG_METADATA, FLAG_ONE_WAY, Frame, Hello, RequestHeader, Role,
};
use oncewire_core::{
    Call, CallId, Client, ClientConfig, ClientEvent, Executed, Heap, Instant, NEVER, Outcome,
};

use super::step::StepKind;
use crate::format::BODY_LEN_MAX;

/// Bytes that are taken from the machine at once.
const OUT_LEN: usize = 8192;

/// A client that is run again.
pub(super) struct ClientReplay {
    client: Client<Heap>,
    calls: BTreeMap<u64, CallId>,
    unread: Vec<u8>,
    /// The number of the last request that the machine has sent for the first time.
    last_xid: u64,
    /// The features that its last `Hello` offered.
    features: u32,
    /// It does not number calls as the recorded one did; its outcomes would be those of other calls.
    is_lost: bool,
    done: Vec<(Option<u64>, StepKind)>,
}

impl ClientReplay {
    /// The client that opens a session with this `Hello`.
    pub(super) fn new(hello: &Hello, lossy: bool) -> ClientReplay {
        let mut config = ClientConfig::default();
        (config.service, config.server) = (hello.service, hello.server);
        config.slots = hello.slots;
        config.request_len_max = hello.request_len_max;
        config.reply_len_max = hello.reply_len_max;
        // When the recorded one gave up, the recording says.
        config.handshake_timeout = NEVER;
        config.resend_after = lossy.then_some(NEVER);
        let client = Client::new(config);
        ClientReplay {
            client,
            calls: BTreeMap::new(),
            unread: Vec::new(),
            last_xid: 0,
            features: 0,
            is_lost: false,
            done: Vec::new(),
        }
    }

    pub(super) fn take_done(&mut self) -> Vec<(Option<u64>, StepKind)> {
        std::mem::take(&mut self.done)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.client.poll_timeout().filter(|_| !self.is_lost)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
        self.settle(now);
    }

    /// The recorded client has sent a frame.
    pub(super) fn sent(&mut self, now: Instant, frame: &Frame<'_>) {
        if self.is_lost {
            return;
        }
        match frame {
            Frame::Hello(_) => {
                self.unread.clear();
                self.client.handle_connected(now);
            }
            Frame::Request(header, body) => self.request(now, header, body),
            Frame::Cancel(xid) => {
                if let Some(call) = self.calls.get(&xid.get()) {
                    self.client.cancel(now, *call);
                }
            }
            Frame::Goodbye(_) => self.client.close(now),
            _ => {}
        }
        self.settle(now);
    }

    fn request(&mut self, now: Instant, header: &RequestHeader, body: &[u8]) {
        let xid = header.xid.get();
        if self.calls.contains_key(&xid) {
            return;
        }
        let mut call = Call::new(header.method, body);
        call.timeout = match header.remaining_ms {
            u32::MAX => NEVER,
            millis => std::time::Duration::from_millis(u64::from(millis)),
        };
        call.idempotent = header.flags & FLAG_IDEMPOTENT != 0;
        call.one_way = header.flags & FLAG_ONE_WAY != 0;
        call.metadata = header.flags & FLAG_METADATA != 0;
        let Ok(id) = self.client.call(now, call) else { return self.lose(xid) };
        self.calls.insert(xid, id);
        self.settle(now);
        if self.last_xid != xid {
            self.lose(xid);
        }
    }

    fn lose(&mut self, xid: u64) {
        self.is_lost = true;
        // What its caller cancelled or gave up before anything was sent, or which calls waited when, is not in a recording.
        let text = if self.calls.len() <= 1 {
            "the recording begins later than the session: outcomes are not known here"
        } else {
            "what the client did before this is not all in the recording: outcomes are not known from here on"
        };
        let kind = StepKind::Event(Role::Client, text.to_owned());
        self.done.push((Some(xid), kind));
    }

    /// A frame of the server has arrived.
    pub(super) fn received(&mut self, now: Instant, frame: &Frame<'_>, bytes: &[u8]) {
        if self.is_lost {
            return;
        }
        let mut welcome_bytes = [0; wire::CONTROL_LEN_MAX];
        let mut rest = bytes;
        if let Frame::Welcome(welcome) = frame {
            let mut welcome = *welcome;
            // Of a client that is silent, the recording says when it is given up.
            welcome.grants.keepalive_ms = u32::MAX;
            welcome.features &= self.features;
            if let Some(len) = wire::encode(&Frame::Welcome(welcome), &mut welcome_bytes) {
                rest = &welcome_bytes[..len];
            }
        }
        while !rest.is_empty() {
            match self.client.handle_data(now, rest) {
                Ok(received) => {
                    let took = received.consumed;
                    let reply =
                        received.item.map(|reply| (reply.xid.get(), outcome(reply.outcome)));
                    if let Some((xid, outcome)) = reply {
                        self.done.push((Some(xid), outcome));
                    } else if took == 0 {
                        break;
                    }
                    rest = &rest[took..];
                }
                Err(error) => {
                    let text = format!("the server has broken the protocol: {error}");
                    self.done.push((None, StepKind::Event(Role::Client, text)));
                    break;
                }
            }
        }
        self.settle(now);
    }

    pub(super) fn disconnected(&mut self, now: Instant) {
        self.client.handle_disconnected(now);
        self.settle(now);
    }

    /// Takes what the machine wants, until it wants no more.
    fn settle(&mut self, now: Instant) {
        let mut out = [0; OUT_LEN];
        loop {
            let mut is_idle = true;
            while let Some(event) = self.client.poll_event() {
                is_idle = false;
                self.take_event(&event);
            }
            while let Some(len) = self.client.poll_transmit(now, &mut out) {
                is_idle = false;
                self.unread.extend_from_slice(&out[..len.get()]);
                self.read_sent();
            }
            if is_idle {
                return;
            }
        }
    }

    fn read_sent(&mut self) {
        let mut rest = &self.unread[..];
        while let Ok(Decoded::Frame(frame, len)) = wire::decode(rest, Role::Client, BODY_LEN_MAX) {
            match frame {
                Frame::Request(header, _) => self.last_xid = self.last_xid.max(header.xid.get()),
                Frame::Hello(hello) => self.features = hello.features,
                _ => {}
            }
            rest = &rest[len..];
        }
        self.unread = rest.to_vec();
    }

    fn take_event(&mut self, event: &ClientEvent) {
        let kind = match event {
            ClientEvent::Ended { xid, outcome: ended, .. } => {
                self.done.push((xid.map(|xid| xid.get()), outcome(*ended)));
                return;
            }
            ClientEvent::SessionLost(why) => {
                // Numbers begin again in the next session.
                (self.last_xid, self.calls) = (0, BTreeMap::new());
                format!("the client's session is lost: {why}")
            }
            ClientEvent::Disconnect(why) => format!("the client closes the connection: {why}"),
            ClientEvent::Closed => "the client is closed: every call is settled".to_owned(),
            _ => return,
        };
        self.done.push((None, StepKind::Event(Role::Client, kind)));
    }
}

fn outcome(outcome: Outcome<'_>) -> StepKind {
    let executed: Executed = outcome.executed();
    StepKind::Outcome { executed, text: outcome.to_string() }
}
