//! Files that belong to this user alone: ledgers, journals, and the locks beside them and beside sockets.
//!
//! Ledgers and journals hold session ids, and anyone who reads one can resume a session and make calls in its name; a lock
//! that others can open, they can hold, and so keep a server from starting. So such files are made with mode 0600,
//! whatever the umask, and checked when they are opened, as ssh checks its keys: a regular file, of this user, under one
//! name, with no bits for anyone else. A file that fails is left as it is, and the error says what it is and whose.
//!
//! Who may write in a file's folder can put another file in its place. So that folder must not be writable by its group, nor by all
//! users. Two kinds are allowed: those with the sticky bit, like `/tmp`, where only a file's owner may replace it; and those that are
//! writable by a user's private group, whose number is the user's own: where `umask` is 002, users' folders are so. Such a group is taken to have no other member, which is not checked: where a service's
//! group has some, `chmod g-w` its folders. The folder's owner, and who can write further up, are trusted.
//!
//! On systems that are not unix nothing is checked.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

#[cfg(unix)]
pub use system::kind_of;

/// Makes a file that only this user can open. The name must be free; a link that leads nowhere is not.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if something has that name.
pub fn create_private(path: &Path) -> io::Result<File> {
    system::create(path)
}

/// Opens a regular file for reading and writing. Links are followed if this user or root made them.
///
/// # Errors
/// Whose the file is, if it cannot be opened, and what it is, if it is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    system::open(path, true)
}

/// Checks that a file opened at `path` belongs to this user alone, and that its folder's group and all other users cannot replace
/// it.
///
/// # Errors
/// [`ErrorKind::PermissionDenied`]: what is wrong with the file or its folder, and what to do.
pub fn check_private(path: &Path, file: &File) -> io::Result<()> {
    system::check_file(file)?;
    system::check_folder(path)
}

/// Whether something has this name.
///
/// # Errors
/// If it is a link that leads nowhere: what it led to may only be away, as on a disk that is not mounted.
pub fn exists(path: &Path) -> io::Result<bool> {
    if path.try_exists()? {
        return Ok(true);
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(_) => {
            let text = "it is a symbolic link that leads nowhere; it is left alone";
            Err(io::Error::new(ErrorKind::NotFound, text))
        }
    }
}

/// Removes a regular file of this user's, if there is one.
///
/// # Errors
/// What is in its place instead; that is left alone.
pub fn remove_own(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) => system::check_kind_and_owner(&there)?,
    }
    std::fs::remove_file(path)
}

/// A lock on a separate file, which holds this process's id for messages. The kernel releases it when the process
/// ends, however it ends; the file stays, empty, since to remove it would be a race.
///
/// ```
/// use oncewire_driver::files::{LockError, LockFile};
///
/// let path = std::env::temp_dir().join(format!("oncewire-doc-{}.lock", std::process::id()));
/// let lock = LockFile::take(&path)?;
/// let second = LockFile::take(&path);
/// assert!(matches!(second, Err(LockError::Held(Some(pid))) if pid == std::process::id()));
/// drop(lock);
/// # std::fs::remove_file(path)?;
/// # Ok::<(), LockError>(())
/// ```
#[derive(Debug)]
pub struct LockFile(File);

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// A process has it: the one with this id, unless it has not noted it yet.
    Held(Option<u32>),
    /// The file cannot be used. The text does not name it.
    Unusable(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> LockError {
        LockError::Unusable(error)
    }
}

/// Bytes of the longest content that a lock of ours has: a number and the end of its line.
const CONTENT_LEN_MAX: usize = 11;

impl LockFile {
    /// Takes the lock, and makes its file if there is none.
    ///
    /// # Errors
    /// Who has it, or why the file cannot be used: not a file, not ours, not ours alone, or with something else in it. It
    /// is left as it is then.
    pub fn take(path: &Path) -> Result<LockFile, LockError> {
        loop {
            let file = match create_private(path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    match system::open(path, false) {
                        // Removed meanwhile.
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        opened => opened?,
                    }
                }
                created => created?,
            };
            system::check_file(&file)?;
            if !system::lock(&file)? {
                return Err(LockError::Held(read_pid(&file).ok().flatten()));
            }
            if !system::is_at(&file, path)? {
                // Removed before it was locked: another process may have made a new one.
                continue;
            }
            read_pid(&file)?;
            let lock = LockFile(file);
            lock.write_pid()?;
            return Ok(lock);
        }
    }

    /// Whether the lock's file still has this name. If it was removed, another process can make a new one and lock that.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        system::is_at(&self.0, path)
    }

    fn write_pid(&self) -> io::Result<()> {
        use std::io::{Seek, Write};
        let mut file = &self.0;
        file.set_len(0)?;
        file.rewind()?;
        // In one write: a process that is killed between two leaves half of it.
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // The pid is for messages only: a later holder replaces it.
        let _ = self.0.set_len(0);
        // Now, even if a child that is just being made still has the file.
        let _ = system::unlock(&self.0);
    }
}

/// The process that a lock names, if it names one already.
fn read_pid(file: &File) -> io::Result<Option<u32>> {
    let mut content = Vec::new();
    let mut start = file.take(CONTENT_LEN_MAX as u64 + 1);
    start.read_to_end(&mut content)?;
    if content.is_empty() {
        return Ok(None);
    }
    // What a power cut, a full disk or a kill leaves of ours: its beginning, or zeros in its place.
    let of_ours =
        |all: fn(&u8) -> bool| content.len() <= CONTENT_LEN_MAX && content.iter().all(all);
    if of_ours(u8::is_ascii_digit) || of_ours(|byte| *byte == 0) {
        return Ok(None);
    }
    let text = std::str::from_utf8(&content).ok().filter(|text| text.len() <= CONTENT_LEN_MAX);
    match text.and_then(|text| text.strip_suffix('\n')).map(str::parse) {
        Some(Ok(pid)) => Ok(Some(pid)),
        _ => {
            let text = "it holds something else than the number of a process; it is left alone";
            Err(io::Error::new(ErrorKind::AlreadyExists, text))
        }
    }
}

#[cfg(unix)]
mod system {
    use std::fs::{self, File, FileType, Metadata, OpenOptions, Permissions};
    use std::io::{self, ErrorKind};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;

    use rustix::fs::{FlockOperation, OFlags, flock};
    use rustix::io::Errno;

    const MODE: u32 = 0o600;

    pub(super) fn create(path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(MODE).open(path)?;
        // A umask may have taken bits away that the next one to open it needs.
        file.set_permissions(Permissions::from_mode(MODE))?;
        Ok(file)
    }

    pub(super) fn open(path: &Path, follow: bool) -> io::Result<File> {
        let link = fs::symlink_metadata(path).ok().filter(Metadata::is_symlink);
        if follow && let Some(link) = &link {
            check_owner(link, true)?;
        }
        // A named pipe without a reader, or a terminal, is not waited for.
        let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        flags.set(OFlags::NOFOLLOW, !follow);
        let opened =
            OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(path);
        let file = opened.map_err(|error| explain(path, follow, error))?;
        check_kind(&file.metadata()?)?;
        Ok(file)
    }

    /// What is in the way, if that says more than the system's error.
    fn explain(path: &Path, follow: bool, error: io::Error) -> io::Error {
        let there = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        match there.and_then(|there| check_kind_and_owner(&there)) {
            Err(why) if error.kind() != ErrorKind::NotFound => why,
            _ => error,
        }
    }

    pub(super) fn check_kind_and_owner(there: &Metadata) -> io::Result<()> {
        check_kind(there)?;
        check_owner(there, false)
    }

    pub(super) fn check_file(file: &File) -> io::Result<()> {
        let file = file.metadata()?;
        check_kind_and_owner(&file)?;
        let names = file.nlink();
        if names > 1 {
            return Err(denied(format!(
                "it has {names} names (hard links), so others may keep it; it is left alone: \
                 remove the other names, or choose another path"
            )));
        }
        let mode = file.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(denied(format!(
                "other users may open it (its mode is {mode:04o}); it is left alone: see whether \
                 one has, then `chmod 600` it"
            )));
        }
        Ok(())
    }

    pub(super) fn check_folder(path: &Path) -> io::Result<()> {
        let Some(folder) = fs::canonicalize(path)?.parent().map(Path::to_owned) else {
            return Ok(());
        };
        let there = fs::metadata(&folder)?;
        let (mode, folder) = (there.mode() & 0o7777, folder.display());
        if mode & 0o1000 != 0 {
            return Ok(());
        }
        if mode & 0o002 != 0 {
            return Err(denied(format!(
                "every user may put another file in its place (the mode of {folder} is {mode:04o}): \
                 `chmod go-w` that folder"
            )));
        }
        let gid = there.gid();
        if mode & 0o020 != 0 && !is_private_group(there.uid(), gid) {
            return Err(denied(format!(
                "the group {gid} may put another file in its place (the mode of {folder} is {mode:04o}): \
                 `chmod g-w` that folder"
            )));
        }
        Ok(())
    }

    /// Whether a group is a user's own: it has the same number then, which is how `pam_umask` knows it. Root's group has other
    /// members on some systems.
    fn is_private_group(uid: u32, gid: u32) -> bool {
        uid == gid && uid != 0
    }

    fn check_kind(there: &Metadata) -> io::Result<()> {
        if there.is_file() {
            return Ok(());
        }
        let what = kind_of(there.file_type());
        let text = format!("it is {what}, not a regular file; it is left alone");
        Err(io::Error::new(ErrorKind::AlreadyExists, text))
    }

    fn check_owner(there: &Metadata, or_root: bool) -> io::Result<()> {
        let (owner, we) = (there.uid(), rustix::process::geteuid().as_raw());
        if owner == we || (or_root && owner == 0) {
            return Ok(());
        }
        Err(denied(format!(
            "it belongs to uid {owner}, and this program runs as uid {we}; it is left alone: \
             choose another path, or run as that user"
        )))
    }

    fn denied(text: String) -> io::Error {
        io::Error::new(ErrorKind::PermissionDenied, text)
    }

    /// For messages: what kind of file it is, with the article.
    pub fn kind_of(kind: FileType) -> &'static str {
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

    /// False if another open file has the lock.
    pub(super) fn lock(file: &File) -> io::Result<bool> {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn unlock(file: &File) -> io::Result<()> {
        Ok(flock(file, FlockOperation::Unlock)?)
    }

    /// Whether `path` still leads to `file`.
    pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
        let held = file.metadata()?;
        match fs::symlink_metadata(path) {
            Ok(there) => Ok((held.dev(), held.ino()) == (there.dev(), there.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::fs::{File, Metadata, OpenOptions};
    use std::io;
    use std::path::Path;

    pub(super) fn create(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    pub(super) fn open(path: &Path, _follow: bool) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    pub(super) fn check_kind_and_owner(_: &Metadata) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn check_file(_: &File) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn check_folder(_: &Path) -> io::Result<()> {
        Ok(())
    }

    /// There are no locks on this system: a second process is not noticed.
    pub(super) fn lock(_: &File) -> io::Result<bool> {
        Ok(true)
    }

    pub(super) fn unlock(_: &File) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn is_at(_: &File, _: &Path) -> io::Result<bool> {
        Ok(true)
    }
}
