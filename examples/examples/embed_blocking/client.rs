//! A client whose calls block.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use oncewire_core::{Client, ClientConfig, ClientCounters, ClientEvent, Heap};

use crate::embed::{Answer, answer, begin, now, take, wait};
use crate::{prepare, read};

pub struct Caller {
    machine: Client<Heap>,
    server: SocketAddr,
    socket: Option<TcpStream>,
    /// Received, and not yet a whole frame.
    input: Vec<u8>,
    /// Before the next attempt to connect: the longer, the more have failed since the last answer.
    pause: Duration,
}

impl Caller {
    pub fn new(server: SocketAddr) -> Caller {
        let machine = Client::new(ClientConfig::default());
        Caller { machine, server, socket: None, input: Vec::new(), pause: Duration::ZERO }
    }

    /// Makes a call and waits for its outcome.
    pub fn call(&mut self, argument: u32) -> Answer {
        let id = begin(&mut self.machine, argument)?;
        loop {
            if let Some(answer) = self.turn() {
                // If the outcome is `Unknown`, we will not ask again.
                self.machine.forget(now(), id);
                return answer;
            }
        }
    }

    /// Ends the session.
    pub fn close(mut self) -> ClientCounters {
        self.machine.close(now());
        while !self.machine.is_closed() {
            self.turn();
        }
        self.machine.counters()
    }

    /// Once round the loop. It ends at the latest when a timer of the machine is due.
    fn turn(&mut self) -> Option<Answer> {
        let mut ended = None;
        self.machine.handle_timeout(now());
        if self.transmit().is_err() {
            self.hang_up();
        }
        while let Some(event) = self.machine.poll_event() {
            match event {
                ClientEvent::Ended { outcome, .. } => ended = Some(answer(outcome)),
                ClientEvent::Disconnect(_) => self.hang_up(),
                _ => {}
            }
        }
        if ended.is_none() && self.receive(&mut ended).is_err() {
            self.hang_up();
        }
        ended
    }

    fn transmit(&mut self) -> io::Result<()> {
        let mut out = [0; 4096];
        while let Some(socket) = &mut self.socket
            && let Some(len) = self.machine.poll_transmit(now(), &mut out)
        {
            socket.write_all(&out[..len.get()])?;
        }
        Ok(())
    }

    /// Waits for bytes, or for a connection that can bring some.
    fn receive(&mut self, ended: &mut Option<Answer>) -> io::Result<()> {
        let until = self.machine.poll_timeout();
        let Some(socket) = &self.socket else {
            if !self.machine.wants_connection() {
                return Ok(());
            }
            self.socket = Some(prepare(TcpStream::connect_timeout(&self.server, wait(until))?)?);
            self.machine.handle_connected(now());
            return Ok(());
        };
        read(socket, until, &mut self.input)?;
        take(&mut self.machine, &mut self.input, |_, answer| {
            *ended = Some(answer);
            self.pause = Duration::ZERO;
        })
    }

    fn hang_up(&mut self) {
        self.socket = None;
        self.input.clear();
        self.machine.handle_disconnected(now());
        thread::park_timeout(self.pause.min(wait(self.machine.poll_timeout())));
        self.pause = (self.pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
    }
}
