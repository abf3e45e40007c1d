//! The stream: ends and cuts, large and small reads, peers that send without end.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_pipe::memory::{self, MemoryStream};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use oncewire_tls::{
    Accept, BoxFuture, BoxStream, ClientTls, Connect, Subject, TlsAcceptor, TlsConnector,
    conformance,
};
use smol::future::zip;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use util::{Authority, SERVER};

mod util;

/// One stream, to connect with or to accept.
struct One(std::sync::Mutex<Option<BoxStream>>);

impl One {
    fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> One {
        One(std::sync::Mutex::new(Some(Box::new(stream))))
    }

    fn take(&self) -> io::Result<BoxStream> {
        self.0.lock().unwrap().take().ok_or_else(|| ErrorKind::BrokenPipe.into())
    }
}

impl Connect for One {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { self.take() })
    }

    fn address(&self) -> String {
        "one".to_owned()
    }
}

impl Accept for One {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        Box::pin(async { Ok((self.take()?, Subject::Anonymous)) })
    }

    fn address(&self) -> String {
        "one".to_owned()
    }
}

/// TLS over these two ends.
async fn over(
    client: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    server: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> (BoxStream, BoxStream) {
    let authority = Authority::new();
    let tls = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
    let connector = TlsConnector::new(One::new(client), tls, SERVER).unwrap();
    let tls = authority.server().serves().build().unwrap();
    let acceptor = TlsAcceptor::new(One::new(server), tls);
    let (client, server) = zip(connector.connect(), acceptor.accept()).await;
    (client.unwrap(), server.unwrap().0)
}

#[test]
fn c179_a_peer_that_closes_is_an_end_and_a_line_that_is_cut_is_an_error() {
    smol::block_on(async {
        for cut in [false, true] {
            let (client, near) = memory::pair();
            let (far, server) = memory::pair();
            let line = async {
                let (near_read, near_write) = smol::io::split(near);
                let (far_read, far_write) = smol::io::split(far);
                let copies = zip(copy(near_read, far_write), copy(far_read, near_write));
                copies.await;
            };
            let line = smol::spawn(line);
            let (mut client, mut server) = over(client, server).await;
            client.write_all(b"all of it").await.unwrap();
            client.flush().await.unwrap();
            let mut got = [0; 9];
            server.read_exact(&mut got).await.unwrap();
            if cut {
                line.cancel().await;
            } else {
                drop(client);
            }
            let end = server.read(&mut got).await;
            match cut {
                false => assert_eq!(end.unwrap(), 0),
                true => assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof),
            }
        }
    });
}

async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let _broken = smol::io::copy(from, &mut to).await;
    let _broken = to.close().await;
}

#[test]
fn what_is_decrypted_is_read_before_more_is_waited_for() {
    smol::block_on(async {
        let (client, server) = memory::pair();
        let (mut client, mut server) = over(client, server).await;
        let sent: Vec<u8> = (0..50_000u32).map(|at| at as u8).collect();
        let (_, got) = zip(
            async {
                client.write_all(&sent).await.unwrap();
                client.flush().await.unwrap();
            },
            async {
                let mut got = vec![0; 10];
                server.read_exact(&mut got).await.unwrap();
                got
            },
        )
        .await;
        // The record that holds the first byte holds more: a read must not wait, whatever the size of its buffer.
        let mut got = got;
        let cx = &mut Context::from_waker(Waker::noop());
        while got.len() < 16_000 {
            let mut piece = [0; 7];
            match Pin::new(&mut server).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(len @ 1..)) => got.extend(&piece[..len]),
                other => panic!("{other:?} after {} bytes", got.len()),
            }
        }
        let rest = sent.len() - got.len();
        let mut end = vec![0; rest];
        server.read_exact(&mut end).await.unwrap();
        got.extend(end);
        assert!(got == sent);
    });
}

#[test]
fn bytes_pass_both_ways_at_once_and_each_way_ends_by_itself() {
    smol::block_on(async {
        for capacity in [100, 64 << 10] {
            let (client, server) = memory::pair_with_capacity(capacity);
            let (client, server) = over(client, server).await;
            let len = 2_000_000;
            zip(conformance::exchange(client, len), conformance::exchange(server, len)).await;
        }
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let connector = TcpConnector::new(acceptor.local_addr());
        let (client, server) = zip(connector.connect(), acceptor.accept()).await;
        let (client, server) = over(client.unwrap(), server.unwrap().0).await;
        let len = 20_000_000;
        zip(conformance::exchange(client, len), conformance::exchange(server, len)).await;
    });
}

/// Counts its reads, of few bytes each, and its writes.
struct Counted {
    io: MemoryStream,
    reads: Arc<AtomicU64>,
    writes: Arc<AtomicU64>,
}

impl Counted {
    fn new(io: MemoryStream) -> Counted {
        Counted { io, reads: Arc::default(), writes: Arc::default() }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let len = buf.len().min(64);
        Pin::new(&mut self.io).poll_read(cx, &mut buf[..len])
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[test]
fn what_is_written_together_leaves_as_one_record() {
    smol::block_on(async {
        let (client, server) = memory::pair();
        let client = Counted::new(client);
        let writes = client.writes.clone();
        let (mut client, mut server) = over(client, server).await;
        let before = writes.load(Ordering::Relaxed);
        let parts = [io::IoSlice::new(b"head "), io::IoSlice::new(b"and body")];
        assert_eq!(client.write_vectored(&parts).await.unwrap(), 13);
        client.flush().await.unwrap();
        assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
        let mut got = [0; 13];
        assert_eq!(server.read(&mut got).await.unwrap(), 13);
        assert_eq!(&got, b"head and body");
    });
}

/// A server sends many tickets, of which a client has no use: it reads past them, in several turns.
#[test]
fn c173_records_without_content_do_not_keep_a_thread_busy() {
    use oncewire_tls::rustls::{ServerConfig, crypto::ring};
    smol::block_on(async {
        let authority = Authority::new();
        let (client, server) = memory::pair_with_capacity(1 << 20);
        let client = Counted::new(client);
        let reads = client.reads.clone();
        let tls = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
        let connector = TlsConnector::new(One::new(client), tls, SERVER).unwrap();
        let (certificate, key) = authority.server().load();
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.ticketer = ring::Ticketer::new().unwrap();
        config.send_tls13_tickets = 100;
        let acceptor = futures_rustls::TlsAcceptor::from(Arc::new(config));
        let (client, server) = zip(connector.connect(), acceptor.accept(server)).await;
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut polls = 0;
        loop {
            let before = reads.load(Ordering::Relaxed);
            let read = Pin::new(&mut client).poll_read(cx, &mut [0; 100]);
            let made = reads.load(Ordering::Relaxed) - before;
            assert!(made <= 20, "{made} reads in one poll");
            polls += 1;
            if let Poll::Ready(read) = read {
                assert_eq!(read.unwrap(), 1);
                break;
            }
        }
        assert!(polls > 5, "{polls} polls");
    });
}

#[test]
fn c194_in_tls_every_address_may_be_listened_on() {
    smol::block_on(async {
        let authority = Authority::new();
        let tls = authority.server().serves().build().unwrap();
        let acceptor = TcpAcceptor::bind_for_tls("0.0.0.0:0").await.unwrap();
        let port = acceptor.local_addr().port();
        // Through pointers, too, as a program has it that takes its transport from its configuration.
        let acceptor: Box<dyn Accept> = Box::new(acceptor);
        let acceptor = TlsAcceptor::new(acceptor, tls);
        let tls = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
        let tcp = TcpConnector::new(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        let connector = TlsConnector::new(tcp, tls, SERVER).unwrap();
        let (client, accepted) = zip(connector.connect(), acceptor.accept()).await;
        assert!(client.is_ok() && accepted.is_ok());
    });
}
