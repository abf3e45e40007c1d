//! The story. A primary forwards each operation to its backup over a plain socket and waits; the backup is killed in mid call. This is
//! what many write first, and it has two faults: an error does not say whether the operation was executed, and nothing recognises
//! the second attempt.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::processes::{Child, TempDir};

/// Where the backup is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    /// It has read one byte of the request.
    Reading,
    /// It has executed the operation, and written one byte of its reply.
    Replying,
    /// It has answered one call; the next comes.
    Between,
    /// It is not killed, but stopped, as a machine that hangs.
    NotAtAll,
}

impl Killed {
    const ALL: [Killed; 4] = [Killed::Reading, Killed::Replying, Killed::Between, Killed::NotAtAll];

    fn name(self) -> &'static str {
        match self {
            Killed::Reading => "reading",
            Killed::Replying => "replying",
            Killed::Between => "between",
            Killed::NotAtAll => "hanging",
        }
    }

    /// What the primary sees then.
    fn error(self) -> io::ErrorKind {
        match self {
            Killed::Reading => io::ErrorKind::ConnectionReset,
            Killed::Replying => io::ErrorKind::UnexpectedEof,
            Killed::Between => io::ErrorKind::BrokenPipe,
            Killed::NotAtAll => io::ErrorKind::WouldBlock,
        }
    }
}

/// As Go's `Put(key, value)`, but that it adds: done twice it is wrong.
const APPEND: &[u8] = b"append x [a]\n";
const OK: &[u8] = b"OK\n";
/// The naive primary waits for ever. The demonstration gives up watching it after this time.
const WATCHED: Duration = Duration::from_secs(1);

/// A backup in a process of its own, which stops where it will be killed.
///
/// # Errors
/// What is wrong with the arguments or the socket.
pub fn backup(socket: &str, killed: &str) -> Result<(), String> {
    let killed = Killed::ALL.into_iter().find(|of| of.name() == killed);
    let killed = killed.ok_or("there is no such place to be killed at")?;
    let listener = UnixListener::bind(socket).map_err(|error| format!("{socket}: {error}"))?;
    output::show!("listening");
    let run = || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut request = vec![0; APPEND.len()];
        match killed {
            Killed::Reading => stream.read_exact(&mut request[..1])?,
            Killed::Replying => {
                stream.read_exact(&mut request)?;
                stream.write_all(&OK[..1])?;
            }
            Killed::Between => {
                stream.read_exact(&mut request)?;
                stream.write_all(OK)?;
            }
            Killed::NotAtAll => {}
        }
        output::show!("here");
        loop {
            std::thread::park();
        }
    };
    run().map_err(|error| error.to_string())
}

/// The naive primary.
struct Primary {
    value: String,
    backup: Option<UnixStream>,
}

impl Primary {
    /// Executes, forwards, and waits.
    fn append(&mut self) -> io::Result<()> {
        self.value.push_str("[a]");
        let Some(backup) = &mut self.backup else { return Ok(()) };
        backup.write_all(APPEND)?;
        let mut reply = [0; OK.len()];
        backup.read_exact(&mut reply)
    }
}

fn one(dir: &Path, killed: Killed) -> Result<bool, String> {
    let say = |error: io::Error| error.to_string();
    let socket = dir.join(format!("{}.sock", killed.name()));
    let path = socket.to_str().ok_or("the temporary folder's name is not text")?;
    let mut child = Child::start(&["naive-backup", path, killed.name()])?;
    child.line("listening")?;
    let stream = UnixStream::connect(&socket).map_err(say)?;
    let mut primary = Primary { value: String::new(), backup: Some(stream) };
    let mut calls = 0;
    if killed == Killed::Between {
        primary.append().map_err(say)?;
        child.line("here")?;
        child.kill();
        calls = 1;
    }
    let watched = primary.backup.as_ref().map_or(Ok(()), |of| of.set_read_timeout(Some(WATCHED)));
    watched.map_err(say)?;
    // The kill comes while the call is under way, when the backup says where it is.
    let kills = matches!(killed, Killed::Reading | Killed::Replying);
    let killer = std::thread::spawn(move || {
        if kills {
            child.line("here")?;
            child.kill();
        }
        Ok::<_, String>(child)
    });
    let result = primary.append();
    let child = killer.join().map_err(|_| "the killer has panicked")?;
    drop(child?);
    let error = result.err();
    let seen = match &error {
        None => "nothing".to_owned(),
        Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
            format!("nothing: still waiting after {} s", WATCHED.as_secs())
        }
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        Some(error) => error.to_string(),
    };
    // The client got an error, which says neither yes nor no. It tries again; meanwhile the primary is alone.
    primary.backup = None;
    primary.append().map_err(say)?;
    calls += 1;
    let times = primary.value.matches("[a]").count();
    output::show!(
        "{:<10}the primary sees: {seen:<45}{calls} {} asked for, {times} executed",
        killed.name(),
        if calls == 1 { "append" } else { "appends" },
    );
    Ok(error.map(|error| error.kind()) == Some(killed.error()) && times == calls + 1)
}

/// Shows it; whether each error was seen.
///
/// # Errors
/// Why it could not be tried.
pub fn run() -> Result<bool, String> {
    let dir = TempDir::new("oncewire-naive")?;
    output::show!(
        "A primary forwards to its backup over a plain socket, and waits. The backup is killed in mid call:"
    );
    let mut shown = true;
    for killed in Killed::ALL {
        shown &= one(dir.path(), killed)?;
    }
    output::show!(
        "Each error leaves open whether the operation was executed, the client tries again as it must, and nothing recognises \
         the second attempt.\nWithout --naive you see the same kills, and each operation executed once."
    );
    Ok(shown)
}
