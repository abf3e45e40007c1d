//! The directory that servers share: `new` has files that are being written, `waiting` jobs, and `done` those that the runner has
//! started. A job is in `waiting`, then in `done`, and never leaves `done`: that is how one that is submitted again is known.
//!
//! A server that was an owner, and slept, may still write here. It can do no harm: it adds a job that a client wants anyway, and if
//! that is in `done` already, [`Spool::waiting`] takes it away again.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Job, Refused, Taken};

const NAME_LEN_MAX: usize = 64;
const TEXT_LEN_MAX: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    written: AtomicU64,
}

impl Spool {
    /// In this directory, which must be there.
    pub(crate) fn open(dir: &Path) -> io::Result<Spool> {
        for part in ["new", "waiting", "done"] {
            tolerate(ErrorKind::AlreadyExists, fs::create_dir(dir.join(part)))?;
        }
        let spool = Spool { dir: dir.to_owned(), written: AtomicU64::new(0) };
        spool.sync(".").map(|()| spool)
    }

    fn path(&self, part: &str, name: &str) -> PathBuf {
        self.dir.join(part).join(name)
    }

    /// Takes a job for an instance, durably, if it is one. A job that was taken before is not taken twice.
    pub(crate) fn take(&self, job: &Job, by: &str) -> Result<Taken, Refused> {
        let refused = |why, for_good| Refused { by: by.to_owned(), why, for_good };
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let (name, text) = (job.name.len(), job.text.len());
        if name == 0 || name > NAME_LEN_MAX || !job.name.bytes().all(plain) || text > TEXT_LEN_MAX {
            let why = format!(
                "a job's name has 1 to {NAME_LEN_MAX} letters, digits, - and _, its text {TEXT_LEN_MAX} bytes at most"
            );
            return Err(refused(why, true));
        }
        match self.put(job) {
            Ok(true) => Ok(Taken { by: by.to_owned() }),
            Ok(false) => Err(refused(format!("there is another job {}", job.name), true)),
            Err(error) => Err(refused(format!("the spool cannot be written: {error}"), false)),
        }
    }

    /// False: there is another one of this name.
    fn put(&self, job: &Job) -> io::Result<bool> {
        if let Some(there) = self.text("done", &job.name)? {
            return Ok(there == job.text);
        }
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let new = self.path("new", &format!("{}.{}.{number}", job.name, std::process::id()));
        let mut file = File::create_new(&new)?;
        file.write_all(job.text.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename it replaces nothing.
        let linked = fs::hard_link(&new, self.path("waiting", &job.name));
        tolerate(ErrorKind::NotFound, fs::remove_file(&new))?;
        let is_new = linked.is_ok();
        tolerate(ErrorKind::AlreadyExists, linked)?;
        self.sync("waiting")?;
        let there = if is_new { None } else { self.text("waiting", &job.name)? };
        match there {
            Some(there) => Ok(there == job.text),
            None => Ok(is_new || self.text("done", &job.name)?.as_ref() == Some(&job.text)),
        }
    }

    fn text(&self, part: &str, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path(part, name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the runner has started it, and its file is out of the way.
    pub(crate) fn is_done(&self, name: &str) -> io::Result<bool> {
        self.path("done", name).try_exists()
    }

    /// Jobs that wait, in any order, `max` at most.
    pub(crate) fn waiting(&self, max: usize) -> io::Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for entry in fs::read_dir(self.dir.join("waiting"))? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if self.is_done(&name)? {
                // An owner of the past was late.
                tolerate(ErrorKind::NotFound, fs::remove_file(self.path("waiting", &name)))?;
                continue;
            }
            match self.text("waiting", &name) {
                Ok(text) => jobs.extend(text.map(|text| Job { name, text })),
                // No server has put it here. It must not hold up the others.
                Err(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::IsADirectory) => {}
                Err(error) => return Err(error),
            }
            if jobs.len() == max {
                break;
            }
        }
        Ok(jobs)
    }

    /// Moves a job out of the way. False: another server has done so first.
    pub(crate) fn put_away(&self, name: &str) -> io::Result<bool> {
        let moved = fs::rename(self.path("waiting", name), self.path("done", name));
        let is_here = moved.is_ok();
        tolerate(ErrorKind::NotFound, moved).map(|()| is_here)
    }

    /// Makes durable which files a part has.
    fn sync(&self, part: &str) -> io::Result<()> {
        File::open(self.dir.join(part))?.sync_all()
    }

    /// Makes durable what was put away, by any server.
    pub(crate) fn sync_away(&self) -> io::Result<()> {
        self.sync("done")?;
        self.sync("waiting")
    }

    /// Removes what servers that were killed have left half written. One that lives, and slept, cannot finish what it wrote then:
    /// its client learns that, and asks another server.
    pub(crate) fn clean(&self) -> io::Result<()> {
        let mut left = fs::read_dir(self.dir.join("new"))?;
        left.try_for_each(|file| tolerate(ErrorKind::NotFound, fs::remove_file(file?.path())))
    }
}

/// All is well also if this has gone wrong.
fn tolerate(kind: ErrorKind, result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == kind { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::TempDir;

    fn job(name: &str, text: &str) -> Job {
        Job { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_job_is_taken_once_and_known_by_its_name_when_it_is_done() {
        let dir = TempDir::new().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let one = job("one", "echo");
        for _ in 0..2 {
            assert_eq!(spool.take(&one, "me").unwrap().by, "me");
            assert_eq!(spool.waiting(9).unwrap(), std::slice::from_ref(&one));
            assert!(spool.take(&job("one", "other"), "me").unwrap_err().for_good);
        }
        assert!(spool.put_away("one").unwrap() && !spool.put_away("one").unwrap());
        spool.take(&one, "me").unwrap();
        assert!(spool.take(&job("one", "other"), "me").unwrap_err().for_good);
        assert!(spool.waiting(9).unwrap().is_empty() && spool.is_done("one").unwrap());
        for bad in ["", "a/b", "..", &"n".repeat(65)] {
            assert!(spool.take(&job(bad, ""), "me").unwrap_err().for_good, "{bad:?}");
        }
    }

    #[test]
    fn what_an_owner_of_the_past_or_a_person_has_left_holds_nothing_up() {
        let dir = TempDir::new().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        spool.take(&job("done", "echo"), "me").unwrap();
        spool.put_away("done").unwrap();
        fs::write(spool.path("waiting", "done"), "echo").unwrap();
        fs::write(spool.path("waiting", "no-text"), [0xff]).unwrap();
        fs::create_dir(spool.path("waiting", "folder")).unwrap();
        fs::write(spool.path("new", "half.1.0"), "ec").unwrap();
        spool.take(&job("next", "echo"), "me").unwrap();
        assert_eq!(spool.waiting(9).unwrap(), [job("next", "echo")]);
        assert!(!spool.path("waiting", "done").exists(), "it was late");
        spool.clean().unwrap();
        assert!(!spool.path("new", "half.1.0").exists());
    }
}
