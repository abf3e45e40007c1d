//! Time, and how bytes and events move.

use std::time::Duration;

use oncewire_core::wire::{self, Role};
use oncewire_core::*;

use super::*;

impl Pair {
    /// Lets time pass, with every timer when it is due.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut spins = 0;
        while let Some(at) = self.next_timeout().filter(|at| *at <= end) {
            spins = if at > self.now { 0 } else { spins + 1 };
            assert!(spins < 1_000, "a timer spins at {:?}", self.now);
            self.now = self.now.max(at);
            self.fire();
        }
        self.now = end;
        self.fire();
    }

    /// Time jumps without a timer in between, as it does for a machine that slept.
    pub fn jump(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.fire();
    }

    fn fire(&mut self) {
        self.server.handle_timeout(self.now);
        for peer in &mut self.peers {
            peer.client.handle_timeout(self.now);
        }
        self.drive();
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        let clients = self.peers.iter().map(|peer| peer.client.poll_timeout());
        clients.chain([self.server.poll_timeout()]).flatten().min()
    }

    /// Moves bytes and events until nothing moves.
    pub fn drive(&mut self) {
        for _ in 0..1_000_000 {
            let mut moved = false;
            for at in 0..self.peers.len() {
                moved |= self.drive_client(at);
            }
            moved |= self.drive_server();
            for number in 0..self.links.len() {
                moved |= self.drive_link(number);
            }
            if !moved {
                return;
            }
        }
        panic!("the machines never come to rest");
    }

    fn drive_client(&mut self, at: usize) -> bool {
        let mut moved = false;
        let peer = &mut self.peers[at];
        while let Some(event) = peer.client.poll_event() {
            moved = true;
            peer.events.push(event);
            match event {
                ClientEvent::Ended { call, outcome, .. } => {
                    peer.outcomes.push((call, outcome.into()))
                }
                ClientEvent::Disconnect(_) => {
                    if let Some(link) = peer.link.take() {
                        self.links[link].client_open = false;
                    }
                }
                _ => {}
            }
        }
        let mut out = vec![0; self.out_len];
        while let Some(len) = peer.client.poll_transmit(self.now, &mut out) {
            moved = true;
            let link = peer.link.expect("a client without a connection sends nothing");
            write(&mut self.links[link], Role::Client, &out[..len.get()], &mut self.luck);
        }
        moved
    }

    fn drive_server(&mut self) -> bool {
        let mut moved = false;
        while let Some(event) = self.server.poll_event() {
            moved = true;
            self.server_events.push(event);
            match event {
                ServerEvent::Transmit(conn) => {
                    let mut out = vec![0; self.out_len];
                    while let Some(len) = self.server.poll_transmit(self.now, conn, &mut out) {
                        let link = self.links.iter_mut().find(|link| link.conn == Some(conn));
                        let link = link.expect("a connection that the server knows");
                        write(link, Role::Server, &out[..len.get()], &mut self.luck);
                    }
                }
                ServerEvent::Close(conn, _) => {
                    for link in self.links.iter_mut().filter(|link| link.conn == Some(conn)) {
                        link.conn = None;
                        link.server_open = false;
                    }
                }
                ServerEvent::SessionEnded(session, _) => {
                    self.ledger.sessions.remove(&session.to_bytes());
                }
                _ => {}
            }
        }
        moved
    }

    fn drive_link(&mut self, number: usize) -> bool {
        let mut moved = false;
        if !self.links[number].hold_up && !self.links[number].by_hand {
            moved |= self.deliver_up(number, self.chunk);
        }
        if !self.links[number].hold_down && self.links[number].client.is_some() {
            moved |= self.deliver_down(number, self.chunk);
        }
        moved | self.tell_server(number) | self.tell_client(number)
    }

    /// The server learns of the client's close when it has read everything.
    fn tell_server(&mut self, number: usize) -> bool {
        let link = &mut self.links[number];
        if link.client_open || link.hold_up || link.silent || !link.up.is_empty() {
            return false;
        }
        let Some(conn) = link.conn.take() else { return false };
        link.server_open = false;
        self.server.handle_disconnected(self.now, conn);
        true
    }

    /// And the client of the server's.
    fn tell_client(&mut self, number: usize) -> bool {
        let link = &mut self.links[number];
        if link.server_open || link.hold_down || link.silent || !link.down.is_empty() {
            return false;
        }
        let Some(at) = link.client.filter(|at| self.peers[*at].link == Some(number)) else {
            return false;
        };
        link.client_open = false;
        self.peers[at].link = None;
        self.peers[at].client.handle_disconnected(self.now);
        true
    }

    /// Delivers at most `len` bytes to the server, held back or not.
    pub fn deliver_up(&mut self, number: usize, len: usize) -> bool {
        let link = &mut self.links[number];
        let len = len.min(link.up.len());
        link.up_in.extend(link.up.drain(..len));
        let Some(conn) = link.conn else {
            link.up_in.clear();
            return len > 0;
        };
        if len > 0 {
            self.read_up(number, conn);
        }
        len > 0
    }

    fn read_up(&mut self, number: usize, conn: ConnId) {
        let data = std::mem::take(&mut self.links[number].up_in);
        let mut at = 0;
        loop {
            match self.server.handle_data(self.now, conn, &data[at..]) {
                Err(error) => {
                    self.server_errors.push(error);
                    return;
                }
                Ok(received) => {
                    at += received.consumed;
                    let Some(item) = received.item else { break };
                    match item {
                        Incoming::Cancel(key) => self.cancels.push(key),
                        Incoming::Withdrawn(key) => self.withdrawn.push(key),
                        Incoming::Request(request) => {
                            let call = AdmittedCall {
                                admission: request.admission,
                                body: request.body.to_vec(),
                                method: request.method,
                                deadline: request.deadline,
                                one_way: request.one_way,
                            };
                            self.take_in(call);
                        }
                        other => panic!("unknown: {other:?}"),
                    }
                }
            }
        }
        self.links[number].up_in = data[at..].to_vec();
    }

    fn take_in(&mut self, call: AdmittedCall) {
        let body = call.body.clone();
        self.admitted.push(call);
        if self.mode == Mode::Hold {
            return;
        }
        let call = self.admitted.pop().expect("just pushed");
        let key = call.admission.key();
        let session = self.server.record_of(key).expect("just admitted").0;
        let Ok(running) = self.server.start(self.now, call.admission) else { return };
        let (xid, method) = (key.xid().get(), call.method);
        self.runs.push(Run { session, xid, method, body: body.clone() });
        if self.mode == Mode::Start {
            self.started.push(Started { running, body });
        } else {
            let _ = self.server.reply(self.now, running, &echo(&body));
        }
    }

    /// Delivers at most `len` bytes to the client, held back or not.
    pub fn deliver_down(&mut self, number: usize, len: usize) -> bool {
        let link = &mut self.links[number];
        let len = len.min(link.down.len());
        link.down_in.extend(link.down.drain(..len));
        let Some(at) = link.client.filter(|at| self.peers[*at].link == Some(number)) else {
            link.down_in.clear();
            return len > 0;
        };
        if len > 0 {
            self.read_down(number, at);
        }
        len > 0
    }

    fn read_down(&mut self, number: usize, at: usize) {
        let peer = &mut self.peers[at];
        let data = std::mem::take(&mut self.links[number].down_in);
        let mut taken = 0;
        loop {
            match peer.client.handle_data(self.now, &data[taken..]) {
                Err(error) => {
                    peer.errors.push(error);
                    peer.link = None;
                    self.links[number].client_open = false;
                    return;
                }
                Ok(received) => {
                    taken += received.consumed;
                    let Some(reply) = received.item else { break };
                    peer.outcomes.push((reply.call, reply.outcome.into()));
                }
            }
        }
        self.links[number].down_in = data[taken..].to_vec();
    }
}

fn write(link: &mut Link, from: Role, bytes: &[u8], luck: &mut Option<Box<dyn FnMut() -> Luck>>) {
    let (queue, late) = match from {
        Role::Client => (&mut link.up, &mut link.late_up),
        Role::Server => (&mut link.down, &mut link.late_down),
    };
    if link.silent {
        return;
    }
    let Some(luck) = luck else {
        queue.extend(bytes);
        return;
    };
    let mut rest = bytes;
    while let Some(front) = wire::peek(rest) {
        let (frame, after) = rest.split_at(front.len);
        match luck() {
            Luck::Lost => {}
            Luck::Once => queue.extend(frame),
            Luck::Twice(behind) => {
                queue.extend(frame);
                late.push((behind + 1, frame.to_vec()));
            }
        }
        late.retain_mut(|(behind, frame)| {
            *behind -= 1;
            if *behind == 0 {
                queue.extend(&*frame);
            }
            *behind > 0
        });
        rest = after;
    }
    assert!(rest.is_empty(), "a link that loses messages needs whole ones");
}
