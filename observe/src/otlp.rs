//! Spans as OTLP JSON, in a file: what OpenTelemetry's collector reads with its `otlpjsonfile` receiver, and viewers take.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::span::{AttributeValue, FinishedSpan, SpanKind};
use crate::traces::SpanSink;

/// Appends each span to a file as a line of OTLP JSON: an `ExportTraceServiceRequest` with this one span.
///
/// Several processes may append to one file. Cheap to clone: keep a clone to ask for an [error](OtlpFile::error).
#[derive(Clone)]
pub struct OtlpFile(Arc<Mutex<State>>);

struct State {
    file: File,
    /// The resource, as JSON.
    resource: String,
    error: Option<io::Error>,
}

impl fmt::Debug for OtlpFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpFile").finish_non_exhaustive()
    }
}

impl OtlpFile {
    /// Appends to the file at this path, which is made if it is not there. `service` is the name under which viewers show this
    /// process's spans.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn append(path: impl AsRef<Path>, service: &str) -> io::Result<OtlpFile> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let mut resource = String::from("{\"attributes\":[");
        // Writing to a string does not fail.
        let _ = write_attribute(&mut resource, "service.name", &service.to_owned().into());
        resource.push(',');
        let pid = u64::from(std::process::id()).into();
        let _ = write_attribute(&mut resource, "process.pid", &pid);
        resource.push_str("]}");
        Ok(OtlpFile(Arc::new(Mutex::new(State { file, resource, error: None }))))
    }

    /// The error after which nothing more is written, if there was one.
    ///
    /// # Errors
    /// That. It is given once.
    pub fn error(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.error.take().map_or(Ok(()), Err)
    }
}

impl SpanSink for OtlpFile {
    fn export(&self, span: &FinishedSpan) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.error.is_some() {
            return;
        }
        let line = line(&state.resource, span);
        // In one write, so that lines of several processes do not mix.
        state.error = state.file.write_all(line.as_bytes()).err();
    }
}

/// The line of one span.
fn line(resource: &str, span: &FinishedSpan) -> String {
    let mut line =
        format!("{{\"resourceSpans\":[{{\"resource\":{resource},\"scopeSpans\":[{{\"scope\":");
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(line, "{{\"name\":\"oncewire-observe\",\"version\":\"{version}\"}},\"spans\":[");
    let _ = write_span(&mut line, span);
    line.push_str("]}]}]}\n");
    line
}

fn write_span(out: &mut String, span: &FinishedSpan) -> fmt::Result {
    let context = &span.context;
    write!(out, "{{\"traceId\":\"{}\",\"spanId\":\"{}\"", context.trace(), context.span())?;
    if let Some(parent) = span.parent {
        write!(out, ",\"parentSpanId\":\"{parent}\"")?;
    }
    if !context.tracestate().is_empty() {
        out.push_str(",\"traceState\":");
        write_text(out, context.tracestate())?;
    }
    let kind = match span.kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    };
    write!(out, ",\"flags\":{},\"kind\":{kind},\"name\":", context.flags())?;
    write_text(out, &span.name)?;
    // 64 bits are text in protobuf's JSON.
    let (start, end) = (span.start, span.end);
    write!(out, ",\"startTimeUnixNano\":\"{start}\",\"endTimeUnixNano\":\"{end}\"")?;
    out.push_str(",\"attributes\":[");
    for (at, (name, value)) in span.attributes.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_attribute(out, name, value)?;
    }
    out.push_str("],\"events\":[");
    for (at, event) in span.events.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write!(out, "{{\"timeUnixNano\":\"{}\",\"name\":", event.at)?;
        write_text(out, event.name)?;
        out.push_str(",\"attributes\":[");
        write_attribute(out, "message", &event.text.clone().into())?;
        out.push_str("]}");
    }
    out.push_str("],\"status\":{");
    if let Some(error) = span.error {
        out.push_str("\"code\":2,\"message\":");
        write_text(out, error)?;
    }
    out.push_str("}}");
    Ok(())
}

fn write_attribute(out: &mut String, name: &str, value: &AttributeValue) -> fmt::Result {
    out.push_str("{\"key\":");
    write_text(out, name)?;
    out.push_str(",\"value\":{");
    match value {
        AttributeValue::Text(text) => {
            out.push_str("\"stringValue\":");
            write_text(out, text)?;
        }
        AttributeValue::Number(number) => write!(out, "\"intValue\":\"{number}\"")?,
        AttributeValue::Bool(yes) => write!(out, "\"boolValue\":{yes}")?,
    }
    out.push_str("}}");
    Ok(())
}

/// A text in quotes, as JSON has it.
fn write_text(out: &mut String, text: &str) -> fmt::Result {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => write!(out, "\\u{:04x}", u32::from(c))?,
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::trace_context::TraceContext;

    #[test]
    fn a_span_is_a_line_of_json_whatever_its_texts_say() {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::parse(traceparent, Some("a=\"1\\")).unwrap();
        let parent = Some(context.span());
        let name = Cow::Borrowed("a \"name\"\nand more");
        let mut span = FinishedSpan::begin(context, parent, name, SpanKind::Client, 7);
        span.set("number", 3_u64);
        span.set("bool", true);
        span.event(8, "event", "it\thappened".to_owned());
        span.error = Some("ABORTED");
        let expected = concat!(
            r#"{"resourceSpans":[{"resource":{},"scopeSpans":[{"scope":{"name":"oncewire-observe","version":""#,
            env!("CARGO_PKG_VERSION"),
            r#""},"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","#,
            r#""parentSpanId":"b7ad6b7169203331","traceState":"a=\"1\\","flags":1,"kind":3,"#,
            r#""name":"a \"name\"\u000aand more","startTimeUnixNano":"7","endTimeUnixNano":"7","#,
            r#""attributes":[{"key":"number","value":{"intValue":"3"}},"#,
            r#"{"key":"bool","value":{"boolValue":true}}],"events":[{"timeUnixNano":"8","name":"event","#,
            r#""attributes":[{"key":"message","value":{"stringValue":"it\u0009happened"}}]}],"#,
            r#""status":{"code":2,"message":"ABORTED"}}]}]}]}"#,
            "\n",
        );
        assert_eq!(line("{}", &span), expected);
    }
}
