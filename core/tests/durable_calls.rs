//! Calls that their owner keeps on disk, and clients that are restored from it: S8, S9 and S21 across the death of a
//! client.
#![allow(missing_docs)]

mod util;

use std::collections::BTreeMap;

use oncewire_core::wire::{Frame, ReplyHeader, VERSION, Welcome};
use oncewire_core::*;
use util::durable::*;
use util::*;

#[test]
fn a_durable_call_is_not_sent_before_it_is_recorded() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let a = pair.call(b"a");
    let b = pair.call(b"b");
    assert_eq!(pair.runs, []);
    write_down(&mut pair, &mut disk);
    pair.drive();
    assert_eq!(disk.calls.len(), 2);
    assert_eq!(pair.runs, [], "written, and the machine does not know it yet");
    let later = pair.call(b"later");
    say_recorded(&mut pair, &disk);
    let outcomes = [pair.outcome(a), pair.outcome(b), pair.outcome(later)];
    assert_eq!(outcomes, [reply(b"a"), reply(b"b"), None]);
    record(&mut pair, &mut disk);
    assert_eq!(pair.outcome(later), reply(b"later"));
}

#[test]
fn an_answer_to_a_call_that_is_not_recorded_yet_is_a_protocol_error() {
    let mut pair = durable();
    let link = pair.connect_by_hand(0);
    let session = *pair.client().session().unwrap();
    pair.drive();
    let welcome = Welcome {
        version: VERSION,
        features: oncewire_core::wire::FEATURE_METADATA,
        server: session.server,
        service: session.service,
        session: session.id,
        seen: 0,
        commit: session.commit,
        grants: session.grants,
        instance: Instance::UNNAMED,
        schemas: Schemas::EMPTY,
    };
    pair.send_down(link, &Frame::Welcome(welcome));
    let call = pair.call(b"a");
    let mut disk = Disk::default();
    write_down(&mut pair, &mut disk);
    let header = ReplyHeader { xid: xid(disk.xid_last), status: Status::Done };
    pair.send_down(link, &Frame::Reply(header, b"a lie"));
    let number = disk.xid_last;
    assert_eq!(pair.peers[0].errors, [ProtocolError::UnexpectedAnswer { xid: number }]);
    assert_eq!(pair.outcome(call), None);
}

#[test]
fn an_answer_is_kept_by_the_server_until_its_call_is_settled() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let call = pair.call(b"a");
    record(&mut pair, &mut disk);
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    for _ in 0..20 {
        let later = pair.call(b"later");
        record(&mut pair, &mut disk);
        settle(&mut pair, later);
    }
    pair.advance(secs(5));
    assert_eq!(pair.kept(), echo(b"a").len() as u64, "neither `acked` nor a bit nor another xid");
    assert_eq!(pair.client().unsettled(), 1);
    settle(&mut pair, call);
    pair.advance(secs(1));
    assert_eq!((pair.kept(), pair.client().unsettled()), (0, 0));
    pair.reconnect();
    assert_eq!(pair.outcomes(call).len(), 1, "one outcome");
}

#[test]
fn an_answered_call_is_neither_asked_for_nor_sent_again_nor_given_up() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let call = pair.call(b"a");
    record(&mut pair, &mut disk);
    let now = pair.now;
    pair.client().cancel(now, call);
    pair.advance(secs(60));
    pair.reconnect();
    let counters = pair.client().counters();
    assert_eq!((counters.asks, counters.resends), (0, 0));
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    assert_eq!(pair.kept(), echo(b"a").len() as u64);
    pair.forget(call);
    pair.advance(secs(1));
    assert_eq!((pair.kept(), pair.client().pending()), (0, 0), "it is not wanted any more");
}

#[test]
fn a_durable_call_that_has_no_answer_cannot_be_settled() {
    let mut pair = durable();
    let mut disk = Disk::default();
    pair.mode = Mode::Start;
    let call = pair.call(b"a");
    record(&mut pair, &mut disk);
    settle(&mut pair, call);
    pair.finish(b"a");
    assert_eq!(pair.outcome(call), reply(b"a"));
}

#[test]
fn a_numbered_call_that_is_given_up_before_it_is_sent_is_not_executed() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let cancelled = pair.call(b"cancelled");
    let late = pair.call_with(0, Call { timeout: secs(1), ..Call::new(ECHO, b"late") });
    let good = pair.call(b"good");
    write_down(&mut pair, &mut disk);
    pair.cancel(cancelled);
    pair.advance(secs(2));
    say_recorded(&mut pair, &disk);
    assert_eq!(pair.outcomes(cancelled), [OwnedOutcome::NotExecuted(NotExecuted::Cancelled)]);
    assert_eq!(pair.outcomes(late), [OwnedOutcome::NotExecuted(NotExecuted::DeadlinePassed)]);
    assert_eq!(pair.outcome(good), reply(b"good"));
    assert_eq!(pair.runs.len(), 1);
    // Their slots are theirs until their owner has written that down: a restored client would send them.
    assert_eq!(pair.client().unsettled(), 3);
    for call in [cancelled, late, good] {
        settle(&mut pair, call);
    }
    assert_eq!(pair.client().pending(), 0);
}

#[test]
fn a_break_while_the_record_is_being_written_loses_nothing() {
    for written_while_down in [false, true] {
        let mut pair = durable();
        let mut disk = Disk::default();
        let first = pair.call(b"first");
        record(&mut pair, &mut disk);
        let second = pair.call(b"second");
        write_down(&mut pair, &mut disk);
        pair.cut();
        if written_while_down {
            say_recorded(&mut pair, &disk);
        }
        pair.reconnect();
        if !written_while_down {
            assert_eq!(pair.ran(b"second"), 0, "the resume does not send it");
            say_recorded(&mut pair, &disk);
        }
        assert_eq!(pair.outcome(second), reply(b"second"));
        assert_eq!((pair.ran(b"first"), pair.ran(b"second")), (1, 1));
        assert_eq!(pair.outcomes(first).len(), 1);
        assert_eq!(pair.client().counters().resends, 0, "it had never left");
    }
}

#[test]
fn what_was_never_sent_goes_on_in_a_new_session_under_a_new_record() {
    let mut pair = durable();
    let mut disk = Disk::default();
    pair.mode = Mode::Start;
    let in_doubt = pair.call(b"in doubt");
    record(&mut pair, &mut disk);
    let unhanded = pair.call(b"unhanded");
    write_down(&mut pair, &mut disk);
    let old = disk.clone();
    pair.restart_server();
    pair.mode = Mode::Echo;
    pair.reconnect();
    assert_eq!(pair.outcomes(in_doubt), [OwnedOutcome::Unknown(Unknown::SessionEnded, false)]);
    // The old session's record says nothing about the new one.
    say_recorded(&mut pair, &old);
    assert_eq!(pair.ran(b"unhanded"), 0);
    record(&mut pair, &mut disk);
    assert_eq!(pair.outcome(unhanded), reply(b"unhanded"));
    assert_eq!((pair.ran(b"in doubt"), pair.ran(b"unhanded")), (1, 1));
}

#[test]
fn the_answer_of_a_lost_session_stays_the_one_it_was() {
    let mut pair = durable();
    let mut disk = Disk::default();
    let call = pair.call(b"a");
    record(&mut pair, &mut disk);
    pair.restart_server();
    pair.reconnect();
    assert_eq!(pair.outcomes(call), [OwnedOutcome::Reply(echo(b"a"))]);
    settle(&mut pair, call);
    assert_eq!(pair.client().pending(), 0);
}

#[test]
fn a_restored_client_learns_each_outcome() {
    let mut pair = durable();
    let mut disk = Disk::default();
    for body in [&b"answered"[..], b"runs", b"never read"] {
        pair.mode = if body == b"runs" { Mode::Start } else { Mode::Echo };
        pair.link().hold_up = body == b"never read";
        pair.call(body);
        record(&mut pair, &mut disk);
    }
    // Never sent either.
    pair.call(b"never sent");
    write_down(&mut pair, &mut disk);
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    let calls: Vec<CallId> = calls.into_values().collect();
    assert_eq!(pair.outcome(calls[0]), reply(b"answered"));
    assert_eq!(pair.outcome(calls[1]), None);
    assert_eq!(pair.outcome(calls[2]), reply(b"never read"));
    assert_eq!(pair.outcome(calls[3]), reply(b"never sent"));
    pair.finish(b"runs");
    assert_eq!(pair.outcome(calls[1]), reply(b"runs"));
    assert_eq!(pair.runs.len(), 4, "{:?}", pair.runs);
    let counters = pair.client().counters();
    assert_eq!((counters.asks, counters.resumes, counters.sessions), (2, 1, 0));
    for call in calls {
        settle(&mut pair, call);
    }
    pair.advance(secs(1));
    assert_eq!(pair.kept(), 0);
}

#[test]
fn a_restored_client_gives_numbers_that_the_server_takes_for_new() {
    let mut pair = durable_slots(4);
    let mut disk = Disk::default();
    pair.mode = Mode::Start;
    let first = pair.call(b"1");
    record(&mut pair, &mut disk);
    pair.mode = Mode::Echo;
    let others = [b"2", b"3", b"4"].map(|body| pair.call(body));
    record(&mut pair, &mut disk);
    others.into_iter().for_each(|call| settle(&mut pair, call));
    // The first one's slot is taken, so its next number is skipped.
    pair.call(b"skips");
    let before = disk.clone();
    write_down(&mut pair, &mut disk);
    assert_eq!(disk.xid_last, before.xid_last + 2);
    pair.finish(b"1");
    settle(&mut pair, first);
    pair.advance(secs(1));
    // The last record was not written after all. Had `acked` gone up to the number before it, the server would drop what a
    // restored client sends under that number as stale.
    let mut disk = Disk { calls: BTreeMap::new(), ..before };
    restart(&mut pair, &disk);
    pair.reconnect();
    let next = pair.call(b"next");
    let skipped = disk.xid_last + 1;
    record(&mut pair, &mut disk);
    assert_eq!(disk.xid_last, skipped);
    assert_eq!(pair.outcome(next), reply(b"next"));
}

#[test]
fn a_restored_session_that_is_gone_leaves_its_calls_unknown() {
    let mut pair = durable();
    let mut disk = Disk::default();
    pair.call(b"a");
    record(&mut pair, &mut disk);
    pair.restart_server();
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!(pair.outcomes(only(&calls)), [OwnedOutcome::Unknown(Unknown::SessionEnded, false)]);
    assert_eq!(pair.ran(b"a"), 1);
    let new = pair.call(b"new");
    record(&mut pair, &mut disk);
    assert_eq!(pair.outcome(new), reply(b"new"));
}

#[test]
fn a_restored_client_honours_grants_above_its_own_limits() {
    let mut pair = durable();
    let mut disk = Disk::default();
    pair.call(b"a");
    record(&mut pair, &mut disk);
    pair.client_config.slots = 1;
    pair.client_config.request_len_max = 1;
    let calls = restart(&mut pair, &disk);
    pair.reconnect();
    assert_eq!(pair.outcome(only(&calls)), reply(b"a"));
}

#[test]
fn what_cannot_be_restored_is_refused() {
    let mut pair = durable();
    let session = *pair.client().session().unwrap();
    let now = pair.now;
    let call = || Call::new(ECHO, b"");
    let small: Option<Client<InlineClient<4, 2, 16>>> =
        Client::restore(ClientConfig::default(), session, 9);
    assert!(small.is_none(), "4 slots were granted");
    let mut client: Client<Heap> =
        Client::restore(ClientConfig::default(), session, 9).expect("room");
    assert!(client.restore_call(now, xid(10), call()).is_none(), "above what was recorded");
    assert!(client.restore_call(now, xid(5), call()).is_some());
    assert!(client.restore_call(now, xid(4), call()).is_none(), "out of order");
    assert!(client.restore_call(now, xid(9), call()).is_none(), "on the slot of 5");
    let one_way = Call { one_way: true, ..call() };
    assert!(client.restore_call(now, xid(6), one_way).is_none(), "no journal has one");
    client.handle_connected(now);
    assert!(client.restore_call(now, xid(6), call()).is_none(), "too late");
    let mut fresh: Client<Heap> = Client::new(ClientConfig::default());
    assert!(fresh.restore_call(now, xid(1), call()).is_none(), "no session");
}

/// Calls that were recorded and others that were not could once be made in one client. A restored client gave the numbers
/// of the others again, and a new call got the reply that the server kept for an old one.
#[test]
fn c89_a_plain_call_in_a_durable_client_is_refused() {
    let one_way = Call { one_way: true, ..Call::new(ECHO, b"one way") };
    let mut pair = durable();
    let mut disk = Disk::default();
    for restored in [false, true] {
        let now = pair.now;
        let refused = pair.client().call(now, one_way.clone());
        assert_eq!(refused, Err(NotBegun::OneWay), "restored: {restored}");
        // Whatever else is called waits for its record.
        let (runs, call) = (pair.runs.len(), pair.call(b"old"));
        assert_eq!((pair.outcome(call), pair.runs.len()), (None, runs));
        record(&mut pair, &mut disk);
        assert_eq!(pair.outcome(call), reply(b"old"));
        // A number that only the client's memory has is one of which no server knows.
        let unrecorded = pair.call(b"unrecorded");
        write_down(&mut pair, &mut disk.clone());
        pair.drive();
        assert_eq!(pair.outcome(unrecorded), None);
        restart(&mut pair, &disk);
        pair.reconnect();
    }
    let new = pair.call(b"new");
    record(&mut pair, &mut disk);
    assert_eq!(
        (pair.outcome(new), pair.ran(b"new")),
        (reply(b"new"), 1),
        "not another one's reply"
    );
    assert_eq!((pair.ran(b"old"), pair.ran(b"unrecorded"), pair.ran(b"one way")), (2, 0, 0));
}

/// A client that keeps no journal numbers its calls itself, and has nothing to say of them to an owner.
#[test]
fn c89_a_client_without_a_journal_holds_no_call() {
    let mut pair = Pair::new();
    let one_way = pair.call_with(0, Call { one_way: true, ..Call::new(ECHO, b"one way") });
    let call = pair.call(b"a");
    let now = pair.now;
    assert!(pair.client().poll_unjournaled(now).is_none());
    assert_eq!((pair.outcome(call), pair.outcome(one_way)), (reply(b"a"), None));
    assert_eq!((pair.client().unsettled(), pair.ran(b"one way")), (0, 1));
}

/// After one more restart, what was written was executed once and has its reply, and nothing ran twice.
fn expect_the_truth(mut pair: Pair, disk: &Disk, made: u64, seed: u64) {
    let calls = restart(&mut pair, disk);
    pair.reconnect();
    for (number, kept) in &disk.calls {
        let outcome = kept.outcome.clone().or_else(|| pair.outcome(calls[number]));
        assert_eq!(outcome, reply(&kept.body), "seed {seed}, xid {number}");
        assert_eq!(pair.ran(&kept.body), 1, "seed {seed}, xid {number}");
    }
    for number in 1..=made {
        assert!(pair.ran(format!("{number}").as_bytes()) <= 1, "seed {seed}");
    }
    assert_eq!(pair.server_errors, [], "seed {seed}");
    assert_eq!(pair.peers[0].errors, [], "seed {seed}");
}

/// Cuts, lost bytes, deaths of the client before and after each thing is written: every call whose record survived is
/// executed once, and its outcome is learned and says so.
#[test]
fn whatever_happens_every_recorded_call_runs_once_and_its_outcome_is_learned() {
    for seed in 0..400 {
        let mut random = Rng(seed);
        let mut pair = durable_slots(2 + seed as u32 % 3);
        let mut disk = Disk::default();
        // What the process knows: which call has which xid.
        let mut known: BTreeMap<u64, CallId> = BTreeMap::new();
        let mut made = 0;
        for _ in 0..60 {
            match random.below(9) {
                0 | 1 => {
                    made += 1;
                    pair.call(format!("{made}").as_bytes());
                }
                2 => {
                    let mut after = disk.clone();
                    let now = pair.now;
                    while let Some(numbered) = pair.client().poll_unjournaled(now) {
                        let number = numbered.xid.get();
                        after.xid_last = number;
                        let kept = Kept { body: numbered.body.to_vec(), outcome: None };
                        after.calls.insert(number, kept);
                        let call = numbered.call;
                        known.insert(number, call);
                    }
                    after.session = pair.client().session().copied();
                    // Written or not, the process may die before it learns that.
                    if random.below(4) == 0 {
                        let disk_then = if random.below(2) == 0 { &after } else { &disk };
                        disk = disk_then.clone();
                        known = restart(&mut pair, &disk);
                    } else {
                        disk = after;
                        say_recorded(&mut pair, &disk);
                    }
                }
                3 => {
                    for (number, call) in &known {
                        if let (Some(outcome), Some(kept)) =
                            (pair.outcome(*call), disk.calls.get_mut(number))
                            && random.below(2) == 0
                        {
                            kept.outcome.get_or_insert(outcome);
                            let now = pair.now;
                            pair.peers[0].client.settle(now, *call);
                        }
                    }
                    pair.drive();
                }
                4 => known = restart(&mut pair, &disk),
                5 if pair.peers[0].link.is_some() => {
                    let held_back = random.below(2) == 0;
                    pair.hold(held_back);
                    pair.drive();
                }
                6 if pair.peers[0].link.is_some() => pair.cut(),
                _ => {
                    if pair.peers[0].link.is_none() {
                        pair.reconnect();
                    }
                    pair.advance(ms(random.below(300)));
                }
            }
        }
        expect_the_truth(pair, &disk, made, seed);
    }
}
