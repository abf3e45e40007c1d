//! Whether a session, or its client, is over: decided here, of the session as a whole.

use super::super::{ClientConfig, ClientSession};
use crate::error::{CloseReason, ProtocolError, SessionLoss};
use crate::ids::ServerId;
use crate::text::ServiceName;
use crate::wire::{FEATURE_METADATA, Refuse, Welcome};

/// What a client knows of the session that it resumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumable<'a> {
    pub(crate) session: &'a ClientSession,
    /// The highest xid of which a byte may have been sent.
    pub(crate) sent: u64,
    /// Its requests may carry metadata.
    pub(crate) metadata_granted: bool,
}

/// Why a session is over though its server accepts the resume; `None` if it continues (S3, S7, S32).
///
/// A `seen` above every number that was sent says that another run of this client has used the session since: this one was
/// restored from an old copy of its journal, or cloned. The numbers that it would give are used already, and the server
/// would answer them with the other run's replies.
///
/// A `seen` below what was answered says nothing: refusals, and acknowledged calls, do not survive a crash of a server with a
/// ledger (S30). That the ledger is an old copy shows in its commit.
pub(crate) fn check_resumed(known: Resumable<'_>, welcome: &Welcome) -> Option<SessionLoss> {
    let Resumable { session, sent, metadata_granted } = known;
    let takes_metadata = welcome.features & FEATURE_METADATA != 0;
    if welcome.session != session.id || welcome.server != session.server {
        Some(SessionLoss::SessionUnknown)
    } else if welcome.grants != session.grants || metadata_granted && !takes_metadata {
        Some(SessionLoss::GrantsChanged)
    } else if welcome.commit < session.commit || welcome.seen > sent {
        Some(SessionLoss::RolledBack)
    } else {
        None
    }
}

/// S7: whether the server that answers is one that this client did not ask for.
pub(crate) fn check_server(
    config: &ClientConfig,
    service: ServiceName,
    server: ServerId,
) -> Option<CloseReason> {
    if let Some(wanted) = config.service.filter(|wanted| *wanted != service) {
        return Some(CloseReason::WrongService { wanted, found: service });
    }
    let wanted = config.server.filter(|wanted| *wanted != server)?;
    Some(CloseReason::WrongServer { wanted, found: server })
}

/// What a `Refuse` means for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterRefuse {
    /// The connection is over; another one may do better.
    Disconnect(CloseReason),
    /// The session, if there is one, is over as well.
    LoseSession(SessionLoss, CloseReason),
    /// No connection of this client can do better (S7).
    GiveUp(CloseReason),
}

/// S3, S5, S7, S10: what is over when a server refuses.
pub(crate) fn after_refuse(config: &ClientConfig, refuse: Refuse) -> AfterRefuse {
    let false_retry = ProtocolError::FalseRetry { xid: 0 }.code();
    let settled = ProtocolError::AlreadySettled { xid: 0 }.code();
    let ahead = ProtocolError::AckAhead { acked: 0 }.code();
    let busy = ProtocolError::SlotBusy { xid: 0, running: 0 }.code();
    let reason = CloseReason::Refused(refuse);
    match refuse {
        Refuse::Protocol(code) if code == false_retry => {
            AfterRefuse::LoseSession(SessionLoss::FalseRetry, reason)
        }
        // S7: another run of this client has gone on with the session: it has settled what this one asks for, or has
        // running under a number what this one has settled. To dial again would be refused for as long as that runs.
        //
        // No server refuses a sound session so, not even on a lossy link. There a slot is used again only after
        // - an answer: the call has finished. An idempotent one runs again only on a stream, for the one copy that was sent
        //   on a later connection, and it is the answer to that copy which settles it.
        // - `seen` on a stream: what was not read by then is dropped.
        // - `NotSeen` to the last `Ask`: that was behind every copy of the request, and none had come (S27).
        Refuse::Protocol(code) if [settled, ahead, busy].contains(&code) => {
            AfterRefuse::LoseSession(SessionLoss::RolledBack, reason)
        }
        Refuse::VersionUnsupported { .. } => AfterRefuse::GiveUp(reason),
        Refuse::SessionUnknown => AfterRefuse::LoseSession(SessionLoss::SessionUnknown, reason),
        Refuse::WrongPrincipal => AfterRefuse::LoseSession(SessionLoss::Refused, reason),
        Refuse::WrongServer { service, server } => match check_server(config, service, server) {
            Some(reason) => AfterRefuse::GiveUp(reason),
            // We demanded nothing that it is not: it is confused, and may recover.
            None => AfterRefuse::Disconnect(CloseReason::Refused(Refuse::Protocol(0))),
        },
        Refuse::Protocol(_)
        | Refuse::SessionsFull
        | Refuse::PrincipalFull
        | Refuse::ShuttingDown
        | Refuse::Superseded
        | Refuse::TooSlow
        | Refuse::TokenMissing
        | Refuse::TokenUnknown => AfterRefuse::Disconnect(reason),
    }
}

/// What is known of a session whose client might say `Goodbye`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownSession {
    /// The server has said `Goodbye` on this connection (S25).
    pub(crate) server_leaving: bool,
    /// The session has no more numbers.
    pub(crate) exhausted: bool,
    /// The program has asked the client to close.
    pub(crate) closing: bool,
    /// No call waits for its xid.
    pub(crate) nothing_waits: bool,
    /// No call has an xid and no settled outcome.
    pub(crate) nothing_unsettled: bool,
}

/// S25, S6: nothing more will be sent in this session, and nothing of it is still to be learned. A `Goodbye` lets the
/// server end the session: said while a call was being recorded, or was asked for, it made a call unknown that was never
/// executed (C78, C79).
pub(crate) fn may_say_goodbye(known: KnownSession) -> bool {
    let ends = known.server_leaving || known.exhausted || known.closing && known.nothing_waits;
    known.nothing_unsettled && ends
}
