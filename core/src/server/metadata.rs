//! Requests with metadata (W17): split, or refused.

use super::Server;
use crate::error::ProtocolError;
use crate::outcome::NotExecuted;
use crate::storage::{Places, ServerStorage};
use crate::wire::{self, Metadata, RequestHeader};

/// A request's metadata and arguments, and what is wrong with them.
pub(super) type Content<'d> = (Metadata<'d>, &'d [u8], Result<(), NotExecuted>);

impl<T: ServerStorage> Server<T> {
    /// W17. A block that is broken costs its call; that there is one where none was agreed on, the connection.
    pub(super) fn content<'d>(
        &self,
        index: u32,
        header: &RequestHeader,
        body: &'d [u8],
    ) -> Result<Content<'d>, ProtocolError> {
        if header.flags & wire::FLAG_METADATA == 0 {
            return Ok((Metadata::EMPTY, body, Ok(())));
        }
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
