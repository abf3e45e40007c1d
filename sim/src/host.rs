//! What a test holds of a process: one life of it, and a server through all its lives.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oncewire_driver::journal::JournalError;
use oncewire_driver::ledger::{LedgerError, NoLedger};
use oncewire_driver::{Connect, Runtime, Server, ServerBuilder};
use oncewire_ledger_redb::RedbJournalStore;

use crate::AnyError;
use crate::checks::Disks;
use crate::ledger::{SimJournal, SimLedger};
use crate::parts::disk::{Death, Faults as DiskFaults, Handle};
use crate::parts::executor::Group;
use crate::ports::PortAcceptor;
use crate::process::Process;
use crate::sim::{Dialler, Sim};

/// One life of a process: what it runs on, and its disks, which outlive it.
#[derive(Clone)]
pub struct Host {
    process: Arc<Process>,
    group: Group,
    runtime: Arc<dyn Runtime>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("name", &self.process.name).finish_non_exhaustive()
    }
}

impl Host {
    pub(crate) fn new(process: Arc<Process>, group: Group, runtime: Arc<dyn Runtime>) -> Host {
        Host { process, group, runtime }
    }

    /// A server's description, on the simulated clock and executor.
    pub fn builder(&self, service: &str) -> ServerBuilder<NoLedger> {
        Server::builder(service).runtime(self.runtime.clone()).instance(self.process.name.clone())
    }

    /// The clock, the executor and the random numbers of this process. Its tasks die with it.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    /// The ledger on this process's disk, made at the first start.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn ledger(&self) -> Result<SimLedger, LedgerError> {
        let store = self.process.open_ledger()?;
        Ok(SimLedger::new(&self.process, self.group, store))
    }

    /// The journal on this process's disk, for a [`DurableClient`](oncewire_driver::DurableClient).
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn journal(&self) -> Result<SimJournal, JournalError> {
        let store = RedbJournalStore::with_backend(self.process.disk("journal").handle())?;
        Ok(SimJournal::new(&self.process, self.group, store))
    }

    /// One more disk, for what a service keeps by itself: a storage of redb. The disk `ledger` holds the ledger, and
    /// `journal` the journal.
    pub fn disk(&self, name: &str) -> Handle {
        self.process.disk(name).handle()
    }

    /// Dials a server in the name of this process.
    pub fn connector(&self, server: &ServerHandle) -> impl Connect + use<> {
        Dialler { client: self.process.name.clone(), server: server.0.clone() }
    }

    /// Listens on a port of this process, until the acceptor is dropped or the process dies. Connections come in the name of
    /// the process or the client that dials.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(&self, port: &str) -> io::Result<PortAcceptor> {
        PortAcceptor::new(&self.process, port)
    }

    /// Dials a port of the process `server` in the name of this process. That one is found by its name at each dial, so it
    /// may be added to the world later.
    pub fn dial(&self, server: &str, port: &str) -> impl Connect + use<> {
        self.sim().dial(&self.process.name, server, port)
    }

    /// The world.
    pub fn sim(&self) -> Sim {
        Sim(self.process.world.clone())
    }
}

/// A server of the world, through all its lives.
#[derive(Clone, Debug)]
pub struct ServerHandle(pub(crate) Arc<Process>);

impl ServerHandle {
    /// Says what took effect, by what is on the disks: the key of an operation once for each time. It is asked after each
    /// death and in the end, and compared with the outcomes of the operations that callers [recorded](Sim::record) under
    /// these keys.
    pub fn effects<K: ToString>(
        &self,
        of: impl Fn(&Disks<'_>) -> Result<Vec<K>, AnyError> + Send + Sync + 'static,
    ) {
        let keys = move |disks: &Disks<'_>| {
            Ok(of(disks)?.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        self.0.add_effects(Box::new(keys));
    }

    /// Says what is always true of the disks: asked after each death and in the end.
    pub fn check(
        &self,
        name: &str,
        check: impl Fn(&Disks<'_>) -> Result<(), AnyError> + Send + Sync + 'static,
    ) {
        self.0.add_check(name, Box::new(check));
    }

    /// It dies now, and starts again after a while.
    pub fn crash(&self, death: Death) {
        self.0.die(death, "as the test says");
    }

    /// It dies when it has read so many frames more. Then it starts again after a while.
    pub fn crash_at_frame(&self, frames: u64, death: Death) {
        self.0.set_death_at(frames, death);
    }

    /// This is wrong with the disk of this name from now on; `ledger` is the ledger's, `journal` the journal's. A server whose
    /// ledger fails ends, and starts again when its disk lets it.
    pub fn break_disk(&self, disk: &str, faults: DiskFaults) {
        self.0.break_disk(disk, faults);
    }

    /// Its disks are in order again. If one of them had errors in this life, the process is killed, as an operator would do:
    /// what has seen an error of its disk need not recover from it.
    pub fn mend_disks(&self) {
        self.0.mend_disks();
    }

    /// Its clock jumps forward, as when its machine was suspended: leases end, and deadlines pass. Its next life has another
    /// clock.
    pub fn jump_clock(&self, by: Duration) {
        self.0.jump_clock(by);
    }

    /// It dies now, and stays down until [`restart`](ServerHandle::restart).
    pub fn stop(&self, death: Death) {
        self.0.stop(death);
    }

    /// Starts it again after [`stop`](ServerHandle::stop).
    pub fn restart(&self) {
        self.0.restart();
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.0.is_up()
    }

    /// Waits until it is up.
    pub async fn up(&self) {
        self.0.up().await;
    }
}
