#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod acceptor;
mod certificate;
mod client;
mod connector;
mod delegate;
mod der;
mod details;
mod error;
mod examine;
mod handshakes;
mod provider;
mod reload;
mod server;
mod tls_stream;
mod verifier;

pub use acceptor::{HandshakeCounters, TlsAcceptor};
pub use certificate::certificate_name;
pub use client::ClientTls;
#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
pub use client::files::ClientTlsBuilder;
pub use connector::TlsConnector;
pub use details::CertificateDetails;
pub use examine::Examination;
pub use oncewire_driver::*;
pub use rustls;
pub use server::ServerTls;
#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
pub use server::files::ServerTlsBuilder;
#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
pub use verifier::PeerCertificate;
