//! Durable clients, killed at every step of their journal.

use std::time::Duration;

use oncewire_driver::journal::JournalKey;
use oncewire_driver::protocol::{MethodId, ServiceName};
use oncewire_driver::{ClientOptions, DurableClient, Outcome};

use super::disk::{Disk, Mode};
use super::journal::TestJournal;
use super::process::{Notes, Process, Then, settle_down};
use super::world::*;

const SECOND: Duration = Duration::from_secs(1);

/// A server, and a program whose journal is empty.
fn begin() -> (Ledgered, Process) {
    let world = Ledgered::new();
    let process = Process::start(&world, Default::default(), Notes::default(), Then::Confirms);
    (world, process)
}

fn start_again(world: &Ledgered, process: Process, then: Then) -> Process {
    let (pages, notes) = process.kill(world);
    let process = Process::start(world, pages, notes, then);
    settle_down(world);
    process
}

pub fn balance(world: &Ledgered, account: u32) -> i64 {
    world.ledger.disk().accounts.get(&account).copied().unwrap_or_default()
}

#[test]
fn a_call_is_recorded_then_sent_then_answered_then_delivered_then_forgotten() {
    let (world, process) = begin();
    process.journal.mode(Mode::Hold);
    process.pay(&world, 1, Then::Confirms);
    assert_eq!((process.journal.held(), balance(&world, 1)), (1, 0), "not sent");
    process.journal.write();
    world.sim.run();
    assert_eq!((process.journal.calls(), balance(&world, 1)), (1, 0), "not learned to be stable");
    process.journal.release();
    world.sim.run();
    assert_eq!((process.learned("1").len(), balance(&world, 1)), (0, 1), "answered, not learned");
    process.journal.release();
    world.sim.run();
    assert_eq!(process.learned("1"), ["reply 1"]);
    assert_eq!((process.journal.calls(), process.journal.outcomes()), (1, 1));
    process.release_all(&world);
    assert_eq!((process.journal.calls(), process.journal.outcomes()), (0, 0));
    world.sim.advance(SECOND);
    assert_eq!(world.server().counters().kept_bytes, 0, "settled");
}

#[test]
fn calls_that_are_ready_together_share_a_batch() {
    let (world, process) = begin();
    let before = process.journal.batches().len();
    process.journal.mode(Mode::Hold);
    process.pay(&world, 0, Then::Confirms);
    for account in 1..=50 {
        process.call(&account.to_string(), &PAY, (account, 1), Then::Confirms);
    }
    world.sim.run();
    process.release_all(&world);
    for account in 0..=50 {
        assert_eq!(process.learned(&account.to_string()), ["reply 1"]);
    }
    let batches = process.journal.batches();
    assert!(batches.len() - before <= 8, "{batches:?}");
}

/// Kills the program when its journal has let this many batches through, the next one written or not.
fn killed_after(batches: usize, written: bool) -> (Ledgered, Process) {
    let (world, process) = begin();
    process.journal.mode(Mode::Hold);
    process.pay(&world, 1, Then::Confirms);
    for _ in 0..batches {
        process.journal.release();
        world.sim.run();
    }
    if written {
        process.journal.write();
    }
    let process = start_again(&world, process, Then::Confirms);
    (world, process)
}

#[test]
fn a_program_killed_at_any_step_of_its_journal_learns_what_became_of_its_call() {
    // Not in the journal: not executed, and never will be.
    let (world, process) = killed_after(0, false);
    assert_eq!((process.learned("1").len(), balance(&world, 1)), (0, 0));
    // Journaled, not sent; sent and answered; its outcome written; delivered; its removal written.
    for (batches, written) in [(0, true), (1, false), (1, true)] {
        let (world, process) = killed_after(batches, written);
        assert_eq!(process.learned("1"), ["reply 1"], "{batches} {written}");
        assert_eq!((process.journal.calls(), balance(&world, 1)), (0, 1), "{batches} {written}");
    }
    let (world, process) = killed_after(2, false);
    assert_eq!(process.learned("1"), ["reply 1", "reply 1"], "the confirmation was not written");
    assert_eq!((process.journal.calls(), balance(&world, 1)), (0, 1));
    let (_world, process) = killed_after(2, true);
    assert_eq!(process.learned("1"), ["reply 1"]);
}

#[test]
fn an_outcome_that_is_not_confirmed_is_delivered_in_every_run() {
    let (world, mut process) = begin();
    process.pay(&world, 1, Then::Forgets);
    for run in 1..4 {
        assert_eq!(process.learned("1").len(), run);
        process = start_again(&world, process, Then::Forgets);
    }
    process = start_again(&world, process, Then::Confirms);
    process = start_again(&world, process, Then::Confirms);
    assert_eq!(process.learned("1"), ["reply 1"; 5]);
    assert_eq!(balance(&world, 1), 1);
    assert_eq!(world.server().counters().sessions, 1, "one session over six runs");
}

#[test]
fn what_the_server_answered_is_kept_for_as_long_as_the_lease() {
    let (world, process) = begin();
    process.journal.mode(Mode::Hold);
    process.pay(&world, 1, Then::Confirms);
    process.journal.release();
    world.sim.run();
    let (pages, notes) = process.kill(&world);
    world.sim.advance(200 * SECOND);
    let process = Process::start(&world, pages.clone(), notes, Then::Confirms);
    settle_down(&world);
    assert_eq!(process.learned("1"), ["reply 1"]);
    // A program that is back too late learns that, and learns it again; the call is not sent again.
    let (_, notes) = process.kill(&world);
    world.sim.advance(400 * SECOND);
    let mut process = Process::start(&world, pages, notes, Then::Forgets);
    settle_down(&world);
    process = start_again(&world, process, Then::Confirms);
    let unknown = "unknown: SessionEnded, false";
    assert_eq!(process.learned("1"), ["reply 1", unknown, unknown]);
    process.pay(&world, 2, Then::Confirms);
    assert_eq!(process.learned("2"), ["reply 1"], "in a new session");
    assert_eq!((balance(&world, 1), balance(&world, 2)), (1, 1));
}

/// Recorded, and not read by the server: the server dies before, or the connection does.
#[test]
fn c81_a_call_that_no_server_has_read_yet_runs_if_its_client_is_back_within_the_lease() {
    for server_dies in [false, true] {
        let (mut world, process) = begin();
        process.journal.mode(Mode::Hold);
        process.pay(&world, 1, Then::Confirms);
        process.journal.write();
        if server_dies {
            world.restart();
        }
        let (pages, notes) = process.kill(&world);
        world.sim.advance(200 * SECOND);
        let process = Process::start(&world, pages, notes, Then::Confirms);
        settle_down(&world);
        assert_eq!(process.learned("1"), ["reply 1"], "a server that dies: {server_dies}");
    }
}

/// The journal's file is put back from a copy, while the session has gone on.
#[test]
fn c83_an_old_copy_of_a_journal_gives_no_call_the_reply_of_another() {
    for in_doubt in [false, true] {
        let (world, process) = begin();
        process.pay(&world, 1, Then::Confirms);
        process.journal.mode(Mode::Hold);
        process.pay(&world, 2, Then::Forgets);
        if in_doubt {
            process.journal.write();
        }
        let copy = process.journal.pages();
        process.release_all(&world);
        process.journal.mode(Mode::Commit);
        process.pay(&world, 3, Then::Confirms);
        let (_, notes) = process.kill(&world);
        let process = Process::start(&world, copy, notes, Then::Confirms);
        // Its number would be that of the payment to 2 or 3, whose reply would be the same.
        process.pay(&world, 4, Then::Confirms);
        process.pay(&world, 3, Then::Forgets);
        settle_down(&world);
        assert_eq!((balance(&world, 4), process.learned("4")), (1, vec!["reply 1".to_owned()]));
        assert_eq!((balance(&world, 3), &*process.learned("3")[1]), (2, "reply 2"));
        if in_doubt {
            let learned = ["reply 1", "unknown: SessionEnded, false"];
            assert_eq!(process.learned("2"), learned, "it cannot know");
        }
        assert_eq!(balance(&world, 2), 1);
        let process = start_again(&world, process, Then::Confirms);
        assert_eq!((process.journal.calls(), process.journal.outcomes()), (0, 0), "and goes on");
    }
}

/// An old copy of the ledger is put back, from before a commit that the client has seen in a resume, and at nothing else.
#[test]
fn c436_a_commit_that_only_a_resume_has_shown_exposes_an_old_ledger_to_the_next_run() {
    let (mut world, process) = begin();
    process.pay(&world, 1, Then::Confirms);
    let copy = world.ledger.disk();
    let other = world.client();
    assert_eq!(world.call(&other, &PAY, (2, 1)).outcome(), reply(1));
    let later = world.ledger.disk().commit;
    assert!(later > copy.commit);
    let calls = process.journal.batches().len();
    world.restart();
    assert_eq!(process.journal.batches().len(), calls + 1, "the session is written once");
    world.sim.advance(60 * SECOND);
    assert_eq!(process.journal.batches().len(), calls + 1, "no later commit was seen");
    let (pages, notes) = process.kill(&world);
    drop(other);
    world.crash();
    world.start(copy);
    let known = world.server().counters().sessions;
    let process = Process::start(&world, pages, notes, Then::Confirms);
    settle_down(&world);
    assert_eq!(world.server().counters().sessions, known + 1, "the client opens a new session");
    process.pay(&world, 1, Then::Confirms);
    assert_eq!(process.learned("1"), ["reply 1", "reply 2"]);
}

/// The row that is written for the commit says of the numbers what the last one said.
#[test]
fn c436_a_session_that_is_written_for_its_commit_gives_no_number_twice() {
    let (mut world, process) = begin();
    process.pay(&world, 1, Then::Confirms);
    let other = world.client();
    assert_eq!(world.call(&other, &PAY, (2, 1)).outcome(), reply(1));
    world.restart();
    let process = start_again(&world, process, Then::Confirms);
    process.pay(&world, 1, Then::Confirms);
    assert_eq!(process.learned("1"), ["reply 1", "reply 2"]);
    assert_eq!(balance(&world, 1), 2);
    assert_eq!(world.server().counters().sessions, 2, "it has resumed");
}

#[test]
fn calls_of_a_session_before_the_last_are_never_sent_in_it() {
    let (mut world, process) = begin();
    process.journal.mode(Mode::Hold);
    process.pay(&world, 1, Then::Confirms);
    // Recorded in a session that a server with another ledger does not know.
    process.journal.release();
    world.sim.run();
    world.crash();
    world.start(Disk::default());
    settle_down(&world);
    assert!(process.client.status().connected);
    // Dies before the outcome is written; the new session is not written either.
    let process = start_again(&world, process, Then::Confirms);
    assert_eq!(process.learned("1"), ["unknown: SessionEnded, false"]);
    assert_eq!(balance(&world, 1), 0);
}

#[test]
fn what_was_never_handed_goes_on_in_a_new_session() {
    let (mut world, process) = begin();
    process.pay(&world, 1, Then::Confirms);
    process.journal.mode(Mode::Hold);
    process.pay(&world, 2, Then::Confirms);
    process.journal.write();
    world.crash();
    world.start(Disk::default());
    settle_down(&world);
    process.release_all(&world);
    settle_down(&world);
    process.release_all(&world);
    assert_eq!(process.learned("2"), ["reply 1"]);
    assert_eq!(balance(&world, 2), 1);
}

#[test]
fn a_journal_that_cannot_write_lets_nothing_leave() {
    let (world, process) = begin();
    process.pay(&world, 1, Then::Confirms);
    process.journal.mode(Mode::Fail);
    process.pay(&world, 2, Then::Confirms);
    assert_eq!(process.learned("2"), ["unknown: JournalFailed, false"], "it may be on the disk");
    process.pay(&world, 3, Then::Confirms);
    assert_eq!(process.learned("3"), ["not executed: JournalFailed"]);
    assert!(process.client.journal_error().unwrap().to_string().contains("no space left"));
    assert_eq!((balance(&world, 2), balance(&world, 3)), (0, 0));
    let process = start_again(&world, process, Then::Confirms);
    assert_eq!(process.learned("2").len(), 1, "it was not on the disk, and so not executed");
    assert_eq!(balance(&world, 2), 0);
}

#[test]
fn an_outcome_that_cannot_be_written_is_learned_by_the_next_run() {
    for was_written in [false, true] {
        let (world, process) = begin();
        process.journal.mode(Mode::Hold);
        process.pay(&world, 1, Then::Confirms);
        process.journal.release();
        world.sim.run();
        if was_written {
            process.journal.write();
        }
        // The batch is dropped.
        drop(process.journal.crash());
        world.sim.run();
        assert_eq!(process.learned("1"), ["unknown: JournalFailed, false"]);
        let process = start_again(&world, process, Then::Confirms);
        assert_eq!(process.learned("1")[1..], ["reply 1"]);
        assert_eq!(balance(&world, 1), 1);
    }
}

#[test]
fn rolled_back_and_refused_calls_have_their_outcomes_over_a_crash() {
    let (world, process) = begin();
    process.journal.mode(Mode::Hold);
    process.call("poor", &PAY, (1, -5), Then::Confirms);
    process.call(
        "nobody",
        &oncewire_driver::Method::<(u32, i64), i64>::new("test/no"),
        (1, 1),
        Then::Confirms,
    );
    world.sim.run();
    process.journal.release();
    world.sim.run();
    let (pages, notes) = process.kill(&world);
    let (process, left) = {
        let journal = TestJournal::on(pages);
        let group = std::sync::Arc::default();
        let runtime = world.sim.runtime(&group);
        let options = ClientOptions::default();
        let (client, left) =
            DurableClient::with_runtime(world.place.clone(), options, journal, runtime).unwrap();
        (client, left)
    };
    let tags: Vec<_> = left.iter().map(|call| call.tag().clone()).collect();
    assert_eq!(tags, ["poor", "nobody"]);
    assert_eq!(left[1].method(), MethodId::of("test/no"));
    let mut learned = Vec::new();
    for call in left {
        let call = call.typed(&COUNT).expect_err("another method");
        learned.push(world.begin(async move { call.raw().await.outcome }));
    }
    settle_down(&world);
    let learned: Vec<_> = learned.iter().map(Made::outcome).collect();
    assert_eq!(learned[0].as_deref(), Some("not executed: Aborted"));
    assert_eq!(learned[1].as_deref(), Some("not executed: UnknownMethod"));
    drop((process, notes));
}

#[test]
fn a_run_that_demands_another_service_learns_nothing_and_spoils_nothing() {
    let (world, process) = begin();
    process.journal.mode(Mode::Hold);
    process.pay(&world, 1, Then::Confirms);
    process.journal.release();
    world.sim.run();
    let (pages, notes) = process.kill(&world);
    let journal = TestJournal::on(pages);
    let mut options = ClientOptions::default();
    options.service = ServiceName::new("another");
    let runtime = world.sim.runtime(&Default::default());
    let (place, wrong) = (world.place.clone(), journal.clone());
    let (client, mut left) =
        DurableClient::with_runtime(place, options, wrong, runtime).expect("a journal");
    let call = left.remove(0).raw();
    let learned = world.begin(async move {
        let learned = call.await;
        learned.receipt.confirm();
        learned.outcome
    });
    settle_down(&world);
    assert_eq!(learned.outcome().as_deref(), Some("unknown: SessionEnded, false"));
    drop(client);
    let process = Process::start(&world, journal.pages(), notes, Then::Confirms);
    settle_down(&world);
    assert_eq!(process.learned("1"), ["reply 1"]);
    assert_eq!(balance(&world, 1), 1);
}

#[test]
fn what_is_left_can_be_cancelled() {
    let (world, process) = begin();
    process.journal.mode(Mode::Hold);
    process.pay(&world, 1, Then::Confirms);
    process.journal.write();
    let (pages, notes) = process.kill(&world);
    let (process, left) = Process::start_quietly(&world, TestJournal::on(pages), notes);
    for (tag, call) in left {
        call.cancel();
        process.watch(tag, call, Then::Confirms);
    }
    settle_down(&world);
    assert_eq!(process.learned("1"), ["not executed: Cancelled"]);
    assert_eq!(balance(&world, 1), 0);
}

#[test]
fn a_client_that_is_closed_in_good_order_leaves_nothing_behind() {
    let (world, process) = begin();
    for account in 1..=5 {
        process.pay(&world, account, Then::Confirms);
    }
    let client = process.client.clone();
    let closed = world.begin(async move { Outcome::Reply(client.close().await) });
    world.sim.advance(SECOND);
    let closed = closed.take().and_then(|closed| closed.ok().ok()).expect("it is closed");
    assert!(closed.in_good_order && closed.session.is_some(), "{closed}");
    assert_eq!((closed.unfinished, closed.left_in_journal), (0, 0));
    assert_eq!(process.journal.calls(), 0);
    process.pay(&world, 6, Then::Confirms);
    assert_eq!(process.learned("6"), ["not executed: NotBegun(Closed)"]);
    let process = start_again(&world, process, Then::Confirms);
    process.pay(&world, 7, Then::Confirms);
    assert_eq!(process.learned("7"), ["reply 1"], "in a new session");
}

#[test]
fn a_client_closed_while_the_server_is_gone_tells_the_truth_and_goes_on_later() {
    let (mut world, process) = begin();
    process.pay(&world, 1, Then::Forgets);
    world.ledger.mode(Mode::Hold);
    process.pay(&world, 2, Then::Confirms);
    world.crash();
    process.pay(&world, 3, Then::Confirms);
    let client = process.client.clone();
    let closed = world.begin(async move { Outcome::Reply(client.close().await) });
    world.sim.advance(10 * SECOND);
    let closed = closed.take().and_then(|closed| closed.ok().ok()).expect("it is closed");
    assert!(!closed.in_good_order && closed.session.is_some(), "{closed}");
    // One was not confirmed, one is in doubt, and one was never written.
    assert_eq!((closed.unfinished, closed.left_in_journal), (2, 2));
    assert_eq!(process.journal.calls(), 2);
    assert!(closed.to_string().contains("2 calls unfinished"), "{closed}");
    assert!(closed.to_string().contains("2 left in the journal"), "{closed}");
    assert_eq!(process.learned("2"), ["unknown: Closed, false"]);
    assert_eq!(process.learned("3"), ["not executed: Closed"], "it has no xid yet");
    world.start(world.ledger.disk());
    let process = start_again(&world, process, Then::Confirms);
    assert_eq!(process.learned("2")[1..], ["reply 1"]);
    assert_eq!((process.learned("3").len(), balance(&world, 2), balance(&world, 3)), (1, 1, 0));
}

#[test]
fn a_corrupt_journal_is_refused() {
    let (world, process) = begin();
    process.pay(&world, 1, Then::Forgets);
    let (pages, _) = process.kill(&world);
    for (key, bytes) in &pages {
        for cut in 0..bytes.len() {
            let mut pages = pages.clone();
            pages.insert(*key, bytes.slice(..cut));
            let runtime = world.sim.runtime(&Default::default());
            let opened = DurableClient::with_runtime(
                world.place.clone(),
                ClientOptions::default(),
                TestJournal::on(pages),
                runtime,
            );
            match opened {
                // An outcome may be shorter, if it is a reply.
                Ok(_) => assert!(matches!(key, JournalKey::Outcome(_)) && cut > 0),
                Err(error) => assert!(error.to_string().contains("corrupt"), "{error}"),
            }
        }
    }
    let mut orphan = pages.clone();
    orphan.retain(|key, _| !matches!(key, JournalKey::Call(_)));
    let runtime = world.sim.runtime(&Default::default());
    let options = ClientOptions::default();
    let opened =
        DurableClient::with_runtime(world.place.clone(), options, TestJournal::on(orphan), runtime);
    assert!(opened.is_err());
}

#[test]
fn nothing_of_a_program_is_left_in_memory_when_it_is_gone() {
    let (world, process) = begin();
    process.pay(&world, 1, Then::Confirms);
    process.journal.mode(Mode::Hold);
    process.pay(&world, 2, Then::Confirms);
    let journal = process.journal.clone();
    process.kill(&world);
    assert_eq!(journal.handles(), 1);
}
