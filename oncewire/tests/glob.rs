//! A glob import of the crate, or of that of one transport, hides nothing that Rust brings.
#![allow(missing_docs)]

use std::collections::BTreeSet;

macro_rules! glob_imports {
    ($($(#[$available:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$available])*
        mod $name {
            #[allow(unused_imports, reason = "what it imports is the test")]
            use ::$name::*;

            #[test]
            fn hides_neither_core_nor_the_prelude() {
                let taken: Option<u8> = core::mem::take(&mut Some(1));
                let read: Result<u8, std::num::ParseIntError> = "1".parse();
                assert_eq!((taken, read), (Some(1), Ok(1)));
            }
        }
    )+};
}

glob_imports! {
    oncewire,
    oncewire_pipe,
    #[cfg(feature = "tcp")]
    oncewire_tcp,
    oncewire_tls,
    #[cfg(all(unix, feature = "unix"))]
    oncewire_unix,
}

/// A program depends on this crate alone, and had no metadata.
#[test]
fn what_the_driver_has_at_its_root_is_here_too() {
    let of_uses = |text: &str| -> BTreeSet<String> {
        let uses = text.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next());
        let words = uses.flat_map(|list| list.split(|letter: char| !is_of_name(letter)));
        let types = words.filter(|word| word.starts_with(char::is_uppercase));
        types.map(str::to_owned).collect()
    };
    let driver = of_uses(include_str!("../../driver/src/lib.rs"));
    let here = of_uses(include_str!("../src/lib.rs"));
    assert!(driver.contains("Client") && here.contains("Client"));
    assert_eq!(driver.difference(&here).collect::<Vec<_>>(), [""; 0]);
}

fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}
