//! Streams of services: what is generated for them, called over memory.
#![allow(missing_docs, unreachable_pub)]

use std::sync::Mutex;

use oncewire::stream::{Incoming, Outgoing, StreamBreak, UploadBreak};
use oncewire::{Bytes, Client, ClientOptions, Context, Executed, Server, Servers};
use oncewire_pipe::memory;
use serde::{Deserialize, Serialize};
use smol::stream;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    number: u64,
    text: String,
}

/// A file.
#[oncewire::service(name = "file")]
pub trait File {
    /// Its bytes.
    #[rpc(resumable, chunk_len = 100)]
    async fn read(&self, context: Context, from: u64, to: u64) -> Outgoing<Bytes>;
    /// What is in it.
    #[rpc(chunk_len = 1 << 10, credit = 2, name = "lines.v2")]
    async fn lines(&self, context: Context) -> Outgoing<Line>;
    /// Replaces it, once all was read; returns its length.
    #[rpc(reply_len_max = 100)]
    async fn write(&self, context: Context, name: String, bytes: Incoming<Bytes>) -> u64;
    #[rpc(resumable)]
    async fn append(&self, _: Context, mut lines: Incoming<Line>) -> Result<u64, String> {
        let mut count = 0;
        while lines.next().await.is_some() {
            count += 1;
        }
        Ok(count)
    }
    /// A call beside them.
    async fn len(&self, context: Context) -> u64;
    #[cfg(any())]
    async fn absent(&self, context: Context) -> Outgoing<Nowhere>;
}

#[derive(Default)]
struct InMemory(Mutex<Vec<u8>>);

impl File for InMemory {
    async fn read(&self, _: Context, from: u64, to: u64) -> Outgoing<Bytes> {
        let bytes = Bytes::copy_from_slice(&self.0.lock().unwrap()[from as usize..to as usize]);
        Outgoing::new(stream::once(bytes))
    }

    async fn lines(&self, _: Context) -> Outgoing<Line> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let number = |(at, text)| Line { number: at as u64, text };
        Outgoing::new(stream::iter(lines.into_iter().enumerate().map(number)))
    }

    async fn write(&self, _: Context, name: String, mut bytes: Incoming<Bytes>) -> u64 {
        let mut all = Vec::new();
        while let Some(bytes) = bytes.next().await {
            all.extend_from_slice(&bytes);
        }
        assert_eq!(name, "the only one");
        *self.0.lock().unwrap() = all;
        self.0.lock().unwrap().len() as u64
    }

    async fn len(&self, _: Context) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
}

fn connected() -> FileClient {
    let (connector, acceptor) = memory::listener();
    let server = Server::builder("files").service(FileServer(InMemory::default())).build().unwrap();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    FileClient(Client::new(connector, ClientOptions::default()))
}

#[test]
fn a_body_is_uploaded_and_read_again_from_any_position() {
    smol::block_on(async {
        let file = connected();
        let text: String = (0..500).map(|number| format!("line {number}\n")).collect();
        let mut upload = file.write("the only one".to_owned());
        for piece in text.as_bytes().chunks(77) {
            upload.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(file.len().await.ok(), Ok(0), "nothing is written before the commit");
        assert_eq!(upload.commit().await, Ok(text.len() as u64));
        let mut body = file.read(text.len() as u64).from_position(1_000);
        let mut read = Vec::new();
        while let Some(bytes) = body.next().await {
            read.extend_from_slice(&bytes.unwrap());
        }
        assert_eq!(read, text.as_bytes()[1_000..]);
        let mut lines = file.lines();
        for (number, text) in text.lines().enumerate() {
            let line = Line { number: number as u64, text: text.to_owned() };
            assert_eq!(lines.next().await, Some(Ok(line)));
        }
        assert_eq!(lines.next().await, None);
    });
}

#[test]
fn items_are_uploaded_and_what_is_dropped_has_no_effect() {
    smol::block_on(async {
        let file = connected();
        let mut lines = file.append();
        for number in 0..1_000 {
            lines.send(Line { number, text: "text".to_owned() }).await.unwrap();
        }
        assert_eq!(lines.commit().await, Ok(Ok(1_000)));
        let mut upload = file.write("the only one".to_owned());
        upload.send(Bytes::from_static(b"never there")).await.unwrap();
        upload.flush().await.unwrap();
        drop(upload);
        assert_eq!(file.len().await.ok(), Ok(0));
        let mut unknown = file.append().resume(7);
        let error = unknown.commit().await.unwrap_err();
        assert_eq!(
            (error.why, error.executed()),
            (UploadBreak::NothingToResume, Executed::Unknown)
        );
        // Its function panics: the file is shorter.
        let mut beyond = file.read(9);
        let error = beyond.next().await.unwrap().unwrap_err();
        assert!(matches!(error.why, StreamBreak::NotOpened(_)), "{error}");
    });
}

#[test]
fn what_has_no_stream_is_described_as_before() {
    assert_eq!(FileMethods::READ.name(), "file/read");
    assert_eq!(FileMethods::LINES.name(), "file/lines.v2");
    assert_eq!(FileMethods::WRITE.name(), "file/write");
    assert_eq!(FileMethods::WRITE.id(), oncewire::MethodId::of("file/write"));
    let described: Vec<_> = FileMethods::signatures().iter().map(|of| of.name).collect();
    assert_eq!(described, ["file/read", "file/write", "file/len"], "a `Line` has no schema");
    let text = |of: Option<oncewire::MethodSignature>| of.unwrap().signature.to_string();
    assert!(text(FileMethods::READ.described()).starts_with("(to: u64) -> Outgoing<Bytes>"));
    let write = text(FileMethods::WRITE.described());
    assert!(write.starts_with("(name: String, stream: Incoming<Bytes>) -> u64"), "{write}");
}

#[test]
fn streams_of_a_client_of_several_servers_are_where_its_session_is() {
    smol::block_on(async {
        let serve = || {
            let server = Server::builder("file").service(FileServer(InMemory::default()));
            let (connector, acceptor) = memory::listener();
            let server = server.build().unwrap();
            smol::spawn(async move { server.serve(acceptor).await }).detach();
            connector
        };
        let client = Servers::new([serve(), serve(), serve()]).client(ClientOptions::default());
        let client = client.unwrap();
        assert!(client.connected().await);
        let file = FileClient(client.clone());
        for len in 1..=10 {
            let mut upload = file.write("the only one".to_owned());
            upload.send(Bytes::from(vec![b'a'; len])).await.unwrap();
            assert_eq!(upload.commit().await, Ok(len as u64));
            assert_eq!(file.len().await.ok(), Ok(len as u64));
            let read = file.read(len as u64).next().await;
            assert_eq!(read.unwrap().unwrap().len(), len);
        }
        assert!(client.close().await.in_good_order);
    });
}
