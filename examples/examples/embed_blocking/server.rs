//! A server with a thread for each connection; all of them share one machine.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use oncewire_core::{ConnId, Heap, Principal, Server, ServerEvent};

use crate::embed::{execute, now, secret};
use crate::{prepare, read};

struct Shared {
    machine: Server<Heap>,
    sockets: HashMap<ConnId, TcpStream>,
}

impl Shared {
    /// Does what the machine wants, for all connections: what one brings may concern another.
    ///
    /// It writes while it has the machine, so that bytes leave in their order.
    fn settle(&mut self) {
        let mut out = [0; 4096];
        while let Some(event) = self.machine.poll_event() {
            match event {
                ServerEvent::Transmit(conn) => {
                    while let Some(len) = self.machine.poll_transmit(now(), conn, &mut out) {
                        let socket = self.sockets.get_mut(&conn);
                        if socket.is_none_or(|socket| socket.write_all(&out[..len.get()]).is_err())
                        {
                            self.hang_up(conn);
                        }
                    }
                }
                ServerEvent::Close(conn, _) => self.hang_up(conn),
                _ => {}
            }
        }
    }

    fn hang_up(&mut self, conn: ConnId) {
        self.machine.handle_disconnected(now(), conn);
        // The thread that reads the connection wakes up from it; that it is gone already is fine.
        let _ = self.sockets.remove(&conn).map(|socket| socket.shutdown(Shutdown::Both));
    }
}

/// One connection, in a thread of its own.
fn serve(shared: &Mutex<Shared>, socket: TcpStream) -> io::Result<()> {
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = prepare(socket)?;
    let (writer, secret, mut input) = (socket.try_clone()?, secret()?, Vec::new());
    let mut state = lock();
    let conn = state.machine.handle_connected(now(), Principal::ANONYMOUS, secret);
    let conn = conn.ok_or(ErrorKind::ConnectionRefused)?;
    state.sockets.insert(conn, writer);
    loop {
        state.machine.handle_timeout(now());
        state.settle();
        let at = state.machine.poll_timeout();
        drop(state);
        let read = read(&socket, at, &mut input);
        state = lock();
        if read.is_err() || execute(&mut state.machine, conn, &mut input) {
            state.hang_up(conn);
            state.settle();
            return read;
        }
    }
}

pub fn accept(listener: &TcpListener, machine: Server<Heap>) {
    let shared = Arc::new(Mutex::new(Shared { machine, sockets: HashMap::new() }));
    for socket in listener.incoming() {
        let shared = Arc::clone(&shared);
        if thread::Builder::new().spawn(move || serve(&shared, socket?)).is_err() {
            // There are no threads left: wait for some.
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}
