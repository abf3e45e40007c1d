//! Which instances a service has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::Runtime;

use crate::client::{Etcd, lock};
use crate::error::EtcdError;
use crate::kv::KeyValue;
use crate::registry::RegisteredInstance;
use crate::signal::Signal;
use crate::time::{self, Pauses};
use crate::watch::{Change, Watch};

/// The instances of a service, as they come and go: made by [`Registry::instances`](crate::Registry::instances). Clones are the same,
/// and a task follows etcd until the last one is dropped.
///
/// While etcd cannot be reached the list stays as it is: what was there is more likely to answer than nothing.
#[derive(Clone)]
pub struct Instances {
    shared: Arc<Shared>,
    /// Closed with the last clone.
    _alive: smol::channel::Sender<()>,
}

struct Shared {
    etcd: Etcd,
    service: String,
    folder: String,
    state: Mutex<State>,
    changed: Signal,
}

#[derive(Default)]
struct State {
    /// By their keys; `None` until they were read once.
    list: Option<BTreeMap<Vec<u8>, RegisteredInstance>>,
    /// How often the list has changed.
    version: u64,
    last_error: Option<EtcdError>,
}

/// Instances of one service; more are left out.
const INSTANCES_MAX: usize = 4096;
/// How often all is read again, in case the watch is at a member that hangs.
const READ_AGAIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl std::fmt::Debug for Instances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instances").field("service", &self.shared.service).finish_non_exhaustive()
    }
}

impl Instances {
    pub(crate) fn follow(etcd: Etcd, service: &str, folder: String) -> Instances {
        let runtime = etcd.runtime().clone();
        let (service, state, changed) = (service.to_owned(), Mutex::default(), Signal::default());
        let shared = Arc::new(Shared { etcd, service, folder, state, changed });
        let (alive, ended) = smol::channel::bounded::<()>(1);
        let following = shared.clone();
        runtime.spawn(Box::pin(async move {
            let dropped = async {
                // Nothing is ever sent: it ends when the channel does.
                let _closed = ended.recv().await;
            };
            smol::future::or(dropped, following.follow()).await;
        }));
        Instances { shared, _alive: alive }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// Those that are registered now, as far as is known; none before they were read once.
    pub fn list(&self) -> Vec<RegisteredInstance> {
        let state = lock(&self.shared.state);
        state.list.iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The same, after they were read once.
    ///
    /// # Errors
    /// They could not be read yet. The task tries again, and so may you.
    pub async fn first_list(&self) -> Result<Vec<RegisteredInstance>, EtcdError> {
        let shared = &self.shared;
        let looked = shared.changed.until(|| {
            let state = lock(&shared.state);
            match (&state.list, &state.last_error) {
                (Some(list), _) => Some(Ok(list.values().cloned().collect())),
                (None, error) => error.clone().map(Err),
            }
        });
        looked.await
    }

    /// Waits until the list is another one than that of `version`, which is set to the new one's, and returns it. 0 is no list's: with
    /// that it waits until they were read once.
    pub async fn changed(&self, version: &mut u64) -> Vec<RegisteredInstance> {
        let shared = &self.shared;
        let changed = shared.changed.until(|| {
            let state = lock(&shared.state);
            let list = state.list.as_ref().filter(|_| state.version != *version)?;
            Some((state.version, list.values().cloned().collect()))
        });
        let (now, list) = changed.await;
        *version = now;
        list
    }

    /// Why etcd could not be followed, if it cannot be now: the list may be old.
    pub fn last_error(&self) -> Option<EtcdError> {
        lock(&self.shared.state).last_error.clone()
    }

    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        self.shared.etcd.runtime()
    }
}

impl Shared {
    async fn follow(&self) {
        let runtime = self.etcd.runtime().clone();
        let mut pauses = Pauses::up_to(PAUSE_MAX);
        loop {
            let begun = runtime.now();
            let error = match self.read().await {
                Ok(revision) => self.watch(revision).await,
                Err(error) => error,
            };
            lock(&self.state).last_error = Some(error);
            self.changed.notify();
            if runtime.now().since(begun) > PAUSE_MAX {
                pauses.reset();
            }
            pauses.pause(&*runtime).await;
        }
    }

    /// Reads all; returns the revision.
    async fn read(&self) -> Result<u64, EtcdError> {
        let found = self.etcd.get_prefix(&self.folder, INSTANCES_MAX as u32).await?;
        let list = found.entries.iter().filter_map(parse).collect();
        self.replace(list);
        Ok(found.revision)
    }

    /// Follows from a revision on, until that fails.
    async fn watch(&self, mut revision: u64) -> EtcdError {
        loop {
            let mut watch = match self.etcd.watch_prefix(&self.folder, revision + 1).await {
                Ok(watch) => watch,
                Err(error) => return error,
            };
            loop {
                let runtime = self.etcd.runtime();
                match time::within(&**runtime, READ_AGAIN, watch.next()).await {
                    Some(Ok(changes)) => self.apply(changes),
                    Some(Err(error)) => return error,
                    None => {
                        if let Err(error) = self.read().await {
                            return error;
                        }
                    }
                }
                if self.is_elsewhere(&watch) {
                    break;
                }
            }
            match self.read().await {
                Ok(read) => revision = read,
                Err(error) => return error,
            }
        }
    }

    /// Whether another member answers now than the one that is watched.
    fn is_elsewhere(&self, watch: &Watch) -> bool {
        watch.endpoint() != self.etcd.preferred()
    }

    fn replace(&self, list: BTreeMap<Vec<u8>, RegisteredInstance>) {
        let mut state = lock(&self.state);
        state.last_error = None;
        if state.list.as_ref() != Some(&list) {
            state.list = Some(list);
            state.version += 1;
        }
        drop(state);
        self.changed.notify();
    }

    fn apply(&self, changes: Vec<Change>) {
        let mut list = lock(&self.state).list.clone().unwrap_or_default();
        for change in changes {
            match change {
                Change::Put(written) => match parse(&written) {
                    Some((key, instance))
                        if list.len() < INSTANCES_MAX || list.contains_key(&key) =>
                    {
                        list.insert(key, instance);
                    }
                    _ => drop(list.remove(&written.key)),
                },
                Change::Delete(key) => drop(list.remove(&key)),
            }
        }
        self.replace(list);
    }
}

fn parse(entry: &KeyValue) -> Option<(Vec<u8>, RegisteredInstance)> {
    // What goes with no lease was written by hand, and would stay for ever.
    entry.lease?;
    Some((entry.key.clone(), RegisteredInstance::parse(&entry.key, &entry.value)?))
}
