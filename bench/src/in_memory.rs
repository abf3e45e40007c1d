//! The core in memory: whole calls, from the client's encoding to the client's match, without a socket.
//!
//! A crate of its own, as the driver is one. The machines are generic, so they are compiled where they are used, and in a large
//! program the compiler divides their code otherwise: with the peers in the same crate a call took 5 % more instructions.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use oncewire_core::{
    Call, Client, ClientConfig, ConnId, Heap, Incoming, Instant, MethodId, MethodSpec, Outcome,
    Payload, Principal, Server, ServerConfig, ServerId, ServiceName, SessionId,
};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ECHO: MethodId = MethodId::of("bench/echo");

/// What a run of the core is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Slots of each session.
    pub slots: u32,
    /// Sessions that the server has; those that are not active are idle.
    pub sessions: usize,
    /// Bytes of a request, and of its reply.
    pub body_len: usize,
    /// Whether all slots are in flight at once; else one call at a time, and the slots are used in turn.
    pub window: bool,
}

/// Sessions that make calls in turn, if the server has as many.
const ACTIVE: usize = 16;
/// Bodies from here on are shared, and not copied on their way out.
const LONG_LEN_MIN: usize = 64 << 10;
/// Time on the machines' clocks between two calls.
const STEP: Duration = Duration::from_nanos(100);

/// One server, and some of its clients.
#[derive(Debug)]
pub struct World {
    /// How much heap this thread holds.
    live_bytes: fn() -> i64,
    now: Instant,
    server: Server<Heap>,
    active: Vec<(Client<Heap>, ConnId)>,
    next: usize,
    body: Bytes,
    requests: Vec<u8>,
    replies: Vec<u8>,
    /// Heap that an idle session and its connection cost.
    connected_bytes: Option<f64>,
}

impl World {
    /// Opens the setup's sessions. `live_bytes` says how much heap this thread holds.
    ///
    /// # Errors
    /// If a machine refuses what it must not.
    pub fn new(setup: Setup, live_bytes: fn() -> i64) -> Result<World> {
        let service = ServiceName::new("bench").ok_or("too long")?;
        let mut config = ServerConfig::new(ServerId::from_bytes([7; 16]), service);
        (config.slots, config.sessions_max, config.conns_max) = (setup.slots, 1 << 21, 1 << 21);
        config.sessions_per_principal_max = 1 << 21;
        config.kept_per_session_max = 1 << 40;
        config.kept_per_principal_max = 1 << 40;
        config.kept_max = 1 << 40;
        let mut spec = MethodSpec::new(ECHO);
        spec.reply_len_max = setup.body_len as u32;
        let server = Server::new(config, &[spec]).map_err(|error| error.to_string())?;
        let frames_len =
            (setup.body_len + 64) * if setup.window { setup.slots as usize } else { 1 };
        let mut world = World {
            live_bytes,
            now: Instant::ZERO,
            server,
            active: Vec::new(),
            next: 0,
            body: Bytes::from(vec![7; setup.body_len]),
            requests: vec![7; frames_len.max(4096)],
            replies: vec![7; frames_len.max(4096)],
            connected_bytes: None,
        };
        let active = setup.sessions.min(ACTIVE);
        world.connected_bytes = world.add_idle(setup, setup.sessions - active, true)?;
        for index in 0..active {
            let client = world.connect(setup, index + (1 << 40))?;
            world.active.push(client);
        }
        Ok(world)
    }

    /// The heap that an idle session with its connection costs, if there are any.
    pub fn connected_bytes(&self) -> Option<f64> {
        self.connected_bytes
    }

    /// How many sessions make calls.
    pub fn active_len(&self) -> usize {
        self.active.len()
    }

    /// The heap that an idle session without a connection costs, of as many as in the setup.
    ///
    /// # Errors
    /// If a machine refuses what it must not.
    pub fn disconnected_bytes(setup: Setup, live_bytes: fn() -> i64) -> Result<Option<f64>> {
        let count = setup.sessions.saturating_sub(ACTIVE);
        World::new(Setup { sessions: 1, ..setup }, live_bytes)?.add_idle(setup, count, false)
    }

    /// Opens sessions that make one call, acknowledge its reply, and fall silent; or go away, if they are not to stay.
    /// Returns the heap that each costs.
    fn add_idle(&mut self, setup: Setup, count: usize, stay: bool) -> Result<Option<f64>> {
        let before = (self.live_bytes)();
        for index in 0..count {
            let (mut client, conn) = self.connect(setup, index)?;
            // The client's clock runs ahead until it acknowledges.
            let later = self.now + ClientConfig::default().ack_delay * 2;
            client.handle_timeout(later);
            while let Some(len) = client.poll_transmit(later, &mut self.requests) {
                self.server.handle_data(self.now, conn, &self.requests[..len.get()])?;
            }
            if !stay {
                self.server.handle_disconnected(self.now, conn);
                while self.server.poll_event().is_some() {}
            }
        }
        let bytes = ((self.live_bytes)() - before) as f64;
        Ok((count > 0).then(|| bytes / count as f64))
    }

    /// Opens a session and makes its first call.
    fn connect(&mut self, setup: Setup, index: usize) -> Result<(Client<Heap>, ConnId)> {
        let mut config = ClientConfig::default();
        config.slots = setup.slots;
        let mut client = Client::new(config);
        client.handle_connected(self.now);
        let secret = SessionId::from_bytes((index as u128 + 1).to_le_bytes());
        let conn = self.server.handle_connected(self.now, Principal(index as u64 % 64), secret);
        let mut pair = (client, conn.ok_or("the server is full")?);
        self.exchange(&mut pair)?;
        if !pair.0.is_connected() {
            return Err("the handshake failed".into());
        }
        self.call(&mut pair, 1)?;
        Ok(pair)
    }

    /// Whatever there is to say, once each way.
    fn exchange(&mut self, (client, conn): &mut (Client<Heap>, ConnId)) -> Result<()> {
        while let Some(len) = client.poll_transmit(self.now, &mut self.requests) {
            self.server.handle_data(self.now, *conn, &self.requests[..len.get()])?;
        }
        while self.server.poll_event().is_some() {}
        while let Some(len) = self.server.poll_transmit(self.now, *conn, &mut self.replies) {
            client.handle_data(self.now, &self.replies[..len.get()])?;
        }
        while client.poll_event().is_some() {}
        Ok(())
    }

    /// `count` whole calls at once: encode, decode, look for a duplicate, start, reply, decode, match.
    fn call(&mut self, (client, conn): &mut (Client<Heap>, ConnId), count: u32) -> Result<()> {
        self.now = self.now + STEP;
        let now = self.now;
        // Both ends share a long body, and the server keeps a copy of what came. The wire is none: where it would write such
        // a body, that body lies already. All in one place, so that the machines are inlined here.
        let is_long = self.body.len() >= LONG_LEN_MIN;
        for _ in 0..count {
            let body = match is_long {
                true => Payload::from(self.body.clone()),
                false => Payload::from(&self.body[..]),
            };
            client.call(now, Call::new(ECHO, body)).map_err(|e| e.to_string())?;
        }
        let mut len = 0;
        while let Some(more) = client.poll_transmit(now, &mut self.requests[len..]) {
            len += more.get();
            if is_long {
                len += client.take_shared_tail().map_or(0, |tail| tail.len());
            }
        }
        let mut data = &self.requests[..len];
        let mut len = 0;
        loop {
            let received = self.server.handle_data(now, *conn, data)?;
            data = &data[received.consumed..];
            let Some(Incoming::Request(request)) = received.item else { break };
            let body = match is_long {
                true => Payload::from(Bytes::copy_from_slice(request.body)),
                false => Payload::from(request.body),
            };
            let running = self.server.start(now, request.admission).map_err(|_| "refused")?;
            let out = &mut self.replies[len..];
            len +=
                self.server.reply_into(now, running, body, *conn, out).map_err(|_| "too large")?;
        }
        while self.server.poll_event().is_some() {}
        while let Some(more) = self.server.poll_transmit(now, *conn, &mut self.replies[len..]) {
            len += more.get();
            if is_long {
                len += self.server.take_shared_tail(*conn).map_or(0, |tail| tail.len());
            }
        }
        let mut data = &self.replies[..len];
        let mut answered = 0;
        loop {
            let received = client.handle_data(now, data)?;
            data = &data[received.consumed..];
            let Some(reply) = received.item else { break };
            match black_box(reply.outcome) {
                Outcome::Reply(_) => answered += 1,
                other => return Err(format!("{other:?}").into()),
            }
        }
        while client.poll_event().is_some() {}
        if answered == count { Ok(()) } else { Err("not every call was answered".into()) }
    }

    /// At least `calls` calls, by the active sessions in turn; how many it were.
    ///
    /// # Errors
    /// If a call has no reply.
    pub fn calls(&mut self, setup: Setup, calls: u64) -> Result<u64> {
        let at_once = if setup.window { setup.slots } else { 1 };
        let mut active = std::mem::take(&mut self.active);
        let mut made = 0;
        while made < calls {
            let index = self.next % active.len();
            self.next += 1;
            self.call(&mut active[index], at_once)?;
            made += u64::from(at_once);
        }
        self.active = active;
        Ok(made)
    }
}
