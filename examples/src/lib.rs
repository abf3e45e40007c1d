//! The programs are in `examples/`. Here the repository's README is compiled and run, and the macro's.
#![doc = include_str!("../../README.md")]

/// What the macro's page shows: its own crate cannot depend on the library.
#[cfg(doctest)]
#[doc = include_str!("../../macros/README.md")]
struct Macros;

/// What to do when an outcome is unknown.
#[cfg(doctest)]
#[doc = include_str!("../../docs/UNKNOWN.md")]
struct UnknownOutcomes;

/// Threads, executors, fork and exit.
#[cfg(doctest)]
#[doc = include_str!("../../docs/PROGRAMS.md")]
struct Programs;

/// The page about values.
#[cfg(doctest)]
#[doc = include_str!("../../docs/VALUES.md")]
struct Values;

/// A recipe for each thing that services need.
#[cfg(doctest)]
#[doc = include_str!("../../docs/COOKBOOK.md")]
struct Cookbook;

/// Recordings, and the flight recorder.
#[cfg(doctest)]
#[doc = include_str!("../../docs/RECORDING.md")]
struct Recording;

/// Large bodies.
#[cfg(doctest)]
#[doc = include_str!("../stream/README.md")]
struct Streams;

/// What programs show of themselves.
#[cfg(doctest)]
mod programs {
    #[doc = include_str!("../plugin/README.md")]
    struct Plugin;
    #[doc = include_str!("../viewservice/README.md")]
    struct Viewservice;
}
