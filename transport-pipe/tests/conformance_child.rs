//! The cases that every transport must show, over the stdin and stdout of a child: this program again, which passes on
//! what it reads to the case's server, and back.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use oncewire_pipe::conformance::{Endpoint, Fixture};
use oncewire_pipe::{Accept, BoxFuture, BoxStream, ChildConnector, Subject};
use smol::net::unix::UnixListener;

/// In a child's environment: the socket of its server.
const RELAY_TO: &str = "ONCEWIRE_TEST_RELAY_TO";

fn main() {
    match std::env::var_os(RELAY_TO) {
        // A case may be over, and its socket gone, before its last child has begun: that one ends.
        Some(socket) => {
            if let Err(error) = relay(Path::new(&socket)) {
                eprintln!("a child cannot pass bytes on: {error}");
                std::process::exit(1);
            }
        }
        None => {
            oncewire_pipe::conformance_tests!(one_by_one, Children::new());
        }
    }
}

/// Passes bytes on in both directions, and ends when either side does.
fn relay(socket: &Path) -> io::Result<()> {
    let server = Socket::connect(socket)?;
    let from_client = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let to_client = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let to_server = server.try_clone()?;
    std::thread::spawn(move || {
        pass_on(from_client, to_server);
        std::process::exit(0);
    });
    pass_on(server, to_client);
    Ok(())
}

/// Not [`io::copy`], whose system calls may sit on a part of what has come.
fn pass_on(mut from: impl Read, mut to: impl Write) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..len]).is_err() {
            return;
        }
    }
}

/// A directory for the sockets of one case, removed at its end.
struct Children {
    path: PathBuf,
    sockets: AtomicUsize,
}

impl Children {
    fn new() -> Children {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("oncewire-child-cases-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory for the case's sockets");
        Children { path, sockets: AtomicUsize::new(0) }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.path);
    }
}

impl Fixture for Children {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        let socket = self.path.join(self.sockets.fetch_add(1, Ordering::Relaxed).to_string());
        Box::pin(async {
            let listener = UnixListener::bind(&socket)?;
            let mut command = Command::new(std::env::current_exe()?);
            command.env(RELAY_TO, socket);
            Ok(Endpoint::new(ChildConnector::new(command), Listener(listener)))
        })
    }
}

/// Where the children connect to.
struct Listener(UnixListener);

impl Accept for Listener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let (stream, _) = self.0.accept().await?;
            Ok((Box::new(stream) as BoxStream, Subject::Anonymous))
        })
    }

    fn address(&self) -> String {
        "the children's socket".to_owned()
    }
}
