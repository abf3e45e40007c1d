//! The functions behind the fuzz targets: each takes arbitrary bytes and panics if a promise is broken.
//!
//! `fuzz_targets/` holds a shim for each, for cargo-fuzz; `tests/corpus.rs` gives each its committed corpus.

mod client;
mod decode;
mod golden;
mod handshake;
mod json;
mod pair;
mod recording;
mod script;
mod seeds;
mod server;
mod typed;

pub use client::client;
pub use decode::decode;
pub use golden::golden;
pub use handshake::handshake;
pub use json::json;
pub use pair::{pair, pair_traced};
pub use recording::recording;
pub use seeds::seeds;
pub use server::server;
pub use typed::typed;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Target] = &[
    ("client", client),
    ("decode", decode),
    ("golden", golden),
    ("handshake", handshake),
    ("json", json),
    ("pair", pair),
    ("recording", recording),
    ("server", server),
    ("typed", typed),
];

/// Gives a target each file that the command line names.
///
/// # Errors
/// A file that cannot be read.
pub fn replay(target: fn(&[u8])) -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        target(&std::fs::read(path)?);
    }
    Ok(())
}
