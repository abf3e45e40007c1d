//! The program measures something, and leaves nothing behind.

use std::process::Command;

#[test]
fn a_short_run_prints_a_row() {
    let arguments =
        "--workload W1 --subjects oncewire --transport unix --cores 1 --rounds 1 --sample-ms 50";
    let output = Command::new(env!("CARGO_BIN_EXE_oncewire-bench"))
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row = text.lines().find(|line| line.trim_start().starts_with("oncewire"));
    assert!(row.is_some(), "no row in {text}");
}

#[cfg(feature = "peers")]
#[test]
fn every_peer_carries_large_bodies_and_waiting_handlers_over_each_stream() {
    let peers = ["tarpc", "tonic", "capnp-rpc", "postcard-rpc"];
    let output = Command::new(env!("CARGO_BIN_EXE_oncewire-bench"))
        .args(
            "--workload W4,W8 --peers tarpc,tonic,capnp,postcard-rpc --cores 1 --rounds 1"
                .split(' '),
        )
        .args("--subjects tarpc,tonic,capnp,postcard-rpc --sample-ms 50".split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    for peer in peers {
        for transport in ["tcp", "unix"] {
            let is_row = |line: &&str| line.split_whitespace().take(2).eq([peer, transport]);
            assert_eq!(text.lines().filter(is_row).count(), 2, "{peer} over {transport} in {text}");
        }
    }
}

#[test]
fn the_report_names_the_ledger_beside_the_disk() {
    let output = Command::new(env!("CARGO_BIN_EXE_oncewire-bench"))
        .args("--workload L1 --rounds 1 --sample-ms 30".split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["fdatasync", "redb commit", "transactional", "recorded", "by hand"] {
        let row = text.lines().find(|line| line.contains(name));
        assert!(row.is_some(), "no row of {name} in {text}");
    }
}

#[test]
fn a_client_is_measured_alone_and_beside_each_neighbour() {
    let output = Command::new(env!("CARGO_BIN_EXE_oncewire-bench"))
        .args("--workload W9 --transport unix --cores 1 --rounds 1 --sample-ms 30".split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (neighbour, has_goal) in [
        ("alone", false),
        ("pings", true),
        ("asks", true),
        ("calls of 10 µs", true),
        ("bodies of 1 MiB", true),
        ("1,000 calls of 10 µs", true),
    ] {
        let is_row = |line: &&str| line.trim_start().starts_with(neighbour);
        let row = text.lines().find(is_row).unwrap_or_else(|| panic!("no {neighbour} in {text}"));
        assert_eq!(row.contains("p99 µs ≤"), has_goal, "{row}");
    }
}
