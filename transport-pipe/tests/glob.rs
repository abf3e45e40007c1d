//! A glob import of the crate hides nothing that Rust brings.
#![allow(missing_docs)]

#[allow(unused_imports, reason = "what it imports is the test")]
use oncewire_pipe::*;

#[test]
fn a_glob_import_hides_neither_core_nor_the_prelude() {
    let taken: Option<u8> = core::mem::take(&mut Some(1));
    let read: Result<u8, std::num::ParseIntError> = "1".parse();
    assert_eq!((taken, read), (Some(1), Ok(1)));
}
