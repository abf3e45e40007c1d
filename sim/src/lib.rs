//! What simulated worlds are made of, and a checker of histories.

pub mod history;
pub mod parts;
