//! What is measured.

pub mod by_hand;
pub mod calls;
mod place;
mod table;

pub use table::{Failed, TURN, Table, Turn};
