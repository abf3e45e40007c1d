//! What the program `oncewire-etcd-ledger` does: looks at a ledger, and makes a restored one usable. Feature `tool`.

use std::fmt;

pub use oncewire_driver::ledger::CallFound;
use oncewire_driver::ledger::{CallEntry, LedgerError, SessionEntry};
use oncewire_driver::protocol::{RecordState, ServerId, SessionId, SessionTag, Xid};

use super::commit::Writer;
use super::keys::{Beside, Kept};
use super::staged::Staged;
use super::{Reads, decode_session, election, failed, keys};
use crate::registry::Registry;

/// What is in a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// Whose it is.
    pub server: ServerId,
    /// The number of its last commit.
    pub commit: u64,
    /// Whether a server has it now, or has died less than a lease ago.
    pub in_use: bool,
    /// Sessions.
    pub sessions: u64,
    /// Calls that were started and not completed: interrupted, if the next server takes over.
    pub started: u64,
    /// Calls with a kept reply.
    pub done: u64,
    /// Calls that ended without a reply to show.
    pub without_reply: u64,
    /// Bytes of the kept replies.
    pub reply_bytes: u64,
    /// Keys of the service's own.
    pub keys: u64,
    /// Bytes of these keys and their values, which the server holds in memory.
    pub key_bytes: u64,
    /// Sessions and calls whose bytes cannot be decoded.
    pub broken: u64,
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "server        {}", self.server)?;
        writeln!(f, "commit        {}", self.commit)?;
        writeln!(f, "in use        {}", if self.in_use { "yes" } else { "no" })?;
        writeln!(f, "sessions      {}", self.sessions)?;
        writeln!(f, "started       {}", self.started)?;
        writeln!(f, "done          {} ({} bytes of replies)", self.done, self.reply_bytes)?;
        writeln!(f, "without reply {}", self.without_reply)?;
        writeln!(f, "keys          {} ({} bytes with their values)", self.keys, self.key_bytes)?;
        write!(f, "broken        {}", self.broken)
    }
}

/// Counts what is in a ledger, also while a server uses it: as it was at one revision. Writes nothing.
///
/// # Errors
/// There is no such ledger, or why it cannot be read.
pub async fn inspect(registry: &Registry, name: &str) -> Result<Inspection, LedgerError> {
    let kept = read(registry, name).await?;
    let identity = kept.identity.ok_or_else(|| absent(name))?;
    let leader = election(registry, name)?.leader().await;
    let in_use = leader.map_err(|error| failed("be read", &error))?.is_some();
    let len = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.len() + value.len()) as u64;
    let mut found = Inspection {
        server: identity.server,
        commit: identity.commit,
        in_use,
        sessions: 0,
        started: 0,
        done: 0,
        without_reply: 0,
        reply_bytes: 0,
        keys: kept.data.len() as u64,
        key_bytes: kept.data.iter().map(len).sum(),
        broken: 0,
    };
    for (id, bytes) in &kept.sessions {
        match decode_session(*id, bytes) {
            Some(_) => found.sessions += 1,
            None => found.broken += 1,
        }
    }
    for call in calls(&kept) {
        match call.map(|call| call.record.state) {
            None => found.broken += 1,
            Some(RecordState::Started) => found.started += 1,
            Some(RecordState::NoReply(_)) => found.without_reply += 1,
            Some(RecordState::Done(body)) => {
                found.done += 1;
                found.reply_bytes += body.len() as u64;
            }
        }
    }
    Ok(found)
}

/// Decodes every record of a ledger.
///
/// # Errors
/// How many are broken, and what to do about it; or why it cannot be read.
pub async fn verify(registry: &Registry, name: &str) -> Result<Inspection, LedgerError> {
    let found = inspect(registry, name).await?;
    if found.broken > 0 {
        return Err(LedgerError::new(format!(
            "the ledger in etcd is corrupt: {} of its records cannot be decoded; restore a backup, and give it a new id with \
             `oncewire-etcd-ledger restore`",
            found.broken
        )));
    }
    Ok(found)
}

/// What the ledger knows of a call, by what a client's error says of it.
///
/// # Errors
/// There is no such ledger, or why it cannot be read.
pub async fn call(
    registry: &Registry,
    name: &str,
    session: SessionTag,
    xid: Xid,
) -> Result<CallFound, LedgerError> {
    let kept = read(registry, name).await?;
    kept.identity.ok_or_else(|| absent(name))?;
    let sessions = kept.sessions.iter().filter_map(|(id, bytes)| decode_session(*id, bytes));
    let found: Option<SessionEntry> = sessions.into_iter().find(|entry| entry.tag == session);
    let Some(found) = found else { return Ok(CallFound::NoSession) };
    let says = |call: CallEntry<'_>| CallFound::in_record(xid, &found, &call);
    Ok(calls(&kept).flatten().find_map(says).unwrap_or(CallFound::NoRecord))
}

/// Makes an etcd that was restored from a backup or copied a ledger of its own: with a new server id, without sessions and their
/// calls, which belong to the old one (S32). The service's own keys stay. Returns the new id.
///
/// # Errors
/// There is no such ledger, a server uses it, or why it cannot be written. It can be tried again.
pub async fn restore(registry: &Registry, name: &str) -> Result<ServerId, LedgerError> {
    let kept = read(registry, name).await?;
    kept.identity.ok_or_else(|| absent(name))?;
    let election = election(registry, name)?;
    if election.leader().await.map_err(|error| failed("be restored", &error))?.is_some() {
        let text = "the ledger in etcd is in use by a server, or its server has died less than a lease ago: end it, and try again";
        return Err(LedgerError::new(text));
    }
    let leadership = election.campaign("a ledger's restorer").await;
    let leadership = leadership.map_err(|error| failed("be restored", &error))?;
    // From here on no server's transaction takes effect.
    let (etcd, keys) = (registry.etcd().clone(), keys(registry, name)?);
    let kept = keys.read_all(&etcd, Beside::NoOne).await?;
    let identity = kept.identity.ok_or_else(|| absent(name))?;
    let mut staged = Staged::new(&kept.sessions, &kept.calls);
    for id in kept.sessions.keys() {
        staged.end(SessionId::from_bytes(*id));
    }
    let mut random = [0; 16];
    etcd.runtime().random(&mut random);
    let server = ServerId::from_bytes(random);
    let data = Reads::new(kept.data);
    let mut writer = Writer::new(etcd, keys, Some(leadership), identity, data);
    // The sessions first: with the new id, what is left of them would be the new server's.
    writer.write(staged.take()).await?;
    writer.rename(server).await?;
    writer.resign().await;
    Ok(server)
}

async fn read(registry: &Registry, name: &str) -> Result<Kept, LedgerError> {
    keys(registry, name)?.read_all(registry.etcd(), Beside::Server).await
}

/// The records of sessions that are there; `None` for those that cannot be decoded.
fn calls(kept: &Kept) -> impl Iterator<Item = Option<CallEntry<'_>>> {
    let of_sessions = kept.calls.iter().filter(|((id, _), _)| kept.sessions.contains_key(id));
    of_sessions
        .map(|((id, slot), bytes)| CallEntry::decode(SessionId::from_bytes(*id), *slot, bytes))
}

fn absent(name: &str) -> LedgerError {
    LedgerError::new(format!("there is no ledger {name:?} in this etcd"))
}
