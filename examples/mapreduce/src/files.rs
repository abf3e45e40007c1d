//! Files: chunks of the input, what lies between map and reduce, and the result. All are on disks that every process reaches.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::app::Groups;
use crate::{Job, Work};

/// The name of the result in a run's folder.
pub const RESULT: &str = "result.txt";

fn at(path: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// The whole path of an input file, which means the same to each process.
///
/// # Errors
/// That it is no file, or that its name would not fit into a line.
pub fn whole_path(name: &str) -> Result<String, String> {
    let path = fs::canonicalize(name).map_err(at(Path::new(name)))?;
    if !path.is_file() {
        return Err(format!("{name} is no file"));
    }
    let path = path.to_str().filter(|path| !path.contains(char::is_control));
    path.map(str::to_owned).ok_or_else(|| format!("{name:?}: its path is no line of text"))
}

/// Cuts a file into chunks of about `chunk_len` bytes, between words: map jobs.
///
/// # Errors
/// Why the file cannot be read.
pub fn chunks(file: &str, chunk_len: u64) -> io::Result<Vec<Work>> {
    let mut reader = BufReader::new(File::open(file)?);
    let end = reader.get_ref().metadata()?.len();
    let (mut chunks, mut start) = (Vec::new(), 0);
    while start < end {
        let mut stop = (start + chunk_len).min(end);
        reader.seek(SeekFrom::Start(stop))?;
        for byte in reader.by_ref().bytes() {
            if byte?.is_ascii_whitespace() {
                break;
            }
            stop += 1;
        }
        chunks.push(Work::Map { file: file.to_owned(), start, len: stop - start });
        start = stop;
    }
    Ok(chunks)
}

fn text(file: &str, start: u64, len: u64) -> io::Result<String> {
    let (mut file, mut bytes) = (File::open(file)?, Vec::new());
    file.seek(SeekFrom::Start(start))?;
    file.take(len).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What an attempt of a map job writes for a reduce job.
fn map_part(parts: &str, map: u32, attempt: u64, reduce: u32) -> PathBuf {
    Path::new(parts).join(format!("map-{map}.attempt-{attempt}.for-{reduce}"))
}

/// What an attempt of a reduce job writes.
fn reduce_part(parts: &str, reduce: u32, attempt: u64) -> PathBuf {
    Path::new(parts).join(format!("reduce-{reduce}.attempt-{attempt}"))
}

fn write<'a, P>(path: &Path, mut pairs: P) -> Result<(), String>
where
    P: Iterator<Item = (&'a String, &'a String)>,
{
    let mut file = BufWriter::new(File::create(path).map_err(at(path))?);
    let written = pairs.try_for_each(|(key, value)| writeln!(file, "{key}\t{value}"));
    written.and_then(|()| file.flush()).map_err(at(path))
}

fn read(path: &Path, groups: &mut Groups) -> Result<(), String> {
    for line in fs::read_to_string(path).map_err(at(path))?.lines() {
        let pair = line.split_once('\t');
        let (key, value) = pair.ok_or_else(|| format!("{}: damaged", path.display()))?;
        groups.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    Ok(())
}

/// FNV-1a: the same in every build, so that all workers divide keys alike.
fn reduce_of(key: &str, reduces: u32) -> u32 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    (key.bytes().fold(0xcbf2_9ce4_8422_2325, step) % u64::from(reduces.max(1))) as u32
}

/// Executes an attempt; returns the words that it read, or the keys that it wrote.
///
/// # Errors
/// Which file could not be read or written, and why.
pub fn execute(job: &Job) -> Result<u64, String> {
    match &job.work {
        Work::Map { file, start, len } => {
            let text = text(file, *start, *len).map_err(at(Path::new(file)))?;
            let (pairs, words) = job.app.map(file, &text);
            for reduce in 0..job.reduces {
                let its = pairs.iter().filter(|(key, _)| reduce_of(key, job.reduces) == reduce);
                write(&map_part(&job.parts, job.id.number, job.attempt, reduce), its)?;
            }
            Ok(words)
        }
        Work::Reduce(maps) => {
            let (mut groups, mut reduced) = (Groups::new(), Vec::new());
            for (map, attempt) in maps {
                read(&map_part(&job.parts, *map, *attempt, job.id.number), &mut groups)?;
            }
            for (key, values) in groups {
                reduced.push((key, job.app.reduce(values)?));
            }
            let path = reduce_part(&job.parts, job.id.number, job.attempt);
            write(&path, reduced.iter().map(|(key, value)| (key, value)))?;
            Ok(reduced.len() as u64)
        }
    }
}

/// Makes one sorted file of what the reduce attempts that count have written, and publishes it whole, by a rename.
///
/// # Errors
/// Which file could not be read or written, and why.
pub fn publish(dir: &Path, parts: &str, reduces: &[(u32, u64)]) -> Result<PathBuf, String> {
    let mut groups = Groups::new();
    for (reduce, attempt) in reduces {
        read(&reduce_part(parts, *reduce, *attempt), &mut groups)?;
    }
    let (unfinished, result) = (dir.join("result.unfinished"), dir.join(RESULT));
    let pairs =
        groups.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
    write(&unfinished, pairs)?;
    fs::rename(&unfinished, &result).map_err(at(&result))?;
    Ok(result)
}

/// Writes a text of so many words, for the demonstration and for tests; each `seed` gives another one.
///
/// # Errors
/// Why the file cannot be written.
pub fn write_sample(path: &Path, seed: u64, words: u64) -> Result<(), String> {
    const PARTS: [&str; 8] = ["call", "reply", "lease", "slot", "peer", "frame", "über", "naïve"];
    let mut text = String::new();
    for number in 0..words {
        let mixed = (number + seed * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        text += PARTS[(mixed % 8) as usize];
        text += PARTS[(mixed / 8 % 8) as usize];
        text += if number % 11 == 10 { ".\n" } else { " " };
    }
    fs::write(path, text).map_err(at(path))
}
