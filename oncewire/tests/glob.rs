//! A glob import of the crate, or of that of one transport, hides nothing that Rust brings.
#![allow(missing_docs)]

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
