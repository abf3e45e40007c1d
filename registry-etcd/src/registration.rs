//! A server under its name.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{Health, Instant, Server};

use crate::client::{Etcd, lock};
use crate::error::{EtcdError, EtcdErrorKind};
use crate::kv::LeaseId;
use crate::registry::{InstanceState, RegisteredInstance};
use crate::signal::Signal;
use crate::time::{self, Pauses};

/// A server that is registered: made by [`Registry::register`](crate::Registry::register), kept by a task of its own.
///
/// While etcd cannot be reached, the task tries again and again, and clients continue with what they know. When the lease has ended
/// meanwhile, the server is registered again. When this is dropped the entry is removed, which [`drain`](Registration::drain) does in the
/// right order.
#[derive(Debug)]
pub struct Registration {
    shared: Arc<Shared>,
    server: Server,
    lease_len: Duration,
}

/// How a registration is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegistrationStatus {
    /// The entry is there, as far as is known: the lease's time since it was last kept alive is not over.
    pub registered: bool,
    /// How often the entry was made: more than once if leases have ended.
    pub registrations: u64,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<EtcdError>,
}

#[derive(Debug)]
struct Shared {
    etcd: Etcd,
    state: Mutex<State>,
    changed: Signal,
}

#[derive(Debug)]
struct State {
    wish: Wish,
    /// What the entry says, if it is there.
    written: Option<InstanceState>,
    /// Until when the lease lives, if nothing keeps it alive.
    lives_until: Instant,
    registrations: u64,
    last_error: Option<EtcdError>,
    /// The task has removed the entry, or tried to.
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Registered,
    Draining,
    Removed,
}

/// The task.
struct Keeper {
    shared: Arc<Shared>,
    lease_len: Duration,
    lease: Option<LeaseId>,
    entry: RegisteredInstance,
    server: Server,
}

impl Registration {
    pub(crate) fn begin(
        etcd: Etcd,
        lease_len: Duration,
        folder: String,
        server: Server,
        address: &str,
    ) -> Registration {
        let etcd = etcd.hurried(lease_len / 4);
        let runtime = etcd.runtime().clone();
        let entry = RegisteredInstance {
            address: address.to_owned(),
            server: server.id(),
            instance: server.instance().id(),
            name: server.instance().name().to_owned(),
            state: InstanceState::Serving,
            key: format!("{folder}{:016x}", time::random(&*runtime)).into_bytes(),
        };
        let state = State {
            wish: Wish::Registered,
            written: None,
            lives_until: Instant::ZERO,
            registrations: 0,
            last_error: None,
            ended: false,
        };
        let shared =
            Arc::new(Shared { etcd, state: Mutex::new(state), changed: Signal::default() });
        let keeper = Keeper {
            shared: shared.clone(),
            lease_len,
            lease: None,
            entry,
            server: server.clone(),
        };
        runtime.spawn(Box::pin(keeper.run()));
        Registration { shared, server, lease_len }
    }

    /// How it is.
    pub fn status(&self) -> RegistrationStatus {
        let now = self.shared.etcd.runtime().now();
        let state = lock(&self.shared.state);
        RegistrationStatus {
            registered: state.written.is_some() && now < state.lives_until,
            registrations: state.registrations,
            last_error: state.last_error.clone(),
        }
    }

    /// Waits until the server is registered.
    pub async fn until_registered(&self) {
        let registered = || self.status().registered.then_some(());
        self.shared.changed.until(registered).await;
    }

    /// Shuts the server down as its clients like it: the entry says so first, so that none begins a session here; then the server
    /// [drains](Server::drain), while those that have a session here can come back to it; then the entry is removed.
    ///
    /// # Errors
    /// etcd could not be reached: each of the two changes is waited for as long as the lease is. The server has drained all the same,
    /// and the entry goes with its lease.
    pub async fn drain(self, grace: Duration) -> Result<(), EtcdError> {
        self.wish(Wish::Draining);
        let withdrawn = self.until(|state| {
            let is_withdrawn = state.written == Some(InstanceState::Draining);
            is_withdrawn.then_some(()).or(state.ended.then_some(()))
        });
        let withdrawn = withdrawn.await;
        self.server.drain(grace).await;
        self.remove().await.and(withdrawn)
    }

    /// Removes the entry and leaves the server as it is: clients that have a session continue, others find it no more.
    ///
    /// # Errors
    /// etcd could not be reached for the length of the lease. The entry goes with it.
    pub async fn remove(self) -> Result<(), EtcdError> {
        self.wish(Wish::Removed);
        self.until(|state| state.ended.then(|| state.written.is_none())).await.and_then(|removed| {
            let message = || "the entry could not be removed and goes with its lease";
            let unknown = || EtcdError::new(EtcdErrorKind::Unavailable, message());
            if removed { Ok(()) } else { Err(unknown()) }
        })
    }

    fn wish(&self, wish: Wish) {
        self.shared.wish(wish);
    }

    /// Waits until this is so; for the length of the lease at most, since by then the entry has gone without us.
    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> Result<T, EtcdError> {
        let etcd = &self.shared.etcd;
        let found = self.shared.changed.until(|| look(&lock(&self.shared.state)));
        time::within(&**etcd.runtime(), self.lease_len, found).await.ok_or_else(|| {
            let last = lock(&self.shared.state).last_error.clone();
            let silent = || EtcdError::new(EtcdErrorKind::Unavailable, "etcd does not answer");
            last.unwrap_or_else(silent)
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.wish(Wish::Removed);
    }
}

impl Shared {
    fn wish(&self, wish: Wish) {
        lock(&self.state).wish = wish;
        self.changed.notify();
    }
}

impl Keeper {
    async fn run(mut self) {
        let runtime = self.shared.etcd.runtime().clone();
        let mut pauses = Pauses::up_to(self.lease_len / 4);
        loop {
            let wish = lock(&self.shared.state).wish;
            if wish == Wish::Removed {
                break;
            }
            let state = match (wish, self.server.health()) {
                (Wish::Draining, _) | (_, Health::Draining) => InstanceState::Draining,
                (_, Health::Serving) => InstanceState::Serving,
                _ => InstanceState::Unready,
            };
            let result = self.round(state).await;
            lock(&self.shared.state).last_error = result.as_ref().err().cloned();
            self.shared.changed.notify();
            let shared = self.shared.clone();
            let other_wish =
                shared.changed.until(|| (lock(&shared.state).wish != wish).then_some(()));
            let pause = async {
                match result {
                    Ok(()) => {
                        pauses.reset();
                        time::sleep(&*runtime, self.lease_len / 3).await;
                    }
                    Err(_) => pauses.pause(&*runtime).await,
                }
            };
            smol::future::or(other_wish, pause).await;
        }
        let removed = match self.lease {
            Some(lease) => self.shared.etcd.revoke(lease).await,
            None => Ok(()),
        };
        let mut state = lock(&self.shared.state);
        state.ended = true;
        match removed {
            Ok(()) => state.written = None,
            Err(error) => state.last_error = Some(error),
        }
        drop(state);
        self.shared.changed.notify();
    }

    /// Sees to it that the entry is there, says this, and lives.
    async fn round(&mut self, state: InstanceState) -> Result<(), EtcdError> {
        let etcd = self.shared.etcd.clone();
        let asked = etcd.runtime().now();
        let (lease, lives_for) = match self.lease {
            Some(lease) => match etcd.keep_alive(lease).await {
                Err(error) if error.kind() == EtcdErrorKind::LeaseNotFound => {
                    self.begin_lease().await?
                }
                result => (lease, result?),
            },
            None => self.begin_lease().await?,
        };
        lock(&self.shared.state).lives_until = asked + lives_for;
        self.entry.state = state;
        let value = self.entry.to_value();
        let found = etcd.get(&self.entry.key).await?;
        let is_there =
            found.is_some_and(|of| of.lease == Some(lease) && of.value == value.as_bytes());
        if !is_there {
            // Where it is not known whether this was done, the next round sees.
            etcd.put(&self.entry.key, &value, Some(lease)).await?;
        }
        let mut shared = lock(&self.shared.state);
        if shared.written.is_none() {
            shared.registrations += 1;
        }
        shared.written = Some(state);
        Ok(())
    }

    async fn begin_lease(&mut self) -> Result<(LeaseId, Duration), EtcdError> {
        self.lease = None;
        lock(&self.shared.state).written = None;
        let granted = self.shared.etcd.grant(self.lease_len).await?;
        self.lease = Some(granted.lease);
        Ok((granted.lease, granted.ttl))
    }
}
