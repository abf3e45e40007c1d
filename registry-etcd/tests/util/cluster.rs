//! What tests want of a cluster; they are left out where there is no etcd.

use std::net::SocketAddr;

use oncewire_etcd::Etcd;
use rustix::process::Signal;

use super::{Members, StartError, Tls, free_addresses};

/// Members of etcd that end with it. Whatever goes wrong fails the test.
pub struct Cluster(Members);

/// An address that nothing listens on.
pub fn free_address() -> SocketAddr {
    free_addresses(1).unwrap()[0]
}

impl Cluster {
    /// A new one; `None`, and said so, where there is no etcd.
    pub fn start(count: usize) -> Option<Cluster> {
        Cluster::start_with(count, None)
    }

    /// The same, with TLS for clients.
    pub fn start_with(count: usize, tls: Option<Tls>) -> Option<Cluster> {
        match Members::start_with(count, tls) {
            Ok(members) => Some(Cluster(members)),
            Err(StartError::Absent) => {
                eprintln!("skipped: {}", StartError::Absent);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Where a member answers.
    pub fn endpoint(&self, at: usize) -> String {
        self.0.endpoint(at)
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.0.endpoints()
    }

    pub fn etcd(&self) -> Etcd {
        Etcd::builder(self.endpoints()).build().unwrap()
    }

    /// Starts a member again.
    pub fn resume(&mut self, at: usize) {
        self.0.resume(at).unwrap();
    }

    /// Kills a member, and leaves its files.
    pub fn kill(&mut self, at: usize) {
        self.0.kill(at).unwrap();
    }

    /// Removes the files of a member that was killed.
    pub fn forget(&self, at: usize) {
        self.0.forget(at).unwrap();
    }

    pub fn signal(&self, at: usize, signal: Signal) {
        self.0.signal(at, signal).unwrap();
    }

    /// Runs etcdctl, and returns what it says.
    pub fn ctl(&self, arguments: &[&str]) -> Option<String> {
        self.0.ctl(arguments)
    }
}
