//! Requests with metadata (W17): split, or refused.

use super::incoming::Incoming;
use super::{ConnId, Server};
use crate::client::Received;
use crate::error::ProtocolError;
use crate::outcome::NotExecuted;
use crate::storage::{Places, ServerStorage};
use crate::wire::{self, Metadata, RequestHeader};

/// A request's metadata and arguments, and what is wrong with them.
pub(super) type Content<'d> = (Metadata<'d>, &'d [u8], Result<(), NotExecuted>);

impl<T: ServerStorage> Server<T> {
    /// Requests with metadata have this copy of the code to themselves: where one copy served all, a call without cost
    /// 80 instructions more.
    #[cold]
    #[inline(never)]
    pub(super) fn take_frames_with_metadata<'d>(
        &mut self,
        conn: ConnId,
        data: &'d [u8],
        consumed: usize,
    ) -> Result<Received<Incoming<'d>>, ProtocolError> {
        self.take_frames::<true>(conn, data, consumed)
    }

    /// W17. A block that is broken costs its call; that there is one where none was agreed on, the connection.
    pub(super) fn split_metadata<'d>(
        &self,
        index: u32,
        header: &RequestHeader,
        body: &'d [u8],
    ) -> Result<Content<'d>, ProtocolError> {
        self.check_flags(index, header)?;
        Ok(match Metadata::split(body) {
            Ok((metadata, body)) => (metadata, body, Ok(())),
            Err(_) => (Metadata::EMPTY, body, Err(NotExecuted::BadMetadata)),
        })
    }

    /// W13: whether the session's connection may use the request's flags.
    pub(super) fn check_flags(
        &self,
        index: u32,
        header: &RequestHeader,
    ) -> Result<(), ProtocolError> {
        let session = self.sessions.live(index);
        let features =
            session.and_then(|session| self.conns.live(session.conn)).map(|c| c.features);
        if header.flags & wire::FLAG_METADATA != 0
            && features.is_none_or(|features| features & wire::FEATURE_METADATA == 0)
        {
            return Err(ProtocolError::Malformed { kind: wire::KIND_REQUEST });
        }
        Ok(())
    }
}
