#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod base64;
mod client;
mod error;
mod http;
mod json;
mod kv;
mod time;
mod watch;

pub use client::{ANSWER_LEN_MAX, Etcd, EtcdBuilder};
pub use error::{EtcdError, EtcdErrorKind};
pub use kv::{Compare, Found, Granted, KeyValue, LeaseId, Op, Txn, TxnDone};
#[cfg(feature = "tls")]
pub use oncewire_tls::{ClientTls, ClientTlsBuilder};
pub use watch::{Change, Watch};
