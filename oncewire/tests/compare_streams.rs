//! Streams and uploads are compared before they are opened, and uploads before they are committed (S33).
#![allow(missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncewire::stream::{Incoming, Outgoing, StreamBreak, UploadBreak};
use oncewire::{CallFailure, Client, ClientOptions, Context, Executed, NotExecuted, Server};
use oncewire_pipe::memory;
use smol::stream;

/// The same bytes mean something else: items and arguments have changed places, and a stream has become a call.
mod changed {
    use oncewire::stream::{Incoming, Outgoing};

    #[oncewire::service(name = "log")]
    pub trait Log {
        async fn read(&self, context: oncewire::Context, to: u64, of: u64) -> Outgoing<(u64, u64)>;
        async fn pairs(&self, context: oncewire::Context) -> Outgoing<(u64, bool)>;
        async fn append(&self, context: oncewire::Context, of: u64, lines: Incoming<i64>) -> u64;
        async fn tail(&self, context: oncewire::Context, from: u64, id: u64) -> u8;
        async fn same(&self, context: oncewire::Context, of: u64) -> Outgoing<u64>;
    }
}

#[oncewire::service(name = "log")]
pub trait Log {
    async fn read(&self, context: Context, of: u64, to: u64) -> Outgoing<(u64, u64)>;
    async fn pairs(&self, context: Context) -> Outgoing<(bool, u64)>;
    async fn append(&self, context: Context, of: u64, lines: Incoming<u64>) -> u64;
    /// Opened by two numbers behind its arguments, of which there are none.
    async fn tail(&self, context: Context) -> Outgoing<u64>;
    async fn same(&self, context: Context, of: u64) -> Outgoing<u64>;
}

/// Functions that were called, at whatever server.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn none<T: Send + 'static>(&self) -> Outgoing<T> {
        self.count();
        Outgoing::new(stream::empty())
    }

    async fn sum(&self, mut lines: Incoming<impl Into<i128>>) -> u64 {
        self.count();
        let mut sum = 0;
        while let Some(line) = lines.next().await {
            sum += line.into();
        }
        sum as u64
    }
}

impl Log for Counted {
    async fn read(&self, _: Context, _: u64, _: u64) -> Outgoing<(u64, u64)> {
        self.none()
    }
    async fn pairs(&self, _: Context) -> Outgoing<(bool, u64)> {
        self.none()
    }
    async fn append(&self, _: Context, _: u64, lines: Incoming<u64>) -> u64 {
        self.sum(lines).await
    }
    async fn tail(&self, _: Context) -> Outgoing<u64> {
        self.none()
    }
    async fn same(&self, _: Context, _: u64) -> Outgoing<u64> {
        self.none()
    }
}

impl changed::Log for Counted {
    async fn read(&self, _: Context, _: u64, _: u64) -> Outgoing<(u64, u64)> {
        self.none()
    }
    async fn pairs(&self, _: Context) -> Outgoing<(u64, bool)> {
        self.none()
    }
    async fn append(&self, _: Context, _: u64, lines: Incoming<i64>) -> u64 {
        self.sum(lines).await
    }
    async fn tail(&self, _: Context, _: u64, _: u64) -> u8 {
        self.count();
        7
    }
    async fn same(&self, _: Context, _: u64) -> Outgoing<u64> {
        self.none()
    }
}

fn connected(server: Server) -> Client {
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    Client::new(connector, ClientOptions::default())
}

const MISMATCH: CallFailure = CallFailure::NotExecuted(NotExecuted::SignatureMismatch);

#[test]
fn c343_a_stream_whose_types_have_changed_is_not_opened() {
    smol::block_on(async {
        let counted = Counted::default();
        let service = changed::LogServer(counted.clone());
        let client = connected(Server::builder("log").service(service).build().unwrap());
        let log = LogClient(client.clone());
        let mut same = log.same(1);
        assert_eq!(same.next().await, None, "what has not changed is read");
        let ran = counted.all();
        let why = StreamBreak::NotOpened(MISMATCH);
        assert_eq!(log.read(1, 2).next().await.unwrap().unwrap_err().why, why);
        assert_eq!(log.pairs().next().await.unwrap().unwrap_err().why, why);
        // Its position and its number would have been the arguments of a call.
        assert_eq!(log.tail().next().await.unwrap().unwrap_err().why, why);
        assert_eq!(counted.all(), ran, "no function was called");
        let found: Vec<_> = client.status().mismatches.iter().map(ToString::to_string).collect();
        let named = |name: &str| found.iter().any(|text| text.contains(name));
        assert!(["log/read", "log/pairs", "log/tail"].into_iter().all(named), "{found:?}");
    });
}

#[test]
fn c344_an_upload_whose_types_have_changed_is_neither_opened_nor_committed() {
    smol::block_on(async {
        let counted = Counted::default();
        let service = changed::LogServer(counted.clone());
        let client = connected(Server::builder("log").service(service).build().unwrap());
        let log = LogClient(client);
        let mut upload = log.append(1);
        let error = upload.ready().await.unwrap_err();
        assert_eq!((error.why, error.executed()), (UploadBreak::NotOpened(MISMATCH), Executed::No));
        assert_eq!(counted.all(), 0);
        // At a server that means the same, it is opened, written and committed.
        let server = Server::builder("log").service(LogServer(counted.clone())).build().unwrap();
        let mut upload = LogClient(connected(server)).append(1);
        upload.send(20).await.unwrap();
        upload.send(22).await.unwrap();
        assert_eq!((upload.commit().await, counted.all()), (Ok(42), 1));
    });
}
