//! What the programs of this repository print.
//!
//! `println!` and `eprintln!` panic when what they write cannot be written: at the first line behind `program | head -1`. With
//! [`show!`] and [`note!`] a program whose reader has gone ends, or continues, without a word:
//!
//! - On the main thread the program ends at its next line, with status 101 as if it had panicked: it has not done all that it was to
//!   do. Its stack is unwound, so that children, servers and folders go that are removed when they are dropped.
//! - On other threads, where handlers log, the line is lost and nothing else happens: a server continues though its log has no reader.
//! - Where a full disk is the reason, one line on stderr says so.
#![forbid(unsafe_code)]

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

/// Prints a line to stdout, as `println!` does.
///
/// ```
/// output::show!("{} calls", 3);
/// ```
#[macro_export]
macro_rules! show {
    () => { $crate::print_line(format_args!("")) };
    ($($text:tt)*) => { $crate::print_line(format_args!($($text)*)) };
}

/// Prints a line to stderr, as `eprintln!` does.
///
/// ```
/// output::note!("something is wrong");
/// ```
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::report_line(format_args!($($text)*)) };
}

/// What [`show!`] does.
pub fn print_line(line: Arguments<'_>) {
    print(format_args!("{line}\n"));
}

/// What [`note!`] does.
pub fn report_line(line: Arguments<'_>) {
    // Where stderr cannot be written, there is no one to say it to.
    let _ = writeln!(stderr().lock(), "{line}");
}

/// The same as [`print_line`], without the end of the line.
pub fn print(text: Arguments<'_>) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let mut out = stdout().lock();
    let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) else { return };
    drop(out);
    if error.kind() != ErrorKind::BrokenPipe && !SAID.swap(true, Ordering::Relaxed) {
        report_line(format_args!("stdout cannot be written: {error}"));
    }
    let is_main = std::thread::current().name() == Some("main");
    // A second panic, in a drop, would abort.
    if is_main && !std::thread::panicking() {
        // Unwinds, without the message of a panic.
        std::panic::resume_unwind(Box::new("the reader of stdout has gone"));
    }
}
