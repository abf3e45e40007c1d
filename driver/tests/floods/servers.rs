//! Servers, some of whose clients send without end or have more calls than others: C106, C107, C135.

use super::*;

/// A client's machine at one end of a stream, driven by hand.
struct Peer {
    machine: core::Client<Heap>,
    stream: Stream,
}

impl Peer {
    fn connect(world: &Arc<World>, server: &Server) -> Peer {
        let (stream, theirs) = streams(world);
        server.serve_stream(Box::new(theirs) as BoxStream, Subject::Anonymous);
        let mut peer = Peer { machine: core::Client::new(core::ClientConfig::default()), stream };
        peer.machine.handle_connected(world.now());
        world.run_until(|| {
            peer.turn();
            peer.machine.is_connected()
        });
        peer
    }

    fn call(&mut self, method: &Method<u32, u32>) {
        let call = core::Call::new(method.id(), &[1][..]);
        self.machine.call(self.stream.world.now(), call).unwrap();
    }

    /// Sends what there is to send, and takes what has come.
    fn turn(&mut self) {
        let now = self.stream.world.now();
        let mut out = vec![0; 1 << 16];
        while let Some(len) = self.machine.poll_transmit(now, &mut out) {
            HalfPipe::put(&self.stream.output, &out[..len.get()]);
        }
        while self.machine.poll_event().is_some() {}
        let data: Vec<u8> = lock(&self.stream.input).bytes.drain(..).collect();
        let mut rest = &data[..];
        while !rest.is_empty() {
            rest = &rest[self.machine.handle_data(now, rest).unwrap().consumed..];
        }
    }

    fn flood(&self, frame: &Frame<'_>) {
        HalfPipe::flood(&self.stream.output, &encode(frame));
    }

    /// The server still reads the flood and answers it. One that has closed the connection is not held up by it.
    fn check_flood_goes_on(&self) {
        lock(&self.stream.input).bytes.clear();
        self.stream.world.run_until(|| lock(&self.stream.input).bytes.len() > 1 << 10);
    }

    /// Makes a call; how long until the reply.
    fn round_trip(&mut self) -> Duration {
        let world = self.stream.world.clone();
        let begun = world.now();
        self.call(&ECHO);
        world.run_until(|| {
            self.turn();
            self.machine.pending() == 0
        });
        world.now().since(begun)
    }
}

#[test]
fn c106_a_flood_of_pings_takes_no_more_than_its_turns() {
    let world = World::new();
    let (server, _) = server(&world);
    let mut honest = Peer::connect(&world, &server);
    let flooders: Vec<_> = (0..5).map(|_| Peer::connect(&world, &server)).collect();
    flooders.iter().for_each(|flooder| flooder.flood(&Frame::Ping(Role::Client)));
    for _ in 0..5 {
        let time = honest.round_trip();
        assert!(time <= 2 * 6 * POLL_MAX, "{time:?}");
    }
    // One more connects, too.
    let begun = world.now();
    Peer::connect(&world, &server);
    assert!(world.now().since(begun) <= 5 * 6 * POLL_MAX);
    // Pongs that no one reads are not kept.
    let pongs: usize = flooders.iter().map(|flooder| lock(&flooder.stream.input).bytes.len()).sum();
    assert!(pongs < 1 << 16, "{pongs} bytes of pongs");
    flooders[0].check_flood_goes_on();
}

#[test]
fn c106_a_flood_of_asks_takes_no_more_than_its_turns() {
    let world = World::new();
    let (server, _) = server(&world);
    let mut honest = Peer::connect(&world, &server);
    let mut flooder = Peer::connect(&world, &server);
    flooder.round_trip();
    // About a call that was never made: an `Ask` for one that is acknowledged ends the connection.
    flooder.flood(&Frame::Ask(core::Xid::new(1 << 32).unwrap(), 1));
    for _ in 0..5 {
        let time = honest.round_trip();
        assert!(time <= 2 * POLL_MAX, "{time:?}");
    }
    flooder.check_flood_goes_on();
}

/// Frames that a client may send again and again, and that are not answered one by one.
#[test]
fn c106_a_flood_of_any_other_frame_takes_no_more_than_its_turns() {
    let number = |number| core::Xid::new(number).unwrap();
    let ack = wire::Ack { acked: 0, last: 0, base: 0, settled: 0 };
    let header = wire::RequestHeader {
        flags: 0,
        method: ECHO.id(),
        remaining_ms: 30_000,
        xid: number(1 << 32),
        acked: 0,
    };
    let floods = [
        Frame::Pong(Role::Client),
        Frame::Ack(ack),
        Frame::Cancel(number(1 << 32)),
        // One call, and its duplicates.
        Frame::Request(header, &[1]),
        // One that the server does not offer, and its duplicates.
        Frame::Request(wire::RequestHeader { method: core::MethodId::of("a/b"), ..header }, &[1]),
    ];
    for frame in floods {
        let world = World::new();
        let (server, _) = server(&world);
        let mut honest = Peer::connect(&world, &server);
        let flooders: Vec<_> = (0..3).map(|_| Peer::connect(&world, &server)).collect();
        flooders.iter().for_each(|flooder| flooder.flood(&frame));
        for _ in 0..5 {
            let time = honest.round_trip();
            assert!(time <= 2 * 4 * POLL_MAX, "{frame:?}: {time:?}");
        }
        assert_eq!(server.counters().conns, 4, "{frame:?} may be said again");
        assert!(server.counters().admitted <= 5 + 3, "{frame:?} runs once");
        let answers = flooders.iter().map(|flooder| lock(&flooder.stream.input).bytes.len());
        assert!(answers.sum::<usize>() < 1 << 20, "{frame:?}: answers that no one reads");
    }
}

#[test]
fn c107_a_thousand_calls_in_flight_leave_others_their_turns() {
    let world = World::new();
    let (server, works) = server(&world);
    let mut honest = Peer::connect(&world, &server);
    let mut busy = Peer::connect(&world, &server);
    (0..1000).for_each(|_| busy.call(&WORK));
    busy.turn();
    let time = honest.round_trip();
    assert!(time <= 2 * POLL_MAX, "{time:?}");
    assert!(works.load(Ordering::SeqCst) < 50, "of the thousand, the first few were executed");
    world.run_until(|| {
        busy.turn();
        busy.machine.pending() == 0
    });
    assert_eq!(works.load(Ordering::SeqCst), 1000);
}

/// The mutant `greedy`: these tests would notice a turn without bounds.
#[cfg(feature = "_faults")]
#[test]
#[should_panic(expected = "a poll took")]
fn c135_a_turn_without_bounds_is_found_out() {
    let world = World::new();
    let fault = oncewire_driver::faults::ServerFault::Greedy;
    let server = offer(&world).0.fault(fault).build().unwrap();
    let mut honest = Peer::connect(&world, &server);
    let flooder = Peer::connect(&world, &server);
    // Not without end: such a turn has none either.
    HalfPipe::put(&flooder.stream.output, &encode(&Frame::Ping(Role::Client)).repeat(1 << 18));
    honest.round_trip();
}
