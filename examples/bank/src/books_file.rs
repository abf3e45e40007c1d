//! The books of a bank, written down line by line, so that they survive its process.
//!
//! This is the service's own store, of which the ledger knows nothing: its line and the ledger's record are
//! two writes, and a crash between them leaves the call interrupted. What was written is
//! safe from a killed process, not from a power cut.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::service::{Change, Note, Open};

/// One execution.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    Open(Open),
    Deduct(Change),
    Deposit(Change),
    Note(Note),
}

/// A file to which executions are appended.
#[derive(Debug)]
pub(crate) struct BooksFile(File);

impl BooksFile {
    /// Opens the file and reads what is in it. A last line that was cut off was never answered, and is removed.
    pub(crate) fn open(path: &Path, mut tell: impl FnMut(Line)) -> Result<BooksFile, String> {
        let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(|error| explain(&error))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| explain(&error))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines() {
            tell(serde_json::from_str(line).map_err(|error| explain(&error))?);
        }
        let cut = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(|error| explain(&error))?;
        Ok(BooksFile(file))
    }

    /// Writes an execution down, before it is answered.
    pub(crate) fn write(&mut self, line: &Line) {
        // Without its books the bank must not go on.
        let mut text = serde_json::to_string(line).expect("a line can be written");
        text.push('\n');
        self.0.write_all(text.as_bytes()).expect("the books cannot be written");
    }
}
