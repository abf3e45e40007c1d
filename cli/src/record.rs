//! A relay that records what passes.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncewire::protocol::wire::Role;
use oncewire::{BoxStream, Connect, MethodId, Subject};
use oncewire_recorder::{About, EndedBy, Key, Record, Source, Tap, What, Writer};
use smol::LocalExecutor;
use smol::channel::{Sender, unbounded};
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::address::Address;
use crate::args::RecordArgs;
use crate::connect::{Target, connect, now, pause};
use crate::exit::Failure;
use crate::list::methods;
use crate::say;

/// Bytes that are read at once.
const CHUNK_LEN: usize = 64 << 10;
/// How long the server is asked for the names of its methods.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Recording {
    writer: RefCell<Writer<BufWriter<File>>>,
    began: Instant,
    key: Key,
    plain_bodies: bool,
    to: Arc<dyn Connect>,
    /// Gets the reason why nothing more can be recorded.
    failed: Sender<io::Error>,
}

impl Recording {
    fn write(&self, whats: impl IntoIterator<Item = What>) {
        let at = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut writer = self.writer.borrow_mut();
        let mut written = Ok(());
        for what in whats {
            written = written.and_then(|()| writer.write(&Record { at, what }));
        }
        // A relay that is killed leaves all that has passed in the file.
        if let Err(error) = written.and_then(|()| writer.flush()) {
            let _ = self.failed.try_send(error);
        }
    }
}

/// Relays and records until it is killed, or so many connections have ended.
pub(crate) async fn run(args: RecordArgs) -> Result<(), Failure> {
    let target = Target::anonymous(args.to.clone(), &args.trust)?;
    let acceptor = args.listen.acceptor().await.map_err(|error| Failure::Listen {
        address: args.listen.clone(),
        why: error.to_string(),
    })?;
    let names = names(&target).await;
    let (failed, failure) = unbounded();
    let began = now();
    let recording = Recording {
        writer: RefCell::new(
            begin(&args, &names).map_err(|error| Failure::file(&args.file, error))?,
        ),
        began,
        key: Key::random().map_err(|error| Failure::file(&args.file, error))?,
        plain_bodies: args.bodies,
        to: target.connector,
        failed,
    };
    let recording = Rc::new(recording);
    say(&format!(
        "listening on {}, relaying to {}, recording to {}",
        acceptor.address(),
        args.to,
        args.file.display()
    ))?;
    let executor = Rc::new(LocalExecutor::new());
    let (ended, ends) = unbounded();
    let serve = async {
        let mut conn = 0;
        loop {
            match acceptor.accept().await {
                Ok((stream, subject)) => {
                    conn += 1;
                    let (recording, ended) = (Rc::clone(&recording), ended.clone());
                    let relay = async move {
                        relay(&recording, conn, stream, &subject).await;
                        let _ = ended.try_send(());
                    };
                    executor.spawn(relay).detach();
                }
                Err(error) if is_permanent(&error) => {
                    let address = args.listen.clone();
                    return Err(Failure::Listen { address, why: error.to_string() });
                }
                Err(_) => pause(PAUSE).await,
            }
        }
    };
    let until_failed = async {
        match failure.recv().await {
            Ok(error) => Err(Failure::file(&args.file, error)),
            Err(_) => Ok(()),
        }
    };
    let until_ended = async {
        let mut left = args.connections.unwrap_or(u64::MAX);
        while left > 0 && ends.recv().await.is_ok() {
            left -= 1;
        }
        Ok(())
    };
    let all = smol::future::or(until_failed, smol::future::or(until_ended, serve));
    executor.run(all).await
}

fn is_permanent(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, InvalidInput, NotFound, Unsupported};
    matches!(error.kind(), BrokenPipe | InvalidInput | NotFound | Unsupported)
}

/// The names of the server's methods, if it says them: requests have numbers only. A server behind a pipe is one process
/// for each connection, and is not started for this.
async fn names(to: &Target) -> Vec<String> {
    if matches!(to.address, Address::Pipe(_)) {
        return Vec::new();
    }
    let Ok(session) = connect(to, NAMES_TIMEOUT).await else {
        return Vec::new();
    };
    let methods = methods(&session.client, NAMES_TIMEOUT).await.unwrap_or_default();
    session.client.close().await;
    methods.into_iter().map(|(name, _)| name).collect()
}

/// Makes the file, which must be new: a recording is not written over another one.
fn begin(args: &RecordArgs, names: &[String]) -> io::Result<Writer<BufWriter<File>>> {
    let file = create(&args.file)?;
    let about = About {
        source: Source::Relay,
        plain_bodies: args.bodies,
        lossy: false,
        unix_ms: unix_ms(),
        what: format!("{} to {}", args.listen, args.to),
    };
    let mut writer = Writer::new(BufWriter::new(file), &about)?;
    for name in names {
        writer.write(&Record { at: 0, what: What::Method(MethodId::of(name), name.clone()) })?;
    }
    writer.flush()?;
    Ok(writer)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[expect(clippy::disallowed_methods, reason = "a program's own clock")]
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One connection, until either end is gone.
async fn relay(recording: &Recording, conn: u64, client: BoxStream, subject: &Subject) {
    recording.write([What::Connected { conn, peer: subject.to_string() }]);
    let tap = RefCell::new(Tap::new(recording.key.clone(), recording.plain_bodies, conn));
    let by = match recording.to.connect().await {
        Ok(server) => {
            let (client_reads, client_writes) = smol::io::split(client);
            let (server_reads, server_writes) = smol::io::split(server);
            let up = copy(recording, &tap, Role::Client, client_reads, server_writes);
            let down = copy(recording, &tap, Role::Server, server_reads, client_writes);
            smol::future::or(up, down).await
        }
        Err(error) => {
            let text = format!("connection {conn} is closed: cannot connect: {error}");
            recording.write([What::Note(text)]);
            EndedBy::Server
        }
    };
    recording.write([tap.borrow().disconnected(by)]);
}

/// Copies one direction, and returns who has ended it.
async fn copy(
    recording: &Recording,
    tap: &RefCell<Tap>,
    from: Role,
    mut reads: impl AsyncRead + Unpin,
    mut writes: impl AsyncWrite + Unpin,
) -> EndedBy {
    let (sender, receiver) = match from {
        Role::Client => (EndedBy::Client, EndedBy::Server),
        Role::Server => (EndedBy::Server, EndedBy::Client),
    };
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        let len = match reads.read(&mut chunk).await {
            Ok(0) | Err(_) => return sender,
            Ok(len) => len,
        };
        let mut whats = Vec::new();
        tap.borrow_mut().push(from, &chunk[..len], |what| whats.push(what));
        if !whats.is_empty() {
            recording.write(whats);
        }
        let written = async {
            writes.write_all(&chunk[..len]).await?;
            writes.flush().await
        };
        if written.await.is_err() {
            return receiver;
        }
    }
}
