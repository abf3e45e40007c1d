//! A client, a server and the bytes between them.

use oncewire_core::{
    Call, CallId, Client, ClientConfig, ClientEvent, ConnId, Incoming, InlineClient, InlineServer,
    Instant, MethodId, MethodSpec, Outcome, Principal, Running, Server, ServerConfig, ServerEvent,
    ServerId, ServiceName, SessionId,
};

const ADD_ONE: MethodId = MethodId::of("toy/add_one");
const NOW: Instant = Instant::ZERO;

/// The step that went wrong.
#[derive(Debug)]
pub struct Step(pub u8);

struct World {
    client: Client<InlineClient<4, 4, 16>>,
    server: Server<InlineServer<1, 2, 4, 1, 16>>,
    conn: Option<ConnId>,
    /// Whether calls are answered at once.
    answering: bool,
    running: Option<Running>,
    reply: Option<(CallId, u8)>,
    wire: [u8; 512],
}

/// Opens, calls, breaks, resumes, closes.
pub fn run() -> Result<(), Step> {
    let service = ServiceName::new("toy").ok_or(Step(1))?;
    let config = ServerConfig::new(ServerId::from_bytes([7; 16]), service);
    let mut world = World {
        client: Client::new(ClientConfig::default()),
        server: Server::new(config, &[MethodSpec::new(ADD_ONE)]).map_err(|_| Step(2))?,
        conn: None,
        answering: true,
        running: None,
        reply: None,
        wire: [0; 512],
    };
    world.connect()?;
    for argument in 0..100 {
        let call = world.call(argument)?;
        world.drive()?;
        check(world.reply == Some((call, argument + 1)), 3)?;
    }

    // The connection breaks while a call runs. Its reply is kept, and asked for after the resume.
    world.answering = false;
    let call = world.call(100)?;
    world.drive()?;
    world.disconnect();
    let running = world.running.take().ok_or(Step(4))?;
    world.server.reply(NOW, running, &[101]).map_err(|_| Step(5))?;
    world.reply = None;
    world.connect()?;
    world.drive()?;
    check(world.reply == Some((call, 101)), 6)?;
    let (client, server) = (world.client.counters(), world.server.counters());
    check(client.sessions == 1 && client.resumes == 1 && client.asks == 1, 7)?;
    check(server.admitted == 101 && server.duplicates == 0, 8)?;

    world.client.close(NOW);
    world.drive()?;
    check(world.client.is_closed() && world.server.counters().sessions == 0, 9)
}

fn check(holds: bool, step: u8) -> Result<(), Step> {
    if holds { Ok(()) } else { Err(Step(step)) }
}

impl World {
    fn connect(&mut self) -> Result<(), Step> {
        self.client.handle_connected(NOW);
        let secret = SessionId::from_bytes([1; 16]);
        let conn = self.server.handle_connected(NOW, Principal::ANONYMOUS, secret);
        self.conn = Some(conn.ok_or(Step(20))?);
        Ok(())
    }

    fn disconnect(&mut self) {
        self.client.handle_disconnected(NOW);
        if let Some(conn) = self.conn.take() {
            self.server.handle_disconnected(NOW, conn);
        }
    }

    fn call(&mut self, argument: u8) -> Result<CallId, Step> {
        self.client.call(NOW, Call::new(ADD_ONE, &[argument])).map_err(|_| Step(21))
    }

    /// Carries bytes until nothing moves.
    fn drive(&mut self) -> Result<(), Step> {
        let mut moved = true;
        while moved {
            moved = false;
            while let Some(len) = self.client.poll_transmit(NOW, &mut self.wire) {
                self.deliver_to_server(len.get())?;
                moved = true;
            }
            while let Some(event) = self.server.poll_event() {
                match event {
                    ServerEvent::Transmit(conn) => {
                        while let Some(len) = self.server.poll_transmit(NOW, conn, &mut self.wire) {
                            self.deliver_to_client(len.get())?;
                        }
                    }
                    ServerEvent::Close(..) => self.client.handle_disconnected(NOW),
                    _ => {}
                }
                moved = true;
            }
            while let Some(event) = self.client.poll_event() {
                let ended_badly = matches!(event, ClientEvent::Ended { .. });
                check(!ended_badly, 22)?;
                moved = true;
            }
        }
        Ok(())
    }

    fn deliver_to_server(&mut self, len: usize) -> Result<(), Step> {
        let Some(conn) = self.conn else { return Ok(()) };
        let mut data = &self.wire[..len];
        while !data.is_empty() {
            let received = self.server.handle_data(NOW, conn, data).map_err(|_| Step(23))?;
            data = &data[received.consumed..];
            if let Some(Incoming::Request(request)) = received.item {
                let reply = [request.body[0] + 1];
                let running = self.server.start(NOW, request.admission).map_err(|_| Step(24))?;
                if self.answering {
                    self.server.reply(NOW, running, &reply).map_err(|_| Step(25))?;
                } else {
                    self.running = Some(running);
                }
            }
        }
        Ok(())
    }

    fn deliver_to_client(&mut self, len: usize) -> Result<(), Step> {
        let mut data = &self.wire[..len];
        while !data.is_empty() {
            let received = self.client.handle_data(NOW, data).map_err(|_| Step(26))?;
            data = &data[received.consumed..];
            if let Some(reply) = received.item {
                let Outcome::Reply(&[byte]) = reply.outcome else { return Err(Step(27)) };
                self.reply = Some((reply.call, byte));
            }
        }
        Ok(())
    }
}
