//! Duplicates: C11–C26, C71, and the rules about numbers (S8) and one-way calls (S23).
#![allow(missing_docs)]

#[path = "../util/mod.rs"]
mod util;

mod copies;
mod endings;
mod numbers;
