//! The `metrics` facade: C258.
#![allow(missing_docs)]

mod util;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use oncewire_observe::Metrics;

/// What was recorded, by names and labels.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, u64>>>);

struct Handle(Kept, String);

impl Handle {
    fn add(&self, by: u64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += by;
    }
}

impl CounterFn for Handle {
    fn increment(&self, value: u64) {
        self.add(value);
    }

    fn absolute(&self, _: u64) {}
}

impl HistogramFn for Handle {
    fn record(&self, value: f64) {
        assert!((0.0..60.0).contains(&value), "seconds");
        self.add(1);
    }
}

impl Kept {
    fn handle(&self, key: &Key) -> Arc<Handle> {
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        Arc::new(Handle(self.clone(), format!("{} {}", key.name(), labels.join(" "))))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.handle(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.handle(key))
    }
}

#[test]
fn c258_the_facades_recorder_gets_the_same() {
    let kept = Kept::default();
    assert!(metrics::set_global_recorder(kept.clone()).is_ok());
    smol::block_on(util::calls(Arc::new(Metrics::new())));
    let kept = kept.0.lock().unwrap().clone();
    let expected = [
        ("oncewire.client.connections.opened ", 1),
        ("oncewire.server.calls.refused _OTHER UNKNOWN_METHOD", 1),
        ("oncewire.server.panics ", 1),
        ("oncewire.server.sessions.opened ", 1),
        ("rpc.client.call.duration oncewire sum/add OK", 2),
        ("rpc.server.call.duration oncewire sum/add OK", 2),
        ("rpc.server.call.duration oncewire sum/panic ABORTED", 1),
    ];
    for (name, number) in expected {
        assert_eq!(kept.get(name), Some(&number), "{name}: {kept:#?}");
    }
}
