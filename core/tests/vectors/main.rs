//! The golden vectors of this folder, both ways, and what `PROTOCOL.md` shows and numbers.
#![allow(missing_docs)]

mod frames;
mod protocol;
mod record;
