//! Reads the spans back, as far as this program needs, and prints them as a tree.

use std::collections::BTreeMap;

/// A span, by what its line says.
struct Span<'t> {
    trace: &'t str,
    id: &'t str,
    parent: Option<&'t str>,
    service: &'t str,
    name: &'t str,
    kind: &'t str,
    start: &'t str,
}

/// What is behind the first `before`, up to a quote or a comma. The lines are this library's own: none of these texts has quotes in it.
fn behind<'t>(line: &'t str, before: &str) -> Option<&'t str> {
    let rest = line.split_once(before)?.1;
    rest.split(['"', ',']).next()
}

impl<'t> Span<'t> {
    fn of(line: &'t str) -> Option<Span<'t>> {
        let service = "\"service.name\",\"value\":{\"stringValue\":\"";
        // The scope has a name, too.
        let span = line.split_once("\"spans\":")?.1;
        Some(Span {
            trace: behind(span, "\"traceId\":\"")?,
            id: behind(span, "\"spanId\":\"")?,
            parent: behind(span, "\"parentSpanId\":\""),
            service: behind(line, service)?,
            name: behind(span, "\"name\":\"")?,
            kind: match behind(span, "\"kind\":")? {
                "2" => "handler of",
                "3" => "call of",
                _ => "work",
            },
            start: behind(span, "\"startTimeUnixNano\":\"")?,
        })
    }
}

/// What must come out of it: depth, service, kind and name.
const EXPECTED: [(usize, &str, &str, &str); 7] = [
    (0, "front", "work", "visit"),
    (1, "front", "call of", "middle/greet"),
    (2, "middle", "handler of", "middle/greet"),
    (3, "middle", "call of", "back/spell"),
    (4, "back", "handler of", "back/spell"),
    (3, "middle", "call of", "back/spell"),
    (4, "back", "handler of", "back/spell"),
];

/// Prints the tree of the spans in these lines.
///
/// # Errors
/// It is not the one that it must be.
pub(crate) fn show(lines: &str) -> Result<(), String> {
    let unreadable = |line: &str| format!("not a span: {line}");
    let mut spans = Vec::new();
    for line in lines.lines() {
        spans.push(Span::of(line).ok_or_else(|| unreadable(line))?);
    }
    spans.sort_by_key(|span| span.start);
    let mut children: BTreeMap<Option<&str>, Vec<&Span<'_>>> = BTreeMap::new();
    for span in &spans {
        children.entry(span.parent).or_default().push(span);
    }
    let mut found = Vec::new();
    let mut below = children.remove(&None).unwrap_or_default();
    below.reverse();
    let mut stack: Vec<(usize, &Span<'_>)> = below.into_iter().map(|span| (0, span)).collect();
    while let Some((depth, span)) = stack.pop() {
        output::show!(
            "{:indent$}{} {}, in {}",
            "",
            span.kind,
            span.name,
            span.service,
            indent = depth * 2
        );
        found.push((depth, span.service, span.kind, span.name));
        let below = children.remove(&Some(span.id)).unwrap_or_default();
        stack.extend(below.into_iter().rev().map(|span| (depth + 1, span)));
    }
    let is_one_trace = spans.windows(2).all(|two| two[0].trace == two[1].trace);
    match is_one_trace && found == EXPECTED && spans.len() == EXPECTED.len() {
        true => Ok(()),
        false => Err("the trace is not as it must be".to_owned()),
    }
}
