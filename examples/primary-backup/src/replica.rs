//! A backup's side: takes batches and whole states from the primary of its view.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oncewire::{Context, ServerId};
use serde::{Deserialize, Serialize};
use viewservice::{Member, View};

use crate::state::{Shipment, State};

/// How a primary reaches its backup. Both methods are at most once like any other; beside that a batch has its number, because the
/// primary may have to send it again after its first attempt ended as unknown.
#[oncewire::service(name = "replica")]
pub(crate) trait Replicas {
    /// One batch of the primary of a view.
    async fn forward(
        &self,
        context: Context,
        view: View,
        shipment: Shipment,
    ) -> Result<(), Refused>;
    /// All that the primary has, to begin with.
    async fn transfer(&self, context: Context, view: View, state: State) -> Result<(), Refused>;
}

/// Why a backup does not take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refused {
    /// There is a newer view: the sender may not be primary any more.
    Newer(View),
    /// It has no state of this view to add to: it has started again, or a batch is missing.
    NotInSync,
}

/// What a server holds, as a backup and later as the primary.
pub(crate) struct Replica {
    me: Member,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The newest view that this server has heard of.
    view: View,
    /// In which view the state is complete, and nothing is missing.
    in_sync: Option<u64>,
    state: Option<State>,
    /// It is, or was, primary. Such a server never is a backup again: it ends.
    serves: bool,
}

impl Replica {
    pub(crate) fn new(me: Member) -> Replica {
        Replica { me, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing of an older view is taken.
    pub(crate) fn learn(&self, view: &View) {
        let mut inner = self.lock();
        if view.number > inner.view.number {
            inner.view = view.clone();
        }
    }

    /// Makes a primary of this server, if it has what the view's primary must have: all of the view before, or, in the first view,
    /// nothing. False otherwise: then it must not serve, and not acknowledge the view.
    pub(crate) fn promote(&self, view: &View, new: ServerId) -> bool {
        let mut inner = self.lock();
        if view.number == 1 {
            inner.state.get_or_insert_with(|| State::new(new));
        }
        let has_all = inner.in_sync.is_some_and(|in_sync| in_sync + 1 == view.number);
        inner.serves = view.number == 1 || has_all;
        inner.serves
    }

    /// What a primary holds.
    pub(crate) fn with_state<T>(&self, f: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.lock().state.as_mut().map(f)
    }

    fn check(&self, inner: &mut Inner, view: View) -> Result<(), Refused> {
        if view.number < inner.view.number {
            return Err(Refused::Newer(inner.view.clone()));
        }
        if inner.serves || view.backup.as_ref() != Some(&self.me) {
            // Or it is for an earlier start of this server.
            return Err(Refused::NotInSync);
        }
        inner.view = view;
        Ok(())
    }
}

/// A [`Replica`] as the primary calls it.
pub(crate) struct AtBackup(pub(crate) Arc<Replica>);

impl Replicas for AtBackup {
    async fn forward(&self, _: Context, view: View, shipment: Shipment) -> Result<(), Refused> {
        let mut inner = self.0.lock();
        let number = view.number;
        self.0.check(&mut inner, view)?;
        let inner = &mut *inner;
        let state = inner.state.as_mut().filter(|_| inner.in_sync == Some(number));
        let state = state.ok_or(Refused::NotInSync)?;
        if shipment.number <= state.number() {
            return Ok(());
        }
        state.apply(shipment).map_err(|_| {
            inner.in_sync = None;
            Refused::NotInSync
        })
    }

    async fn transfer(&self, _: Context, view: View, state: State) -> Result<(), Refused> {
        let mut inner = self.0.lock();
        let number = view.number;
        self.0.check(&mut inner, view)?;
        let has = inner.state.as_ref().filter(|_| inner.in_sync == Some(number));
        if has.is_none_or(|has| has.number() < state.number()) {
            inner.state = Some(state);
            inner.in_sync = Some(number);
        }
        Ok(())
    }
}
