// Its code uses these features: of the workspace's tests they are all there.
#![cfg_attr(
    any(
        not(doctest),
        all(unix, feature = "tcp", feature = "unix", feature = "macros", feature = "redb")
    ),
    doc = include_str!("../README.md")
)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

// By name, and not all of it: a glob import of this crate must not hide `core`.
#[doc(hidden)]
pub use oncewire_driver::__private;
pub use oncewire_driver::protocol;
#[cfg(feature = "macros")]
pub use oncewire_driver::service;
#[cfg(feature = "stream")]
pub use oncewire_driver::stream;
pub use oncewire_driver::{
    Accept, AcceptPolicy, BoxFuture, BoxStream, BuildError, ByteStream, Bytes, Call, CallFailure,
    CallReport, CallResult, Client, ClientCounters, ClientOptions, ClientStatus, CloseReason,
    CloseReport, Connect, Context, Delivery, DurableCall, DurableClient, EarlierAttempt, Executed,
    FailedCall, Handled, HandlerFaults, Health, Instance, Instant, Load, Metadata, MetadataError,
    MetadataKey, MetadataType, MetadataValue, Method, MethodId, MethodSignature, MethodSpec,
    MethodStatus, NEVER, NewCall, Next, NextTransactional, NoReply, NoServers, Nonblocking,
    NotBegun, NotExecuted, OnDialFailure, Outcome, RawMethod, Receipt, RecoveredCall, Refusal,
    Resolve, Retry, Runtime, Schema, Server, ServerBuilder, ServerConfig, ServerCounters,
    ServerError, ServerId, ServerStatus, Servers, Service, ServiceName, SessionId, SessionStatus,
    SessionTag, SignatureMismatch, SmolRuntime, StateHandler, StatefulBuilder, Status, Subject,
    Ticket, Timer, Token, Unknown, Xid, files, journal, ledger, observe, schema, tokens,
};
#[cfg(feature = "redb")]
pub use oncewire_ledger_redb as redb;
#[cfg(all(target_os = "linux", feature = "pipe"))]
pub use oncewire_pipe::plugin;
#[cfg(feature = "pipe")]
pub use oncewire_pipe::{ChildConnector, StdioAcceptor, memory, os, relay};
#[cfg(feature = "tcp")]
pub use oncewire_tcp::{TcpAcceptor, TcpConnector};
#[cfg(feature = "tls")]
pub use oncewire_tls::{
    CertificateDetails, ClientTls, ClientTlsBuilder, Examination, HandshakeCounters,
    PeerCertificate, ServerTls, ServerTlsBuilder, TlsAcceptor, TlsConnector, certificate_name,
    rustls,
};
#[cfg(all(unix, feature = "unix"))]
pub use oncewire_unix::{BindOptions, SocketEvent, UnixAcceptor, UnixConnector};
