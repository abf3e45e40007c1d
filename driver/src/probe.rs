//! What listens at an address where a server of ours was to listen: for the error of the one that comes second.
//!
//! The question is a `Hello` that demands a server which does not exist. An Oncewire server answers it with its service and its
//! instance, and opens no session.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use oncewire_core::wire::{self, Decoded, Frame, Hello, Refuse, Role};
use oncewire_core::{Instance, ServerId, ServiceName};
use smol::io::{AsyncReadExt, AsyncWriteExt};

use crate::runtime::{Runtime, SmolRuntime, Timer};
use crate::transport::BoxStream;

/// How long a listener has for its answer. A program that starts waits for no more, and a server that lives needs less.
pub const PROBE_TIME: Duration = Duration::from_secs(1);

/// What listens at an address. Its `Display` is a part of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listener {
    /// An Oncewire server.
    Oncewire {
        /// Its service; `None` if it does not say, because it demands a token, say.
        service: Option<ServiceName>,
        /// Which process it is.
        instance: Instance,
    },
    /// Something that answers in TLS, and may be an Oncewire server behind that.
    Tls,
    /// Something else, that answers otherwise.
    Other,
    /// Something that ends the connection without a word: it does not accept this process, or speaks another protocol.
    Closes,
    /// Something that has not answered within [`PROBE_TIME`].
    Silent,
    /// Nothing that can be dialled: what has the address does not listen, or not for this process.
    Unreachable(String),
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Oncewire { service: Some(service), instance } => {
                write!(f, "an Oncewire server has it: service {service}, instance {instance}")
            }
            Listener::Oncewire { service: None, instance } => {
                write!(f, "an Oncewire server has it: instance {instance}")
            }
            Listener::Tls => f.write_str("something that speaks TLS has it"),
            Listener::Other => f.write_str("something that does not speak Oncewire has it"),
            Listener::Closes => {
                f.write_str("something that closes the connection without an answer has it")
            }
            Listener::Silent => {
                write!(f, "something that does not answer within {PROBE_TIME:?} has it")
            }
            Listener::Unreachable(why) => write!(f, "what has it cannot be dialled ({why})"),
        }
    }
}

/// Dials, and asks what answers. Takes [`PROBE_TIME`] at most.
pub async fn who_listens(dial: impl Future<Output = io::Result<BoxStream>>) -> Listener {
    let runtime = SmolRuntime::global();
    let mut timer: Box<dyn Timer> = runtime.timer();
    timer.set(runtime.now() + PROBE_TIME);
    let late = async {
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        Listener::Silent
    };
    let answer = async {
        match dial.await {
            Ok(stream) => ask(stream).await.unwrap_or(Listener::Closes),
            Err(error) => Listener::Unreachable(error.to_string()),
        }
    };
    smol::future::or(answer, late).await
}

/// # Errors
/// The stream breaks before there is an answer.
async fn ask(mut stream: BoxStream) -> io::Result<Listener> {
    let hello = Hello {
        magic: wire::MAGIC,
        version_min: wire::VERSION,
        version_max: wire::VERSION,
        features: 0,
        resume: None,
        slots: 1,
        request_len_max: 0,
        reply_len_max: 0,
        service: None,
        // None has it.
        server: Some(ServerId::from_bytes([0xff; 16])),
        token: None,
    };
    let mut out = [0; wire::CONTROL_LEN_MAX];
    let len = wire::encode(&Frame::Hello(hello), &mut out).unwrap_or(0);
    stream.write_all(&out[..len]).await?;
    stream.flush().await?;
    let mut answer = [0; wire::CONTROL_LEN_MAX];
    let mut len = 0;
    loop {
        match wire::decode(&answer[..len], Role::Server, 0) {
            Ok(Decoded::Frame(frame, _)) => return Ok(of(&frame)),
            Ok(Decoded::Incomplete(_)) => {}
            Err(_) if is_tls(&answer[..len]) => return Ok(Listener::Tls),
            Err(_) => return Ok(Listener::Other),
        }
        match stream.read(&mut answer[len..]).await? {
            0 if len == 0 => return Ok(Listener::Closes),
            0 => return Ok(Listener::Other),
            more => len += more,
        }
    }
}

fn of(frame: &Frame<'_>) -> Listener {
    match *frame {
        Frame::Refuse(Refuse::WrongServer { service, .. }, instance) => {
            Listener::Oncewire { service: Some(service), instance }
        }
        Frame::Refuse(_, instance) => Listener::Oncewire { service: None, instance },
        Frame::Welcome(welcome) => {
            Listener::Oncewire { service: Some(welcome.service), instance: welcome.instance }
        }
        _ => Listener::Other,
    }
}

/// Whether it is an alert or a handshake of TLS, of any version.
fn is_tls(answer: &[u8]) -> bool {
    matches!(answer, [0x15 | 0x16, 3, 0..=4, ..])
}
