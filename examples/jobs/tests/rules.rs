//! What each rule of the runner is good for: with it, and without.
#![allow(missing_docs)]

use std::time::Duration;

use jobs::processes::TempDir;
use jobs::{Fenced, Job, Lease, Rules, RunnerClient, Token, runner};
use oncewire::{Client, ClientOptions, TcpAcceptor, TcpConnector};
use smol::Task;

/// Another may soon be owner.
const SHORT: Duration = Duration::from_millis(50);
/// None may.
const LONG: Duration = Duration::from_secs(3600);

/// A runner in this process, and a client of it.
struct World {
    client: RunnerClient,
    serving: Task<()>,
    dir: TempDir,
}

async fn world(rules: Rules) -> World {
    start(TempDir::new().unwrap(), SHORT, rules).await
}

async fn start(dir: TempDir, lease: Duration, rules: Rules) -> World {
    // A server that was here before lets go of its ledger when its last connection has ended.
    let server = loop {
        match runner(&dir.path().join("ledger"), "runner-7", lease, rules) {
            Ok(server) => break server,
            Err(why) => assert!(why.contains("use"), "{why}"),
        }
        smol::future::yield_now().await;
    };
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let connector = TcpConnector::new(acceptor.local_addr());
    let client = RunnerClient(Client::new(connector, ClientOptions::default()));
    let serving = smol::spawn(async move { drop(server.serve(acceptor).await) });
    World { client, serving, dir }
}

impl World {
    /// Asks for the lease until it is there.
    async fn acquire(&self, instance: &str) -> Lease {
        loop {
            if let Ok(lease) = self.client.acquire(instance.to_owned()).await.ok().unwrap() {
                return lease;
            }
        }
    }

    /// The run that was started, or the lease that fences.
    async fn start(&self, token: Token, name: &str) -> Result<u64, Lease> {
        let job = Job { name: name.to_owned(), text: "echo".to_owned() };
        match self.client.start(token, job).await.ok().unwrap() {
            Ok(started) => Ok(started.run),
            Err(Fenced(lease)) => Err(lease),
        }
    }

    async fn runs(&self) -> usize {
        self.client.runs(1).await.ok().unwrap().len()
    }

    /// The old owner sleeps before it submits a job; the new one submits it, puts its file away, and has it forgotten.
    async fn an_owner_of_the_past_wakes_up(&self) -> Result<u64, Lease> {
        let old = self.acquire("old:1").await;
        let new = self.acquire("new:2").await;
        assert!(new.token > old.token, "a token grows");
        assert_eq!(self.start(new.token, "job").await, Ok(1));
        let forgotten = self.client.forget(new.token, vec!["job".to_owned()]);
        assert_eq!(forgotten.await.ok().unwrap(), Ok(()));
        self.start(old.token, "job").await
    }
}

#[test]
fn an_owner_of_the_past_starts_nothing() {
    smol::block_on(async {
        let world = world(Rules::ALL).await;
        let lease = world.an_owner_of_the_past_wakes_up().await.unwrap_err();
        assert_eq!(lease.to_string(), "new:2 owns the spool with token 2, says runner-7");
        assert_eq!(world.client.renew(Token(1)).await.ok().unwrap(), Err(Fenced(lease)));
        assert_eq!(world.runs().await, 1);
    });
}

#[test]
fn without_the_fence_it_starts_a_job_again() {
    smol::block_on(async {
        let world = world(Rules { fences: false, ..Rules::ALL }).await;
        assert_eq!(world.an_owner_of_the_past_wakes_up().await, Ok(2));
        assert_eq!(world.runs().await, 2);
    });
}

/// The old owner submits a job and dies before it puts the file away: the new one finds it in the spool.
async fn a_job_is_still_in_the_spool(rules: Rules) -> usize {
    let world = world(rules).await;
    let old = world.acquire("old:1").await;
    assert_eq!(world.start(old.token, "job").await, Ok(1));
    let new = world.acquire("new:2").await;
    assert!(world.start(new.token, "job").await.is_ok());
    world.runs().await
}

#[test]
fn a_job_that_the_last_owner_has_submitted_is_not_started_again() {
    assert_eq!(smol::block_on(a_job_is_still_in_the_spool(Rules::ALL)), 1);
}

#[test]
fn without_the_memory_of_its_name_it_is_though_the_token_is_new() {
    let forgetful = Rules { remembers: false, ..Rules::ALL };
    assert_eq!(smol::block_on(a_job_is_still_in_the_spool(forgetful)), 2);
}

#[test]
fn one_owner_at_a_time_also_when_the_runner_starts_again() {
    smol::block_on(async {
        let world = start(TempDir::new().unwrap(), LONG, Rules::ALL).await;
        let lease = world.acquire("one:1").await;
        let refused = world.client.acquire("two:2".to_owned()).await.ok().unwrap();
        assert_eq!(refused, Err(lease.clone()));
        let World { client, serving, dir } = world;
        serving.cancel().await;
        client.0.close().await;
        let world = start(dir, LONG, Rules::ALL).await;
        assert_eq!(world.client.owner().await.ok().unwrap(), lease);
        let refused = world.client.acquire("two:2".to_owned()).await.ok().unwrap();
        assert_eq!(refused, Err(lease.clone()), "the owner has the full time again");
        assert_eq!(world.client.renew(lease.token).await.ok().unwrap(), Ok(()));
    });
}

#[test]
fn with_no_token_nothing_is_started() {
    smol::block_on(async {
        let world = world(Rules::ALL).await;
        assert!(world.start(Token(0), "job").await.is_err());
        assert_eq!(world.runs().await, 0);
    });
}
