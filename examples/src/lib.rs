//! The programs are in `examples/`. Here the repository's README is compiled and run.
#![doc = include_str!("../../README.md")]
