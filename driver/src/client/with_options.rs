//! Options, set one by one: a struct that may get more fields cannot be written by hand outside its crate.

use std::time::Duration;

use oncewire_core::{OnDialFailure, ServerId, ServiceName, Token};

use super::options::ClientOptions;

macro_rules! with {
    ($($(#[$doc:meta])* $name:ident: $field:ident = $type:ty;)*) => {
        /// Each sets one of the fields.
        ///
        /// ```
        /// use std::time::Duration;
        /// use oncewire_driver::ClientOptions;
        ///
        /// let options = ClientOptions::default().with_timeout(Duration::from_secs(2)).with_fail_fast(true);
        /// assert_eq!(options.timeout, Duration::from_secs(2));
        /// ```
        impl ClientOptions {
            $(
                $(#[$doc])*
                pub fn $name(mut self, $field: $type) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
        }
    };
}

with! {
    /// The service that must answer: [`service`](ClientOptions::service).
    with_service: service = ServiceName;
    /// The server that must answer: [`server`](ClientOptions::server).
    with_server: server = ServerId;
    /// Who this client is: [`token`](ClientOptions::token).
    with_token: token = Token;
    /// Time until a call gives up: [`timeout`](ClientOptions::timeout).
    with_timeout: timeout = Duration;
    /// Whether calls end when the connection breaks: [`fail_fast`](ClientOptions::fail_fast).
    with_fail_fast: fail_fast = bool;
    /// What a failed dial does to calls that have not left: [`on_dial_failure`](ClientOptions::on_dial_failure).
    with_on_dial_failure: on_dial_failure = OnDialFailure;
    /// Calls unsettled at once: [`slots`](ClientOptions::slots).
    with_slots: slots = u32;
    /// Calls pending at once: [`calls_max`](ClientOptions::calls_max).
    with_calls_max: calls_max = usize;
    /// Bytes of requests pending at once: [`pending_bytes_max`](ClientOptions::pending_bytes_max).
    with_pending_bytes_max: pending_bytes_max = usize;
    /// Bytes of the longest request: [`request_len_max`](ClientOptions::request_len_max).
    with_request_len_max: request_len_max = u32;
    /// Bytes of the longest reply: [`reply_len_max`](ClientOptions::reply_len_max).
    with_reply_len_max: reply_len_max = u32;
    /// How long dialling may take: [`connect_timeout`](ClientOptions::connect_timeout).
    with_connect_timeout: connect_timeout = Duration;
    /// How long the server may be silent: [`keepalive`](ClientOptions::keepalive).
    with_keepalive: keepalive = Duration;
    /// The first pause between attempts to connect: [`backoff_min`](ClientOptions::backoff_min).
    with_backoff_min: backoff_min = Duration;
    /// The longest pause between attempts: [`backoff_max`](ClientOptions::backoff_max).
    with_backoff_max: backoff_max = Duration;
    /// How long a close waits: [`close_timeout`](ClientOptions::close_timeout).
    with_close_timeout: close_timeout = Duration;
}
