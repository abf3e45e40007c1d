//! What is where in etcd: the identity, `s/SESSION`, `c/SESSION/SLOT`, `d/KEY`, below `oncewire/ledgers/NAME/`.

use std::collections::BTreeMap;

use oncewire_driver::ServerId;
use oncewire_driver::ledger::{Identity, LedgerError};
use serde_json::Value;

use super::staged::Place;
use super::{broken, failed};
use crate::client::Etcd;
use crate::error::EtcdErrorKind;
use crate::kv::{KeyValue, end_of};

/// What the bytes below mean. A later number means something else.
const FORMAT: u64 = 1;
/// Entries that are read at once: of the longest ones as many as an answer has room for.
const PAGE: u32 = 16;
/// The same of short ones.
const PAGE_MAX: u32 = 1024;
/// Bytes of a page behind which twice as many entries are read.
const PAGE_BYTES: usize = 128 << 10;

pub(super) struct Keys {
    folder: String,
}

/// Who may write while all is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// No one: the reader leads.
    NoOne,
    /// The server that has the ledger, so that all is read as it was at one revision.
    #[cfg(feature = "tool")]
    Server,
}

impl Beside {
    fn is_server(self) -> bool {
        self != Beside::NoOne
    }
}

/// All that is kept.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) identity: Option<Identity>,
    pub(super) sessions: BTreeMap<[u8; 16], Vec<u8>>,
    pub(super) calls: BTreeMap<([u8; 16], u16), Vec<u8>>,
    pub(super) data: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

fn unhex(digits: &str) -> Option<[u8; 16]> {
    let is_sound = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sound.then(|| u128::from_str_radix(digits, 16).ok()).flatten().map(u128::to_be_bytes)
}

impl Keys {
    pub(super) fn new(folder: String) -> Keys {
        Keys { folder }
    }

    pub(super) fn identity(&self) -> Vec<u8> {
        format!("{}identity", self.folder).into_bytes()
    }

    pub(super) fn of(&self, place: &Place) -> Vec<u8> {
        let folder = &self.folder;
        match place {
            Place::Session(id) => format!("{folder}s/{}", hex(id)).into_bytes(),
            Place::Call(id, slot) => format!("{folder}c/{}/{slot:04x}", hex(id)).into_bytes(),
            Place::Data(key) => [format!("{folder}d/").as_bytes(), key].concat(),
        }
    }

    /// The value of [`identity`](Keys::identity). Commits compare it byte for byte, so no library decides on its form.
    pub(super) fn identity_value(identity: Identity) -> String {
        let Identity { server, commit } = identity;
        format!(r#"{{"format":{FORMAT},"server":"{server}","commit":{commit}}}"#)
    }

    fn parse_identity(value: &[u8]) -> Result<Identity, LedgerError> {
        let value: Value = serde_json::from_slice(value).map_err(|_| broken("the identity"))?;
        if value["format"].as_u64() != Some(FORMAT) {
            let text = "the ledger in etcd has a format that this version does not know: a later one wrote it";
            return Err(LedgerError::new(text));
        }
        let server =
            value["server"].as_str().and_then(unhex).ok_or_else(|| broken("the identity"))?;
        let commit = value["commit"].as_u64().ok_or_else(|| broken("the identity"))?;
        Ok(Identity { server: ServerId::from_bytes(server), commit })
    }

    /// Reads all of it.
    pub(super) async fn read_all(&self, etcd: &Etcd, beside: Beside) -> Result<Kept, LedgerError> {
        let mut kept = Kept::default();
        let (mut from, end) = (self.folder.clone().into_bytes(), end_of(self.folder.as_bytes()));
        let (mut entries_max, mut at) = (PAGE, 0);
        loop {
            let page = match etcd.get_range(&from, &end, entries_max, at).await {
                // Behind short entries come long ones, too many for one answer.
                Err(error) if error.kind() == EtcdErrorKind::Malformed && entries_max > PAGE => {
                    entries_max = PAGE;
                    continue;
                }
                page => page.map_err(|error| failed("be read", &error))?,
            };
            if beside.is_server() && at == 0 {
                at = page.revision;
            }
            let mut bytes = 0;
            for entry in &page.entries {
                bytes += entry.key.len() + entry.value.len();
                self.keep(entry, &mut kept)?;
            }
            entries_max = if bytes < PAGE_BYTES { PAGE_MAX.min(entries_max * 2) } else { PAGE };
            match page.entries.last() {
                // The key that comes next after this one.
                Some(last) => from = [&last.key[..], &[0]].concat(),
                None => return Ok(kept),
            }
        }
    }

    fn keep(&self, entry: &KeyValue, kept: &mut Kept) -> Result<(), LedgerError> {
        let unknown = || broken("a key");
        let rest = entry.key.strip_prefix(self.folder.as_bytes()).ok_or_else(unknown)?;
        let value = entry.value.clone();
        if let Some(key) = rest.strip_prefix(b"d/") {
            kept.data.insert(key.to_vec(), value);
            return Ok(());
        }
        let rest = str::from_utf8(rest).map_err(|_| unknown())?;
        if rest == "identity" {
            kept.identity = Some(Keys::parse_identity(&value)?);
        } else if let Some(id) = rest.strip_prefix("s/").and_then(unhex) {
            kept.sessions.insert(id, value);
        } else if let Some((id, slot)) =
            rest.strip_prefix("c/").and_then(|rest| rest.split_once('/'))
            && let (Some(id), Ok(slot)) = (unhex(id), u16::from_str_radix(slot, 16))
        {
            kept.calls.insert((id, slot), value);
        } else {
            return Err(unknown());
        }
        Ok(())
    }
}
