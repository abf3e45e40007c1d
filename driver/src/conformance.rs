//! The cases that every transport must show, as tests: feature `conformance`.
//!
//! A transport says in a [`Fixture`] how to listen at a fresh place and how to dial it, and calls
//! [`conformance_tests!`](crate::conformance_tests) in one of its tests: that makes a `#[test]` of each case, under its
//! own name. Names that begin with `c` and a number are cases of the project's list of situations in which systems of
//! this kind have gone wrong; the others are cases of bad input and of futures.
//!
//! Between client and server are the suite's own connector, which breaks, holds back or swallows what passes at a
//! frame of the case's choice, and peers that speak frames by hand. Time is advanced by hand: no case sleeps. Every wait
//! has a watchdog, which fails the case with a message that says what it waited for.
//!
//! ```
//! use oncewire_driver::conformance::{Fixture, Endpoint};
//! use oncewire_driver::{Accept, BoxFuture, BoxStream, Connect, Subject};
//! use smol::net::unix::UnixStream;
//! use std::io;
//!
//! struct Dialler(smol::channel::Sender<UnixStream>);
//! struct Listener(smol::channel::Receiver<UnixStream>);
//!
//! impl Connect for Dialler {
//!     fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
//!         Box::pin(async {
//!             let (ours, theirs) = UnixStream::pair()?;
//!             self.0.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
//!             Ok(Box::new(ours) as BoxStream)
//!         })
//!     }
//!     fn address(&self) -> String {
//!         "a socket pair".to_owned()
//!     }
//! }
//!
//! impl Accept for Listener {
//!     fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
//!         Box::pin(async {
//!             let stream = self.0.recv().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
//!             Ok((Box::new(stream) as BoxStream, Subject::Anonymous))
//!         })
//!     }
//!     fn address(&self) -> String {
//!         "a socket pair".to_owned()
//!     }
//! }
//!
//! struct SocketPair;
//!
//! impl Fixture for SocketPair {
//!     fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
//!         let (sender, receiver) = smol::channel::unbounded();
//!         Box::pin(async { Ok(Endpoint::new(Dialler(sender), Listener(receiver))) })
//!     }
//! }
//!
//! oncewire_driver::conformance_tests!(SocketPair);
//! # fn main() {}
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `clock.rs` | time that is advanced by hand |
//! | `faulty_link.rs`, `half_link.rs` | the way between client and server, and what goes wrong on it |
//! | `raw_peer.rs` | peers that speak frames by hand |
//! | `service.rs` | what the servers offer |
//! | `world.rs` | what a case works with |
//! | the others | the cases |

// The cases' names are sentences; docs/CASES.md says what they show.
#[allow(missing_docs)]
#[doc(hidden)]
pub mod bad_input;
mod clock;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod connections;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod duplicates;
mod faulty_link;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod futures;
mod half_link;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod large;
mod raw_peer;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod restarts;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod servers;
mod service;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod sessions;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod streams;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod time;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod tokens;
#[allow(missing_docs)]
#[doc(hidden)]
pub mod uploads;
mod world;

use std::fmt::Debug;
use std::future::{Future, IntoFuture};
use std::io;
use std::sync::Arc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};

use crate::client::Outcome;
use crate::transport::{Accept, BoxFuture, BoxStream, Connect};
use faulty_link::Direction;
use raw_peer::kind;
pub use world::World;

/// What a transport gives the suite.
pub trait Fixture: Send + Sync + 'static {
    /// A fresh place to listen, and how to dial it. Several can exist at once.
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>>;
}

/// A place to listen, and how to dial it.
pub struct Endpoint {
    connector: Box<dyn Connect>,
    acceptor: Box<dyn Accept>,
}

impl Endpoint {
    /// `connector` dials `acceptor`.
    pub fn new(connector: impl Connect, acceptor: impl Accept) -> Endpoint {
        Endpoint { connector: Box::new(connector), acceptor: Box::new(acceptor) }
    }
}

impl Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.acceptor.address())
            .finish_non_exhaustive()
    }
}

/// Runs one case over a transport: what [`conformance_tests!`](crate::conformance_tests) makes tests of.
///
/// # Panics
/// If the case fails.
pub fn run<Fut: Future<Output = ()>>(
    name: &'static str,
    fixture: impl Fixture,
    case: impl FnOnce(World) -> Fut,
) {
    world::run(name, Arc::new(fixture), case);
}

/// Writes `len` bytes, less what does not fill a block of 50,000, and reads as many from the other end at the same time; then
/// both directions must end. For transports' own tests of their streams; with an echo at the other end, one side is enough.
///
/// # Panics
/// If other bytes come, or another number of them.
pub async fn exchange(stream: BoxStream, len: usize) {
    let (mut reader, mut writer) = futures_lite::io::split(stream);
    // No power of two, so that blocks do not fall together with buffers.
    let block: Vec<u8> = (0..50_000u32).map(|at| (at % 251) as u8).collect();
    let write = async {
        for _ in 0..len / block.len() {
            writer.write_all(&block).await.expect("the stream takes bytes");
        }
        writer.close().await.expect("the stream can be closed");
    };
    let read = async {
        let mut got = vec![0; block.len()];
        for _ in 0..len / block.len() {
            reader.read_exact(&mut got).await.expect("the bytes arrive");
            assert!(got == block, "other bytes arrive than were written");
        }
        assert_eq!(reader.read(&mut got).await.expect("the stream ends"), 0, "too many bytes");
    };
    futures_lite::future::zip(write, read).await;
}

/// Waits for a call that must be answered so.
async fn expect_reply<R, C>(world: &World, call: C, reply: R)
where
    R: Debug + PartialEq,
    C: IntoFuture<Output = Outcome<R>>,
{
    match world.within("a reply", call).await {
        Outcome::Reply(got) => assert_eq!(got, reply),
        other => panic!("the reply {reply:?} was expected, this came: {other:?}"),
    }
}

/// Makes a `#[test]` of each case, over the transport of this [`Fixture`](crate::conformance::Fixture): see
/// [`conformance`](crate::conformance). `conformance_tests!(but_large, fixture)` leaves out those that move many MiB, for
/// a transport that is slow on purpose. `conformance_tests!(one_by_one, fixture)` is no tests but an expression that runs
/// the cases whose names contain the program's argument, for programs without the test harness.
#[macro_export]
macro_rules! conformance_tests {
    (but_large, $fixture:expr) => {
        $crate::conformance_tests! { @list but_large $fixture }
    };
    (one_by_one, $fixture:expr) => {
        $crate::conformance_tests! { @list one_by_one $fixture }
    };
    ($fixture:expr) => {
        $crate::conformance_tests! { @list tests $fixture }
    };
    (@list $which:ident $fixture:expr) => {
        $crate::conformance_tests! { @$which $fixture =>
            large: [
                c25_a_refused_request_is_refused_again_and_never_executed,
                c27_at_the_memory_limit_new_calls_are_refused_and_nothing_kept_is_lost,
                c39_a_huge_last_reply_is_forgotten_by_the_server_at_once,
                c66_an_acknowledgement_by_bits_frees_what_others_left_beside_a_slow_call,
                c40_two_peers_that_write_64_mib_before_they_read_do_not_wait_for_each_other,
            ]
            sessions: [
                c01_a_request_before_the_handshake_is_not_executed_and_leaves_no_state,
                c01_a_request_for_a_session_never_opened_is_not_executed,
                c02_a_lost_welcome_leaves_an_empty_session_that_ends,
                c02_no_resume_lands_in_the_empty_session_of_another_server,
                c03_a_client_that_starts_again_has_a_new_session_and_the_old_one_ends,
                c04_another_principal_gets_nothing_of_a_session_whose_id_it_knows,
                c05_calls_in_doubt_are_never_sent_again_after_their_session_expired,
                c06_calls_that_never_left_run_in_the_new_session,
                c07_a_session_is_not_dropped_while_one_of_its_calls_runs,
                c07_a_session_whose_lease_is_over_ends_when_its_last_call_has_finished,
                c08_a_full_session_table_refuses_newcomers_and_evicts_no_session,
                c08_a_full_share_of_a_principal_refuses_only_that_principal,
                c09_a_clock_that_jumps_forward_ends_no_session_whose_connection_lives,
                c10_another_service_than_demanded_ends_before_anything_runs,
                c10_another_server_than_demanded_ends_before_anything_runs,
                c68_short_lived_clients_leave_no_sessions_behind,
                c77_a_session_whose_welcome_was_read_late_is_still_there_for_the_resume,
                c118_a_client_that_is_refused_each_time_waits_before_it_dials_again,
            ]
            duplicates: [
                c11_a_duplicate_while_the_original_runs_is_answered_once,
                c12_a_duplicate_on_a_new_connection_is_answered_there,
                c13_a_duplicate_after_completion_gets_the_same_bytes_without_execution,
                c14_an_application_error_is_kept_and_sent_again,
                c15_a_delayed_copy_of_an_acknowledged_request_is_dropped,
                c16_a_late_first_copy_of_a_put_does_not_undo_the_next_put,
                c17_other_arguments_under_an_old_xid_end_the_session,
                c17_a_client_that_learns_of_a_false_retry_ends_its_calls_as_unknown,
                c18_a_retry_with_another_x_and_deadline_is_the_same_request,
                c19_a_new_xid_on_a_slot_whose_call_runs_changes_nothing,
                c19_an_x_at_a_running_xid_changes_nothing,
                c19_an_x_at_the_xid_that_carries_it_changes_nothing,
                c21_an_x_lower_than_before_is_ignored,
                c22_one_slow_call_lets_thousands_pass_by_and_memory_does_not_grow,
                c24_a_call_whose_caller_gave_up_frees_its_slot_once,
                c26_a_panic_ends_as_aborted_and_the_server_lives_on,
                c28_a_kept_reply_has_no_time_limit_while_its_session_lives,
                c29_control_frames_are_never_kept_and_use_no_xid,
                c30_a_handler_that_finishes_after_its_session_leaves_nothing_behind,
            ]
            connections: [
                c31_a_call_of_which_no_byte_left_was_not_executed,
                c32_a_request_cut_in_half_runs_once_after_the_resume,
                c32_a_fail_fast_request_cut_in_half_is_unknown_and_its_ticket_says_more,
                c33_a_reply_lost_with_its_connection_comes_after_the_resume,
                c33_a_fail_fast_call_whose_reply_is_lost_is_unknown_until_its_ticket_tells,
                c34_every_way_in_which_a_connection_breaks_ends_in_a_typed_outcome,
                c35_the_reply_of_an_abandoned_call_never_reaches_another_call,
                c36_a_call_that_times_out_on_a_healthy_connection_disturbs_no_other,
                c38_a_server_that_goes_silent_is_noticed_and_calls_go_on_after_the_resume,
                c38_a_client_that_goes_silent_is_noticed_and_its_session_waits,
                c41_bytes_that_come_one_by_one_change_nothing,
                c41_frames_that_come_all_in_one_read_change_nothing,
                c42_a_peer_that_never_says_hello_is_closed,
                c42_a_peer_that_never_ends_its_frame_is_closed_and_its_session_waits,
                c44_a_server_that_closes_answers_what_runs_and_refuses_what_is_on_its_way,
                c71_the_first_answer_settles_and_a_second_one_is_dropped,
                c71_a_reply_that_crosses_a_cancel_is_dropped,
                c75_what_is_kept_when_a_draining_servers_connection_breaks_comes_after_the_resume,
                c434_a_client_that_shuts_down_its_write_side_learns_what_it_missed_by_asking,
                c434_a_server_that_shuts_down_its_write_side_leaves_calls_in_doubt_and_is_asked,
                a_fail_fast_call_ends_with_its_connection_though_no_timer_fires,
                a_one_way_call_runs_once_though_its_connection_breaks,
                c37_a_broken_frame_closes_its_connection_and_the_session_survives,
            ]
            time: [
                c23_a_call_given_up_before_the_server_read_it_never_runs,
                c45_a_call_whose_deadline_has_passed_at_the_server_is_never_started,
                c61_a_call_refused_at_its_start_has_one_answer_and_never_runs,
                c46_the_ticket_of_a_call_that_runs_past_its_deadline_tells_the_reply,
                c46_a_ticket_outlives_the_connection_and_the_future_that_waits_for_it,
                c47_deadlines_are_right_though_the_clocks_differ_by_an_hour,
                c48_a_call_cancelled_before_it_left_never_leaves,
                c48_a_cancel_overtaken_by_completion_changes_nothing,
                c50_a_call_without_a_slot_waits_until_its_deadline_and_was_not_executed,
                c51_tickets_whose_replies_have_come_hold_no_slots_and_still_tell,
                c63_a_call_of_which_one_byte_left_is_unknown_at_its_deadline,
                c65_calls_that_expire_while_disconnected_leave_all_slots_free,
                c70_handlers_that_hang_end_as_aborted_and_other_sessions_never_notice,
            ]
            servers: [
                c327_calls_of_a_lost_server_are_made_at_another_but_for_those_in_doubt,
            ]
            restarts: [
                c52_after_a_restart_calls_in_doubt_are_unknown_and_new_ones_go_on,
                c59_an_idempotent_call_runs_again_at_the_server_that_replaces_its_own,
                c69_a_server_refuses_as_idempotent_what_it_does_not_declare_so,
                c69_an_idempotent_method_runs_at_most_once_for_a_request_that_asks_for_it,
                c73_a_refused_repetition_of_an_idempotent_call_that_may_have_run_is_unknown,
                c73_an_overloaded_server_cannot_make_a_repeated_call_not_executed,
                c74_an_abandoned_idempotent_call_is_asked_for_and_not_acknowledged,
            ]
            streams: [
                c200_a_stream_through_cuts_brings_every_byte_once,
                c201_a_resumable_stream_goes_on_at_another_server_and_no_other,
                c202_a_stream_that_nothing_reads_comes_to_rest,
                c203_a_dropped_stream_frees_what_it_held_at_both_ends,
                c204_what_ends_a_stream_is_reported_behind_the_items_before_it,
                c205_the_streams_of_a_session_end_with_it,
                c206_small_calls_pass_a_stream_without_end,
                c207_no_session_has_more_streams_than_it_may,
                c207_no_session_takes_the_last_place_from_others,
            ]
            uploads: [
                c208_an_upload_through_cuts_is_read_once_and_committed_once,
                c209_an_upload_that_nothing_reads_comes_to_rest_and_frees_all_when_it_is_dropped,
                c240_an_upload_that_its_server_has_lost_is_not_executed,
                c241_an_upload_is_resumed_where_it_is_and_its_old_writer_is_refused,
                c242_what_ends_an_upload_is_reported_truthfully,
                c243_a_commit_in_doubt_is_asked_for_and_never_made_twice,
                c244_an_upload_outlives_its_session_only_if_it_is_resumable,
                c245_no_session_has_more_uploads_than_it_may,
            ]
            tokens: [
                c182_a_client_without_a_known_token_is_refused_and_its_calls_end_at_once,
                c184_a_token_names_its_caller_whatever_the_transport_says,
            ]
            bad_input: [
                garbage_is_refused_as_another_protocol,
                a_plain_http_request_is_refused,
                an_unsupported_version_is_refused_with_the_supported_ones,
                a_range_of_versions_that_includes_ours_is_welcome,
                a_server_of_another_version_ends_the_client_with_a_reason,
                a_truncated_frame_at_the_end_of_a_connection_is_dropped,
                a_second_hello_closes_the_connection,
                a_request_after_goodbye_closes_the_connection,
                a_frame_longer_than_was_granted_closes_the_connection,
                an_unknown_method_is_a_typed_refusal_on_a_healthy_connection,
                arguments_that_cannot_be_decoded_are_a_typed_refusal,
                a_reply_of_another_type_was_executed_and_says_so,
                arguments_larger_than_was_granted_are_not_begun_and_the_error_names_both,
                arguments_larger_than_a_grant_that_came_later_are_not_executed,
                a_reply_larger_than_declared_was_executed_without_a_reply,
                a_reply_larger_than_the_client_takes_was_executed_without_a_reply,
                a_client_leaves_a_server_that_sends_garbage,
                a_client_leaves_a_server_that_answers_what_was_not_asked,
                a_client_leaves_a_server_that_has_not_seen_what_it_was_not_asked_for,
                a_client_leaves_a_server_that_welcomes_twice,
                a_client_leaves_a_server_that_announces_too_much,
                a_client_does_not_believe_a_senseless_welcome,
                a_resume_answered_with_another_session_is_a_lost_session,
            ]
            futures: [
                c49_others_get_their_replies_when_the_one_that_reads_is_dropped,
                c49_others_get_their_replies_when_the_one_that_reads_has_its_own,
                c49_the_next_reader_may_be_dropped_as_well_and_so_on,
                c49_others_get_their_replies_though_the_one_that_reads_is_not_polled,
                c49_a_task_that_leaves_the_reader_alone_gets_its_other_replies_at_once,
                c49_a_leader_that_is_not_polled_again_holds_up_no_other_call,
                c49_a_request_left_half_written_is_finished_by_others,
                c49_a_request_dropped_half_written_does_not_break_the_stream,
                a_deadline_shorter_than_every_other_timer_is_kept,
                a_reply_that_has_arrived_counts_though_its_deadline_has_passed_since,
                close_waits_for_what_is_pending_and_ends_the_session,
                close_is_done_as_soon_as_the_server_has_said_goodbye,
                close_does_not_wait_for_ever,
                the_drop_of_the_last_handle_ends_the_session_when_its_calls_are_settled,
                the_drop_of_an_idle_client_ends_its_session_at_once,
                a_dropped_ticket_cancels_its_call_at_the_server,
                a_client_whose_server_comes_later_waits_for_it,
                attempts_to_connect_come_less_and_less_often,
                c162_a_retry_makes_again_only_what_was_not_executed,
                calls_dropped_at_any_await_on_connections_that_break_run_at_most_once,
            ]
        }
    };
    (@but_large $fixture:expr => large: $large:tt $($rest:tt)*) => {
        $crate::conformance_tests! { @tests $fixture => $($rest)* }
    };
    (@one_by_one $fixture:expr => $($module:ident: [$($case:ident,)*])*) => {{
        let wanted = ::std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
        let is_wanted = |name: &str| wanted.as_ref().is_none_or(|part| name.contains(part.as_str()));
        $($(
            if is_wanted(stringify!($case)) {
                ::std::println!("{}", stringify!($case));
                let case = $crate::conformance::$module::$case;
                $crate::conformance::run(stringify!($case), $fixture, case);
            }
        )*)*
    }};
    (@tests $fixture:expr => $($module:ident: [$($case:ident,)*])*) => {
        $($(
            #[test]
            fn $case() {
                let case = $crate::conformance::$module::$case;
                $crate::conformance::run(stringify!($case), $fixture, case);
            }
        )*)*
    };
}
