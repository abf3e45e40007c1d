//! Connections in memory, poll by poll.

use std::io::{ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use oncewire_driver::conformance::exchange;
use oncewire_pipe::memory::{self, MemoryStream};
use oncewire_pipe::{Accept, Connect, Subject};
use smol::future::poll_once;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Someone who polls, and how often it was woken.
struct Caller {
    count: Arc<Count>,
    waker: Waker,
}

impl Caller {
    fn new() -> Caller {
        let count = Arc::new(Count::default());
        Caller { waker: count.clone().into(), count }
    }

    fn read(&self, stream: &mut MemoryStream, buf: &mut [u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(stream).poll_read(&mut Context::from_waker(&self.waker), buf)
    }

    fn write(&self, stream: &mut MemoryStream, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(stream).poll_write(&mut Context::from_waker(&self.waker), buf)
    }
}

fn ready<T>(poll: Poll<std::io::Result<T>>) -> T {
    match poll {
        Poll::Ready(done) => done.unwrap(),
        Poll::Pending => panic!("pending"),
    }
}

#[test]
fn a_full_buffer_holds_the_writer_until_the_reader_has_made_room() {
    let (mut left, mut right) = memory::pair_with_capacity(8);
    let (writer, reader) = (Caller::new(), Caller::new());
    assert_eq!(ready(writer.write(&mut left, b"0123456789")), 8);
    assert!(writer.write(&mut left, b"89").is_pending());
    let mut buf = [0; 3];
    assert_eq!(ready(reader.read(&mut right, &mut buf)), 3);
    assert_eq!(writer.count.get(), 1);
    assert_eq!(ready(writer.write(&mut left, b"89abc")), 3);
    let mut rest = [0; 16];
    assert_eq!(ready(reader.read(&mut right, &mut rest)), 8, "one read takes all there is");
    assert_eq!(&rest[..8], b"3456789a");
    // No task waited any more, so none was woken.
    assert_eq!((writer.count.get(), reader.count.get()), (1, 0));
}

#[test]
fn a_reader_that_waits_is_woken_once() {
    let (mut left, mut right) = memory::pair();
    let (writer, reader) = (Caller::new(), Caller::new());
    let mut buf = [0; 4];
    assert!(reader.read(&mut right, &mut buf).is_pending());
    assert!(reader.read(&mut right, &mut buf).is_pending());
    ready(writer.write(&mut left, b"a"));
    ready(writer.write(&mut left, b"b"));
    assert_eq!(reader.count.get(), 1);
    assert_eq!(ready(reader.read(&mut right, &mut buf)), 2);
}

#[test]
fn the_caller_that_polled_last_is_woken() {
    let (mut left, mut right) = memory::pair();
    let (old, new) = (Caller::new(), Caller::new());
    assert!(old.read(&mut right, &mut [0]).is_pending());
    assert!(new.read(&mut right, &mut [0]).is_pending());
    ready(old.write(&mut left, b"a"));
    assert_eq!((old.count.get(), new.count.get()), (0, 1));
}

#[test]
fn a_drop_lets_the_peer_read_what_is_there_and_then_the_end() {
    let (mut left, mut right) = memory::pair();
    let caller = Caller::new();
    ready(caller.write(&mut left, b"last"));
    let reader = Caller::new();
    let mut buf = [0; 4];
    assert_eq!(ready(reader.read(&mut right, &mut buf)), 4);
    assert!(reader.read(&mut right, &mut buf).is_pending());
    drop(left);
    assert_eq!(reader.count.get(), 1);
    assert_eq!(ready(reader.read(&mut right, &mut buf)), 0);
    assert_eq!(ready(reader.read(&mut right, &mut buf)), 0);
}

#[test]
fn a_drop_breaks_the_pipe_of_a_writer_that_waits() {
    let (mut left, right) = memory::pair_with_capacity(1);
    let caller = Caller::new();
    ready(caller.write(&mut left, b"a"));
    assert!(caller.write(&mut left, b"b").is_pending());
    drop(right);
    assert_eq!(caller.count.get(), 1);
    let Poll::Ready(Err(error)) = caller.write(&mut left, b"b") else { panic!("no error") };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn closing_ends_our_direction_only() {
    smol::block_on(async {
        let (mut left, mut right) = memory::pair();
        left.close().await.unwrap();
        assert_eq!(right.read(&mut [0]).await.unwrap(), 0);
        right.write_all(b"late").await.unwrap();
        let mut got = [0; 4];
        left.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"late");
        assert_eq!(left.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn empty_reads_and_writes_do_not_wait() {
    let (mut left, _right) = memory::pair_with_capacity(0);
    let caller = Caller::new();
    assert_eq!(ready(caller.read(&mut left, &mut [])), 0);
    assert_eq!(ready(caller.write(&mut left, b"")), 0);
    assert_eq!(ready(caller.write(&mut left, b"ab")), 1, "a capacity is at least one");
    assert_eq!(ready(caller.write(&mut left, b"")), 0);
}

#[test]
fn a_vectored_write_fills_what_room_there_is() {
    let (mut left, mut right) = memory::pair_with_capacity(5);
    smol::block_on(async {
        let parts = [IoSlice::new(b""), IoSlice::new(b"one"), IoSlice::new(b"two")];
        assert_eq!(left.write_vectored(&parts).await.unwrap(), 5);
        let mut got = [0; 5];
        right.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"onetw");
    });
}

#[test]
fn both_ends_send_64_mib_at_once_and_then_end() {
    smol::block_on(async {
        let (left, right) = memory::pair();
        // On a thread of its own, so that both sides of the lock are at work.
        let right = smol::spawn(exchange(Box::new(right), 64 << 20));
        exchange(Box::new(left), 64 << 20).await;
        right.await;
    });
}

#[test]
fn each_dial_makes_a_connection_of_its_own() {
    smol::block_on(async {
        let (connector, acceptor) = memory::listener();
        for name in [b"one", b"two"] {
            let mut client = connector.connect().await.unwrap();
            let (mut server, subject) = acceptor.accept().await.unwrap();
            assert_eq!(subject, Subject::Anonymous);
            client.write_all(name).await.unwrap();
            let mut got = [0; 3];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, name);
        }
    });
}

#[test]
fn an_acceptor_that_waits_is_woken_by_a_dial() {
    smol::block_on(async {
        let (connector, acceptor) = memory::listener();
        let mut accept = pin!(acceptor.accept());
        assert!(poll_once(accept.as_mut()).await.is_none());
        let _client = connector.connect().await.unwrap();
        accept.await.unwrap();
    });
}

#[test]
fn a_dial_is_refused_when_the_acceptor_is_gone() {
    smol::block_on(async {
        let (connector, acceptor) = memory::listener();
        let mut waiting = connector.connect().await.unwrap();
        drop(acceptor);
        let error = connector.connect().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        // And one that was not accepted finds its end.
        assert_eq!(waiting.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn dials_wait_when_too_many_wait_before_them() {
    smol::block_on(async {
        let (connector, acceptor) = memory::listener();
        let mut clients = Vec::new();
        let mut dial = loop {
            let mut dial = connector.connect();
            match poll_once(&mut dial).await {
                Some(client) => clients.push(client.unwrap()),
                None => break dial,
            }
        };
        assert_eq!(clients.len(), 128);
        acceptor.accept().await.unwrap();
        poll_once(&mut dial).await.expect("there is room").unwrap();

        let mut dial = connector.connect();
        assert!(poll_once(&mut dial).await.is_none());
        drop(acceptor);
        assert_eq!(dial.await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn no_connection_can_come_when_every_connector_is_gone() {
    smol::block_on(async {
        let (connector, acceptor) = memory::listener();
        let clone = connector.clone();
        let _client = connector.connect().await.unwrap();
        drop((connector, clone));
        acceptor.accept().await.unwrap();
        assert_eq!(acceptor.accept().await.err().unwrap().kind(), ErrorKind::BrokenPipe);
    });
}
