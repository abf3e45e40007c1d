//! The lock beside a socket's path: one server a path, and its pid for whoever comes second.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::place::{in_use, kind_of};

/// The right to be the server of a path, for as long as this lives. The kernel takes it back when the process ends,
/// however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the socket at `socket`, or says who has it.
    pub(crate) fn take(socket: &Path) -> io::Result<Lock> {
        let path = lock_path(socket);
        loop {
            let file = open(&path).map_err(|e| {
                io::Error::new(e.kind(), format!("the lock file {}: {e}", path.display()))
            })?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if !is_at(&file, &path)? => continue, // Somebody cleaned it away meanwhile.
                Ok(()) => {
                    let lock = Lock { file };
                    lock.write_pid()?;
                    return Ok(lock);
                }
                Err(Errno::WOULDBLOCK) => return Err(in_use(socket.display(), read_pid(&file))),
                Err(e) => {
                    let text = format!("cannot lock {}: {e}", path.display());
                    return Err(io::Error::new(io::Error::from(e).kind(), text));
                }
            }
        }
    }

    fn write_pid(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The pid is for messages only: if it stays, a later holder writes its own over it.
        let _ = self.file.set_len(0);
        // Now, even if a child that is just being made still has the file.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".lock");
    path.into()
}

/// Only the owner may open it: whoever can open it can lock it, and keep the server from starting.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        let text = format!("in its place is {}, which is left alone", kind_of(kind));
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    Ok(file)
}

/// Whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((held.dev(), held.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The holder's pid, unless it has not yet written it.
fn read_pid(file: &File) -> Option<i32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}
