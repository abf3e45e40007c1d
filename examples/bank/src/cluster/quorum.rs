//! The members of etcd in a cluster, and what happens to them.

use std::time::Duration;

use rustix::process::Signal;

use super::blow::Blow;
use crate::chance::{Rng, pause, within};
use crate::clients::GIVE_UP_AFTER;
use crate::etcd_place::EtcdPlace;
use crate::members::Members;

const MEMBERS: usize = 3;
/// How long a server keeps its turn when it has died: as short as etcd's own elections allow.
const LEASE_SECS: &str = "2";
/// How often it is looked whether a member is there again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Three members, of which two are a quorum.
pub(super) struct Quorum {
    members: Members,
    /// Those that are killed now.
    killed: Vec<usize>,
    paused: Option<usize>,
}

impl Quorum {
    pub(super) fn start() -> Result<Quorum, String> {
        let members = Members::start(MEMBERS).map_err(|error| error.to_string())?;
        Ok(Quorum { members, killed: Vec::new(), paused: None })
    }

    pub(super) fn place(&self) -> EtcdPlace {
        EtcdPlace::new((0..MEMBERS).map(|at| self.members.client(at).to_string()).collect())
    }

    pub(super) fn arguments(&self) -> Vec<String> {
        let ledger = self.place().to_string();
        ["--ledger", &ledger, "--lease", LEASE_SECS].map(str::to_owned).into()
    }

    /// Whether enough members are left.
    pub(super) fn takes_writes(&self) -> bool {
        self.killed.len() < 2
    }

    pub(super) async fn strike(&mut self, blow: Blow, rng: &mut Rng) -> Result<(), String> {
        let leader = self.leader().await?;
        let follower = (leader + 1 + rng.below(MEMBERS as u64 - 1) as usize) % MEMBERS;
        match blow {
            Blow::KillLeader => self.kill(leader),
            Blow::KillFollower => self.kill(follower),
            Blow::LoseQuorum => self.kill(follower).and_then(|()| self.kill(leader)),
            Blow::PauseLeader => self.pause(leader),
            Blow::PauseFollower => self.pause(follower),
            other => Err(format!("{other:?} is nothing that is done to etcd")),
        }
    }

    fn kill(&mut self, at: usize) -> Result<(), String> {
        self.members.kill(at)?;
        self.killed.push(at);
        Ok(())
    }

    fn pause(&mut self, at: usize) -> Result<(), String> {
        self.members.signal(at, Signal::STOP)?;
        self.paused = Some(at);
        Ok(())
    }

    /// Starts again what was killed, and lets what was paused continue. All are there again then, so that the next blow leaves a
    /// quorum.
    pub(super) async fn mend(&mut self) -> Result<(), String> {
        for at in self.killed.drain(..) {
            self.members.resume(at)?;
        }
        if let Some(at) = self.paused.take() {
            self.members.signal(at, Signal::CONT)?;
        }
        let all_there = async {
            while self.members.ctl(&["endpoint", "health", "--command-timeout=2s"]).is_none() {
                pause(LOOK_EVERY).await;
            }
        };
        let late = || "a member of etcd does not come back".to_owned();
        within(GIVE_UP_AFTER, all_there).await.ok_or_else(late)
    }

    async fn leader(&self) -> Result<usize, String> {
        let found = async {
            loop {
                if let Some(leader) = self.members.leader() {
                    return leader;
                }
                pause(LOOK_EVERY).await;
            }
        };
        within(GIVE_UP_AFTER, found).await.ok_or_else(|| "etcd elects no leader".to_owned())
    }
}
