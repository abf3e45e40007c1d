//! A primary's side: a ledger whose commit ships each batch to the backup.
//!
//! Nothing is answered before the backup has it. When a forward fails, it fails at once and with a typed outcome, and **only the
//! view service can say what comes next**: whether the backup had it or not, this server serves alone if the new view says so, and
//! ends if another is primary. Until it knows, it answers nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire::ledger::{Batch, Identity, Ledger, LedgerError, Records, Restore};
use oncewire::{Client, ClientOptions, Outcome};
use smol::channel::{Receiver, Sender};
use viewservice::{Member, View};

use crate::node::{Net, Stopped};
use crate::replica::{Refused, Replica, ReplicasClient};
use crate::state::{Shipment, Transaction};

/// What a primary's task is given.
pub(crate) enum Input {
    /// What the view service says.
    View(View),
    /// What clients want.
    Batch(Batch<Transaction>),
}

/// The ledger: gives batches to the primary's task.
pub(crate) struct Replicated {
    pub(crate) records: Records,
    pub(crate) inputs: Sender<Input>,
}

impl Ledger for Replicated {
    type Transaction = Transaction;

    fn identity(&self) -> Identity {
        self.records.identity()
    }

    fn recover(&self, restore: &mut Restore<'_>) -> Result<(), LedgerError> {
        self.records.recover(restore)
    }

    fn commit(&self, batch: Batch<Transaction>) {
        // A batch that is dropped, because the task has ended, has failed.
        drop(self.inputs.try_send(Input::Batch(batch)));
    }
}

/// The primary's task.
pub(crate) struct Primary {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) me: Member,
    pub(crate) replica: Arc<Replica>,
    pub(crate) inputs: Receiver<Input>,
    /// The last view of which all is done that it asks for: the next ping says so.
    pub(crate) acknowledged: Arc<AtomicU64>,
    /// How long a forward may take before the view service is asked.
    pub(crate) forward_timeout: Duration,
    pub(crate) view: View,
    /// The backup of `view`, once it has the whole state.
    pub(crate) backup: Option<Backup>,
}

/// The backup, and the connection to it.
pub(crate) struct Backup {
    member: Member,
    replica: ReplicasClient,
}

impl Primary {
    /// Until another server is primary.
    pub(crate) async fn run(mut self) -> Stopped {
        while let Ok(input) = self.inputs.recv().await {
            let done = match input {
                Input::View(view) => self.adopt(view).await,
                Input::Batch(batch) => self.commit(batch).await,
            };
            if let Err(stopped) = done {
                return stopped;
            }
        }
        Stopped::Closed
    }

    /// Follows a view, as far as it can: a backup that does not take the state is tried again with the next message.
    ///
    /// Before it acknowledges the view, no other server can become primary, so it may serve alone.
    async fn adopt(&mut self, view: View) -> Result<(), Stopped> {
        if view.number < self.view.number {
            return Ok(());
        }
        if view.primary.as_ref() != Some(&self.me) {
            return Err(Stopped::Deposed(view));
        }
        if view.number > self.view.number {
            self.backup = None;
            self.net.log(&view.to_string());
            self.view = view;
        }
        if self.acknowledged.load(Ordering::Relaxed) == self.view.number {
            return Ok(());
        }
        if let Some(member) = self.view.backup.clone() {
            let backup = self.reach(member);
            let state = self.replica.with_state(|state| state.clone());
            let Some(state) = state else { return Err(Stopped::Closed) };
            let call = backup.replica.transfer(self.view.clone(), state);
            match call.fail_fast(true).timeout(self.forward_timeout).await {
                Outcome::Reply(Ok(())) => {
                    self.net.log(&format!("{} has the whole state", backup.member));
                    self.backup = Some(backup);
                }
                // Tried again.
                _ => return Ok(()),
            }
        }
        self.acknowledged.store(self.view.number, Ordering::Relaxed);
        Ok(())
    }

    fn reach(&self, member: Member) -> Backup {
        let options = ClientOptions::default()
            .with_connect_timeout(self.forward_timeout)
            .with_backoff_max(self.forward_timeout);
        let connector = self.net.replica(&member.name);
        let client = Client::with_runtime(connector, options, self.net.runtime());
        Backup { member, replica: ReplicasClient(client) }
    }

    async fn commit(&mut self, mut batch: Batch<Transaction>) -> Result<(), Stopped> {
        let executed = self.replica.with_state(|state| state.execute(&mut batch));
        let shipment = match executed {
            Some(Ok(shipment)) => shipment,
            Some(Err(error)) => {
                batch.finish(Err(error));
                return Err(Stopped::Closed);
            }
            None => return Err(Stopped::Closed),
        };
        let number = shipment.number;
        while let Some(newer) = self.forward(&shipment).await {
            let view = match newer {
                Some(view) => view,
                None => self.next_view().await?,
            };
            // If another server is primary the batch is dropped, and nothing of it is answered.
            self.adopt(view).await?;
        }
        batch.finish(Ok(number));
        Ok(())
    }

    /// Gives the backup a batch. `None`: it has it, or there is no backup. Otherwise it may not have it; and the newer view, if the
    /// backup knows one.
    async fn forward(&self, shipment: &Shipment) -> Option<Option<View>> {
        let backup = self.backup.as_ref()?;
        let call = backup.replica.forward(self.view.clone(), shipment.clone());
        let why = match call.fail_fast(true).timeout(self.forward_timeout).await {
            Outcome::Reply(Ok(())) => return None,
            Outcome::Reply(Err(Refused::Newer(view))) => return Some(Some(view)),
            Outcome::Reply(Err(Refused::NotInSync)) => "it has no state of this view".to_owned(),
            Outcome::NotExecuted(why) => why.to_string(),
            Outcome::NoReply(why) => why.to_string(),
            // It may have it. That does not matter: if it becomes primary the client learns it there, and if not it is forgotten.
            Outcome::Unknown(why, _ticket) => why.to_string(),
        };
        self.net.log(&format!("forward to {} failed: {why}", backup.member));
        Some(None)
    }

    /// What the view service says next. No batch comes meanwhile: one is in flight at most.
    async fn next_view(&mut self) -> Result<View, Stopped> {
        loop {
            match self.inputs.recv().await {
                Ok(Input::View(view)) => return Ok(view),
                Ok(Input::Batch(batch)) => {
                    debug_assert!(false, "one batch is in flight at most");
                    drop(batch);
                }
                Err(_) => return Err(Stopped::Closed),
            }
        }
    }
}
