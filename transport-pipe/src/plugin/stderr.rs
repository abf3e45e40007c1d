//! What plugins write to their stderr: read as it comes, cut into lines, and passed on by a thread that may be slow.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, PipeReader, Read};
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use async_io::Async;

use super::{lock, thread};

/// Bytes of the longest line. A longer one comes in pieces.
const LINE_LEN_MAX: usize = 4096;
/// Bytes of the lines that wait to be passed on. What comes when they are full is counted and dropped.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// What a line counts for beside its bytes.
const LINE_OVERHEAD: usize = 64;
/// Lines that are quoted when a plugin has ended, and the characters of each.
const LAST_LINES_MAX: usize = 5;
const LAST_LINE_CHARS_MAX: usize = 200;
/// Bytes that are read at once.
const READ_LEN: usize = 32 << 10;
/// Bytes that are read after the end of a program, at most: more than a pipe holds comes from another.
const LATE_LEN_MAX: usize = 1 << 20;

/// A line that a plugin wrote to its stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StderrLine {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// The line, without its end; a piece of it if it has more than 4,096 bytes. What is not UTF-8 is replaced.
    pub text: String,
    /// Lines that were dropped before this one, because those that came earlier were not taken fast enough.
    pub lines_lost: u64,
}

impl fmt::Display for StderrLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines_lost > 0 {
            writeln!(f, "[{}] … {} lines lost …", self.plugin, self.lines_lost)?;
        }
        write!(f, "[{}] {}", self.plugin, self.text)
    }
}

/// Where the lines of a plugin go.
pub(super) struct Sink {
    plugin: Arc<str>,
    take: Arc<dyn Fn(StderrLine) + Send + Sync>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<StderrLine>,
    bytes: usize,
    lost: u64,
    /// A task passes lines on.
    is_passing: bool,
}

impl Sink {
    pub(super) fn new(plugin: Arc<str>, take: Arc<dyn Fn(StderrLine) + Send + Sync>) -> Arc<Sink> {
        Arc::new(Sink { plugin, take, waiting: Mutex::default() })
    }

    fn push(self: &Arc<Sink>, text: String) {
        let mut waiting = lock(&self.waiting);
        let len = text.len() + LINE_OVERHEAD;
        if waiting.bytes + len > WAITING_BYTES_MAX {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += len;
        let lines_lost = std::mem::take(&mut waiting.lost);
        waiting.lines.push_back(StderrLine { plugin: self.plugin.clone(), text, lines_lost });
        if !std::mem::replace(&mut waiting.is_passing, true) {
            thread::spawn(self.clone().pass_on());
        }
    }

    /// Passes lines on until there are none, on a thread for code that may block.
    async fn pass_on(self: Arc<Sink>) {
        loop {
            let lines = {
                let mut waiting = lock(&self.waiting);
                waiting.bytes = 0;
                if waiting.lines.is_empty() {
                    waiting.is_passing = false;
                    return;
                }
                std::mem::take(&mut waiting.lines)
            };
            let take = self.take.clone();
            smol::unblock(move || {
                for line in lines {
                    // A panic costs its own line. Its payload is not dropped, since that may panic again.
                    let _ = catch_unwind(AssertUnwindSafe(|| take(line))).map_err(forget);
                }
            })
            .await;
        }
    }
}

/// The stderr of one run of a plugin.
pub(super) struct Stderr {
    /// None once it has ended.
    pipe: Option<Async<PipeReader>>,
    sink: Arc<Sink>,
    line: Vec<u8>,
    last: VecDeque<String>,
}

impl Stderr {
    pub(super) fn new(pipe: Async<PipeReader>, sink: Arc<Sink>) -> Stderr {
        Stderr { pipe: Some(pipe), sink, line: Vec::new(), last: VecDeque::new() }
    }

    /// Reads until it is dropped; what was read is kept.
    pub(super) async fn read(&mut self) {
        while let Some(pipe) = &self.pipe {
            if pipe.readable().await.is_err() || self.read_once().is_none() {
                self.pipe = None;
            }
        }
        std::future::pending().await
    }

    /// Reads what is there when the program has ended, and returns its last lines.
    pub(super) fn finish(mut self) -> Vec<String> {
        let mut left = LATE_LEN_MAX;
        while let Some(len @ 1..) = self.read_once()
            && left > 0
        {
            left = left.saturating_sub(len);
        }
        self.end_line();
        self.last.into()
    }

    /// Reads once, without waiting: how much, or `None` at the end.
    fn read_once(&mut self) -> Option<usize> {
        let mut bytes = [0; READ_LEN];
        let mut pipe = self.pipe.as_ref()?.get_ref();
        match pipe.read(&mut bytes) {
            Ok(0) => None,
            Ok(len) => {
                self.take(&bytes[..len]);
                Some(len)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Some(0),
                _ => None,
            },
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = &bytes[..bytes.len().min(LINE_LEN_MAX - self.line.len())];
            match room.iter().position(|byte| *byte == b'\n') {
                Some(at) => {
                    self.line.extend_from_slice(&room[..at]);
                    self.pass_line();
                    bytes = &bytes[at + 1..];
                }
                None => {
                    self.line.extend_from_slice(room);
                    if self.line.len() == LINE_LEN_MAX {
                        self.pass_line();
                    }
                    bytes = &bytes[room.len()..];
                }
            }
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.pass_line();
        }
    }

    fn pass_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line).trim_end_matches('\r').to_owned();
        self.line.clear();
        if !text.trim().is_empty() {
            if self.last.len() == LAST_LINES_MAX {
                self.last.pop_front();
            }
            self.last.push_back(text.chars().take(LAST_LINE_CHARS_MAX).collect());
        }
        self.sink.push(text);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::channel;

    use super::*;

    fn stderr() -> (std::io::PipeWriter, Stderr, std::sync::mpsc::Receiver<StderrLine>) {
        thread::start().unwrap();
        let (sender, lines) = channel();
        let (reader, writer) = std::io::pipe().unwrap();
        let sender = Mutex::new(sender);
        let take = Arc::new(move |line| {
            let _ = lock(&sender).send(line);
        });
        let stderr = Stderr::new(Async::new(reader).unwrap(), Sink::new("p".into(), take));
        (writer, stderr, lines)
    }

    #[test]
    fn lines_come_whole_and_a_long_one_in_pieces() {
        let (mut writer, stderr, lines) = stderr();
        writer.write_all(b"one\r\n\ntw\xff\n").unwrap();
        writer.write_all(&[b'x'; 2 * LINE_LEN_MAX + 1]).unwrap();
        assert_eq!(stderr.finish().len(), 5);
        let texts: Vec<_> = lines.iter().take(6).map(|line| line.text).collect();
        assert_eq!(texts[..3], ["one", "", "tw\u{fffd}"]);
        let lens: Vec<_> = texts[3..].iter().map(String::len).collect();
        assert_eq!(lens, [LINE_LEN_MAX, LINE_LEN_MAX, 1]);
    }

    #[test]
    fn a_taker_that_blocks_loses_lines_and_learns_how_many() {
        thread::start().unwrap();
        let (gate, passes) = channel::<()>();
        let passes = Mutex::new(passes);
        let (sender, lines) = channel();
        let sender = Mutex::new(sender);
        let sink = Sink::new(
            "p".into(),
            Arc::new(move |line: StderrLine| {
                let _ = lock(&passes).recv();
                let _ = lock(&sender).send(line);
            }),
        );
        // Lines of the greatest length, each with its number.
        let push = |number: u64| sink.push(format!("{number:0>LINE_LEN_MAX$}"));
        (0..1000).for_each(push);
        drop(gate);
        let (mut next, mut lost) = (0, 0);
        let mut check = |line: StderrLine| {
            lost += line.lines_lost;
            assert_eq!(
                line.text.parse(),
                Ok(next + line.lines_lost),
                "each line is passed on or counted"
            );
            next += line.lines_lost + 1;
            next
        };
        let fitted = WAITING_BYTES_MAX / (LINE_LEN_MAX + LINE_OVERHEAD);
        for _ in 0..fitted {
            check(lines.recv().unwrap());
        }
        // The next line that fits says how many were lost, and there is always one to receive: this one, or what it waits for.
        for number in 1000.. {
            push(number);
            if check(lines.recv().unwrap()) > 1000 {
                break;
            }
        }
        assert!(lost >= 1000 - 2 * fitted as u64, "{lost} of 1000 were lost");
    }

    #[test]
    fn a_taker_that_panics_gets_the_next_line() {
        thread::start().unwrap();
        let (sender, lines) = channel();
        let sender = Mutex::new(sender);
        let sink = Sink::new(
            "p".into(),
            Arc::new(move |line: StderrLine| {
                assert!(line.text != "panic", "as the test wants it");
                let _ = lock(&sender).send(line);
            }),
        );
        sink.push("panic".to_owned());
        sink.push("go on".to_owned());
        assert_eq!(lines.recv().unwrap().text, "go on");
    }
}
