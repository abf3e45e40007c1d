//! What changes at keys, as it happens.

use serde_json::{Value, json};

use crate::base64;
use crate::client::{ANSWER_LEN_MAX, Etcd};
use crate::error::{EtcdError, EtcdErrorKind};
use crate::http::{Head, HttpStream};
use crate::json::{bytes, list, natural};
use crate::kv::{KeyValue, end_of, error_in};

/// A change at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A value was written.
    Put(KeyValue),
    /// The key was removed, or its lease has ended.
    Delete(Vec<u8>),
}

/// The changes at keys that begin alike, from a revision on, in their order. Made by [`Etcd::watch_prefix`].
///
/// It is a connection to one member. One that hangs, or is cut off from the others, says nothing and ends nothing: who waits here
/// reads again now and then.
pub struct Watch {
    http: HttpStream,
    head: Head,
    endpoint: usize,
    buf: Vec<u8>,
    /// So much of `buf` has no end of a message: it is not looked through again for each piece.
    searched: usize,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Etcd {
    /// Watches the keys that begin so, from this revision on: one above that of what was read.
    ///
    /// # Errors
    /// [`Compacted`](EtcdErrorKind::Compacted), from the first [`next`](Watch::next), if that revision is not there any more: read
    /// again.
    pub async fn watch_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
        from_revision: u64,
    ) -> Result<Watch, EtcdError> {
        let prefix = prefix.as_ref();
        let body = json!({ "create_request": {
            "key": base64::encode(prefix),
            "range_end": base64::encode(&end_of(prefix)),
            "start_revision": from_revision.to_string(),
        }});
        let (endpoint, http, head) = self.open("/v3/watch", &body).await?;
        Ok(Watch { http, head, endpoint, buf: Vec::new(), searched: 0 })
    }
}

impl Watch {
    /// The endpoint that it is at.
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// The next changes, of one revision or several; at least one. May be dropped before it is ready without losing any.
    ///
    /// # Errors
    /// The watch has ended: with its connection ([`Unavailable`](EtcdErrorKind::Unavailable)), because revisions were compacted, or
    /// because etcd refuses it.
    pub async fn next(&mut self) -> Result<Vec<Change>, EtcdError> {
        loop {
            while let Some(len) = self.buf[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = std::mem::take(&mut self.searched) + len;
                let changes = parse_message(&self.buf[..end]);
                self.buf.drain(..=end);
                let changes = changes?;
                if !changes.is_empty() {
                    return Ok(changes);
                }
            }
            self.searched = self.buf.len();
            if self.buf.len() > ANSWER_LEN_MAX {
                return Err(EtcdError::malformed("a message of etcd's is too long"));
            }
            let unavailable = |message| EtcdError::new(EtcdErrorKind::Unavailable, message);
            match self.http.piece(&mut self.head).await {
                Ok(Some(piece)) => self.buf.extend_from_slice(&piece),
                Ok(None) => return Err(unavailable("etcd has ended the watch".to_owned())),
                Err(error) => return Err(unavailable(format!("the watch has broken: {error}"))),
            }
        }
    }
}

fn parse_message(message: &[u8]) -> Result<Vec<Change>, EtcdError> {
    let message: Value = serde_json::from_slice(message)
        .map_err(|error| EtcdError::malformed(format!("no message of etcd: {error}")))?;
    if let Some(error) = error_in(&message) {
        return Err(error);
    }
    let result = &message["result"];
    if result["canceled"].as_bool() == Some(true) {
        return Err(match natural(&result["compact_revision"])? {
            0 => {
                let reason = result["cancel_reason"].as_str().unwrap_or("etcd has ended the watch");
                // The gateway writes the status into the text.
                let code = if reason.contains("InvalidArgument") { 3 } else { 7 };
                EtcdError::answered(if reason.contains("token") { 16 } else { code }, reason)
            }
            revision => {
                let message = format!("etcd has compacted what was before revision {revision}");
                EtcdError::new(EtcdErrorKind::Compacted, message)
            }
        });
    }
    list(&result["events"])?.iter().map(parse_change).collect()
}

fn parse_change(event: &Value) -> Result<Change, EtcdError> {
    match event["type"].as_str() {
        None | Some("PUT") => KeyValue::parse(&event["kv"]).map(Change::Put),
        Some("DELETE") => bytes(&event["kv"]["key"]).map(Change::Delete),
        Some(_) => Err(EtcdError::malformed("a change that is neither written nor removed")),
    }
}
