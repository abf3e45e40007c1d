//! What a socket is called: a path or an abstract name.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;

/// `sun_path` has 108 bytes on Linux; one of them ends a path, or begins an abstract name.
pub(crate) const NAME_LEN_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Errors name it as `address` does, without the scheme.
#[derive(Clone, Debug)]
pub(crate) enum Name {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

impl Name {
    /// `@` makes a name abstract.
    pub(crate) fn parse(path: &Path) -> Name {
        match path.as_os_str().as_bytes() {
            [b'@', name @ ..] => Name::Abstract(name.to_owned()),
            _ => Name::Path(path.to_owned()),
        }
    }

    /// What the kernel takes.
    pub(crate) fn to_address(&self) -> io::Result<SocketAddrUnix> {
        let (len, what) = match self {
            Name::Path(path) => (path.as_os_str().len(), "path"),
            Name::Abstract(name) => (name.len(), "abstract name"),
        };
        if len > NAME_LEN_MAX {
            let text = format!(
                "{self}: the {what} of a unix socket has at most {NAME_LEN_MAX} bytes, this has {len}"
            );
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        if len == 0 {
            // To the kernel an empty name means "give me any".
            let text = format!("the {what} of a unix socket is empty");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        match self {
            Name::Path(path) => Ok(SocketAddrUnix::new(path.as_path())?),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Name::Abstract(name) => Ok(SocketAddrUnix::new_abstract_name(name)?),
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Name::Abstract(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// The same error with this name before it.
    pub(crate) fn explain(&self, error: impl Into<io::Error>) -> io::Error {
        let error = error.into();
        io::Error::new(error.kind(), format!("{self}: {error}"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Path(path) => path.display().fmt(f),
            Name::Abstract(name) => write!(f, "@{}", OsStr::from_bytes(name).display()),
        }
    }
}
