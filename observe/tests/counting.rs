//! A plain struct of counters, and Prometheus text: C258.
#![allow(missing_docs)]

mod util;

use std::sync::Arc;

use oncewire_observe::Counting;

#[test]
fn c258_calls_of_both_sides_are_counted_by_method_and_outcome() {
    let counting = Arc::new(Counting::new());
    smol::block_on(util::calls(counting.clone()));
    let counters = counting.counters();
    let (server, client) = (&counters.server, &counters.client);
    for side in [server, client] {
        let add = &side.calls["sum/add"];
        assert_eq!((add.started, add.in_flight()), (2, 0));
        assert_eq!(add.ended["OK"].count(), 2);
        assert!(add.ended["OK"].seconds > 0.0);
        assert_eq!(side.calls["sum/panic"].ended["ABORTED"].count(), 1);
        assert_eq!((side.connections_opened, side.sessions_opened), (1, 1));
    }
    // At the server the name of a method that it does not have is not known.
    assert_eq!(server.calls["_OTHER"].refused["UNKNOWN_METHOD"], 1);
    assert_eq!(client.calls["sum/absent"].ended["UNKNOWN_METHOD"].count(), 1);
    assert_eq!((server.panics, server.sessions_ended), (1, 1));

    let text = counting.prometheus();
    let line = |wanted: &str| assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
    line("# TYPE rpc_server_call_duration_seconds histogram");
    line("oncewire_server_panics_total 1");
    line("oncewire_client_calls_in_flight{rpc_method=\"sum/add\"} 0");
    line(
        "rpc_client_call_duration_seconds_count{rpc_system_name=\"oncewire\",\
         rpc_method=\"sum/add\",rpc_response_status_code=\"OK\"} 2",
    );
    line(
        "rpc_client_call_duration_seconds_bucket{rpc_system_name=\"oncewire\",\
         rpc_method=\"sum/add\",rpc_response_status_code=\"OK\",le=\"+Inf\"} 2",
    );
    // As the format asks: each line is a comment, or a name, labels and a number.
    for line in text.lines().filter(|line| !line.starts_with("# TYPE ")) {
        let (name, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
    }
}
