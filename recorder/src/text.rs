//! A story as text: one line for each step.

use std::fmt::{self, Write};

use oncewire_core::Executed;
use oncewire_core::wire::Role;

use crate::format::{Delivery, EndedBy, Source};
use crate::replay::{Step, StepKind, Story};

/// Bytes of a body that are shown.
const BODY_SHOWN: usize = 32;

impl Story {
    /// What it is a recording of, in one line.
    pub fn title(&self) -> String {
        let source = match self.about.source {
            Source::Relay => "a relay",
            Source::Server => "a server",
            Source::Client => "a client",
            Source::World => "a simulated world",
        };
        let what = self.about.what.escape_debug();
        let bodies =
            if self.about.plain_bodies { "" } else { "; bodies and session ids are replaced" };
        let cut = if self.is_cut { "; it ends in the middle of a record" } else { "" };
        format!("recorded by {source}: {what}{bodies}{cut}")
    }
}

/// The whole story; `all` shows the frames that are only upkeep, too.
#[derive(Debug)]
pub struct Transcript<'s> {
    /// The story.
    pub story: &'s Story,
    /// Whether acknowledgements, Pings and Pongs have lines.
    pub all: bool,
}

impl fmt::Display for Transcript<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.story.title())?;
        for step in &self.story.steps {
            let is_upkeep = matches!(&step.kind, StepKind::Frame(frame) if frame.kind.is_upkeep());
            if self.all || !is_upkeep {
                writeln!(f, "{}", Line(step))?;
            }
        }
        Ok(())
    }
}

/// One step.
struct Line<'s>(&'s Step);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.0;
        write!(f, "{:>12.6} ", step.at as f64 / 1e9)?;
        match step.conn {
            Some(conn) => write!(f, "{:<5}", format!("#{conn}"))?,
            None => write!(f, "     ")?,
        }
        let xid = step.xid.map_or_else(String::new, |xid| format!("call {xid}: "));
        match &step.kind {
            StepKind::Connected { peer } => write!(f, "----  connected: {}", peer.escape_debug()),
            StepKind::Disconnected { by, rests } => {
                let by = match by {
                    EndedBy::Client => "the client closes",
                    EndedBy::Server => "the server closes",
                    EndedBy::Network => "the connection breaks",
                };
                write!(f, "-/ -  {by}")?;
                match rests {
                    (0, 0) => Ok(()),
                    (up, down) => {
                        write!(f, "; of unfinished frames {up} bytes went up, {down} down")
                    }
                }
            }
            StepKind::Frame(frame) => {
                let arrow = match (frame.from, frame.delivery) {
                    (Role::Client, Delivery::Arrived) => "--->",
                    (Role::Client, Delivery::Lost) => "--x ",
                    (Role::Server, Delivery::Arrived) => "<---",
                    (Role::Server, Delivery::Lost) => " x--",
                };
                let again = if frame.again { ", sent again" } else { "" };
                let lost = if frame.delivery == Delivery::Lost { ", lost" } else { "" };
                write!(f, "{arrow}  {}{again}{lost}", frame.text)?;
                if let Some(millis) = frame.remaining_ms {
                    write!(f, ", {} s left", f64::from(millis) / 1e3)?;
                }
                frame.body.as_deref().map_or(Ok(()), |body| write!(f, " [{}]", shown(body)))
            }
            StepKind::Garbage { from, len, why } => {
                let who = if *from == Role::Client { "client" } else { "server" };
                write!(f, "??    {len} bytes of the {who} are {why}")
            }
            StepKind::Started => write!(f, "   |  {xid}starts"),
            StepKind::Finished(text) => write!(f, "   |  {xid}ends: {text}"),
            StepKind::Refused(text) => write!(f, "   |  {xid}{text}"),
            StepKind::Verdict { asked: true, text, .. } => {
                write!(f, "   =  {xid}asked for: {text}")
            }
            StepKind::Verdict { text, .. } => write!(f, "   =  {xid}came again: {text}"),
            StepKind::Outcome { executed, text } => {
                let mark = match executed {
                    Executed::Yes => '+',
                    Executed::No => '-',
                    Executed::Unknown => '?',
                };
                write!(f, "{mark}     {xid}its caller learns: {text}")
            }
            StepKind::Event(Role::Client, text) => write!(f, "*     {xid}{text}"),
            StepKind::Event(Role::Server, text) => write!(f, "   *  {xid}{text}"),
            StepKind::Differs(text) => write!(f, "!!    {xid}{text}"),
            StepKind::Note(text) => write!(f, "      {}", text.escape_debug()),
            StepKind::Restarted => write!(f, "====  the server was started again"),
        }
    }
}

/// The front of a body: as text where it is text, otherwise in hexadecimal.
pub(crate) fn shown(body: &[u8]) -> String {
    let front = &body[..body.len().min(BODY_SHOWN)];
    let more = if body.len() > front.len() { "…" } else { "" };
    let is_text = front.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    if is_text {
        return format!("{:?}{more}", String::from_utf8_lossy(front));
    }
    let mut hex = String::new();
    for byte in front {
        let _ = write!(hex, "{byte:02x}");
    }
    hex + more
}
