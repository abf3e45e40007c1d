//! What the calls of an upload say.
//!
//! | call | arguments | reply |
//! |---|---|---|
//! | open | the method's arguments, [`Open`] | [`Opened`] |
//! | put | [`Put`] | [`Taken`] |
//! | end, of a transactional method | [`End`] | [`Taken`] |
//! | commit | [`Commit`] | [`Committed`] |
//! | close | [`Close`] | none: it is one-way |

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Names an upload at its server: random, chosen by the client.
pub(super) type UploadId = u64;

/// Opens an upload, or takes it over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) id: UploadId,
    /// Random: from now on only the chunks of this writer are taken.
    pub(super) writer: u64,
    /// It must be there already.
    pub(super) resumes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Opened {
    Yes(Progress),
    /// The session, or the server, has as many as it may; the function was not called.
    TooMany,
    /// There is none of this name to resume.
    Lost,
}

/// What the server has of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Chunks that have arrived, without a gap.
    pub(super) arrived: u64,
    /// Those of them that were read.
    pub(super) read: u64,
    /// The position behind those that have arrived.
    pub(super) position: u64,
}

/// Chunks and positions of an upload are below this: a server that says more is not believed.
const COUNT_MAX: u64 = 1 << 62;

impl Progress {
    /// None yet.
    pub(super) const NONE: Progress = Progress { arrived: 0, read: 0, position: 0 };

    /// Whether an upload that may have this much credit can have come so far.
    pub(super) fn is_possible(&self, credit: u32) -> bool {
        let Progress { arrived, read, position } = *self;
        let unread = arrived.checked_sub(read);
        unread.is_some_and(|unread| unread <= u64::from(credit))
            && arrived.max(position) < COUNT_MAX
    }
}

/// A chunk. Without items it asks whether an earlier one was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) id: UploadId,
    pub(super) writer: u64,
    /// The number of the chunk: they are counted from 0.
    pub(super) chunk: u64,
    /// The position behind it.
    pub(super) end: u64,
    /// Milliseconds that the call may wait until the chunk was read.
    pub(super) wait_ms: u32,
    pub(super) items: Bytes,
}

/// Before the items of a [`Put`]: four numbers of eight bytes, and one of four.
pub(super) const HEADER_LEN: usize = 36;

impl Put {
    /// What is before the items.
    pub(super) fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let (numbers, wait) = header.split_at_mut(32);
        let values = [self.id, self.writer, self.chunk, self.end];
        for (place, value) in numbers.chunks_exact_mut(8).zip(values) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        wait.copy_from_slice(&self.wait_ms.to_le_bytes());
        header
    }

    pub(super) fn parse(mut body: Bytes) -> Option<Put> {
        let header = *body.first_chunk::<HEADER_LEN>()?;
        let number = |at: usize| {
            let bytes = header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes)
        };
        let wait_ms = u32::from_le_bytes(*header.last_chunk()?);
        let (id, writer, chunk, end) = (number(0)?, number(8)?, number(16)?, number(24)?);
        let items = body.split_off(HEADER_LEN);
        Some(Put { id, writer, chunk, end, wait_ms, items })
    }
}

/// What comes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Taken {
    /// It has arrived, and so many chunks were read.
    Yes {
        read: u64,
    },
    /// The function has returned.
    Stopped,
    No(ServerBreak),
}

/// Why an upload is broken at its server, which neither continues nor commits it. Its client reports it as the
/// [`UploadBreak`](super::UploadBreak) of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ServerBreak {
    /// The server does not know it, or another writer has it.
    Lost,
    /// The function panicked before the commit.
    Panicked,
    /// What came is no item of the function's type.
    Undecodable,
}

/// Says that there are no more than so many chunks, and asks whether the function has returned.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) id: UploadId,
    pub(super) writer: u64,
    pub(super) chunks: u64,
    /// Milliseconds that the call may wait for that.
    pub(super) wait_ms: u32,
}

/// Drops an upload, unless another writer has it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Close {
    pub(super) id: UploadId,
    pub(super) writer: u64,
}

/// Commits an upload of so many chunks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Commit {
    pub(super) id: UploadId,
    pub(super) writer: u64,
    pub(super) chunks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Committed<R> {
    /// The function has read all, and has returned this.
    Done(R),
    /// It did not learn of the commit, and was dropped.
    No(ServerBreak),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_as_they_were_written() {
        let items = Bytes::from_static(b"items");
        let put = Put { id: 1, writer: u64::MAX, chunk: 3, end: 1 << 40, wait_ms: 7, items };
        let body = [&put.header()[..], b"items"].concat();
        assert_eq!(Put::parse(body.clone().into()), Some(put.clone()));
        let empty = Put { items: Bytes::new(), ..put };
        assert_eq!(Put::parse(body[..HEADER_LEN].to_vec().into()), Some(empty));
        assert_eq!(Put::parse(body[..HEADER_LEN - 1].to_vec().into()), None);
    }
}
