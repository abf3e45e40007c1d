//! The bank as a newcomer runs it: the built program, over every transport.
#![allow(missing_docs)]

mod util;

use std::process::Stdio;

use serde_json::Value;
use util::*;

fn socket(name: &str) -> String {
    let name = format!("oncewire-bank-test-{}-{name}.sock", std::process::id());
    format!("unix:{}", std::env::temp_dir().join(name).display())
}

/// Removes what a unix server leaves behind on purpose.
fn remove_lock(address: &str) {
    let path = address.strip_prefix("unix:").unwrap();
    assert!(!std::path::Path::new(path).exists(), "the server left its socket behind");
    let _ = std::fs::remove_file(format!("{path}.lock"));
}

#[test]
fn a_client_over_tcp_is_exact_and_reports_what_it_did() {
    let server = Listening::start(&["serve", "tcp:127.0.0.1:0"]);
    assert!(!server.address.ends_with(":0"), "{}", server.line);
    let id = server.line.trim_end().rsplit_once("server ").unwrap().1;
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let report = exact(&server.address, &["--seed", "1"]);
    for key in ["calls", "replied", "not_executed", "unknown", "resends", "reconnects"] {
        assert!(report[key].is_u64(), "{key} of {report}");
    }
    assert_eq!(report["calls"], 300);
    assert_eq!(report["executed_twice"], 0);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_client_over_a_unix_socket_is_exact_and_the_server_removes_its_socket() {
    let address = socket("plain");
    let server = Listening::start(&["serve", &address]);
    assert_eq!(server.address, address);
    exact(&address, &[]);
    assert_eq!(server.terminate(), Some(0));
    remove_lock(&address);
}

#[test]
fn a_client_over_a_pipe_is_exact() {
    exact(&format!("pipe:'{BANK}' serve pipe:-"), &[]);
}

#[test]
fn a_client_stays_exact_while_its_connections_are_cut() {
    let [server, faults] = ["server", "faults"].map(socket);
    let server = Listening::start(&["serve", &server]);
    for seed in ["1", "2", "3"] {
        let arguments = ["faults", &faults, &server.address, "--seed", seed, "--frames", "40"];
        let injector = Listening::start(&arguments);
        let over_unix = exact(&faults, &["--seed", seed]);
        assert!(over_unix["reconnects"].as_u64() > Some(0), "{over_unix}");
        let relay = format!("pipe:'{BANK}' relay '{faults}'");
        exact(&relay, &["--seed", seed]);
        assert_eq!(injector.terminate(), Some(0));
    }
    let address = server.address.clone();
    assert_eq!(server.terminate(), Some(0));
    [address, faults].iter().for_each(|address| remove_lock(address));
}

#[test]
fn plain_retries_over_the_same_faults_are_not_exact() {
    let server = Listening::start(&["serve", "tcp:127.0.0.1:0"]);
    let arguments = ["faults", "tcp:127.0.0.1:0", &server.address, "--seed", "4", "--frames", "40"];
    let injector = Listening::start(&arguments);
    let arguments = ["client", &injector.address, "--at-least-once", "--json", "--seed", "4"];
    let output = run(&arguments);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report["executed_twice"].as_u64() > Some(0), "{report}");
    assert_eq!(report["exact"], false);
}

#[test]
fn a_server_that_gets_sigterm_drains_while_a_client_calls() {
    let server = Listening::start(&["serve", "tcp:127.0.0.1:0"]);
    let name = format!("oncewire-bank-test-{}.journal", std::process::id());
    let journal = std::env::temp_dir().join(name);
    let mut client = bank(&["client", &server.address, "--calls", "10000000", "--json"]);
    client.args(["--call-timeout", "2", "--journal"]).arg(&journal);
    let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It is at work when it has written something down.
    while !std::fs::metadata(&journal).is_ok_and(|data| data.len() > 10_000) {
        std::thread::yield_now();
    }
    assert_eq!(server.terminate(), Some(0));
    let output = client.wait_with_output().unwrap();
    let _ = std::fs::remove_file(journal);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Every call had an outcome that is certain; only the balance could not be asked for any more.
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["unknown"], 0, "{report}");
    assert!(report["not_executed"].as_u64() > Some(0), "{report}");
    assert!(report["faults"].to_string().contains("could not be asked"), "{report}");
}

#[test]
fn what_cannot_be_tried_ends_with_2_and_a_reason() {
    let taken = Listening::start(&["serve", "tcp:127.0.0.1:0"]);
    let absent = socket("absent");
    let (not_there, not_here) = (["client", &absent], ["serve", &taken.address]);
    let cases: [(&[&str], &str); 8] = [
        (&["client", "carrier-pigeon:home"], "tcp:HOST:PORT, unix:PATH, pipe:COMMAND or etcd:"),
        (&["serve", "tcp:127.0.0.1"], "HOST:PORT"),
        (&["client", "tcp:127.0.0.1:1"], "refused"),
        (&["crash-test", "--mutant=no-fence"], "--cluster"),
        (&["crash-test", "--cluster", "--mutant=hasty-ledger"], "no mutant of a cluster"),
        (
            &["serve", "tcp:127.0.0.1:0", "--ledger", "file", "--take-over"],
            "only a ledger in PostgreSQL is taken over",
        ),
        (&not_there, "No such file"),
        (&not_here, "in use"),
    ];
    for (arguments, reason) in cases {
        let output = run(arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {words}");
        assert!(words.contains(reason), "{arguments:?}: {words}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// That it was not built in is said in one line, which names the feature.
#[cfg(not(all(feature = "postgres", feature = "etcd")))]
fn needs_feature(feature: &str, ledger: &str, crash_test: &[&str]) {
    let serve = ["serve", "tcp:127.0.0.1:0", "--ledger", ledger];
    for arguments in [&serve[..], crash_test] {
        let output = run(arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {words}");
        assert!(words.contains(&format!("--features {feature}")), "{arguments:?}: {words}");
    }
}

#[test]
#[cfg(not(feature = "postgres"))]
fn a_bank_that_was_built_without_postgresql_says_how_to_build_it_with() {
    needs_feature("postgres", "postgres:dbname=bank", &["crash-test", "--cluster"]);
}

#[test]
#[cfg(not(feature = "etcd"))]
fn a_bank_that_was_built_without_etcd_says_how_to_build_it_with() {
    needs_feature("etcd", "etcd:127.0.0.1:2379", &["crash-test", "--cluster", "etcd"]);
    needs_feature("etcd", "etcd:127.0.0.1:2379", &["client", "etcd:127.0.0.1:2379/bank"]);
}

/// Left out, and said so, where there is no PostgreSQL.
#[test]
#[cfg(feature = "postgres")]
fn in_a_cluster_balances_are_exact_and_without_the_fence_they_are_not() {
    let (code, text) = crash_test("8", &["--cluster"]);
    if text.contains("initdb was not found") {
        return eprintln!("skipped: {text}");
    }
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("executed more than once: 0"), "{text}");
    let (code, text) = crash_test("8", &["--cluster", "--shared"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("executed more than once: 0"), "{text}");
    finds_no_fence(&["--cluster"]);
}

#[test]
fn c188_the_second_bank_at_an_address_names_the_first() {
    for address in [socket("taken"), "tcp:127.0.0.1:0".to_owned()] {
        let first = Listening::start(&["serve", &address]);
        let mut second = run(&["serve", &first.address]);
        // It asks the first one who that is, which on a busy machine may need more than the second that it has.
        for _ in 0..60 {
            if !String::from_utf8_lossy(&second.stderr).contains("does not answer within") {
                break;
            }
            second = run(&["serve", &first.address]);
        }
        let words = String::from_utf8_lossy(&second.stderr);
        assert_eq!(second.status.code(), Some(2), "{words}");
        assert_eq!(words.lines().count(), 1, "{words}");
        assert!(
            words.contains("an Oncewire server has it: service \"bank\", instance "),
            "{words}"
        );
    }
}

#[test]
fn with_a_ledger_balances_and_outcomes_survive_kills_of_server_and_clients() {
    for arguments in [&[][..], &["--transactional"]] {
        let (code, text) = crash_test("8", arguments);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("executed more than once: 0"), "{text}");
    }
}

#[test]
fn the_crash_test_notices_a_ledger_that_writes_after_replying() {
    for arguments in [&["--mutant=hasty-ledger"][..], &["--mutant=hasty-ledger", "--transactional"]]
    {
        // A kill shows it only if a call had run and its client had not heard: now and then, eight show nothing.
        let (code, text) = crash_test("40", arguments);
        assert_eq!(code, Some(1), "{text}");
    }
}

#[test]
fn a_second_bank_on_the_same_ledger_names_the_first_and_ends() {
    let name = format!("oncewire-bank-test-{}.ledger", std::process::id());
    let path = std::env::temp_dir().join(name);
    let ledger = path.to_str().unwrap();
    let first = Listening::start(&["serve", "tcp:127.0.0.1:0", "--ledger", ledger]);
    let second = run(&["serve", "tcp:127.0.0.1:0", "--ledger", ledger]);
    assert_eq!(second.status.code(), Some(2));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains(&format!("process {} uses it", first.child.id())), "{text}");
    assert_eq!(first.terminate(), Some(0));
    for ending in ["", ".lock", ".books"] {
        std::fs::remove_file(format!("{ledger}{ending}")).unwrap();
    }
}

/// The last thing that happens to this cluster is that a server is started, which is asked to end at once.
#[test]
#[cfg(feature = "postgres")]
fn a_server_that_has_just_been_started_ends_when_it_can_be_asked() {
    let (code, text) = crash_test_of("9318350779303039335", "5", &["--cluster"]);
    if text.contains("initdb was not found") {
        return eprintln!("skipped: {text}");
    }
    assert_eq!(code, Some(0), "{text}");
}
