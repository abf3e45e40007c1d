//! Oncewire's frames on a TCP connection: what the injector looks at, and what the naive RPC is made of.

use oncewire::protocol::wire::{self, Decoded, Frame, Role};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;

const BODY_LEN_MAX: u32 = 1 << 16;

/// Reads whole frames.
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Frames {
    pub(crate) fn new(stream: TcpStream) -> Frames {
        Frames { stream, buffer: Vec::new() }
    }

    /// The bytes of the next one that `from` sends; nothing if the connection ends before.
    pub(crate) async fn next(&mut self, from: Role) -> Option<Vec<u8>> {
        loop {
            if let Decoded::Frame(_, len) = wire::decode(&self.buffer, from, BODY_LEN_MAX).ok()? {
                return Some(self.buffer.drain(..len).collect());
            }
            let mut chunk = [0; 4096];
            let len = self.stream.read(&mut chunk).await.ok().filter(|len| *len > 0)?;
            self.buffer.extend_from_slice(&chunk[..len]);
        }
    }
}

/// What a whole frame says.
pub(crate) fn decode(frame: &[u8], from: Role) -> Option<Frame<'_>> {
    match wire::decode(frame, from, BODY_LEN_MAX) {
        Ok(Decoded::Frame(frame, _)) => Some(frame),
        _ => None,
    }
}

/// A frame's bytes. There are none of one that is longer than this program's.
pub(crate) fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = vec![0; wire::CONTROL_LEN_MAX];
    let len = wire::encode(frame, &mut out).unwrap_or(0);
    out.truncate(len);
    out
}

/// Writes to a connection that others read.
///
/// # Errors
/// The connection has ended.
pub(crate) async fn write(stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.clone().write_all(bytes).await
}
