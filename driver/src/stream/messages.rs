//! What the calls of a stream say.
//!
//! | call | arguments | reply |
//! |---|---|---|
//! | open | the method's arguments, the position, the id | [`Opened`] |
//! | next | [`Pull`] | [`Chunk`] |
//! | close | the id | none: it is one-way |

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Names a stream in its session: random, chosen by the client, so that it can close one of which it never learned that it was
/// opened.
pub(super) type StreamId = u64;

/// How an open ended, if it has a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Opened {
    Yes,
    /// The session, or the server, has as many as it may; the function was not called.
    TooMany,
    /// The method is not resumable, and the position is not 0; the function was not called.
    NotResumable,
}

/// Asks for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pull {
    pub(super) stream: StreamId,
    /// The number of the chunk: they are counted from 0.
    pub(super) chunk: u64,
    /// Chunks below this one were received.
    pub(super) received: u64,
    /// Milliseconds that it may wait at the server.
    pub(super) wait_ms: u32,
}

/// What comes of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Items, and the position of the first.
    Items(u64, Bytes),
    /// There was none in time.
    Empty,
    /// There will be none: the stream ended at this position.
    End(u64),
    /// The server does not know the stream, or this chunk of it any more.
    Lost,
    /// The stream panicked at this position.
    Panicked(u64),
    /// The item at this position does not fit into a chunk.
    ItemTooLong(u64),
}

/// Before the items: what it is, and the position.
pub(super) const HEADER_LEN: usize = 9;

impl Chunk {
    fn kind(&self) -> (u8, u64) {
        match *self {
            Chunk::Items(position, _) => (0, position),
            Chunk::Empty => (1, 0),
            Chunk::End(position) => (2, position),
            Chunk::Lost => (3, 0),
            Chunk::Panicked(position) => (4, position),
            Chunk::ItemTooLong(position) => (5, position),
        }
    }

    /// What is before the items.
    pub(super) fn header(&self) -> [u8; HEADER_LEN] {
        let (kind, position) = self.kind();
        let mut header = [kind; HEADER_LEN];
        header[1..].copy_from_slice(&position.to_le_bytes());
        header
    }

    /// The reply of a chunk without items.
    pub(super) fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.header())
    }

    pub(super) fn parse(mut reply: Bytes) -> Option<Chunk> {
        let (&[kind, ref position @ ..], _) = reply.split_first_chunk::<HEADER_LEN>()?;
        let position = u64::from_le_bytes(*position);
        let items = reply.split_off(HEADER_LEN);
        match kind {
            0 if !items.is_empty() => Some(Chunk::Items(position, items)),
            1 => Some(Chunk::Empty),
            2 => Some(Chunk::End(position)),
            3 => Some(Chunk::Lost),
            4 => Some(Chunk::Panicked(position)),
            5 => Some(Chunk::ItemTooLong(position)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_as_they_were_written() {
        let all = [
            Chunk::Empty,
            Chunk::End(1 << 40),
            Chunk::Lost,
            Chunk::Panicked(7),
            Chunk::ItemTooLong(u64::MAX),
        ];
        for chunk in all {
            assert_eq!(Chunk::parse(chunk.bytes()), Some(chunk));
        }
        let items = Chunk::Items(9, Bytes::from_static(b"items"));
        let reply = [&items.header()[..], b"items"].concat();
        assert_eq!(Chunk::parse(reply.clone().into()), Some(items));
        assert_eq!(Chunk::parse(reply[..HEADER_LEN].to_vec().into()), None);
        assert_eq!(Chunk::parse(reply[..8].to_vec().into()), None);
        assert_eq!(Chunk::parse(vec![9; 20].into()), None);
    }
}
