//! Spans of `tracing`: C259.
#![allow(missing_docs)]

mod util;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use oncewire_observe::Tracing;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A span, as a subscriber sees it.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    parent: Option<u64>,
    fields: BTreeMap<&'static str, String>,
    closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Keeps all spans; the number of one is its place.
#[derive(Clone, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<Seen>>>,
    events: Arc<Mutex<Vec<String>>>,
}

thread_local! {
    static CURRENT: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "oncewire" || metadata.target() == "test"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let current = || CURRENT.with(|stack| stack.borrow().last().copied());
        let parent = match span.is_contextual() {
            true => current(),
            false => span.parent().map(Id::into_u64),
        };
        let mut seen = Seen { name: span.metadata().name(), parent, ..Seen::default() };
        span.record(&mut seen);
        let mut spans = self.spans.lock().unwrap();
        spans.push(seen);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut spans = self.spans.lock().unwrap();
        values.record(&mut spans[span.into_u64() as usize - 1]);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        let message = seen.fields.remove("message").unwrap_or_default();
        self.events.lock().unwrap().push(format!("{} {message}", event.metadata().level()));
    }

    fn enter(&self, span: &Id) {
        CURRENT.with(|stack| stack.borrow_mut().push(span.into_u64()));
    }

    fn exit(&self, _: &Id) {
        CURRENT.with(|stack| stack.borrow_mut().pop());
    }

    fn try_close(&self, span: Id) -> bool {
        self.spans.lock().unwrap()[span.into_u64() as usize - 1].closed = true;
        true
    }
}

#[test]
fn c259_a_call_is_a_span_at_each_side_with_the_conventions_fields() {
    let kept = Kept::default();
    tracing::subscriber::set_global_default(kept.clone()).unwrap();
    let work = tracing::info_span!(target: "test", "work");
    let tracing = Arc::new(Tracing::new());
    smol::block_on(async {
        let mut calls = Box::pin(util::calls(tracing.clone()));
        // Its calls begin in the span.
        std::future::poll_fn(|cx| work.in_scope(|| calls.as_mut().poll(cx))).await;
    });
    let spans = kept.spans.lock().unwrap().clone();
    let of = |name: &str, method: &str| -> Vec<Seen> {
        let is = |span: &&Seen| span.name == name && span.fields["rpc.method"] == method;
        spans
            .iter()
            .filter(|span| span.fields.contains_key("rpc.method"))
            .filter(is)
            .cloned()
            .collect()
    };
    let client = of("rpc.client.call", "sum/add");
    let server = of("rpc.server.call", "sum/add");
    assert_eq!((client.len(), server.len()), (2, 2), "{spans:#?}");
    let field = |span: &Seen, name: &str| span.fields.get(name).cloned().unwrap_or_default();
    for (client, server) in client.iter().zip(&server) {
        for name in ["oncewire.session", "oncewire.xid", "rpc.system.name", "oncewire.executed"] {
            assert!(!field(client, name).is_empty(), "{name}: {client:?}");
            assert_eq!(field(client, name), field(server, name), "{name}");
        }
        assert_eq!(field(client, "rpc.response.status_code"), "OK");
        assert_eq!(field(client, "oncewire.executed"), "yes");
        assert_eq!(field(client, "server.address"), "memory");
        assert_eq!(field(client, "oncewire.reconnects"), "0");
        assert_eq!(
            (&*field(client, "otel.kind"), &*field(server, "otel.kind")),
            ("client", "server")
        );
        assert!(!client.fields.contains_key("error.type"));
        assert!(client.closed && server.closed);
        assert_eq!(client.parent, Some(1), "the span in which it began");
        assert_eq!(server.parent, None, "not that of whichever task was polled");
    }
    let panicked = &of("rpc.client.call", "sum/panic")[0];
    assert_eq!(field(panicked, "error.type"), "ABORTED");
    let events = kept.events.lock().unwrap().clone();
    let has = |start: &str| events.iter().any(|event| event.starts_with(start));
    assert!(
        has("INFO session ") && has("WARN handler of sum/panic") && has("INFO drained"),
        "{events:#?}"
    );
}
