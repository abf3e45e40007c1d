//! The simulated world: a few hundred seeds, the broken machines, and that a seed replays.
#![allow(missing_docs)]

use oncewire_fuzz::world::profile::Profile;
use oncewire_fuzz::world::{Broken, Kind, Report, Trace, Violation, memory, run};
use oncewire_recorder::{About, Film, Key, Source, StepKind, Story, Transcript};

/// What servers hold is compared with what it counts.
#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn world(seed: u64, calls: u64, broken: Broken) -> Result<Report, Violation> {
    run(seed, calls, broken, &mut Trace::default())
}

#[test]
fn every_promise_is_kept_in_a_few_hundred_worlds() {
    let mut sum = Report::default();
    for seed in 0..300 {
        match world(seed, 400, Broken::No) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("seed {seed} with 400 calls: {}", violation.0),
        }
    }
    assert!(sum.calls >= 300 * 400);
    let happened = sum.faults.iter().filter(|count| **count > 0).count();
    assert_eq!(happened, sum.faults.len(), "every kind of fault: {:?}", sum.faults);
    let never = Kind::NAMES.iter().zip(sum.kinds).filter(|(_, count)| *count == 0);
    let never: Vec<_> = never.map(|(name, _)| *name).collect();
    assert!(never.is_empty(), "never met: {never:?}");
    assert!(sum.outcomes.iter().all(|count| *count > 0), "{:?}", sum.outcomes);
    let faults = sum.faults.iter().sum::<u64>();
    assert!(faults * 50 >= sum.calls, "{faults} faults in {} calls", sum.calls);
}

/// The first seed that catches a broken machine, and what it says.
fn caught(broken: Broken) -> (u64, String) {
    (0..100)
        .find_map(|seed| Some((seed, world(seed, 1_000, broken).err()?.0.into())))
        .unwrap_or_else(|| panic!("{broken:?} was not caught"))
}

#[test]
fn a_server_that_knows_no_duplicates_is_caught() {
    assert!(caught(Broken::NoDedup).1.contains("ran"));
}

#[test]
fn a_server_that_forgets_kept_replies_is_caught() {
    assert!(caught(Broken::Forgetful).1.contains("ran"));
}

#[test]
fn a_client_that_uses_an_xid_twice_is_caught() {
    assert!(caught(Broken::Reuse).1.contains("FalseRetry"));
}

#[test]
fn a_server_that_takes_calls_behind_a_hello_is_caught() {
    assert!(caught(Broken::Early).1.contains("S2"));
}

#[test]
fn a_client_that_says_goodbye_with_calls_unsettled_is_caught() {
    caught(Broken::HastyGoodbye);
}

#[test]
fn a_client_that_does_not_notice_its_old_journal_is_caught() {
    caught(Broken::OldJournal);
}

#[test]
fn a_server_that_judges_handshakes_by_the_keepalive_is_caught() {
    caught(Broken::Lazy);
}

#[test]
fn a_server_that_counts_too_little_is_caught() {
    assert!(caught(Broken::Undercount).1.contains("S11"));
}

#[test]
fn a_client_that_takes_an_old_not_seen_is_caught() {
    caught(Broken::StaleNotSeen);
}

#[test]
fn a_server_that_takes_an_old_ack_for_what_came_since_is_caught() {
    caught(Broken::StaleAck);
}

#[test]
fn a_server_whose_digest_leaves_the_metadata_out_is_caught() {
    assert!(caught(Broken::BareDigest).1.contains("S10"));
}

/// Two servers have one ledger, from a seed's kind.
#[test]
fn c423_two_servers_of_the_core_on_one_ledger_keep_every_promise() {
    let mut sum = Report::default();
    let shares = |seed: &u64| Profile::of(*seed, Broken::No).shares;
    for seed in (300..900).filter(shares) {
        match world(seed, 400, Broken::No) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("seed {seed} with 400 calls: {}", violation.0),
        }
    }
    for kind in [Kind::Moved, Kind::Raced, Kind::Fenced, Kind::Unreachable] {
        assert!(sum.kinds[kind as usize] > 3, "{kind:?}: {:?}", sum.kinds);
    }
}

#[test]
fn c424_servers_of_the_core_that_share_a_ledger_and_are_broken_are_caught() {
    for broken in [Broken::Trusting, Broken::Unfenced, Broken::Deleting, Broken::EarlyClaim] {
        caught(broken);
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 7, 1 << 40] {
        let mut traces = [Trace::keeping(100), Trace::keeping(100)];
        let reports = [0, 1].map(|at| run(seed, 500, Broken::No, &mut traces[at]));
        assert_eq!(reports[0], reports[1]);
        assert_eq!(traces[0].lines, traces[1].lines);
        assert_eq!(traces[0].hash(), traces[1].hash());
    }
    assert_ne!(world(1, 500, Broken::No), world(2, 500, Broken::No));
}

#[test]
fn a_broken_machines_failure_replays_too() {
    let (seed, message) = caught(Broken::Forgetful);
    let again = world(seed, 1_000, Broken::Forgetful);
    assert_eq!(again, Err(Violation(message.into())));
}

/// The recordings of worlds are run through the machines, whose servers judge and answer as they did. Where frames are lost and
/// doubled without a break, what arrived for a second time cannot always be distinguished from what left twice. A recording does not say
/// what a shared ledger found.
#[test]
fn c319_a_world_is_recorded_and_its_replay_agrees_with_it() {
    let (mut steps, mut verdicts, mut outcomes) = (0, 0, 0);
    for seed in 0..40 {
        let mut trace = Trace::filming(Film::new(Key::from_bytes([0; 16]), true));
        run(seed, 200, Broken::No, &mut trace).unwrap();
        let about = About {
            source: Source::World,
            plain_bodies: true,
            lossy: Profile::of(seed, Broken::No).lossy,
            unix_ms: 0,
            what: format!("seed {seed}"),
        };
        let mut file = Vec::new();
        trace.film.take().unwrap().write(&mut file, &about).unwrap();
        let story = Story::read(&file[..], &[]).unwrap();
        let count = |test: fn(&StepKind) -> bool| {
            story.steps.iter().filter(|step| test(&step.kind)).count()
        };
        if !about.lossy && !Profile::of(seed, Broken::No).shares {
            let differs = count(|kind| matches!(kind, StepKind::Differs(_)));
            assert_eq!(differs, 0, "seed {seed}\n{}", Transcript { story: &story, all: true });
        }
        steps += story.steps.len();
        verdicts += count(|kind| matches!(kind, StepKind::Verdict { .. }));
        outcomes += count(|kind| matches!(kind, StepKind::Outcome { .. }));
    }
    assert!(
        steps > 10_000 && verdicts > 100 && outcomes > 1_000,
        "{steps} steps, {verdicts} verdicts, {outcomes} outcomes"
    );
}
