//! W3C trace context: which trace a call belongs to, and which span of it has made the call.
//!
//! By the recommendation "Trace Context": a traceparent that is not exactly as it says is no traceparent, and a tracestate that is not
//! is dropped, without harm to the traceparent beside it.

use std::fmt;

use oncewire_driver::{Metadata, MetadataKey};

/// Under this key a call carries its [`TraceContext::traceparent`].
pub const TRACEPARENT: MetadataKey<String> = MetadataKey::new("traceparent");
/// Under this key a call carries its [`TraceContext::tracestate`], if that is not empty.
pub const TRACESTATE: MetadataKey<String> = MetadataKey::new("tracestate");

/// Bytes of a traceparent of version 00.
const TRACEPARENT_LEN: usize = 55;
/// Bytes of a tracestate that is passed on: what everyone must be able to carry.
const TRACESTATE_LEN_MAX: usize = 512;
/// Its members.
const MEMBERS_MAX: usize = 32;
/// Where something must go, longer members go first.
const LONG_MEMBER_LEN: usize = 128;
/// The bit that says that the trace is recorded.
const SAMPLED: u8 = 1;
/// The bit that says that the trace's id is random.
const RANDOM: u8 = 2;

/// A trace: 16 bytes, not all of them zero. Its `Display` is hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId([u8; 16]);

/// A span of a trace: 8 bytes, not all of them zero. Its `Display` is hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId([u8; 8]);

macro_rules! id {
    ($name:ident, $len:literal) => {
        impl $name {
            /// `None` if all bytes are zero.
            pub fn from_bytes(bytes: [u8; $len]) -> Option<$name> {
                (bytes != [0; $len]).then_some($name(bytes))
            }

            /// Its bytes.
            pub fn to_bytes(self) -> [u8; $len] {
                self.0
            }

            fn parse(text: &[u8]) -> Option<$name> {
                let mut bytes = [0; $len];
                if text.len() != 2 * $len {
                    return None;
                }
                for (byte, digits) in bytes.iter_mut().zip(text.chunks(2)) {
                    *byte = hex(digits)?;
                }
                $name::from_bytes(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

id!(TraceId, 16);
id!(SpanId, 8);

impl TraceId {
    /// One of which not all bits are zero, as it is made.
    pub(crate) fn from_numbers(high: u64, low: u64) -> TraceId {
        TraceId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }
}

impl SpanId {
    /// The same.
    pub(crate) fn from_number(number: u64) -> SpanId {
        SpanId(number.to_be_bytes())
    }
}

/// Two digits. Upper case is not allowed.
fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let [high, low] = digits else { return None };
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// A place in a trace: the trace, and the span that is the parent of what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: SpanId,
    flags: u8,
    state: String,
}

impl TraceContext {
    /// A new one, whose id is random; it is recorded if it is `sampled`.
    pub fn new(trace: TraceId, span: SpanId, sampled: bool) -> TraceContext {
        let flags = RANDOM | if sampled { SAMPLED } else { 0 };
        TraceContext { trace, span, flags, state: String::new() }
    }

    /// Reads a traceparent, and the tracestate that came with it: one that is not valid is dropped.
    ///
    /// `None` if the traceparent is not valid: then it is as if there were none.
    ///
    /// ```
    /// use oncewire_observe::TraceContext;
    ///
    /// let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let context = TraceContext::parse(traceparent, Some("vendor=value")).unwrap();
    /// assert!(context.is_sampled());
    /// assert_eq!(context.traceparent(), traceparent);
    /// assert_eq!(TraceContext::parse("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None), None);
    /// ```
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<TraceContext> {
        let bytes = traceparent.as_bytes();
        let version = hex(bytes.get(..2)?)?;
        // What a later version may have behind the parts of this one begins with a dash.
        let end = match (version, bytes.get(TRACEPARENT_LEN)) {
            (0xff, _) => return None,
            (_, None) | (1.., Some(b'-')) => bytes.get(..TRACEPARENT_LEN)?,
            _ => return None,
        };
        let part = |from: usize, to: usize| (end[from - 1] == b'-').then_some(&end[from..to]);
        let trace = TraceId::parse(part(3, 35)?)?;
        let span = SpanId::parse(part(36, 52)?)?;
        let flags = hex(part(53, 55)?)? & (SAMPLED | RANDOM);
        let state = tracestate.and_then(valid_state).unwrap_or_default();
        Some(TraceContext { trace, span, flags, state })
    }

    /// What a call carries of it. `None` if there is no traceparent, or none that is valid.
    pub fn of(metadata: &Metadata) -> Option<TraceContext> {
        let state = metadata.get(&TRACESTATE);
        TraceContext::parse(&metadata.get(&TRACEPARENT)?, state.as_deref())
    }

    /// The trace.
    pub fn trace(&self) -> TraceId {
        self.trace
    }

    /// The span that is the parent of what comes next.
    pub fn span(&self) -> SpanId {
        self.span
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags as they are sent.
    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }

    /// As it is sent, in version 00: 55 bytes.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }

    /// What tracing systems have added: at most 512 bytes, unchanged but for what did not fit. Empty if there is nothing.
    pub fn tracestate(&self) -> &str {
        &self.state
    }

    /// The same trace with another span for a parent.
    pub fn child(&self, span: SpanId) -> TraceContext {
        TraceContext { span, ..self.clone() }
    }

    /// Gives it to what a call carries.
    pub fn set(&self, mut set: impl FnMut(&MetadataKey<String>, String)) {
        set(&TRACEPARENT, self.traceparent());
        if !self.state.is_empty() {
            set(&TRACESTATE, self.state.clone());
        }
    }
}

/// A tracestate without its empty members and without what does not fit; `None` if it is not valid.
fn valid_state(text: &str) -> Option<String> {
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        let is_twice = kept.iter().any(|(other, _)| *other == key);
        if !is_key(key) || !is_value(value) || is_twice || kept.len() == MEMBERS_MAX {
            return None;
        }
        kept.push((key, value));
    }
    let len = |(key, value): &(&str, &str)| key.len() + value.len() + 1;
    // With the commas between them.
    while kept.iter().map(len).sum::<usize>() + kept.len() > TRACESTATE_LEN_MAX + 1 {
        let long = kept.iter().rposition(|member| len(member) > LONG_MEMBER_LEN);
        kept.remove(long.unwrap_or(kept.len() - 1));
    }
    let members: Vec<_> = kept.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Some(members.join(","))
}

/// A key of one system, or of a tenant at one: `tenant@system`.
fn is_key(key: &str) -> bool {
    let is_rest =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte);
    let is_part = |part: &str, len_max: usize, digit_first: bool| {
        let first = part.bytes().next();
        let begins = |byte: u8| byte.is_ascii_lowercase() || digit_first && byte.is_ascii_digit();
        part.len() <= len_max && first.is_some_and(begins) && part.bytes().all(is_rest)
    };
    match key.split_once('@') {
        None => is_part(key, 256, false),
        Some((tenant, system)) => is_part(tenant, 241, true) && is_part(system, 14, false),
    }
}

/// Up to 256 characters of printable ASCII, without commas and equals signs.
fn is_value(value: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn c276_a_traceparent_is_taken_only_as_the_recommendation_has_it() {
        let parse = |text: &str| TraceContext::parse(text, None);
        let context = parse(GOOD).unwrap();
        assert_eq!(context.trace().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span().to_string(), "b7ad6b7169203331");
        assert_eq!((context.is_sampled(), context.traceparent()), (true, GOOD.to_owned()));
        assert!(!parse(&GOOD.replace("-01", "-00")).unwrap().is_sampled());
        // Flags that this version does not know are not passed on.
        assert_eq!(
            parse(&GOOD.replace("-01", "-ff")).unwrap().traceparent(),
            GOOD.replace("-01", "-03")
        );
        // A later version may have more, behind a dash, and is answered in this one.
        let later = GOOD.replacen("00", "cc", 1);
        for later in [later.clone(), format!("{later}-"), format!("{later}-what-the-future-brings")]
        {
            assert_eq!(parse(&later).unwrap(), context, "{later}");
        }
        let zeros = |text: &str| "0".repeat(text.len());
        let bad = [
            String::new(),
            "00".to_owned(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0", 1),
            GOOD.replace('-', "_"),
            format!("{GOOD} "),
            format!(" {GOOD}"),
            format!("{GOOD}-"),
            format!("{GOOD}-00"),
            format!("{later}.x"),
            GOOD[..54].to_owned(),
            GOOD.replace("0af7", "0ag7"),
            GOOD.replace("-01", "-0é"),
            GOOD.replace(
                "0af7651916cd43dd8448eb211c80319c",
                &zeros("0af7651916cd43dd8448eb211c80319c"),
            ),
            GOOD.replace("b7ad6b7169203331", &zeros("b7ad6b7169203331")),
        ];
        for bad in bad {
            assert_eq!(parse(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn c276_a_tracestate_is_passed_on_or_dropped_whole() {
        let state = |text: &str| TraceContext::parse(GOOD, Some(text)).unwrap().state;
        let passed = [
            "a=1",
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "1a-2f@foo=bar",
            "k= v",
            "a_*/-b=!~",
        ];
        for text in passed {
            assert_eq!(state(text), text);
        }
        assert_eq!(state(" a=1 ,, \t, b=2\t"), "a=1,b=2");
        let long_key = format!("{}=1", "a".repeat(257));
        let long_value = format!("a={}", "v".repeat(257));
        let many: Vec<_> = (0..33).map(|n| format!("k{n}=v")).collect();
        let many = many.join(",");
        let dropped = [
            "a",
            "=1",
            "a=",
            "A=1",
            "1a=1",
            "a=1=2",
            "a=ü",
            "a=1,a=2",
            "a@=1",
            "@b=1",
            "a@b@c=1",
            "a=\u{7f}",
            "a@1b=1",
            long_key.as_str(),
            long_value.as_str(),
            many.as_str(),
        ];
        for text in dropped {
            assert_eq!(state(text), "", "{text}");
        }
        // Where it is too long, long members go first, and then those at the end.
        let long = |key: &str, len| format!("{key}={}", "v".repeat(len));
        let text = format!("{},{},{}", long("a", 120), long("b", 200), long("c", 250));
        assert_eq!(state(&text), format!("{},{}", long("a", 120), long("b", 200)));
        let short: Vec<_> = (0..8).map(|n| long(&format!("k{n}"), 100)).collect();
        assert_eq!(state(&short.join(",")), short[..4].join(","));
    }
}
