//! Spans, as they are exported.

use std::borrow::Cow;

use crate::trace_context::{SpanId, TraceContext};

/// Events of one span that are kept: a connection that breaks and breaks must not fill the memory.
const EVENTS_MAX: usize = 64;

/// A piece of work that has ended: what a [`Traces`](crate::Traces) gives to its sink.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FinishedSpan {
    /// Its trace, itself as the span of that, and the flags.
    pub context: TraceContext,
    /// The span that it is a part of, here or in another process. `None` for the first one of a trace.
    pub parent: Option<SpanId>,
    /// The method's name, or what the program has named it.
    pub name: Cow<'static, str>,
    /// What it is.
    pub kind: SpanKind,
    /// When it began, in nanoseconds since 1970.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// What is known of it, by OpenTelemetry's names and some of our own.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// What has happened meanwhile, 64 at most.
    pub events: Vec<SpanEvent>,
    /// Why it has failed, if it has.
    pub error: Option<&'static str>,
}

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanKind {
    /// Work of the program itself.
    Internal,
    /// The run of a handler.
    Server,
    /// A call, with all of its sendings.
    Client,
}

/// Something that happened during a span.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpanEvent {
    /// When, in nanoseconds since 1970.
    pub at: u64,
    /// What: `oncewire.disconnect`, say.
    pub name: &'static str,
    /// The same for people.
    pub text: String,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(u64),
    /// Yes or no.
    Bool(bool),
}

impl From<&'static str> for AttributeValue {
    fn from(text: &'static str) -> AttributeValue {
        AttributeValue::Text(Cow::Borrowed(text))
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> AttributeValue {
        AttributeValue::Text(Cow::Owned(text))
    }
}

impl From<u64> for AttributeValue {
    fn from(number: u64) -> AttributeValue {
        AttributeValue::Number(number)
    }
}

impl From<bool> for AttributeValue {
    fn from(yes: bool) -> AttributeValue {
        AttributeValue::Bool(yes)
    }
}

impl FinishedSpan {
    /// One that begins.
    pub(crate) fn begin(
        context: TraceContext,
        parent: Option<SpanId>,
        name: Cow<'static, str>,
        kind: SpanKind,
        start: u64,
    ) -> FinishedSpan {
        let (attributes, events) = (Vec::new(), Vec::new());
        FinishedSpan {
            context,
            parent,
            name,
            kind,
            start,
            end: start,
            attributes,
            events,
            error: None,
        }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<AttributeValue>) {
        self.attributes.push((name, value.into()));
    }

    pub(crate) fn event(&mut self, at: u64, name: &'static str, text: String) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(SpanEvent { at, name, text });
        }
    }
}
