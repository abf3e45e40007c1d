//! A peer that speaks frames by hand, well or badly.

use std::sync::Arc;

use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use oncewire_core::wire::{
    self, Ack, Decoded, Frame, Grants, Hello, Refuse, ReplyHeader, RequestHeader, Resume, Role,
    ServiceName, Welcome,
};
use oncewire_core::{Instance, MethodId, Schemas, ServerId, SessionId, Status, Xid};

use super::world::{Host, World};
use crate::transport::{Accept, BoxStream, Connect};

/// Kinds of frames, as PROTOCOL.md numbers them.
pub(crate) mod kind {
    pub(crate) const REQUEST: u8 = 0x02;
    pub(crate) const ACK: u8 = 0x04;
    pub(crate) const CANCEL: u8 = 0x05;
    pub(crate) const WELCOME: u8 = 0x41;
    pub(crate) const REPLY: u8 = 0x42;
    pub(crate) const GOODBYE_OF_SERVER: u8 = 0x48;
}

/// The longest body that a peer takes.
const BODY_LEN_MAX: u32 = 32 << 20;

/// A frame that came: bodies are beside it.
pub(crate) type Heard = (Frame<'static>, Vec<u8>);

/// One end of a connection.
pub(crate) struct RawPeer {
    world: World,
    stream: BoxStream,
    role: Role,
    received: Vec<u8>,
    ended: bool,
}

/// What a peer says first.
pub(crate) fn hello(resume: Option<Resume>) -> Hello {
    Hello {
        magic: wire::MAGIC,
        version_min: wire::VERSION,
        version_max: wire::VERSION,
        features: 0,
        resume,
        slots: 4,
        request_len_max: BODY_LEN_MAX,
        reply_len_max: BODY_LEN_MAX,
        service: None,
        server: None,
        token: None,
    }
}

/// What a peer answers to a client's `Hello`.
pub(crate) fn welcome(hello: &Hello, session: [u8; 16], seen: u64) -> Welcome {
    Welcome {
        version: wire::VERSION,
        features: 0,
        server: ServerId::from_bytes([9; 16]),
        service: ServiceName::EMPTY,
        session: SessionId::from_bytes(session),
        seen,
        commit: 0,
        grants: Grants {
            slots: hello.slots.min(4),
            request_len_max: 1 << 20,
            reply_len_max: 1 << 20,
            lease_ms: 300_000,
            keepalive_ms: 10_000,
        },
        instance: Instance::UNNAMED,
        schemas: Schemas::EMPTY,
    }
}

/// A header with nothing unusual in it.
pub(crate) fn request(xid: u64, acked: u64, method: MethodId) -> RequestHeader {
    let xid = Xid::new(xid).expect("an xid of a test");
    RequestHeader { flags: 0, method, remaining_ms: 3_600_000, xid, acked }
}

impl RawPeer {
    pub(crate) fn new(world: World, stream: BoxStream, role: Role) -> RawPeer {
        RawPeer { world, stream, role, received: Vec::new(), ended: false }
    }

    /// Sends these very bytes. A peer that has closed already is no error here.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let stream = &mut self.stream;
        let write = async move {
            let _written = stream.write_all(bytes).await;
            let _flushed = stream.flush().await;
        };
        self.world.within("bytes to be taken by the stream", write).await;
    }

    /// Shuts down its write side: it still reads.
    pub(crate) async fn shut_down(&mut self) {
        let stream = &mut self.stream;
        let close = async move { drop(stream.close().await) };
        self.world.within("the write side to be shut down", close).await;
    }

    pub(crate) async fn send(&mut self, frame: &Frame<'_>) {
        self.send_bytes(&encode(frame)).await;
    }

    pub(crate) async fn request(&mut self, xid: u64, acked: u64, method: MethodId, body: &[u8]) {
        self.send(&Frame::Request(request(xid, acked, method), body)).await;
    }

    pub(crate) async fn ask(&mut self, xid: u64) {
        self.send(&Frame::Ask(Xid::new(xid).expect("an xid of a test"), 1)).await;
    }

    pub(crate) async fn cancel(&mut self, xid: u64) {
        self.send(&Frame::Cancel(Xid::new(xid).expect("an xid of a test"))).await;
    }

    pub(crate) async fn ack(&mut self, acked: u64, settled: u64) {
        self.send(&Frame::Ack(Ack { acked, last: u64::MAX, base: 0, settled })).await;
    }

    pub(crate) async fn reply(&mut self, xid: u64, status: Status, body: &[u8]) {
        let xid = Xid::new(xid).expect("an xid of a test");
        self.send(&Frame::Reply(ReplyHeader { status, xid }, body)).await;
    }

    /// The next frame; `None` at the end of the stream, however it ended.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        let from = match self.role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        loop {
            let decoded = wire::decode(&self.received, from, BODY_LEN_MAX);
            match decoded.expect("the library sends frames that can be decoded") {
                Decoded::Frame(frame, len) => {
                    let heard = keep(frame);
                    self.received.drain(..len);
                    return Some(heard);
                }
                Decoded::Incomplete(_) if self.ended => return None,
                Decoded::Incomplete(_) => self.fill().await,
            }
        }
    }

    async fn fill(&mut self) {
        let mut bytes = vec![0; 64 << 10];
        let stream = &mut self.stream;
        let read = self.world.within("a frame", stream.read(&mut bytes)).await;
        match read {
            Ok(len) if len > 0 => self.received.extend_from_slice(&bytes[..len]),
            _ => self.ended = true,
        }
    }

    /// The next frame that is no `Ping` or `Pong`.
    pub(crate) async fn next_but_ping(&mut self) -> Option<Heard> {
        loop {
            match self.next().await {
                Some((Frame::Ping(_) | Frame::Pong(_), _)) => {}
                heard => return heard,
            }
        }
    }

    /// Waits for the end of the stream; returns what came before it.
    pub(crate) async fn rest(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Some(frame) = self.next_but_ping().await {
            heard.push(frame);
        }
        heard
    }

    /// As a client: opens a session.
    pub(crate) async fn open(&mut self) -> Welcome {
        self.greet(hello(None)).await
    }

    /// As a client: resumes a session.
    pub(crate) async fn resume(&mut self, session: SessionId, acked: u64) -> Welcome {
        self.greet(hello(Some(Resume { session, acked }))).await
    }

    pub(crate) async fn greet(&mut self, hello: Hello) -> Welcome {
        self.send(&Frame::Hello(hello)).await;
        match self.next().await {
            Some((Frame::Welcome(welcome), _)) => welcome,
            other => panic!("a Welcome was expected, this came: {other:?}"),
        }
    }

    /// As a client: the next frame, which must be the answer to this xid.
    pub(crate) async fn answer(&mut self, xid: u64) -> (Status, Vec<u8>) {
        match self.next_but_ping().await {
            Some((Frame::Reply(header, _), body)) if header.xid.get() == xid => {
                (header.status, body)
            }
            other => panic!("the answer to xid {xid} was expected, this came: {other:?}"),
        }
    }

    /// As a client: a call from end to end.
    pub(crate) async fn call(
        &mut self,
        xid: u64,
        acked: u64,
        method: MethodId,
        body: &[u8],
    ) -> (Status, Vec<u8>) {
        self.request(xid, acked, method, body).await;
        self.answer(xid).await
    }

    /// As a client: the connection must end, with this as the last word.
    pub(crate) async fn refused(&mut self) -> Refuse {
        match self.rest().await.pop() {
            Some((Frame::Refuse(refuse, _), _)) => refuse,
            other => panic!("a Refuse was expected, this came: {other:?}"),
        }
    }

    /// As a server: the next frame that is no `Ping`, which must be a `Hello`.
    pub(crate) async fn hello(&mut self) -> Hello {
        match self.next_but_ping().await {
            Some((Frame::Hello(hello), _)) => hello,
            other => panic!("a Hello was expected, this came: {other:?}"),
        }
    }

    /// As a server: takes a client in; returns what it said.
    pub(crate) async fn take_in(&mut self, session: [u8; 16], seen: u64) -> Hello {
        let hello = self.hello().await;
        self.send(&Frame::Welcome(welcome(&hello, session, seen))).await;
        hello
    }

    /// As a server: the next frame but pings and acknowledgements, which must be a request.
    pub(crate) async fn requested(&mut self) -> (RequestHeader, Vec<u8>) {
        match self.next_of_call().await {
            Some((Frame::Request(header, _), body)) => (header, body),
            other => panic!("a request was expected, this came: {other:?}"),
        }
    }

    /// As a server: the next frame that is about a call.
    pub(crate) async fn next_of_call(&mut self) -> Option<Heard> {
        loop {
            match self.next_but_ping().await {
                Some((Frame::Ack(_), _)) => {}
                heard => return heard,
            }
        }
    }
}

/// A frame's bytes.
pub(crate) fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let body = match frame {
        Frame::Request(_, body) | Frame::Reply(_, body) => body.len(),
        _ => 0,
    };
    let mut bytes = vec![0; wire::CONTROL_LEN_MAX + body];
    let len = wire::encode(frame, &mut bytes).expect("a frame of a test can be encoded");
    bytes.truncate(len);
    bytes
}

/// Parts a frame from its body.
fn keep(frame: Frame<'_>) -> Heard {
    let body = match frame {
        Frame::Request(_, body) | Frame::Reply(_, body) => body.to_vec(),
        _ => Vec::new(),
    };
    let frame = match frame {
        Frame::Request(header, _) => Frame::Request(header, &[]),
        Frame::Reply(header, _) => Frame::Reply(header, &[]),
        Frame::Hello(hello) => Frame::Hello(hello),
        Frame::Welcome(welcome) => Frame::Welcome(welcome),
        Frame::Refuse(refuse, _) => Frame::Refuse(refuse, Instance::UNNAMED),
        Frame::Ask(xid, number) => Frame::Ask(xid, number),
        Frame::Ack(ack) => Frame::Ack(ack),
        Frame::Cancel(xid) => Frame::Cancel(xid),
        Frame::Ping(role) => Frame::Ping(role),
        Frame::Pong(role) => Frame::Pong(role),
        Frame::Goodbye(role) => Frame::Goodbye(role),
    };
    (frame, body)
}

impl World {
    /// A connection on which a client is played by hand.
    pub(crate) async fn raw_peer(&self, connector: &Arc<dyn Connect>) -> RawPeer {
        let stream = self.within("a connection", connector.connect()).await.expect("a connection");
        RawPeer::new(self.clone(), stream, Role::Client)
    }

    /// The same, with an open session.
    pub(crate) async fn opened(&self, host: &Host) -> RawPeer {
        let mut peer = self.raw_peer(&host.connector).await;
        peer.open().await;
        peer
    }

    /// The next connection to a place, on which a server is played by hand.
    pub(crate) async fn accept(&self, acceptor: &dyn Accept) -> RawPeer {
        let accepted = self.within("a client to connect", acceptor.accept()).await;
        let (stream, _) = accepted.expect("the transport accepts");
        RawPeer::new(self.clone(), stream, Role::Server)
    }
}
