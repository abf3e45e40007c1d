//! Spans and events of `tracing`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use oncewire_driver::Executed;
use oncewire_driver::observe::{CallEnd, CallInfo, Event, Observer, Source};
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;
use tracing::{Span, debug, error, info, info_span, warn};

use crate::labels;
#[cfg(feature = "trace-context")]
use crate::traces::Traces;

/// Makes a span of each call and an event of each other thing, in the target `oncewire`.
#[derive(Debug, Default)]
pub struct Tracing {
    /// The calls that are on their way, by their source and number.
    spans: Mutex<HashMap<(usize, u64), Span>>,
    /// Those who know the ids of the same calls.
    #[cfg(feature = "trace-context")]
    traces: Option<Traces>,
}

impl Tracing {
    /// With no call on its way.
    pub fn new() -> Tracing {
        Tracing::default()
    }

    /// With the ids of the spans that `traces` makes of the same calls, as `trace_id`, `span_id` and `trace_flags`: what is logged in a
    /// span is then found from its trace, and the other way round. Both watch the same clients and servers, in any order.
    #[cfg(feature = "trace-context")]
    pub fn joined(traces: &Traces) -> Tracing {
        traces.remember_handlers();
        Tracing { traces: Some(traces.clone()), ..Tracing::default() }
    }

    /// Gives a span its ids, if they are known by now.
    #[cfg(feature = "trace-context")]
    fn join(&self, span: &Span, source: &Source, call: &CallInfo) {
        let context = self.traces.as_ref().and_then(|traces| traces.context_of(source, call));
        if let Some(context) = context {
            span.record("trace_id", tracing::field::display(context.trace()));
            span.record("span_id", tracing::field::display(context.span()));
            span.record("trace_flags", if context.is_sampled() { "01" } else { "00" });
        }
    }

    #[cfg(not(feature = "trace-context"))]
    fn join(&self, _: &Span, _: &Source, _: &CallInfo) {}

    /// A source is at the same place for as long as its observers are called with it.
    fn key(source: &Source, call: &CallInfo) -> (usize, u64) {
        (std::ptr::from_ref(source).addr(), call.number)
    }

    fn start(&self, source: &Source, call: &CallInfo) {
        let method = labels::method(call.method);
        let span = match source {
            Source::Server { .. } => info_span!(
                target: "oncewire",
                parent: None,
                "rpc.server.call",
                trace_id = Empty,
                span_id = Empty,
                trace_flags = Empty,
                otel.kind = "server",
                otel.name = method,
                rpc.system.name = "oncewire",
                rpc.method = method,
                rpc.method_original = Empty,
                rpc.response.status_code = Empty,
                error.r#type = Empty,
                oncewire.executed = Empty,
                oncewire.session = Empty,
                oncewire.xid = Empty,
            ),
            Source::Client { address, .. } => info_span!(
                target: "oncewire",
                "rpc.client.call",
                trace_id = Empty,
                span_id = Empty,
                trace_flags = Empty,
                otel.kind = "client",
                otel.name = method,
                rpc.system.name = "oncewire",
                rpc.method = method,
                rpc.method_original = Empty,
                rpc.response.status_code = Empty,
                error.r#type = Empty,
                server.address = &**address,
                oncewire.executed = Empty,
                oncewire.session = Empty,
                oncewire.xid = Empty,
                oncewire.reconnects = Empty,
            ),
            _ => return,
        };
        if method == labels::OTHER {
            span.record("rpc.method_original", call.method.to_string());
        }
        self.join(&span, source, call);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.insert(Tracing::key(source, call), span);
    }

    /// Events of a server were lost, and the ends of its calls may be among them: no span is kept for an end that never comes.
    /// A client's observers see its calls as they begin and end, and lose none.
    fn forget(&self, source: &Source) {
        if source.is_server() {
            let at = std::ptr::from_ref(source).addr();
            let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
            let lost: Vec<_> = spans.extract_if(|(of, _), _| *of == at).collect();
            drop(spans);
            #[cfg(feature = "trace-context")]
            self.traces.iter().for_each(Traces::forget_handlers);
            // The subscriber may look at what is kept.
            drop(lost);
        }
    }

    fn end(&self, source: &Source, call: &CallInfo, end: &CallEnd, reconnects: u64) {
        let key = Tracing::key(source, call);
        let span = self.spans.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let Some(span) = span else { return };
        self.join(&span, source, call);
        span.record("rpc.response.status_code", end.status());
        if *end != CallEnd::Replied {
            span.record("error.type", end.status());
        }
        span.record("oncewire.executed", labels::executed(end.executed()));
        if let Some(session) = call.session {
            span.record("oncewire.session", tracing::field::display(session));
        }
        if let Some(xid) = call.xid {
            span.record("oncewire.xid", xid.get());
        }
        if !source.is_server() {
            span.record("oncewire.reconnects", reconnects);
        }
    }
}

impl Observer for Tracing {
    /// Not where no subscriber wants anything.
    fn is_heard(&self) -> bool {
        LevelFilter::current() != LevelFilter::OFF
    }

    fn observe(&self, source: &Source, event: &Event) {
        match event {
            Event::CallStarted { call, .. } => self.start(source, call),
            Event::CallEnded { call, end, reconnects, .. } => {
                self.end(source, call, end, *reconnects);
                if end.executed() == Executed::Unknown && *end != CallEnd::Dropped {
                    warn!(target: "oncewire", at = %source, "{event}");
                }
            }
            Event::EventsLost { .. } => {
                self.forget(source);
                warn!(target: "oncewire", at = %source, "{event}");
            }
            // What someone must look at.
            Event::LedgerFailed { .. } => error!(target: "oncewire", at = %source, "{event}"),
            Event::HandlerPanicked { .. }
            | Event::SessionRefused { .. }
            | Event::SessionLost { .. }
            | Event::ConnectionRefused { .. }
            | Event::AcceptFailed { .. }
            | Event::DialFailed { .. } => warn!(target: "oncewire", at = %source, "{event}"),
            Event::SessionOpened { .. }
            | Event::SessionResumed { .. }
            | Event::SessionEnded { .. }
            | Event::RolledBack { .. }
            | Event::DrainBegan
            | Event::Drained => info!(target: "oncewire", at = %source, "{event}"),
            event => debug!(target: "oncewire", at = %source, "{event}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oncewire_driver::{Client, ClientOptions, Method, Server};
    use oncewire_pipe::memory;

    use super::*;

    /// Passes on the starts of calls. Their ends are lost.
    #[derive(Clone)]
    struct Lossy(Arc<Tracing>);

    impl Lossy {
        fn kept(&self) -> usize {
            self.0.spans.lock().unwrap().len()
        }
    }

    impl Observer for Lossy {
        fn observe(&self, source: &Source, event: &Event) {
            match event {
                Event::CallStarted { .. } => {
                    self.0.observe(source, event);
                    assert!(self.kept() > 0, "a span is kept until its call has ended");
                }
                Event::CallEnded { .. } => self.0.forget(source),
                _ => {}
            }
        }
    }

    #[test]
    fn c298_no_span_is_kept_for_a_call_whose_end_was_lost() {
        const ADD: Method<u64, u64> = Method::new("sum/add");
        smol::block_on(async {
            let lossy = Lossy(Arc::default());
            let (connector, acceptor) = memory::listener();
            let server = Server::builder("sum")
                .method(&ADD, |_, n: u64| async move { n + 1 })
                .observe(lossy.clone())
                .build()
                .unwrap();
            let serving = server.clone();
            smol::spawn(async move { serving.serve(acceptor).await }).detach();
            let client = Client::new(connector, ClientOptions::default());
            for n in 0..3 {
                assert_eq!(client.call(&ADD, &n).await.ok(), Ok(n + 1));
            }
            client.close().await;
            server.drain(std::time::Duration::from_secs(10)).await;
            assert_eq!(lossy.kept(), 0);
        });
    }
}
