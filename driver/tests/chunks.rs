//! A chunk leaves though what began it is not polled again.
#![allow(missing_docs)]
#![cfg(feature = "stream")]

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use oncewire_driver::stream::UploadMethod;
use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Server, SmolRuntime, Subject,
};
use smol::Executor;
use smol::net::unix::UnixStream;

/// Longer than a socket's buffers, and within what a request may have.
const CHUNK_LEN: u32 = 900 << 10;
const UP: UploadMethod<(), Bytes, ()> = UploadMethod::bytes("chunks/up").chunk_len(CHUNK_LEN);
/// For how long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(20);

struct Dial(Server);

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair()?;
            self.0.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

/// Says how long each upload's first piece is, on an executor of its own.
fn server(executor: &Arc<Executor<'static>>, first: Sender<usize>) -> Server {
    let spawner = executor.clone();
    let first = Arc::new(Mutex::new(first));
    Server::builder("chunks")
        .runtime(SmolRuntime::with_spawner(move |task| spawner.spawn(task).detach()))
        .upload(&UP, move |_, (), mut body| {
            let first = first.clone();
            async move {
                let mut len = 0;
                while len < CHUNK_LEN as usize
                    && let Some(piece) = body.next().await
                {
                    len += piece.len();
                }
                first.lock().unwrap().send(len).unwrap();
                std::future::pending().await
            }
        })
        .build()
        .unwrap()
}

#[test]
fn c416_a_chunk_leaves_whole_though_its_sender_is_not_polled_again() {
    let executor = Arc::new(Executor::new());
    let (sender, first) = channel();
    let client = Client::new(Dial(server(&executor, sender)), ClientOptions::default());
    let runs = executor.clone();
    let mut upload = client.upload(&UP, &());
    // The server is there until the upload is open.
    smol::block_on(runs.run(async { upload.ready().await })).unwrap();
    // Nothing reads at the server: the stream takes a part of the chunk.
    smol::block_on(upload.send(Bytes::from(vec![7; CHUNK_LEN as usize]))).unwrap();
    std::thread::spawn(move || smol::block_on(runs.run(std::future::pending::<()>())));
    assert_eq!(first.recv_timeout(LIMIT), Ok(CHUNK_LEN as usize));
    drop(upload);
}
