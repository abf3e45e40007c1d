//! The cure under attack: two servers and the runner are killed and paused at random while clients submit jobs. In the end each job was
//! started once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire_sim::Rng;
use smol::Task;
use smol::channel::{Receiver, unbounded};

use crate::processes::{LEASE, TIME_MAX, World, check, until};
use crate::{Job, Submitter, sleep};

/// Jobs, unless the command line says otherwise.
pub const JOBS: u64 = 200;
/// What decides who is hit, unless the command line says otherwise.
pub const SEED: u64 = 1;
const CLIENTS: u64 = 8;
/// Jobs that come in for each blow: some before it, and the others while it is dealt.
const JOBS_A_BLOW: u64 = 20;

/// Each comes once before any comes again.
const BLOWS: [&str; 9] = [
    "the owner killed",
    "the stand-by killed",
    "the runner killed",
    "all killed",
    "the owner paused for a moment",
    "the owner paused until another had its place",
    "the owner paused until then, and the runner killed meanwhile",
    "the runner paused for a moment",
    "the runner paused for longer than a lease",
];

/// Deals a blow, and returns when everything runs again.
async fn strike(world: &mut World, blow: &str, moment: Duration) -> Result<(), String> {
    let lease = world.owner_after(0).await?;
    // The owner may have died by now: then it is a stand-by, and that is as well.
    let (owner, other) =
        if lease.owner.starts_with("one") { ("one", "two") } else { ("two", "one") };
    match blow {
        "the owner killed" => world.server(owner)?.restart()?,
        "the stand-by killed" => world.server(other)?.restart()?,
        "the runner killed" => world.runner.restart()?,
        "all killed" => {
            world.server(owner)?.restart()?;
            world.server(other)?.restart()?;
            world.runner.restart()?;
        }
        blow if blow.starts_with("the runner") => {
            let longer = blow.ends_with("lease");
            world.runner.pause()?;
            sleep(if longer { LEASE + moment } else { moment }).await;
            world.runner.wake()?;
        }
        blow => {
            world.server(owner)?.pause()?;
            if blow.contains("killed") {
                world.runner.restart()?;
            }
            if blow.contains("until") {
                world.owner_after(lease.token.0).await?;
            }
            sleep(moment).await;
            world.server(owner)?.wake()?;
        }
    }
    Ok(())
}

/// Submits jobs as they come in, and returns how many attempts that took.
async fn submit(
    addresses: Vec<String>,
    jobs: Receiver<Job>,
    taken: Arc<AtomicU64>,
) -> Result<u64, String> {
    let mut client = Submitter::new(addresses);
    while let Ok(job) = jobs.recv().await {
        client.submit(&job, TIME_MAX).await.map_err(|why| why.said.join("; "))?;
        taken.fetch_add(1, Ordering::Relaxed);
    }
    Ok(client.attempts)
}

/// Runs it; whether each job was started exactly once. The runner gets these arguments too.
///
/// # Errors
/// Why it could not be tried, or came to no end.
pub async fn run(jobs: u64, seed: u64, of_runner: &[&str]) -> Result<bool, String> {
    let mut world = World::new(of_runner)?;
    let ended = under_attack(&mut world, jobs, seed).await;
    if ended != Ok(true) {
        world.lines.show_last();
    }
    ended
}

async fn under_attack(world: &mut World, jobs: u64, seed: u64) -> Result<bool, String> {
    world.add("one", "serve", true)?;
    world.add("two", "serve", true)?;
    let (queue, come_in) = unbounded();
    let (mut rng, taken) = (Rng::new(seed), Arc::new(AtomicU64::new(0)));
    let client = |_| smol::spawn(submit(world.addresses(), come_in.clone(), taken.clone()));
    let clients: Vec<Task<_>> = (0..CLIENTS).map(client).collect();
    let job = |n| Job { name: format!("job-{n}"), text: format!("echo {n}") };
    let all: Vec<Job> = (1..=jobs).map(job).collect();
    let (mut deck, mut dealt) = (Vec::new(), BTreeMap::<&str, u64>::new());
    let mut came_in = 0;
    for some in all.chunks(JOBS_A_BLOW as usize) {
        for job in some {
            queue.try_send(job.clone()).map_err(|error| error.to_string())?;
        }
        let before = came_in + rng.below(some.len() as u64);
        came_in += some.len() as u64;
        until("more jobs are taken", async || taken.load(Ordering::Relaxed) >= before).await?;
        if deck.is_empty() {
            deck.extend(BLOWS);
        }
        let blow = deck.swap_remove(rng.index(deck.len()));
        let moment = Duration::from_millis(rng.range(5, LEASE.as_millis() as u64 / 2));
        strike(world, blow, moment).await?;
        *dealt.entry(blow).or_default() += 1;
    }
    queue.close();
    let mut attempts = 0;
    for client in clients {
        attempts += client.await?;
    }
    world.spool_is_empty().await?;
    let token = world.owner().await?.token.0;
    world.servers.clear();
    output::show!("seed {seed}:");
    dealt.iter().for_each(|(blow, times)| output::show!("{times:>4} times {blow}"));
    output::show!(
        "the spool has had {token} owners, of which {} were fenced",
        world.lines.count("", "fenced")
    );
    output::show!("the clients made {attempts} attempts to submit {jobs} jobs");
    let held = check(&all, &world.runs().await?);
    output::show!("{}", if held { "Each job ran exactly once." } else { "WRONG" });
    Ok(held)
}
