//! The place of a socket in the file system: cleared of what a dead server left, taken, and given back.

use std::fmt::Display;
use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net;

use crate::acceptor::peer;
use crate::connector::stream_socket;
use crate::name::Name;

/// A socket's file that is ours, until this is dropped.
///
/// It must be dropped before the socket is closed: while that is open, no other file can get its inode number.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    id: (u64, u64),
}

impl Place {
    /// The file that has just been made at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Place> {
        Ok(Place { path: path.to_owned(), id: id_at(path)? })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if id_at(&self.path).is_ok_and(|id| id == self.id) {
            // A file that cannot be removed is what a killed server leaves, too: the next one replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes `path` free for a socket of ours: removes a socket that nobody listens on, and nothing else. To be called with
/// the lock held.
pub(crate) fn clear(path: &Path, name: &Name) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(there) => there.file_type(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(name.explain(e)),
    };
    if !kind.is_socket() {
        let text = format!("{name} is {}, not a socket; it is left alone", kind_of(kind));
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    let id = id_at(path)?;
    match owner(name)? {
        Owner::Lives(pid) => Err(in_use(name, pid)),
        Owner::None if id_at(path).is_ok_and(|now| now == id) => {
            fs::remove_file(path).map_err(|e| name.explain(e))
        }
        // Somebody else was at it; if a file is there now, the bind says so.
        Owner::None => Ok(()),
    }
}

/// Who listens on a socket.
pub(crate) enum Owner {
    None,
    /// Its pid, where the system tells.
    Lives(Option<i32>),
}

/// Asks by dialling: only a refused connection says that nobody is there.
pub(crate) fn owner(name: &Name) -> io::Result<Owner> {
    let socket: std::os::unix::net::UnixStream = stream_socket()?;
    match net::connect(&socket, &name.to_address()?) {
        Ok(()) => Ok(Owner::Lives(peer(&socket).ok().and_then(|(_, pid)| pid))),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(Owner::None),
        // A full queue, or a socket of another type: somebody is there.
        Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(Owner::Lives(None)),
        Err(e) => {
            let text =
                format!("{name}: cannot tell whether its server lives ({e}); it is left alone");
            Err(io::Error::new(io::Error::from(e).kind(), text))
        }
    }
}

/// The error of whoever comes second.
pub(crate) fn in_use(name: impl Display, pid: Option<i32>) -> io::Error {
    let holder = match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    };
    io::Error::new(ErrorKind::AddrInUse, format!("{name} is in use by {holder}"))
}

/// For messages: what stands where a file of ours should be.
pub(crate) fn kind_of(kind: FileType) -> &'static str {
    if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

fn id_at(path: &Path) -> io::Result<(u64, u64)> {
    let there = fs::symlink_metadata(path)?;
    Ok((there.dev(), there.ino()))
}
