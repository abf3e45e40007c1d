//! Sessions: C01–C10, C59, C68, C69, C73 and C116.
#![allow(missing_docs)]

#[path = "../util/mod.rs"]
mod util;

mod idempotent;
mod lost;
mod opening;
