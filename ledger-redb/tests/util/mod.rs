//! A folder of its own for each test, a disk that can be full, and a way to dial whatever server runs.
#![allow(dead_code, unreachable_pub)]

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oncewire_driver::{BoxFuture, BoxStream, Connect, Server, Subject};
use oncewire_ledger_redb::redb::StorageBackend;
use smol::net::unix::UnixStream;

/// A folder that is removed with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("oncewire-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Where clients dial: the server that runs now, if one does.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<Option<Server>>>, Arc<Mutex<Option<UnixStream>>>);

impl Place {
    pub fn set(&self, server: Option<Server>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Breaks the last connection: neither side has said goodbye.
    pub fn cut(&self) {
        let last = self.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        last.expect("there is a connection").shutdown(std::net::Shutdown::Both).unwrap();
    }
}

impl Connect for Place {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = UnixStream::pair()?;
            *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours.clone());
            server.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

/// A disk in memory whose syncs can be made to fail.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    pub full: Arc<AtomicBool>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        let bytes = self.bytes.lock().unwrap();
        let from = bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        self.bytes.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}
