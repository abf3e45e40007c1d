//! Addresses that servers of measurements listen at.

use std::path::{Path, PathBuf};

use crate::case::Transport;
use crate::sys;

/// Where a server listens.
pub(crate) struct Place {
    transport: Transport,
    path: PathBuf,
    number: u32,
}

impl Place {
    pub(crate) fn of(transport: Transport) -> Place {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = format!("oncewire-bench-{}-{number}.sock", sys::own_pid());
        Place { transport, path: std::env::temp_dir().join(file), number }
    }

    /// Every server has an address of its own, so that ports in TIME_WAIT of an earlier one do not matter.
    pub(crate) fn address(&self) -> String {
        match self.transport {
            Transport::Tcp => {
                format!("127.1.{}.{}:0", self.number / 250 % 250, 1 + self.number % 250)
            }
            Transport::Unix | Transport::Pipe => self.path.to_string_lossy().into_owned(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let remove = |path: &Path| std::fs::remove_file(path);
        // A server may have removed them, or made none.
        let _ = (remove(&self.path), remove(&self.path.with_extension("sock.lock")));
    }
}
