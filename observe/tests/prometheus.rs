//! The example that serves Prometheus text, scraped as Prometheus would: C364.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

#[path = "../examples/prometheus/page.rs"]
mod page;

/// Samples by their names and labels, after all that the text format asks of them was looked at.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.split(' ');
            assert_eq!(words.next(), Some("TYPE"), "{line}");
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let inner = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap();
            for label in inner.split("\",") {
                let (key, value) = label.split_once("=\"").unwrap();
                assert!(
                    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                    "{line}"
                );
                assert!(!value.trim_end_matches('"').contains(['"', '\n']), "{line}");
            }
        }
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = types.contains_key(name)
            || base.is_some_and(|base| types.get(base).is_some_and(|kind| kind == "histogram"));
        assert!(known, "no type of {line}");
        assert!(
            samples.insert(series.to_owned(), value.parse().unwrap()).is_none(),
            "twice: {line}"
        );
    }
    for (series, count) in &samples {
        let Some((name, labels)) = series.split_once("_count{") else { continue };
        // Buckets are cumulative, and the last one is all.
        let of = format!("{name}_bucket{{{}", labels.trim_end_matches('}'));
        let mut buckets: Vec<(f64, f64)> = samples
            .iter()
            .filter_map(|(series, value)| {
                let bound =
                    series.strip_prefix(&of)?.strip_prefix(",le=\"")?.trim_end_matches("\"}");
                Some((bound.replace("+Inf", "inf").parse().unwrap(), *value))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.len() > 2 && buckets.is_sorted_by(|a, b| a.1 <= b.1), "{series}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{series}");
    }
    samples
}

/// What the page has.
async fn scrape(page: SocketAddr) -> String {
    let mut stream = TcpStream::connect(page).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    body.to_owned()
}

#[test]
fn c364_the_example_serves_counters_that_a_scraper_reads() {
    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scraped = listener.local_addr().unwrap();
        let (toy, pages) = page::serve(listener).await.unwrap();
        smol::spawn(pages).detach();
        for calls in [10.0, 20.0] {
            page::call(&toy).await.unwrap();
            let labels = "{rpc_system_name=\"oncewire\",rpc_method=\"toy/add_one\",\
                          rpc_response_status_code=\"OK\"}";
            let count = format!("rpc_server_call_duration_seconds_count{labels}");
            // Callers may know of an end before observers do.
            let samples = loop {
                let samples = parse(&scrape(scraped).await);
                match samples.get(&count) {
                    Some(counted) if *counted >= calls => break samples,
                    _ => smol::future::yield_now().await,
                }
            };
            assert_eq!(samples[&count], calls);
            assert!(samples[&count.replace("_count", "_sum")] > 0.0);
        }
    });
}
