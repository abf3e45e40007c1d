//! The story, as it was and as it is here: two servers on one spool, of which one is configured for a runner that does not exist.

use std::collections::BTreeMap;

use crate::processes::{TIME_MAX, World, check, until};
use crate::{Job, Submitter};

fn jobs() -> Vec<Job> {
    let job = |n| Job { name: format!("job-{n:02}"), text: format!("echo {n}") };
    (1..=40).map(job).collect()
}

/// Submits jobs, and says which instances have taken how many.
async fn submit(world: &World, jobs: &[Job]) -> Result<(), String> {
    let mut client = Submitter::new(world.addresses());
    let mut by = BTreeMap::<String, u64>::new();
    for job in jobs {
        let taken = client.submit(job, TIME_MAX).await.map_err(|why| why.said.join("; "))?;
        *by.entry(taken.by).or_default() += 1;
    }
    by.iter().for_each(|(by, count)| output::show!("  {count} jobs were taken by {by:?}"));
    Ok(())
}

/// Runs it; whether jobs vanished in the first part, and none did in the second.
///
/// # Errors
/// Why it could not be tried, or came to no end.
pub async fn run() -> Result<bool, String> {
    output::show!(
        "As it was. Two servers on one spool: one is configured for the runner; two is a replacement"
    );
    output::show!("that was forgotten, and the runner that it is configured for does not exist.");
    let vanished = as_it_was().await?;
    output::show!("\nAs it is here. The same two, and three, a stand-by that is configured well.");
    Ok(as_it_is().await? && vanished)
}

async fn as_it_was() -> Result<bool, String> {
    let mut world = World::new(&["--mutant", "no-fence"])?;
    world.add("one", "naive", true)?;
    world.add("two", "naive", false)?;
    let (jobs, lines) = (jobs(), world.lines.clone());
    submit(&world, &jobs).await?;
    let submitted = |who: &str| lines.count(who, "submitted");
    until("all lines", async || submitted("") == jobs.len()).await?;
    let all_ran = async || world.runs().await.is_ok_and(|runs| runs.len() == submitted("one"));
    until("all runs", all_ran).await?;
    let (one, two) = (submitted("one"), submitted("two"));
    for (who, count) in [("one", one), ("two", two)] {
        output::show!("  the log of {who} says of {count} jobs that they were submitted:");
        lines.with(who, "submitted").iter().take(2).for_each(|line| output::show!("    {line}"));
    }
    output::show!("Together that is all of them. But at the runner:");
    check(&jobs, &world.runs().await?);
    output::show!(
        "Two took {two} jobs out of the spool, and did not look at what became of its calls."
    );
    Ok(one > 0 && two > 0)
}

async fn as_it_is() -> Result<bool, String> {
    let mut world = World::new(&[])?;
    let lines = world.lines.clone();
    world.add("two", "serve", false)?;
    until("an error of two", async || lines.count("two", "cannot become owner") > 0).await?;
    world.add("one", "serve", true)?;
    let first = world.owner_after(0).await?;
    world.add("three", "serve", true)?;
    let jobs = jobs();
    let (early, late) = jobs.split_at(jobs.len() / 2);
    submit(&world, early).await?;
    output::show!("One is paused for longer than its lease.");
    world.server("one")?.pause()?;
    let second = world.owner_after(first.token.0).await?;
    submit(&world, late).await?;
    output::show!("One wakes up, and does not know that it has slept.");
    world.server("one")?.wake()?;
    until("one is fenced", async || lines.count("one", "fenced") > 0).await?;
    output::show!("Three is killed.");
    world.server("three")?.kill();
    world.owner_after(second.token.0).await?;
    world.spool_is_empty().await?;
    output::show!("What the logs say:");
    for who in ["two", "one", "three"] {
        let mut jobs = 0;
        for line in lines.with(who, "") {
            jobs += u64::from(line.contains(": job "));
            if jobs <= 1 || !line.contains(": job ") {
                output::show!("  {line}");
            }
        }
        output::show!("  … {who} has submitted {jobs} jobs");
    }
    output::show!("At the runner:");
    Ok(check(&jobs, &world.runs().await?))
}
