//! Spans of `tracing` that have the ids of a trace across processes: C363.
#![allow(missing_docs)]

mod util;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use oncewire_driver::observe::Observer;
use oncewire_driver::{Client, ClientOptions, Method, Server};
use oncewire_observe::{FinishedSpan, SpanKind, Traces, Tracing};
use oncewire_pipe::memory;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const ADD: Method<u64, u64> = Method::new("sum/add");

/// A span's name and fields.
#[derive(Clone, Debug, Default)]
struct Seen(&'static str, BTreeMap<&'static str, String>);

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.1.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.1.insert(field.name(), value.to_owned());
    }
}

/// Keeps all spans; the number of one is its place.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Seen>>>);

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "oncewire"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut seen = Seen(span.metadata().name(), BTreeMap::new());
        span.record(&mut seen);
        let mut spans = self.0.lock().unwrap();
        spans.push(seen);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        values.record(&mut self.0.lock().unwrap()[span.into_u64() as usize - 1]);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Makes calls that both watch, in this order at each side.
fn call(traces: &Traces, tracing: &Arc<Tracing>, tracing_first: bool) {
    let (connector, acceptor) = memory::listener();
    let mut builder = Server::builder("sum").method(&ADD, |_, n: u64| async move { n + 1 });
    let mut options = ClientOptions::default();
    if tracing_first {
        (builder, options) =
            (builder.observe(tracing.clone()), options.with_observer(tracing.clone()));
    }
    (builder, options) = (traces.watch_server(builder), traces.watch_client(options));
    if !tracing_first {
        (builder, options) =
            (builder.observe(tracing.clone()), options.with_observer(tracing.clone()));
    }
    smol::block_on(async {
        let server = builder.build().unwrap();
        let serving = server.clone();
        smol::spawn(async move { serving.serve(acceptor).await }).detach();
        let client = Client::new(connector, options);
        for n in 0..3 {
            assert_eq!(client.call(&ADD, &n).await.ok(), Ok(n + 1));
        }
        client.close().await;
        server.drain(std::time::Duration::from_secs(10)).await;
    });
}

#[test]
fn c363_spans_of_tracing_have_the_ids_of_the_trace_that_goes_through_the_processes() {
    let kept = Kept::default();
    let tracing = Arc::new(Tracing::new());
    assert!(!tracing.is_heard(), "there is no subscriber");
    tracing::subscriber::set_global_default(kept.clone()).unwrap();
    assert!(tracing.is_heard());
    // Without traces there are none.
    smol::block_on(util::calls(tracing));
    assert!(kept.0.lock().unwrap().iter().all(|Seen(_, fields)| !fields.contains_key("trace_id")));
    for tracing_first in [false, true] {
        kept.0.lock().unwrap().clear();
        let finished = Arc::<Mutex<Vec<FinishedSpan>>>::default();
        let sink = finished.clone();
        let traces =
            Traces::new(move |span: &FinishedSpan| sink.lock().unwrap().push(span.clone()));
        call(&traces, &Arc::new(Tracing::joined(&traces)), tracing_first);
        let ids = |kind, name| {
            let spans = finished.lock().unwrap();
            let of_kind = spans.iter().filter(|span| span.kind == kind);
            let mut exported: Vec<_> = of_kind
                .map(|span| [span.context.trace().to_string(), span.context.span().to_string()])
                .collect();
            let spans = kept.0.lock().unwrap();
            let mut logged: Vec<_> = spans
                .iter()
                .filter(|Seen(of, _)| *of == name)
                .map(|Seen(_, fields)| {
                    assert_eq!(fields["trace_flags"], "01");
                    ["trace_id", "span_id"].map(|id| fields[id].clone())
                })
                .collect();
            exported.sort();
            logged.sort();
            assert_eq!(exported, logged, "{name}, tracing first: {tracing_first}");
            assert_eq!(logged.len(), 3);
        };
        ids(SpanKind::Client, "rpc.client.call");
        ids(SpanKind::Server, "rpc.server.call");
    }
}
