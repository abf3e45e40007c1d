#![cfg_attr(any(not(doctest), all(feature = "derive", feature = "json")), doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod display;
mod hash;
mod implementations;
#[cfg(feature = "json")]
pub mod json;
mod probe;
mod signature;
mod table;
mod types;

pub use hash::service_hash;
#[cfg(feature = "derive")]
pub use oncewire_macros::Schema;
#[doc(hidden)]
pub use probe::__private;
pub use signature::{Signature, SignatureTable};
pub use table::TypeTable;
pub use types::{Field, Fields, Link, Named, Primitive, Schema, Shape, Type, Variant};
