//! A server with a task for each connection; all of them share one machine.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire_core::{ConnId, Heap, Principal, Server, ServerEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::{select, spawn, time::sleep};

use crate::embed::{execute, now, secret, wait};

struct State {
    machine: Server<Heap>,
    /// What wakes the task of each connection. One that is not here must be closed.
    conns: HashMap<ConnId, Arc<Notify>>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the task that waits for `poll_timeout`, when that has changed.
    timer: Notify,
}

impl Shared {
    /// After each use of the machine, its events are passed on, for all connections.
    fn with<R>(&self, turn: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.machine.poll_timeout();
        let result = turn(&mut state);
        while let Some(event) = state.machine.poll_event() {
            let wake = match event {
                ServerEvent::Transmit(conn) => state.conns.get(&conn).cloned(),
                ServerEvent::Close(conn, _) => state.conns.remove(&conn),
                _ => None,
            };
            wake.inspect(|wake| wake.notify_one());
        }
        if state.machine.poll_timeout() != before {
            self.timer.notify_one();
        }
        result
    }

    async fn serve(self: Arc<Self>, mut socket: TcpStream) -> io::Result<()> {
        let (secret, wake) = (secret()?, Arc::new(Notify::new()));
        let conn = self.with(|State { machine, conns }| {
            let conn = machine.handle_connected(now(), Principal::ANONYMOUS, secret)?;
            conns.insert(conn, Arc::clone(&wake));
            Some(conn)
        });
        let conn = conn.ok_or(ErrorKind::ConnectionRefused)?;
        let result = self.exchange(conn, &wake, &mut socket).await;
        self.with(|State { machine, conns }| {
            conns.remove(&conn);
            machine.handle_disconnected(now(), conn);
        });
        result
    }

    /// Reads while it writes, since two ends that both write before they read wait for ever.
    async fn exchange(
        &self,
        conn: ConnId,
        wake: &Notify,
        socket: &mut TcpStream,
    ) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let (mut reader, mut writer) = socket.split();
        let (mut input, mut out, mut left) = (Vec::with_capacity(4096), [0; 4096], 0..0);
        loop {
            if !self.with(|state| state.conns.contains_key(&conn)) {
                return Ok(());
            }
            if left.is_empty() {
                let sent = self.with(|state| state.machine.poll_transmit(now(), conn, &mut out));
                left = 0..sent.map_or(0, NonZeroUsize::get);
            }
            select! {
                read = reader.read_buf(&mut input) => match read? {
                    0 => return Ok(()),
                    _ => self.with(|State { machine, conns }| {
                        if execute(machine, conn, &mut input) {
                            conns.remove(&conn);
                        }
                    }),
                },
                sent = writer.write(&out[left.clone()]), if !left.is_empty() => left.start += sent?,
                () = wake.notified() => {}
            }
        }
    }
}

/// Accepts connections, and keeps the machine's time.
pub async fn accept(listener: TcpListener, machine: Server<Heap>) {
    let state = Mutex::new(State { machine, conns: HashMap::new() });
    let shared = Arc::new(Shared { state, timer: Notify::new() });
    loop {
        let at = shared.with(|state| state.machine.poll_timeout());
        select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => drop(spawn(Arc::clone(&shared).serve(socket))),
                // There are no file descriptors left: wait for some.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            () = shared.timer.notified() => {}
            () = sleep(wait(at)) => {}
        }
        shared.with(|state| state.machine.handle_timeout(now()));
    }
}
