//! Traces that are joined over what calls carry: C277, C278.
#![cfg(unix)]
#![allow(missing_docs)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::observe::{Event, Source};
use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Context, MetadataKey, Method, Server,
    ServerBuilder, Subject,
};
use oncewire_observe::{
    AttributeValue, FinishedSpan, SpanKind, TRACEPARENT, TRACESTATE, TraceContext, Traces,
};
use oncewire_pipe::memory;
use smol::channel::unbounded;

const FRONT: Method<u64, u64> = Method::new("front/add");
const BACK: Method<u64, u64> = Method::new("back/add");
const BLOCK: Method<u64, u64> = Method::new("back/block");
const NOTE: Method<u64, ()> = Method::new("back/note");
const PANIC: Method<(), ()> = Method::new("back/panic");
const SLOW: Method<(), ()> = Method::new("back/slow").time_limit(Duration::from_millis(20));

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<FinishedSpan>>>);

impl Spans {
    fn traces(&self) -> Traces {
        let spans = self.clone();
        Traces::new(move |span: &FinishedSpan| spans.0.lock().unwrap().push(span.clone()))
    }

    fn all(&self, name: &str, kind: SpanKind) -> Vec<FinishedSpan> {
        let is = |span: &&FinishedSpan| span.name == name && span.kind == kind;
        self.0.lock().unwrap().iter().filter(is).cloned().collect()
    }

    fn one(&self, name: &str, kind: SpanKind) -> FinishedSpan {
        let all = self.all(name, kind);
        assert_eq!(all.len(), 1, "{name}: {all:#?}");
        all[0].clone()
    }
}

fn text(span: &FinishedSpan, name: &str) -> String {
    let found = span.attributes.iter().find(|(key, _)| *key == name);
    match found.map(|(_, value)| value) {
        Some(AttributeValue::Text(text)) => text.clone().into_owned(),
        Some(AttributeValue::Number(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn serve(builder: ServerBuilder) -> memory::MemoryConnector {
    let (connector, acceptor) = memory::listener();
    let server = builder.build().unwrap();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    connector
}

#[test]
fn c277_a_trace_goes_through_all_services_and_its_parents_are_right() {
    let spans = Spans::default();
    // Each process has its own.
    let [at_caller, at_front, at_back] = [(); 3].map(|()| spans.traces());
    let back = Server::builder("back")
        .method(&BACK, |_, n: u64| async move { n + 1 })
        .blocking(&BLOCK, |_, n: u64| n)
        .method(&NOTE, |_, _: u64| async {})
        .method(&PANIC, |_, ()| async { panic!("a handler that panics") })
        .method(&SLOW, |_, ()| std::future::pending());
    let back = serve(at_back.watch_server(back));
    let back = Client::new(back, at_front.watch_client(ClientOptions::default()));
    let front = Server::builder("front").method(&FRONT, move |_: Context, n: u64| {
        let back = back.clone();
        async move {
            // Not in the poll in which the handler has begun.
            smol::future::yield_now().await;
            back.send(&NOTE, &n).unwrap();
            let _aborted = (back.call(&PANIC, &()).await, back.call(&SLOW, &()).await);
            let n = back.call(&BLOCK, &n).await.ok().unwrap();
            // A call in a task of its own, which is given what it belongs to.
            let call = back.call(&BACK, &n);
            let current = TraceContext::current().unwrap();
            smol::spawn(current.within(call)).await.ok().unwrap()
        }
    });
    let front = serve(at_front.watch_server(front));
    let client = Client::new(front, at_caller.watch_client(ClientOptions::default()));
    let work = at_caller.span("work", async { client.call(&FRONT, &1).await.ok() });
    assert_eq!(smol::block_on(work), Ok(2));
    assert!(TraceContext::current().is_none());
    smol::block_on(client.close());

    let (client, server) = (SpanKind::Client, SpanKind::Server);
    let work = spans.one("work", SpanKind::Internal);
    let called = spans.one("front/add", client);
    let run = spans.one("front/add", server);
    assert_eq!((work.parent, called.parent), (None, Some(work.context.span())));
    assert_eq!(run.parent, Some(called.context.span()));
    for method in ["back/add", "back/block", "back/panic", "back/slow", "back/note"] {
        let (call, handler) = (spans.one(method, client), spans.one(method, server));
        assert_eq!(call.parent, Some(run.context.span()), "{method}");
        assert_eq!(handler.parent, Some(call.context.span()), "{method}");
        assert_eq!(handler.context.trace(), work.context.trace());
        assert!(call.start <= handler.start && run.start <= call.start && call.end <= run.end);
        if method != "back/note" {
            for name in ["oncewire.session", "oncewire.xid", "rpc.response.status_code"] {
                assert_eq!(text(&call, name), text(&handler, name), "{method} {name}");
            }
            assert!(handler.end <= call.end);
        }
    }
    let panicked = spans.one("back/panic", server);
    assert_eq!(
        (panicked.error, spans.one("back/slow", server).error),
        (Some("ABORTED"), Some("ABORTED"))
    );
    assert_eq!(text(&spans.one("back/panic", client), "oncewire.executed"), "yes");
    assert_eq!(spans.0.lock().unwrap().len(), 13);
}

/// Dials over lines that the test can cut.
struct Cut(Server, Arc<Mutex<Vec<smol::net::unix::UnixStream>>>);

impl Connect for Cut {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = smol::net::unix::UnixStream::pair()?;
            self.0.serve_stream(Box::new(theirs), Subject::Anonymous);
            self.1.lock().unwrap().push(ours.clone());
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a line that is cut".to_owned()
    }
}

#[test]
fn c278_one_span_covers_a_call_over_two_connections_and_says_what_has_happened() {
    let spans = Spans::default();
    let (begun, begins) = unbounded::<()>();
    let (go_on, gate) = unbounded::<()>();
    let builder = Server::builder("back").method(&BACK, move |_, n: u64| {
        let (begun, gate) = (begun.clone(), gate.clone());
        async move {
            begun.send(()).await.unwrap();
            gate.recv().await.unwrap();
            n + 1
        }
    });
    let (asked, asks) = unbounded::<()>();
    let observer = move |_: &Source, event: &Event| {
        if let Event::Duplicate { .. } = event {
            asked.send_blocking(()).unwrap();
        }
    };
    let server = spans.traces().watch_server(builder).observe(observer).build().unwrap();
    let lines: Arc<Mutex<Vec<_>>> = Arc::default();
    let options = ClientOptions::default().with_backoff_min(Duration::from_millis(1));
    let client = Client::new(Cut(server, lines.clone()), spans.traces().watch_client(options));
    smol::block_on(async {
        let call = smol::spawn(client.call(&BACK, &1));
        begins.recv().await.unwrap();
        lines.lock().unwrap()[0].shutdown(std::net::Shutdown::Both).unwrap();
        asks.recv().await.unwrap();
        go_on.send(()).await.unwrap();
        assert_eq!(call.await.ok(), Ok(2));
        client.close().await;
    });
    let call = spans.one("back/add", SpanKind::Client);
    assert_eq!(text(&call, "oncewire.reconnects"), "1");
    let names: Vec<_> = call.events.iter().map(|event| event.name).collect();
    let expected = ["oncewire.disconnect", "oncewire.connect", "oncewire.session.resume"];
    assert!(names.ends_with(&expected), "{names:?}");
    let run = spans.one("back/add", SpanKind::Server);
    assert_eq!(run.parent, Some(call.context.span()));
    let names: Vec<_> = run.events.iter().map(|event| event.name).collect();
    assert_eq!(names, ["oncewire.duplicate"]);
}

#[test]
fn c278_what_a_stranger_sends_for_a_context_starts_a_trace_or_is_carried_on_as_it_asks() {
    const KEYS: [&MetadataKey<String>; 2] = [&TRACEPARENT, &TRACESTATE];
    let spans = Spans::default();
    let builder = Server::builder("back").method(&BACK, |_, n: u64| async move {
        let current = TraceContext::current().unwrap();
        u64::from(current.is_sampled()) + n + 10 * current.tracestate().len() as u64
    });
    let connector = serve(spans.traces().watch_server(builder));
    let client = Client::new(connector, ClientOptions::default());
    let call = |parent: &str, state: &str| {
        let call = client.call(&BACK, &0).metadata(KEYS[0], parent);
        call.metadata(KEYS[1], state).block().ok().unwrap()
    };
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(call(good, "a=1"), 31);
    let joined = spans.one("back/add", SpanKind::Server);
    assert_eq!(joined.context.trace().to_string(), good[3..35]);
    assert_eq!(joined.parent.map(|span| span.to_string()).as_deref(), Some(&good[36..52]));
    assert_eq!(call(&good.replace("-01", "-00"), "a=1"), 30, "carried on");
    assert_eq!(spans.0.lock().unwrap().len(), 1, "and not recorded");
    assert_eq!(call("00-zero", "a=1"), 1, "a trace of its own");
    assert_eq!(spans.0.lock().unwrap()[1].parent, None);
}
