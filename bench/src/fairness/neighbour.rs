//! What else is connected to the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;

use oncewire_core::wire::{self, Frame, Role};
use oncewire_core::{self as core, Heap, MethodId, Xid};
use serde::{Deserialize, Serialize};

use super::{COMPUTE, ECHO, MEASURE};
use crate::Result;
use crate::case::Transport;
use crate::clock::now;
use crate::parties::client;
use crate::{subjects, sys};

/// What the connection beside the honest client's does, as fast as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Neighbour {
    /// There is none: the honest client is alone.
    Alone,
    /// Pings, without waiting for their answers.
    Pings,
    /// Questions for the outcome of a call that was answered.
    Asks,
    /// Calls of 10 µs, as many in flight as the server grants.
    Calls,
    /// Calls with arguments of 1 MiB, as many in flight as the server grants.
    Bodies,
    /// An ordinary client with 1,000 calls of 10 µs in flight.
    Ordinary,
}

/// Arguments of the method that says how long they are: the length of bytes as postcard writes it, and the bytes.
fn large_body() -> Vec<u8> {
    const LEN: usize = 1 << 20;
    let mut body = vec![0x80, 0x80, 0x40];
    body.resize(body.len() + LEN, 7);
    body
}

const CALLS_IN_FLIGHT: u32 = 1000;
/// What the raw client asks for; the server grants as many.
const SLOTS: u32 = 1024;

impl Neighbour {
    pub(super) const ALL: [Neighbour; 6] = [
        Neighbour::Alone,
        Neighbour::Pings,
        Neighbour::Asks,
        Neighbour::Calls,
        Neighbour::Bodies,
        Neighbour::Ordinary,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Neighbour::Alone => "alone",
            Neighbour::Pings => "pings",
            Neighbour::Asks => "asks",
            Neighbour::Calls => "calls of 10 µs",
            Neighbour::Bodies => "bodies of 1 MiB",
            Neighbour::Ordinary => "1,000 calls of 10 µs",
        }
    }

    /// Does it until the process is ended.
    pub(super) fn run(self, transport: Transport, address: &str) -> Result<()> {
        let mut out = [0; wire::CONTROL_LEN_MAX];
        match self {
            Neighbour::Alone => subjects::ready("")?,
            Neighbour::Pings | Neighbour::Asks => {
                let frame = match self {
                    Neighbour::Pings => Frame::Ping(Role::Client),
                    // The first call on the first slot.
                    _ => Frame::Ask(Xid::new(SLOTS.into()).ok_or("no xid")?, 1),
                };
                let len = wire::encode(&frame, &mut out).ok_or("it does not fit")?;
                let stream = RawClient::connect(transport, address)?.stream;
                flood(stream, &out[..len].repeat(4096))?;
            }
            Neighbour::Calls => {
                RawClient::connect(transport, address)?.call_for_ever(COMPUTE.id(), &[1])?;
            }
            Neighbour::Bodies => {
                let body = large_body();
                RawClient::connect(transport, address)?.call_for_ever(MEASURE.id(), &body)?;
            }
            Neighbour::Ordinary => smol::block_on(ordinary(transport, address))?,
        }
        thread::park();
        Ok(())
    }
}

async fn ordinary(transport: Transport, address: &str) -> Result<()> {
    let client = client(transport, address);
    client.call(&ECHO, &0).await.ok()?;
    for n in 0..CALLS_IN_FLIGHT {
        let client = client.clone();
        smol::spawn(async move { while client.call(&COMPUTE, &n).await.ok().is_ok() {} }).detach();
    }
    subjects::ready("")?;
    std::future::pending().await
}

/// A socket of either kind.
trait Socket: Read + Write + Send + 'static {
    fn clone_of(&self) -> std::io::Result<Box<dyn Socket>>;
}

impl Socket for TcpStream {
    fn clone_of(&self) -> std::io::Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }
}

impl Socket for UnixStream {
    fn clone_of(&self) -> std::io::Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }
}

/// Writes the same frames again and again, and drops what comes back.
fn flood(mut stream: Box<dyn Socket>, frames: &[u8]) -> Result<()> {
    let mut back = stream.clone_of()?;
    thread::spawn(move || std::io::copy(&mut back, &mut std::io::sink()));
    subjects::ready("")?;
    loop {
        stream.write_all(frames)?;
    }
}

/// The machine on a socket that blocks.
struct RawClient {
    stream: Box<dyn Socket>,
    machine: core::Client<Heap>,
    buffer: Vec<u8>,
}

impl RawClient {
    /// Connects and makes one call, so that there is a reply to ask for.
    fn connect(transport: Transport, address: &str) -> Result<RawClient> {
        let stream: Box<dyn Socket> = match transport {
            Transport::Tcp => Box::new(TcpStream::connect(address)?),
            _ => Box::new(UnixStream::connect(address)?),
        };
        sys::use_cubic()?;
        let mut config = core::ClientConfig::default();
        config.slots = SLOTS;
        let machine = core::Client::<Heap>::new(config);
        let mut client = RawClient { stream, machine, buffer: vec![0; 4 << 20] };
        client.machine.handle_connected(time());
        client.machine.call(time(), core::Call::new(ECHO.id(), &[1][..]))?;
        while client.machine.pending() > 0 {
            client.exchange()?;
        }
        Ok(client)
    }

    /// Keeps as many calls in flight as the machine takes.
    fn call_for_ever(mut self, method: MethodId, body: &[u8]) -> Result<()> {
        let body = bytes::Bytes::copy_from_slice(body);
        subjects::ready("")?;
        loop {
            while self.machine.pending() < CALLS_IN_FLIGHT as usize
                && self.machine.call(time(), core::Call::new(method, body.clone())).is_ok()
            {
            }
            self.exchange()?;
        }
    }

    /// Writes what there is to write, and waits for an answer.
    fn exchange(&mut self) -> Result<()> {
        while let Some(len) = self.machine.poll_transmit(time(), &mut self.buffer) {
            self.stream.write_all(&self.buffer[..len.get()])?;
        }
        let len = self.stream.read(&mut self.buffer)?;
        let mut data = &self.buffer[..len];
        while !data.is_empty() {
            data = &data[self.machine.handle_data(time(), data)?.consumed..];
        }
        while self.machine.poll_event().is_some() {}
        Ok(())
    }
}

/// The machine's clock.
fn time() -> core::Instant {
    static BEGUN: std::sync::OnceLock<crate::clock::Instant> = std::sync::OnceLock::new();
    core::Instant::ZERO + now().duration_since(*BEGUN.get_or_init(now))
}
