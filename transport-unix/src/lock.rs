//! The lock beside a socket's path: one server a path, and its pid for the one that comes second.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use oncewire_driver::files::{LockError, LockFile};

use crate::socket_file::in_use;

/// The right to be the server of a path, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: LockFile,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of the socket at `socket`, or says who has it.
    pub(crate) fn take(socket: &Path) -> io::Result<Lock> {
        let path = lock_path(socket);
        match LockFile::take(&path) {
            Ok(file) => Ok(Lock { file, path }),
            Err(LockError::Held(pid)) => Err(in_use(socket.display(), pid)),
            // To open the lock makes its file, so what is missing is the folder.
            Err(LockError::Unusable(e)) if e.kind() == io::ErrorKind::NotFound => {
                let folder = socket.parent().unwrap_or(socket).display();
                let text =
                    format!("{} cannot be made: there is no folder {folder}", socket.display());
                Err(io::Error::new(e.kind(), text))
            }
            Err(LockError::Unusable(e)) => {
                Err(io::Error::new(e.kind(), format!("the lock file {}: {e}", path.display())))
            }
        }
    }

    /// Whether another server can take a lock at this path: ours was removed.
    pub(crate) fn is_lost(&self) -> bool {
        self.file.is_at(&self.path).is_ok_and(|is_there| !is_there)
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".lock");
    path.into()
}
