//! Servers with a ledger, crashed between any two steps: C52 to C61, C67, C72, C73, C76, C180, C181, C272 to C274, C340 to
//! C342, C386 to C389, C400 to C403 where the driver shows them.
//!
//! Everything runs on one thread and in virtual time; the ledger's disk is the test's, and so are its commits.
#![allow(missing_docs, unreachable_pub)]

mod around;
mod authorized;
mod both_killed;
mod compared;
mod crashes;
mod disk;
mod drops;
mod durable;
mod failures;
mod idempotent;
mod journal;
mod lanes;
mod limits;
mod observed;
mod process;
mod records;
mod replicated;
mod shared;
mod shared_store;
mod sim;
#[cfg(feature = "stream")]
mod streams;
mod tickets;
mod world;
