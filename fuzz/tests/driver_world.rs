//! The driver in simulated worlds; recordings of them and of the worlds of the ledger (C362). To see what happened: `driver_world --seed S --trace`.

use std::sync::{Arc, Mutex};

use oncewire_fuzz::driver_world::Report;
use oncewire_fuzz::driver_world::place::WITHOUT_SESSIONS;
use oncewire_fuzz::driver_world::profile::Profile;
use oncewire_fuzz::filmed::{self, SharedFilm};
use oncewire_fuzz::mutant::{ALL, Mutant};
use oncewire_fuzz::{driver_world, storage_world};
use oncewire_recorder::{Step, StepKind, Story, Transcript};

/// Worlds in a debug build.
const SEEDS: u64 = 360;

fn run(seed: u64) -> driver_world::Report {
    match driver_world::run(seed, 60) {
        Ok(report) => report,
        Err(failure) => panic!("{failure}"),
    }
}

/// Every kind of thing that may happen to a world of this simulation, by its name in the summary.
const KINDS: [&str; 27] = [
    "cancel heard",
    "client flooded by answers",
    "client flooded by pings",
    "clock jump",
    "clock stops",
    "crash",
    "cut",
    "drain",
    "flood of asks",
    "flood of calls",
    "flood of hellos",
    "flood of pings",
    "handler dropped",
    "hanging dial",
    "not compared",
    "queued",
    "refused dial",
    "refused hello",
    "signature differs",
    "stream broke",
    "stream dropped",
    "stream ended",
    "upload broke",
    "upload committed",
    "upload dropped",
    "upload in doubt",
    "upload lost",
];

#[test]
fn c136_every_world_keeps_its_promises_and_every_kind_of_fault_happens() {
    let mut sum = driver_world::Report::default();
    (0..SEEDS).for_each(|seed| sum.add(&run(seed)));
    assert!(sum.calls > 100 * SEEDS, "worlds have become empty: {} calls", sum.calls);
    let absent: Vec<_> = KINDS.iter().filter(|kind| !sum.faults.contains_key(*kind)).collect();
    assert!(absent.is_empty(), "these never happen: {absent:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..12 {
        assert_eq!(run(seed).hash, run(seed).hash, "seed {seed}");
    }
}

/// Buffers of large bodies are used again: longer ones than were asked for made a run depend on those before it.
#[test]
fn a_run_does_not_depend_on_those_before_it() {
    let hashes = |seeds: [u64; 4]| seeds.map(|seed| (seed, run(seed).hash));
    let mut back = hashes([136, 135, 134, 133]);
    back.reverse();
    assert_eq!(hashes([133, 134, 135, 136]), back);
}

/// Calls of one task that waited together woke each other without end: each asked the leader to write, and the leader
/// was of the same task.
#[test]
fn calls_joined_in_one_task_do_not_spin() {
    run(0);
}

/// Fails when a call that is dropped while it reads for all does not pass the lead on.
#[test]
fn a_leader_that_is_dropped_passes_the_lead_on() {
    run(33);
}

/// A wait for a ticket that was given up while it read for all kept the lead, and the replies of other calls lay unread
/// until the client's task looked.
#[test]
fn a_wait_for_a_ticket_that_is_dropped_passes_the_lead_on() {
    run(3978);
}

/// A server's connection to a peer that vanished with a full buffer never ended: there was always more to send first.
#[test]
fn a_connection_that_takes_nothing_ends() {
    run(2931);
}

/// A drain waited for ever for a peer that had vanished with a full buffer: the machine says that a connection is
/// closed when its last words were taken, and they never were.
#[test]
fn a_drain_ends_though_a_peer_takes_nothing() {
    run(3806);
}

/// A clock that made up for a stop ended a call that had begun while it stood, and the model took that for a lie.
#[test]
fn a_call_that_began_while_a_clock_stood_may_end_early() {
    run(908);
}

/// What is said of a broken promise, and not of a world that merely did not come to its end.
const PROMISES: [&str; 3] = ["runs a second time", "but it ran", "it is the reply of operation"];

#[test]
fn every_mutant_is_caught() {
    // Callers of this world never repeat a call themselves.
    for mutant in ALL.into_iter().filter(|mutant| *mutant != Mutant::Again) {
        let failure = (0..100)
            .find_map(|seed| driver_world::run_mutant(seed, 0, Some(mutant)).err())
            .unwrap_or_else(|| panic!("{mutant:?} went unnoticed"));
        let promise = PROMISES.iter().any(|promise| failure.what.contains(promise));
        assert!(promise, "{mutant:?}: {failure}");
        let again = driver_world::run_mutant(failure.seed, 0, Some(mutant)).err();
        assert_eq!(again.map(|again| again.what), Some(failure.what), "{mutant:?} replays");
    }
}

/// A mutant of this world alone is noticed at one of the first seeds, for a reason of its own.
fn is_caught(mutant: Mutant, seeds: std::ops::Range<u64>, reason: &str) {
    let failure = seeds
        .clone()
        .find_map(|seed| driver_world::run_mutant(seed, 0, Some(mutant)).err())
        .unwrap_or_else(|| panic!("{mutant:?} went unnoticed in {seeds:?}"));
    assert!(failure.what.contains(reason), "{mutant:?}: {failure}");
}

#[test]
fn c128_a_server_that_reads_one_connection_without_end_is_found_out() {
    is_caught(Mutant::Greedy, 0..40, "times in one turn");
}

#[test]
fn c137_a_receiver_that_is_not_heard_is_found_out() {
    is_caught(Mutant::Mute, 110..130, "lost a sound connection");
}

#[test]
fn c137_a_cancel_that_is_lost_is_found_out() {
    is_caught(Mutant::LostCancel, 0..40, "are idle, and a server has");
}

#[test]
fn c137_a_permit_that_leaks_is_found_out() {
    is_caught(Mutant::Leak, 0..40, "calls are lost or run no more");
}

#[test]
fn c246_a_chunk_that_is_read_twice_is_found_out() {
    is_caught(Mutant::Repeats, 0..100, "was its turn");
}

#[test]
fn c299_a_client_that_compares_nothing_is_found_out() {
    is_caught(Mutant::GateOpen, 0..100, "means something else");
}

#[test]
fn c137_a_stream_that_forgets_to_wake_its_reader_is_found_out() {
    is_caught(Mutant::Starved, 0..40, "has not ended");
}

/// What a replay says of a world that was recorded. It agrees with the recording where servers say only what they mean: in
/// some worlds other frames are slipped in. And it does so until a client is led to a server that has no sessions whatever it is asked:
/// that one refuses as no server of the recording would, and takes its client's session from the others.
fn replayed(
    run: impl Fn(Option<&SharedFilm>) -> Report,
    seed: u64,
    methods: &[&str],
    agrees: bool,
) -> Story {
    let film = Arc::new(Mutex::new(filmed::film(seed, methods)));
    let recorded = run(Some(&film));
    assert_eq!(recorded.hash, run(None).hash, "seed {seed}: recorded, it is another run");
    let path = std::env::temp_dir().join(format!("oncewire-film-{}-{seed}", std::process::id()));
    filmed::write(&film.lock().unwrap(), format!("seed {seed}"), false, &path).unwrap();
    let file = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let story = Story::read(&file[..], &[]).unwrap();
    let differs = |step: &Step| matches!(step.kind, StepKind::Differs(_));
    let differ = match agrees {
        true => known(&story).iter().any(differs),
        false => story.steps.iter().any(differs),
    };
    if differ == agrees {
        let text = Transcript { story: &story, all: true }.to_string();
        let at = text.lines().position(|line| line.contains("!!")).unwrap_or_default();
        let lines = text.lines().take(at + 10).skip(at.saturating_sub(60)).collect::<Vec<_>>();
        panic!("seed {seed}: agrees: {agrees}\n{}", lines.join("\n"));
    }
    story
}

/// The steps before a client was led to a server without sessions.
fn known(story: &Story) -> &[Step] {
    let is_end = |step: &Step| matches!(&step.kind, StepKind::Connected { peer } if peer == WITHOUT_SESSIONS);
    let end = story.steps.iter().position(is_end);
    &story.steps[..end.unwrap_or(story.steps.len())]
}

#[test]
fn c362_worlds_of_the_driver_are_recorded_and_their_replays_agree() {
    let (mut kinds, driver, storage) =
        ([0; 4], driver_world::handlers::METHODS, storage_world::service::METHODS);
    let mut cut_short = 0;
    // In the last ones clients are led to servers without sessions.
    for seed in (0..9).chain([14, 20]) {
        let of_driver = |film: Option<&SharedFilm>| {
            driver_world::run_filmed(seed, 0, None, film).unwrap_or_else(|e| panic!("{e}"))
        };
        let of_storage = |film: Option<&SharedFilm>| {
            storage_world::run_filmed(seed, 0, None, film).unwrap_or_else(|e| panic!("{e}"))
        };
        let agrees = !Profile::of(seed).flooded_clients;
        let stories = [
            replayed(of_driver, seed, &driver, agrees),
            replayed(of_storage, seed, &storage, true),
        ];
        for story in stories {
            cut_short += usize::from(known(&story).len() < story.steps.len());
            for step in known(&story) {
                match step.kind {
                    StepKind::Frame(_) => kinds[0] += 1,
                    StepKind::Verdict { .. } => kinds[1] += 1,
                    StepKind::Finished(_) => kinds[2] += 1,
                    StepKind::Outcome { .. } => kinds[3] += 1,
                    _ => {}
                }
            }
        }
    }
    assert_eq!(cut_short, 2, "what seeds 14 and 20 are there for");
    assert!(kinds.iter().zip([8_000, 10, 800, 800]).all(|(n, least)| *n > least), "{kinds:?}");
}
