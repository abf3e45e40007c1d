//! The program as a person runs it: C279.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};

use serde_json::Value;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trace")).args(args).output().unwrap()
}

#[test]
fn c279_one_trace_joins_three_processes() {
    let file = std::env::temp_dir().join(format!("oncewire-trace-test-{}", std::process::id()));
    let output = run(&[file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.starts_with("H-E-L-L-O W-O-R-L-D\n"), "{text}");

    let mut traces = BTreeSet::new();
    let mut processes = BTreeMap::new();
    // By id: service, kind, name, parent, begin and end.
    let mut spans = BTreeMap::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let resource = &line["resourceSpans"][0];
        let of = |name: &str| {
            let all = resource["resource"]["attributes"].as_array().unwrap();
            all.iter().find(|pair| pair["key"] == name).unwrap()["value"].clone()
        };
        let service = of("service.name")["stringValue"].as_str().unwrap().to_owned();
        processes.insert(service.clone(), of("process.pid")["intValue"].to_string());
        let span = &resource["scopeSpans"][0]["spans"][0];
        traces.insert(span["traceId"].to_string());
        let number = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        let (begin, end) = (number("startTimeUnixNano"), number("endTimeUnixNano"));
        let of_span = |name: &str| span[name].as_str().map(str::to_owned);
        let name = (service, span["kind"].as_u64().unwrap(), of_span("name").unwrap());
        spans.insert(of_span("spanId").unwrap(), (name, of_span("parentSpanId"), begin, end));
        assert_eq!(span["status"], serde_json::json!({}), "nothing failed");
    }
    assert_eq!(traces.len(), 1);
    assert_eq!(processes.keys().collect::<Vec<_>>(), ["back", "front", "middle"]);
    assert_eq!(processes.values().collect::<BTreeSet<_>>().len(), 3, "three processes");
    let mut edges = Vec::new();
    for ((service, kind, name), parent, begin, end) in spans.values() {
        let above = parent.as_ref().map(|parent| &spans[parent]);
        if let Some((_, _, above_begin, above_end)) = above {
            // One machine has one clock.
            assert!(above_begin <= begin && end <= above_end, "{name} outlasts its parent");
        }
        let above = above.map(|((service, kind, _), ..)| format!("{service} {kind}"));
        edges.push(format!("{service} {kind} {name} below {}", above.unwrap_or_default()));
    }
    edges.sort();
    let expected = [
        "back 2 back/spell below middle 3",
        "back 2 back/spell below middle 3",
        "front 1 visit below ",
        "front 3 middle/greet below front 1",
        "middle 2 middle/greet below front 3",
        "middle 3 back/spell below middle 2",
        "middle 3 back/spell below middle 2",
    ];
    assert_eq!(edges, expected);
}

#[test]
fn bad_input_gets_one_line_and_exit_status_2() {
    for args in [&["--nonsense"][..], &["a", "b"], &["/nowhere/at/all/spans.json"]] {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(run(&["--help"]).status.success());
}
