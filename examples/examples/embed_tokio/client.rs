//! A client that is one task, to which others send their calls.

use std::collections::HashMap;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use oncewire_core::{Client, ClientConfig, ClientCounters, ClientEvent, Heap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio::{select, spawn};

use crate::embed::{Answer, answer, begin, now, take, wait};

pub type Job = (u32, oneshot::Sender<Answer>);

enum Link {
    Down,
    Dialing(JoinHandle<io::Result<TcpStream>>),
    Up(TcpStream),
}

enum Happened {
    Connected(TcpStream),
    Read,
    Sent(usize),
}

impl Link {
    fn dial(server: SocketAddr, pause: Duration) -> Link {
        Link::Dialing(spawn(async move {
            sleep(pause).await;
            timeout(Duration::from_secs(10), TcpStream::connect(server)).await?
        }))
    }

    /// Reads while it writes, since two ends that both write before they read wait for ever.
    async fn next(&mut self, input: &mut Vec<u8>, out: &[u8]) -> io::Result<Happened> {
        let socket = match self {
            Link::Down => pending().await,
            Link::Dialing(dial) => return dial.await?.map(Happened::Connected),
            Link::Up(socket) => socket,
        };
        let (mut reader, mut writer) = socket.split();
        select! {
            read = reader.read_buf(input) => match read? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                _ => Ok(Happened::Read),
            },
            sent = writer.write(out), if !out.is_empty() => sent.map(Happened::Sent),
        }
    }
}

/// Owns the machine: makes the calls that come from `jobs` until there are no more.
pub async fn run(server: SocketAddr, mut jobs: mpsc::Receiver<Job>) -> ClientCounters {
    let mut machine: Client<Heap> = Client::new(ClientConfig::default());
    let mut callers = HashMap::new();
    let (mut link, mut broken, mut pause, mut open) = (Link::Down, false, Duration::ZERO, true);
    let (mut input, mut out, mut left) = (Vec::with_capacity(4096), [0; 4096], 0..0);
    loop {
        if std::mem::take(&mut broken) {
            (link, left) = (Link::Down, 0..0);
            input.clear();
            machine.handle_disconnected(now());
        }
        if machine.is_closed() {
            return machine.counters();
        }
        machine.handle_timeout(now());
        if left.is_empty() {
            left = 0..machine.poll_transmit(now(), &mut out).map_or(0, NonZeroUsize::get);
        }
        while let Some(event) = machine.poll_event() {
            match event {
                ClientEvent::Ended { call, outcome, .. } => {
                    // If the outcome is `Unknown`, we will not ask again.
                    machine.forget(now(), call);
                    tell(callers.remove(&call), answer(outcome));
                }
                ClientEvent::Disconnect(_) => broken = true,
                _ => {}
            }
        }
        if broken {
            continue;
        }
        if let Link::Down = link
            && machine.wants_connection()
        {
            link = Link::dial(server, pause);
            pause = (pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
        }
        select! {
            job = jobs.recv(), if open => match job {
                Some((argument, caller)) => match begin(&mut machine, argument) {
                    Ok(call) => drop(callers.insert(call, caller)),
                    Err(why) => tell(Some(caller), Err(why)),
                },
                None => {
                    open = false;
                    machine.close(now());
                }
            },
            happened = link.next(&mut input, &out[left.clone()]) => match happened {
                Ok(Happened::Connected(socket)) => {
                    link = Link::Up(socket);
                    machine.handle_connected(now());
                }
                Ok(Happened::Sent(len)) => left.start += len,
                Ok(Happened::Read) => {
                    let taken = take(&mut machine, &mut input, |call, answer| {
                        tell(callers.remove(&call), answer);
                        pause = Duration::ZERO;
                    });
                    broken = taken.is_err();
                }
                Err(_) => broken = true,
            },
            () = sleep(wait(machine.poll_timeout())) => {}
        }
    }
}

fn tell(caller: Option<oneshot::Sender<Answer>>, answer: Answer) {
    // A caller who has gone away does not mind.
    let _ = caller.map(|caller| caller.send(answer));
}
