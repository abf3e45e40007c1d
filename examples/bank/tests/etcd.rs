//! The bank with its ledger in etcd: left out, and said so, where there is no etcd.
#![cfg(feature = "etcd")]
#![allow(missing_docs)]

#[allow(dead_code, unreachable_pub, reason = "tests of the ledger itself use the rest")]
#[path = "../../../registry-etcd/tests/util/members.rs"]
mod members;
mod util;

use members::{Members, StartError};
use util::*;

/// `None`, and said so, where there is no etcd.
fn start(count: usize) -> Option<Members> {
    match Members::start(count) {
        Ok(members) => Some(members),
        Err(StartError::Absent) => {
            eprintln!("skipped: {}", StartError::Absent);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn c398_on_etcd_balances_are_exact_whatever_is_killed_and_without_the_fence_they_are_not() {
    let (code, text) = crash_test("6", &["--cluster=etcd"]);
    if text.contains("etcdctl were not found") {
        return eprintln!("skipped: {text}");
    }
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("executed more than once: 0"), "{text}");
    finds_no_fence(&["--cluster=etcd"]);
}

#[test]
fn c397_clients_find_the_bank_whose_turn_it_is_by_its_name() {
    let Some(etcd) = start(1) else { return };
    let place = format!("etcd:{}/savings", etcd.client(0));
    let serve = ["serve", "tcp:127.0.0.1:0", "--ledger", &place, "--lease", "2"];
    let first = Listening::start(&serve);
    let id = first.line.rsplit_once("server ").unwrap().1.to_owned();
    let accounts = exact(&place, &["--seed", "1"])["expected"].as_u64();
    assert!(accounts > Some(0));
    std::thread::scope(|scope| {
        // It waits until the first one has left.
        let second = scope.spawn(|| Listening::start(&serve));
        exact(&place, &["--seed", "2"]);
        assert_eq!(first.terminate(), Some(0));
        let second = second.join().unwrap();
        assert!(second.line.ends_with(&id), "another ledger: {}", second.line);
        exact(&place, &["--seed", "3"]);
        assert_eq!(second.terminate(), Some(0));
    });
    // As an operator sees it: each client has opened four accounts.
    let opened = etcd.ctl(&["get", "--print-value-only", "oncewire/ledgers/savings/d/accounts"]);
    assert_eq!(opened.unwrap().trim(), "12");
}

#[test]
fn what_cannot_be_a_ledger_in_etcd_is_said_in_one_line() {
    let serve = |ledger: &str, more: &[&str]| {
        let output = run(&[&["serve", "tcp:127.0.0.1:0", "--ledger", ledger], more].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let nowhere = "etcd:127.0.0.1:1";
    let long = format!("etcd:127.0.0.1:1/{}", "n".repeat(49));
    for (ledger, more, reason) in [
        (nowhere, &[][..], "etcd cannot be reached"),
        (&long, &[], "1 to 48"),
        ("etcd:127.0.0.1:1/a/b", &[], "no `/`"),
        ("etcd:127.0.0.1:1/", &[], "1 to 48"),
        ("etcd:", &[], "HOST:PORT"),
        ("etcd:127.0.0.1:1,", &[], "HOST:PORT"),
        ("etcd:127.0.0.1", &[], "HOST:PORT"),
        (nowhere, &["--shared"], "only a ledger in PostgreSQL"),
        (nowhere, &["--take-over"], "only a ledger in PostgreSQL"),
        (nowhere, &["--mutant=hasty-ledger"], "in a file"),
        (nowhere, &["--lease=0"], "1..=3600"),
        ("file", &["--lease=2"], "only a ledger in etcd"),
        ("file", &["--mutant=no-fence"], "PostgreSQL or etcd"),
    ] {
        let (code, words) = serve(ledger, more);
        assert_eq!(code, Some(2), "{ledger} {more:?}: {words}");
        assert!(words.contains(reason), "{ledger} {more:?}: {words}");
    }
    for (arguments, reason) in [
        (["crash-test", "--cluster=etcd", "--shared"], "one server at a time"),
        (["crash-test", "--cluster=consul", "--kills=1"], "postgres, etcd"),
        (["serve", "etcd:127.0.0.1:1/bank", "--grace=1"], "listens at tcp:HOST:PORT"),
        (["client", nowhere, "--calls=1"], "no bank at"),
    ] {
        let output = run(&arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {words}");
        assert!(words.contains(reason), "{arguments:?}: {words}");
    }
    let Some(etcd) = start(1) else { return };
    let place = format!("etcd:{}", etcd.client(0));
    let output = run(&["serve", "pipe:-", "--ledger", &place]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("no tcp:HOST:PORT"), "{words}");
}
