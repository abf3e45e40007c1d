//! Seeds that once failed.
//!
//! What a seed does changes with the world; each mechanism has its own test beside the code it was found in, named here.
#![allow(missing_docs)]

use oncewire_fuzz::world::profile::Profile;
use oncewire_fuzz::world::{Broken, Trace, run};

#[track_caller]
fn passes(seed: u64, calls: u64) {
    assert!(!Profile::of(seed, Broken::No).shares, "seed {seed} had one ledger a server");
    let result = run(seed, calls, Broken::No, &mut Trace::default());
    assert!(result.is_ok(), "seed {seed} with {calls} calls: {result:?}");
}

/// On a lossy link, a client that said `Goodbye` again after a silence sent a request again first, and got
/// `AfterGoodbye`. Reduced: `no_request_is_sent_again_because_goodbye_is_said_again` in `core/tests/lossy`.
#[test]
fn a_goodbye_said_again_with_a_resend_due() {
    passes(553, 4_000);
}

/// The world's mistake: the same bytes of half a frame, given to a client again and again, are a sign of life each time.
#[test]
fn half_a_frame_on_a_silent_link() {
    passes(493, 4_000);
}

/// The world's mistake: a process knows nothing of the times that the one before it has seen.
#[test]
fn a_lease_of_a_server_that_was_restarted_after_its_clock_went_back() {
    passes(115, 400);
}

/// The world's mistake: a process that took nothing back from its ledger was not given the time.
#[test]
fn a_lease_after_a_restart_with_an_empty_ledger() {
    passes(136_141, 2_000);
}

/// The world's mistake: to a server whose clock went back, a lease goes on from the newest time seen.
#[test]
fn a_lease_that_ends_after_the_clock_went_back() {
    passes(10_436, 3_000);
}

/// The world's mistake: the client on the damaged link took a session that was never opened.
#[test]
fn a_session_named_by_a_damaged_welcome() {
    passes(48_988, 2_000);
}

/// The world's mistake: a server that drains closes a silent link at once, and its client, whose `Goodbye` was lost, waits for the end of
/// its keepalive.
#[test]
fn a_client_that_waits_on_a_silent_link_when_all_servers_are_idle() {
    passes(322_205, 2_000);
}

/// The world's mistake: a journal that was put back gives the number of an idempotent call again, of which a restarted server has no
/// record. The new call runs, once.
#[test]
fn a_number_that_an_old_journal_gives_again() {
    passes(51_603, 2_000);
}

/// The world's mistake: what a server had of a session before that went to another server and came back was taken for a part of what
/// came back, once that had ended as well.
#[test]
fn a_call_from_before_its_session_left_and_came_back() {
    let seed = 17_813;
    assert!(Profile::of(seed, Broken::No).shares, "two servers have one ledger");
    let result = run(seed, 2_000, Broken::No, &mut Trace::default());
    assert!(result.is_ok(), "{result:?}");
}
