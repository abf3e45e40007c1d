//! The journals of clients and servers: each line is one `write`. An incomplete line is the last one of a killed process, and
//! counts as not written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A call, as its client numbers it: no two calls have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) client: u32,
    /// The life of the client.
    pub(super) generation: u32,
    /// Grows with every call of a life.
    pub(super) call: u64,
}

/// What a reply says of its execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    /// The life of the server that executed it.
    pub(super) life: u32,
    /// Elements in the client's log then, or its counter.
    pub(super) position: u64,
}

/// The outcome that a client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    Reply(Receipt),
    NoReply,
    NotExecuted,
    Unknown,
}

/// How a client's connections fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) sessions: u64,
    pub(super) reconnects: u64,
    pub(super) asks: u64,
    pub(super) resends: u64,
}

/// A line of a client's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Before the call.
    Call { call: u64, element: u64 },
    /// After it.
    Observed { call: u64, observed: Observed },
    /// From time to time; the last one counts.
    Links(Links),
}

/// A line of a server's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) key: Key,
    pub(super) element: u64,
    /// Whether it went to the log; else to the counter.
    pub(super) is_append: bool,
    pub(super) position: u64,
}

/// A journal to write to.
#[derive(Debug)]
pub(super) struct Journal(Mutex<File>);

impl Journal {
    /// A new journal; an error if there is one of this name.
    pub(super) fn create(path: &Path) -> io::Result<Journal> {
        Ok(Journal(Mutex::new(OpenOptions::new().append(true).create_new(true).open(path)?)))
    }

    /// Writes a line. When this returns the kernel has it, and the writer's death takes nothing from it.
    pub(super) fn write(&self, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}

impl Said {
    pub(super) fn line(&self) -> String {
        match self {
            Said::Call { call, element } => format!("call {call} {element}"),
            Said::Observed { call, observed } => match observed {
                Observed::Reply(Receipt { life, position }) => {
                    format!("observed {call} reply {life} {position}")
                }
                Observed::NoReply => format!("observed {call} no-reply"),
                Observed::NotExecuted => format!("observed {call} not-executed"),
                Observed::Unknown => format!("observed {call} unknown"),
            },
            Said::Links(Links { sessions, reconnects, asks, resends }) => {
                format!("links {sessions} {reconnects} {asks} {resends}")
            }
        }
    }

    fn parse(line: &str) -> Option<Said> {
        let words: Vec<&str> = line.split(' ').collect();
        Some(match words.as_slice() {
            ["call", call, element] => {
                Said::Call { call: call.parse().ok()?, element: element.parse().ok()? }
            }
            ["observed", call, observed @ ..] => {
                let observed = match observed {
                    ["reply", life, position] => Observed::Reply(Receipt {
                        life: life.parse().ok()?,
                        position: position.parse().ok()?,
                    }),
                    ["no-reply"] => Observed::NoReply,
                    ["not-executed"] => Observed::NotExecuted,
                    ["unknown"] => Observed::Unknown,
                    _ => return None,
                };
                Said::Observed { call: call.parse().ok()?, observed }
            }
            ["links", sessions, reconnects, asks, resends] => Said::Links(Links {
                sessions: sessions.parse().ok()?,
                reconnects: reconnects.parse().ok()?,
                asks: asks.parse().ok()?,
                resends: resends.parse().ok()?,
            }),
            _ => return None,
        })
    }
}

impl Ran {
    pub(super) fn line(&self) -> String {
        let Ran { key: Key { client, generation, call }, element, is_append, position } = self;
        let what = if *is_append { "append" } else { "add" };
        format!("{what} {client} {generation} {call} {element} {position}")
    }

    fn parse(line: &str) -> Option<Ran> {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, client, generation, call, element, position] = words.as_slice() else {
            return None;
        };
        let is_append = match *what {
            "append" => true,
            "add" => false,
            _ => return None,
        };
        let (client, generation) = (client.parse().ok()?, generation.parse().ok()?);
        let key = Key { client, generation, call: call.parse().ok()? };
        let (element, position) = (element.parse().ok()?, position.parse().ok()?);
        Some(Ran { key, element, is_append, position })
    }
}

/// Reads a client's journal.
pub(super) fn read_said(path: &Path) -> io::Result<Vec<Said>> {
    read(path, Said::parse)
}

/// Reads a server's journal.
pub(super) fn read_ran(path: &Path) -> io::Result<Vec<Ran>> {
    read(path, Ran::parse)
}

fn read<T>(path: &Path, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    parse_lines(&std::fs::read_to_string(path)?, parse)
        .map_err(|line| io::Error::other(format!("{} has a line {line:?}", path.display())))
}

fn parse_lines<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| parse(line).ok_or_else(|| line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let links = Links { sessions: 1, reconnects: 2, asks: 3, resends: 4 };
        let receipt = Receipt { life: 3, position: 9 };
        let said = [
            Said::Call { call: 1, element: 7 },
            Said::Observed { call: 1, observed: Observed::Unknown },
            Said::Observed { call: 1, observed: Observed::Reply(receipt) },
            Said::Observed { call: 2, observed: Observed::NotExecuted },
            Said::Observed { call: 3, observed: Observed::NoReply },
            Said::Links(links),
        ];
        for one in said {
            assert_eq!(Said::parse(&one.line()), Some(one));
        }
        let key = Key { client: 1, generation: 2, call: 3 };
        for is_append in [true, false] {
            let ran = Ran { key, element: 7, is_append, position: 9 };
            assert_eq!(Ran::parse(&ran.line()), Some(ran));
        }
    }

    #[test]
    fn a_torn_last_line_counts_as_not_written_and_another_one_is_an_error() {
        let whole = Said::Call { call: 1, element: 7 };
        let text = format!("{}\ncall 2 ", whole.line());
        assert_eq!(parse_lines(&text, Said::parse), Ok(vec![whole]));
        assert_eq!(parse_lines("call", Said::parse), Ok(vec![]));
        assert_eq!(parse_lines("call\ncall 1 2\n", Said::parse), Err("call".to_owned()));
    }
}
