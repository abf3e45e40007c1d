//! The file of a socket: cleared of what a dead server left, made, and removed.

use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oncewire_driver::files::kind_of;
use rustix::io::Errno;
use rustix::net;

use crate::name::Name;
use crate::socket::{peer, stream_socket};

/// A socket's file that is ours, until this is dropped.
///
/// It must be dropped before the socket is closed: while that is open, no other file can get its inode number.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
    /// The file itself, wherever it is by now.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    file: rustix::fd::OwnedFd,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl SocketFile {
    /// The file that has just been made at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<SocketFile> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let there = rustix::fs::fstat(&file)?;
        Ok(SocketFile { path: path.to_owned(), id: (there.st_dev, there.st_ino), file })
    }

    /// Sets the mode of the file itself: its path may lead to another one by now.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match fs::set_permissions(file, Permissions::from_mode(mode)) {
            // There is no /proc here.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::set_permissions(&self.path, Permissions::from_mode(mode))
            }
            done => done,
        }
    }

    /// Whether no path leads to the file any more, or ours leads to another one. A path that cannot be seen from here may
    /// be one that others can see: this process may live in its own root folder by now.
    pub(crate) fn is_lost(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|there| there.st_nlink == 0)
            || id_at(&self.path).is_ok_and(|id| id != self.id)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl SocketFile {
    /// The file that has just been made at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), id: id_at(path)? })
    }

    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    /// Whether its path leads nowhere, or to another file.
    pub(crate) fn is_lost(&self) -> bool {
        match id_at(&self.path) {
            Ok(id) => id != self.id,
            Err(e) => e.kind() == ErrorKind::NotFound,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id_at(&self.path).is_ok_and(|id| id == self.id) {
            // A file that cannot be removed is what a killed server leaves, too: the next one replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes `path` free for a socket of ours: removes a socket of ours that no process listens on, and nothing else. The lock
/// must be held.
pub(crate) fn clear(path: &Path, name: &Name) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(name.explain(e)),
    };
    if !there.file_type().is_socket() {
        let what = kind_of(there.file_type());
        let text = format!("{name} is {what}, not a socket; it is left alone");
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    let id = (there.dev(), there.ino());
    if let Owner::Alive(pid) = owner(name)? {
        return Err(in_use(name, pid));
    }
    let (uid, we) = (there.uid(), rustix::process::geteuid().as_raw());
    if uid != we {
        let text = format!(
            "{name} is a socket that no process listens on, but it belongs to uid {uid}, and this \
             program runs as uid {we}; it is left alone: remove it, or choose another path"
        );
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    if id_at(path).is_ok_and(|now| now == id) {
        return fs::remove_file(path).map_err(|e| name.explain(e));
    }
    // Another process was at it; if a file is there now, the bind says so.
    Ok(())
}

/// Who listens on a socket.
pub(crate) enum Owner {
    None,
    /// Its pid, if the system knows.
    Alive(Option<u32>),
}

/// Asks by dialling: only a refused connection proves that no process listens.
pub(crate) fn owner(name: &Name) -> io::Result<Owner> {
    let socket: std::os::unix::net::UnixStream = stream_socket()?;
    match net::connect(&socket, &name.to_address()?) {
        Ok(()) => Ok(Owner::Alive(peer(&socket).ok().flatten().and_then(|peer| peer.pid))),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(Owner::None),
        // A full queue, or a socket of another type: a process listens.
        Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(Owner::Alive(None)),
        Err(e) => {
            let text =
                format!("{name}: cannot tell whether its server lives ({e}); it is left alone");
            Err(io::Error::new(io::Error::from(e).kind(), text))
        }
    }
}

/// The error of the server that comes second.
pub(crate) fn in_use(name: impl Display, pid: Option<u32>) -> io::Error {
    let holder = match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    };
    io::Error::new(ErrorKind::AddrInUse, format!("{name} is in use by {holder}"))
}

fn id_at(path: &Path) -> io::Result<(u64, u64)> {
    let there = fs::symlink_metadata(path)?;
    Ok((there.dev(), there.ino()))
}
