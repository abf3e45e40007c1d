#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod base64;
mod client;
mod connector;
mod election;
mod error;
mod http;
mod instances;
mod json;
mod kv;
mod leadership;
#[cfg(feature = "ledger")]
pub mod ledger;
mod plan;
mod registration;
mod registry;
mod signal;
mod stream;
mod time;
mod watch;

pub use client::{ANSWER_LEN_MAX, Etcd, EtcdBuilder};
pub use connector::RegistryConnector;
pub use election::{Candidate, Election, Leader};
pub use error::{EtcdError, EtcdErrorKind};
pub use instances::Instances;
pub use kv::{Compare, Found, Granted, KeyValue, LeaseId, Op, Txn, TxnDone};
pub use leadership::{Fence, FencingToken, Leadership, NotLeader, StaleToken};
#[cfg(feature = "tls")]
pub use oncewire_tls::{ClientTls, ClientTlsBuilder};
pub use registration::{Registration, RegistrationStatus};
pub use registry::{InstanceState, RegisteredInstance, Registry};
pub use watch::{Change, Watch};

/// The code of a page of the book is compiled, in the repository.
#[cfg(doctest)]
#[doc = include_str!("../../docs/NAMES.md")]
struct FindingServers;
