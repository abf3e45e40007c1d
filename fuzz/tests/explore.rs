//! Every schedule of the smallest worlds; that planted bugs are found; and schedules that once broke a promise.
#![allow(missing_docs)]

use oncewire_fuzz::explore::{Action, BROKEN, Limits, SCENES, Scene, explore, replay, shortest};

#[track_caller]
fn scene(name: &str) -> &'static Scene {
    Scene::named(name).unwrap_or_else(|| panic!("there is no world {name:?}"))
}

#[test]
fn every_schedule_of_the_quick_worlds_keeps_every_promise() {
    for scene in SCENES.iter().filter(|scene| scene.quick) {
        let report = explore(scene, Limits::default());
        let report = report.unwrap_or_else(|found| {
            panic!("{}: {}: {:?}", scene.name, found.violation.0, found.schedule)
        });
        assert!(report.exhausted && report.rests > 0, "{}: {report:?}", scene.name);
        // A world in which little can happen proves little.
        assert!(report.states > 500, "{}: {report:?}", scene.name);
    }
}

#[test]
fn an_exploration_repeats_exactly() {
    let first = explore(scene("cut"), Limits::default());
    let second = explore(scene("cut"), Limits::default());
    assert_eq!(first.map_err(|found| found.schedule), second.map_err(|found| found.schedule));
}

#[test]
fn a_limit_that_is_met_is_said() {
    for limits in
        [Limits { depth: 8, ..Limits::default() }, Limits { states: 50, ..Limits::default() }]
    {
        let report = explore(scene("cut"), limits).expect("no promise is broken");
        assert!(!report.exhausted, "{limits:?}: {report:?}");
    }
}

/// What the shortest schedule of a broken world breaks, and how long it is.
#[track_caller]
fn found(name: &str) -> (String, usize) {
    let found = shortest(scene(name), Limits::default());
    let found = found.unwrap_or_else(|| panic!("{name} was not found out"));
    let again = replay(scene(name), &found.schedule).expect_err("it replays");
    assert_eq!(again, found.violation);
    (found.violation.0.into(), found.schedule.len())
}

#[test]
fn a_server_that_knows_no_duplicates_is_found_out() {
    let (what, steps) = found("no-dedup");
    assert!(what.contains("ran") && steps <= 12, "{what}, in {steps} steps");
}

#[test]
fn a_server_that_forgets_kept_replies_is_found_out() {
    let (what, steps) = found("forgetful");
    assert!(what.contains("ran") && steps <= 12, "{what}, in {steps} steps");
}

#[test]
fn a_client_that_uses_an_xid_twice_is_found_out() {
    let (what, steps) = found("reuse");
    assert!(what.contains("broke the protocol") && steps <= 9, "{what}, in {steps} steps");
}

#[test]
fn a_client_that_reads_its_older_connection_on_is_found_out() {
    let (what, _) = found("unread");
    assert!(what.contains("has NotExecuted(BadArguments), and ran"), "{what}");
}

#[test]
fn a_server_that_opens_what_was_to_be_resumed_is_found_out() {
    let (what, _) = found("resume-opens");
    assert!(what.contains("ran"), "{what}");
}

#[test]
fn c238_a_client_that_compares_no_signatures_is_found_out() {
    let (what, steps) = found("gate-open");
    assert!(what.contains("means something else") && steps <= 8, "{what}, in {steps} steps");
}

#[test]
fn c385_a_server_that_trusts_the_session_that_it_has_is_found_out() {
    let (what, steps) = found("shared-trusting");
    assert!(what.contains("and ran") && steps <= 30, "{what}, in {steps} steps");
}

#[test]
fn c385_a_server_that_writes_records_of_a_session_that_it_has_lost_is_found_out() {
    let (what, steps) = found("shared-unfenced");
    assert!(what.contains("ran twice") && steps <= 20, "{what}, in {steps} steps");
}

#[test]
fn c385_a_server_that_deletes_the_records_of_a_session_that_it_has_lost_is_found_out() {
    let (what, steps) = found("shared-deleting");
    assert!(
        what.contains("is unknown, and could be known") && steps <= 20,
        "{what}, in {steps} steps"
    );
}

#[test]
fn every_broken_world_has_its_test() {
    assert_eq!(BROKEN.len(), 9);
}

/// A `NotSeen` to an `Ask` from before a request was taken for the answer to one from after it, and a call that ran was
/// called not executed. Reduced: `a_not_seen_to_an_ask_from_before_…` in `core/tests/lossy`.
#[test]
fn a_call_that_was_asked_for_before_and_after_it_was_sent_again() {
    use Action::{Call, Cancel, ClientTick, CutClient, Dial, Down, LoseUp, Up};
    let schedule = [
        Call(0),
        Call(0),
        Dial(0, 0),
        Up(0),
        Down(0),
        CutClient(0),
        Dial(0, 0),
        LoseUp(0),
        Up(0),
        Up(1),
        Down(1),
        Up(1),
        Up(1),
        ClientTick(0),
        Up(1),
        Up(1),
        Down(1),
        Up(1),
        Cancel(0, 0),
        ClientTick(0),
        Down(1),
    ];
    assert_eq!(replay(scene("lossy cut"), &schedule), Ok(()));
}
