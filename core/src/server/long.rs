//! Long requests while they come: room is set aside for all of one before it is there, and of one that finds none the
//! bytes are dropped as they come, so that it can be refused without having been kept (S11).
//!
//! Clients used to have as many requests of 16 MiB half sent, in no budget, as they had connections.

use super::Server;
use crate::digest::Long;
use crate::error::ProtocolError;
use crate::outcome::NotExecuted;
use crate::storage::{Places, ServerStorage};
use crate::wire::{self, REQUEST_HEADER_LEN, RequestHeader};

/// What comes of shorter frames costs a connection little.
const LEN_MIN: usize = 4 << 10;
/// Bytes are dropped in blocks of the digest.
const BLOCK_LEN: usize = 64;

/// The request that is coming on a connection, if it is a long one.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) enum Coming {
    /// None, or nothing is known of it yet.
    #[default]
    Nothing,
    /// So many bytes are set aside for it.
    Kept(u32),
    /// There is no room for it: its bytes are dropped.
    Dropped(Dropped),
}

/// A request whose bytes are dropped.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) struct Dropped {
    header: RequestHeader,
    digest: Long,
    len: usize,
    /// Bytes of its body that have come.
    at: usize,
}

impl<T: ServerStorage> Server<T> {
    /// A frame of `wanted` bytes is coming, of which `front` is here. Returns how much of it is taken, to be dropped.
    pub(super) fn note_coming(
        &mut self,
        index: u32,
        front: &[u8],
        wanted: usize,
    ) -> Result<usize, ProtocolError> {
        let Some(conn) = self.conns.live(index) else { return Ok(0) };
        let (coming, session) = (conn.coming, conn.session);
        let known = !matches!(coming, Coming::Nothing);
        let (Some(session), false) = (session, known || wanted < LEN_MIN) else { return Ok(0) };
        let Some(header) = wire::peek_request(front)? else { return Ok(0) };
        self.check_flags(session, &header)?;
        let bytes = u32::try_from(wanted).unwrap_or(u32::MAX);
        let fits = self.view(session).is_some_and(|view| view.fits_requests(bytes));
        let len = wanted - REQUEST_HEADER_LEN;
        let coming = match Long::begin(header.method, header.flags, len) {
            Some(digest) if !fits => Coming::Dropped(Dropped { header, digest, len, at: 0 }),
            _ => Coming::Kept(bytes),
        };
        if let (Coming::Kept(_), Some(view)) = (coming, self.view(session)) {
            view.quota.request_bytes += u64::from(bytes);
            view.counters.coming_bytes += u64::from(bytes);
        }
        let Some(conn) = self.conns.live_mut(index) else { return Ok(0) };
        conn.coming = coming;
        Ok(if let Coming::Dropped(_) = coming { REQUEST_HEADER_LEN } else { 0 })
    }

    /// The long request has come, or its connection is gone.
    pub(super) fn end_coming(&mut self, index: u32) {
        let Some(conn) = self.conns.live_mut(index) else { return };
        let coming = core::mem::take(&mut conn.coming);
        if let (Coming::Kept(bytes), Some(session)) = (coming, conn.session)
            && let Some(view) = self.view(session)
        {
            view.quota.request_bytes -= u64::from(bytes);
            view.counters.coming_bytes -= u64::from(bytes);
        }
    }

    /// Drops what has come of a request that found no room; returns how much, and how much is wanted before the next
    /// call if there is more to come. When all of it has come, it is refused.
    pub(super) fn drop_coming(
        &mut self,
        index: u32,
        data: &[u8],
    ) -> Result<(usize, usize), ProtocolError> {
        let Some(conn) = self.conns.live_mut(index) else { return Ok((data.len(), 0)) };
        let Coming::Dropped(dropped) = &mut conn.coming else { return Ok((0, 0)) };
        debug_assert!(dropped.at < dropped.len, "there is more of it to come");
        let left = dropped.len - dropped.at;
        let data = &data[..data.len().min(left)];
        let (blocks, rest) = data.as_chunks::<BLOCK_LEN>();
        dropped.digest.take(blocks);
        let taken = data.len() - rest.len();
        dropped.at += taken;
        if data.len() < left {
            let (at, wanted) = (dropped.at, (left - taken).min(BLOCK_LEN));
            self.note_partial(index, at);
            return Ok((taken, wanted));
        }
        let (header, len, digest) = (dropped.header, dropped.len, dropped.digest.end(rest));
        let session = conn.session;
        conn.coming = Coming::Nothing;
        self.note_whole(index);
        if let Some(session) = session {
            let deadline = self.now.after_millis(header.remaining_ms);
            let dropped = Err(NotExecuted::Overloaded);
            self.admit_request(session, &header, (digest, deadline), len, dropped)?;
        }
        Ok((data.len(), 0))
    }
}
