//! What goes wrong by the seed, until it is over.

use std::sync::Arc;
use std::time::Duration;

use crate::faults::Faults;
use crate::host::ServerHandle;
use crate::parts::disk::{Death, Faults as DiskFaults};
use crate::parts::executor::{Sleep, lock};
use crate::parts::rng::Rng;
use crate::process::Process;
use crate::sim::{CHAOS, Sim, World};

impl Sim {
    /// Connections, partitions, and deaths of processes.
    pub(crate) async fn chaos(self) {
        let world = &self.0;
        let mut rng = Rng::apart(world.seed, 0x63_68);
        while let Some(faults) = world.next_fault(&mut rng, 1).await {
            let Some(process) = world.any_process(&mut rng) else { continue };
            match rng.below(6) {
                0..=2 if faults.cuts => process.cut_some(&mut rng),
                3 if faults.partitions => self.partition_some(&process, &mut rng),
                4 if faults.kills => process.die(Death::Kill, "by the seed"),
                5 if faults.power_cuts => process.die(Death::PowerCut, "by the seed"),
                _ => {}
            }
        }
        if !world.faults().pause.is_zero() {
            world.end_faults();
        }
    }

    /// Disks and clocks. They have random numbers of their own, so that whether they fail does not change what else happens.
    pub(crate) async fn bad_machines(self) {
        let world = &self.0;
        let mut rng = Rng::apart(world.seed, 0x6d_61);
        while let Some(faults) = world.next_fault(&mut rng, 2).await {
            let Some(process) = world.any_process(&mut rng) else { continue };
            match rng.below(3) {
                0 if faults.clock_jumps => {
                    let millis = rng.pick(&[20, 700, 3_000, 30_000, 400_000]);
                    process.jump_clock(Duration::from_millis(millis));
                }
                1 if faults.disk_errors => {
                    let errors = disk_errors(&mut rng);
                    self.break_disk_for_some_time(&process, errors, &mut rng);
                }
                2 if faults.full_disks => {
                    let full =
                        DiskFaults { room: Some(rng.below(60_000)), ..DiskFaults::default() };
                    self.break_disk_for_some_time(&process, full, &mut rng);
                }
                _ => {}
            }
        }
    }

    /// For a few seconds.
    fn partition_some(&self, process: &Arc<Process>, rng: &mut Rng) {
        let clients = self.0.clients();
        if clients.is_empty() {
            return;
        }
        let (sim, server) = (self.clone(), ServerHandle(process.clone()));
        let client = clients[rng.index(clients.len())].clone();
        let time = Duration::from_millis(rng.pick(&[100, 2_000, 15_000]));
        self.partition(&client, &server);
        self.0.exec.spawn(CHAOS, async move {
            sim.sleep(time).await;
            sim.heal(&client, &server);
        });
    }

    fn break_disk_for_some_time(&self, process: &Arc<Process>, faults: DiskFaults, rng: &mut Rng) {
        let time = Duration::from_millis(rng.pick(&[20, 300, 3_000]));
        if !process.break_some_disk(faults, rng) {
            return;
        }
        let (sim, process) = (self.clone(), process.clone());
        self.0.exec.spawn(CHAOS, async move {
            sim.sleep(time).await;
            process.mend_disks();
        });
    }
}

impl World {
    /// Waits for the next fault: `rarer` times as long as the test or the seed says. `None` when there will be none.
    async fn next_fault(&self, rng: &mut Rng, rarer: u32) -> Option<Faults> {
        // Time passes only when nothing is ready: so the test has said what it wants.
        Sleep::new(&self.exec, 1).await;
        let average = self.faults().pause * rarer;
        if average.is_zero() {
            return None;
        }
        Sleep::new(&self.exec, rng.below(2 * average.as_nanos() as u64 + 1)).await;
        let faults = self.faults();
        let is_over = self.exec.elapsed() >= faults.until.as_nanos() as u64;
        (!faults.pause.is_zero() && !is_over).then_some(faults)
    }

    fn any_process(&self, rng: &mut Rng) -> Option<Arc<Process>> {
        let processes = lock(&self.processes);
        if processes.is_empty() {
            None
        } else {
            Some(processes[rng.index(processes.len())].clone())
        }
    }
}

fn disk_errors(rng: &mut Rng) -> DiskFaults {
    let mut faults = DiskFaults::default();
    match rng.below(4) {
        0 | 1 => faults.sync_in = rng.pick(&[1, 2, 6]),
        2 => faults.write_in = rng.pick(&[4, 20, 60]),
        _ => faults.read_in = rng.pick(&[4, 30]),
    }
    faults
}
