//! A story as one HTML page that needs nothing else: a diagram of time and place.

use std::fmt::{self, Write};

use oncewire_core::Executed;
use oncewire_core::wire::Role;

use crate::format::{Delivery, EndedBy};
use crate::replay::{Decision, FrameKind, FrameStep, Step, StepKind, Story};
use crate::text::shown;

const PAGE: &str = include_str!("page.html");
/// Where the data goes.
const PLACE: &str = "@DATA@";

/// The page.
#[derive(Debug)]
pub struct Page<'s>(pub &'s Story);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = PAGE.split_once(PLACE).ok_or(fmt::Error)?;
        f.write_str(before)?;
        write!(f, "{{\"title\":{},\"clients\":[", Text(&self.0.title()))?;
        for (at, client) in self.0.clients.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{}", Text(client))?;
        }
        f.write_str("],\"steps\":[")?;
        for (at, step) in self.0.steps.iter().enumerate() {
            f.write_str(if at > 0 { ",\n" } else { "\n" })?;
            write_step(f, step)?;
        }
        f.write_str("]}")?;
        f.write_str(after)
    }
}

/// A text as JSON that a page may hold: what peers have written does not end the script that it is in.
struct Text<'s>(&'s str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for char in self.0.chars() {
            match char {
                '"' | '\\' => write!(f, "\\{char}")?,
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => write!(f, "\\u{:04x}", char as u32)?,
                char if (char as u32) < 0x20 || char as u32 == 0x7f => {
                    write!(f, "\\u{:04x}", char as u32)?;
                }
                char => f.write_char(char)?,
            }
        }
        f.write_char('"')
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
    }
}

fn write_step(f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
    write!(f, "{{\"t\":{}", step.at)?;
    if let Some(conn) = step.conn {
        write!(f, ",\"c\":{conn}")?;
    }
    if let Some(client) = step.client {
        write!(f, ",\"k\":{client}")?;
    }
    if let Some(xid) = step.xid {
        write!(f, ",\"x\":{xid}")?;
    }
    write_kind(f, &step.kind)?;
    f.write_char('}')
}

fn write_kind(f: &mut fmt::Formatter<'_>, kind: &StepKind) -> fmt::Result {
    let plain = |f: &mut fmt::Formatter<'_>, kind: &str, text: &str| {
        write!(f, ",\"y\":\"{kind}\",\"text\":{}", Text(text))
    };
    match kind {
        StepKind::Connected { peer } => plain(f, "connected", peer),
        StepKind::Disconnected { by, rests } => {
            let (by, text) = match by {
                EndedBy::Client => ("client", "closed by the client"),
                EndedBy::Server => ("server", "closed by the server"),
                EndedBy::Network => ("network", "broken"),
            };
            let halves = match rests {
                (0, 0) => String::new(),
                (up, down) => {
                    format!(", with {up} bytes of an unfinished frame going up and {down} down")
                }
            };
            plain(f, "disconnected", &format!("{text}{halves}"))?;
            write!(f, ",\"by\":\"{by}\"")
        }
        StepKind::Frame(frame) => {
            plain(f, "frame", &frame.text)?;
            write_frame(f, frame)
        }
        StepKind::Garbage { from, len, why } => {
            plain(f, "garbage", &format!("{len} bytes of the {} are {why}", role(*from)))
        }
        StepKind::Started => plain(f, "started", ""),
        StepKind::Finished(text) => plain(f, "finished", text),
        StepKind::Refused(text) => plain(f, "refused", text),
        StepKind::Verdict { asked, verdict, text } => {
            plain(f, "verdict", text)?;
            let verdict = match verdict {
                Decision::Dropped => "dropped",
                Decision::WhenDone => "done",
                Decision::Kept => "kept",
                Decision::NotSeen => "unseen",
            };
            write!(f, ",\"q\":{asked},\"v\":\"{verdict}\"")
        }
        StepKind::Outcome { executed, text } => {
            plain(f, "outcome", text)?;
            let executed = match executed {
                Executed::Yes => "yes",
                Executed::No => "no",
                Executed::Unknown => "unknown",
            };
            write!(f, ",\"e\":\"{executed}\"")
        }
        StepKind::Event(from, text) => {
            plain(f, "event", text)?;
            write!(f, ",\"from\":\"{}\"", role(*from))
        }
        StepKind::Differs(text) => plain(f, "differs", text),
        StepKind::Note(text) => plain(f, "note", text),
        StepKind::Restarted => plain(f, "restarted", ""),
    }
}

fn write_frame(f: &mut fmt::Formatter<'_>, frame: &FrameStep) -> fmt::Result {
    let kind = match frame.kind {
        FrameKind::Request => "request",
        FrameKind::Reply => "reply",
        _ => "other",
    };
    let (upkeep, lost) = (frame.kind.is_upkeep(), frame.delivery == Delivery::Lost);
    write!(
        f,
        ",\"from\":\"{}\",\"a\":{},\"f\":\"{kind}\",\"n\":{},\"upkeep\":{upkeep},\"lost\":{lost},\"again\":{}",
        role(frame.from),
        frame.arrives_at,
        frame.len,
        frame.again
    )?;
    if let Some(millis) = frame.remaining_ms {
        write!(f, ",\"ms\":{millis}")?;
    }
    match &frame.body {
        Some(body) => write!(f, ",\"body\":{}", Text(&shown(body))),
        None => Ok(()),
    }
}
