//! A connection that breaks again and again is not made again without a pause, whichever task notices.
#![allow(missing_docs)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Outcome, Runtime, Server,
    SmolRuntime, Subject,
};
use smol::net::unix::UnixStream;

/// Ends when it is cut.
struct Cut(UnixStream, Arc<AtomicBool>);

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.1.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}
impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

struct Dialler {
    server: Server,
    cut: Arc<AtomicBool>,
    dials: Arc<AtomicUsize>,
}

impl Connect for Dialler {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            self.dials.fetch_add(1, Ordering::SeqCst);
            self.cut.store(false, Ordering::SeqCst);
            let (ours, theirs) = UnixStream::pair()?;
            self.server.serve_stream(Box::new(Cut(theirs, self.cut.clone())), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }
    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

const BREAK: Method<u32, u32> = Method::new("test/break");

#[test]
fn a_connection_that_breaks_while_a_call_reads_for_all_is_followed_by_a_pause() {
    let cut = Arc::new(AtomicBool::new(false));
    let breaks = cut.clone();
    let break_now = move |_, _| {
        breaks.store(true, Ordering::SeqCst);
        std::future::pending::<u32>()
    };
    let server = Server::builder("test").method(&BREAK, break_now).build().unwrap();
    let dials = Arc::new(AtomicUsize::new(0));
    let dialler = Dialler { server, cut, dials: dials.clone() };
    let mut options = ClientOptions::default();
    options.fail_fast = true;
    smol::block_on(async {
        let client = Client::new(dialler, options);
        let runtime = SmolRuntime::global();
        let until = runtime.now() + Duration::from_secs(1);
        while runtime.now() < until {
            assert!(client.connected().await);
            // Each reads for all when the connection breaks, and learns of it at once.
            let outcome = client.call(&BREAK, &1).await;
            assert!(matches!(outcome, Outcome::Unknown(..)), "{outcome:?}");
        }
    });
    // The pauses grow: 20 attempts take several seconds. Without pauses there were 300 in one.
    let dials = dials.load(Ordering::SeqCst);
    assert!(dials < 20, "{dials} attempts in a second");
}
