//! Long `Bytes` that are all of an argument or of a reply: they leave from where they lie, and are the same on the wire.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_driver::schema::Signature;
use oncewire_driver::{
    Accept, BoxFuture, BoxStream, Bytes, Client, ClientOptions, Connect, Metadata, MetadataKey,
    Method, Server, Subject,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::io::{AsyncRead, AsyncWrite};

use crate::link::socket_pair::{Dialler, Listener};
use crate::link::{client, serve, socket_pair};

/// From this length on, bytes are shared.
const LONG: usize = 64 << 10;
const LENS: [usize; 8] = [0, 1, 38, 200, LONG - 1, LONG, LONG + 1, 1 << 20];
const REPLY_LEN_MAX: u32 = 2 << 20;
/// For how long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(20);
const NAME: MetadataKey<String> = MetadataKey::new("name");

fn bytes(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// Where the buffers began that a stream was given to write, or what was left of them.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<usize>>>);

impl Written {
    /// Whether some were given from the first byte of these on.
    fn begins_at(&self, bytes: &Bytes) -> bool {
        self.0.lock().unwrap().contains(&bytes.as_ptr().addr())
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A stream, or what makes them, that notes what is written.
struct Watched<T>(T, Written);

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let begins = bufs.iter().map(|buf| buf.as_ptr().addr());
        self.1.0.lock().unwrap().extend(begins);
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

impl Connect for Watched<Dialler> {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let stream = self.0.connect().await?;
            Ok(Box::new(Watched(stream, self.1.clone())) as BoxStream)
        })
    }

    fn address(&self) -> String {
        self.0.address()
    }
}

impl Accept for Watched<Listener> {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async {
            let (stream, subject) = self.0.accept().await?;
            Ok((Box::new(Watched(stream, self.1.clone())) as BoxStream, subject))
        })
    }

    fn address(&self) -> String {
        self.0.address()
    }
}

#[test]
fn the_bytes_that_are_written_are_those_of_the_caller_and_of_the_handler() {
    const ALONE: Method<Bytes, Bytes> = Method::new("long/alone").reply_len_max(REPLY_LEN_MAX);
    const LATE: Method<(Bytes,), (Bytes,)> = Method::new("long/late").reply_len_max(REPLY_LEN_MAX);
    let (dialler, listener) = socket_pair::link();
    let (up, down) = (Written::default(), Written::default());
    let stored = bytes(1 << 20);
    let (at_once, late) = (stored.clone(), stored.clone());
    let server = Server::builder("test")
        .method(&ALONE, move |_, _| std::future::ready(at_once.clone()))
        .method(&LATE, move |_, _| {
            let late = late.clone();
            async move {
                smol::future::yield_now().await;
                (late,)
            }
        })
        .build()
        .unwrap();
    let listener = Watched(listener, down.clone());
    smol::spawn(async move { server.serve(listener).await }).detach();
    let client = Client::new(Watched(dialler, up.clone()), ClientOptions::default());
    let argument = bytes(LONG);
    smol::block_on(async {
        for late in [false, true] {
            let reply = match late {
                false => client.call(&ALONE, &argument).await.ok(),
                true => client.call(&LATE, &(argument.clone(),)).await.ok().map(|reply| reply.0),
            };
            assert!(reply.as_ref() == Ok(&stored));
            assert!(up.begins_at(&argument), "the argument was copied, late: {late}");
            assert!(down.begins_at(&stored), "the reply was copied, late: {late}");
            up.clear();
            down.clear();
        }
        client.send(&ALONE, &argument).unwrap();
        client.call(&ALONE, &Bytes::new()).await.ok().unwrap();
        assert!(up.begins_at(&argument), "the argument of a one-way call was copied");
    });
}

/// Echoes values of all lengths: alone, with metadata, and where only a client or only a server knows the type.
async fn echoes<T>(make: fn(Bytes) -> T)
where
    T: Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync + 'static,
{
    let echo: Method<T, T> = Method::new("long/echo").reply_len_max(REPLY_LEN_MAX);
    let compared = Method::new("long/compared").reply_len_max(REPLY_LEN_MAX);
    let compared: Method<T, T> = compared.with_signature(Some(Signature::of::<(), ()>(&[])));
    let builder = Server::builder("test")
        .method(&echo, |context, value: T| async move {
            // One that is ready at once, and one that is not.
            if context.metadata(&NAME).is_some() {
                smol::future::yield_now().await;
            }
            value
        })
        .method(&compared, |_, value: T| std::future::ready(value));
    let (_server, dialler) = serve(builder);
    let client = client(&dialler);
    for value in LENS.map(|len| make(bytes(len))) {
        // Only whether they are the same: a failure would show a mebibyte.
        let reply = client.call(&echo, &value).await.ok();
        assert!(reply.as_ref() == Ok(&value));
        let reply = client.call(&echo, &value).metadata(&NAME, "acme").await.ok();
        assert!(reply.as_ref() == Ok(&value), "with metadata");
        let reply = client.call(&compared, &value).await.ok();
        assert!(reply.as_ref() == Ok(&value), "compared");
        let wire = postcard::to_allocvec(&value).unwrap();
        let raw = client.call_raw(echo.id(), wire.clone()).await.ok().map(Vec::from);
        assert!(raw.as_ref() == Ok(&wire), "what the server sends is what postcard writes");
        let metadata = Metadata::new().with(&NAME, "acme");
        let raw = client.call_raw(echo.id(), wire.clone()).with_metadata(metadata).await;
        assert!(raw.ok().map(Vec::from).as_ref() == Ok(&wire), "behind metadata");
    }
}

#[test]
fn long_bytes_arrive_as_they_were_sent_and_are_on_the_wire_what_postcard_writes() {
    smol::block_on(async {
        echoes(|bytes| bytes).await;
        echoes(|bytes| (bytes,)).await;
        echoes(Some::<Bytes>).await;
        echoes(|bytes| (bytes.len(), bytes, 3_u8)).await;
        echoes(Vec::<u8>::from).await;
    });
}

#[test]
fn a_raw_handler_sees_long_bytes_as_postcard_writes_them() {
    const NOTE: Method<Bytes, ()> = Method::new("long/note");
    let (sender, noted) = channel();
    let sender = Mutex::new(sender);
    let spec = oncewire_driver::protocol::MethodSpec::new(NOTE.id());
    let builder = Server::builder("test").method_raw(spec, move |_, body: Bytes| {
        sender.lock().unwrap().send(body).unwrap();
        std::future::ready(Bytes::new())
    });
    let (_server, dialler) = serve(builder);
    let client = client(&dialler);
    for note in LENS.map(bytes) {
        let wire = postcard::to_allocvec(&note).unwrap();
        client.send(&NOTE, &note).unwrap();
        assert!(noted.recv_timeout(LIMIT).unwrap() == wire);
        let metadata = Metadata::new().with(&NAME, "acme");
        client.send_with_metadata(&NOTE, &note, &metadata).unwrap();
        assert!(noted.recv_timeout(LIMIT).unwrap() == wire, "behind metadata");
    }
}
