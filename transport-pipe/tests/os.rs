//! Pipes of the operating system.

use std::io::{ErrorKind, IoSlice};
use std::pin::pin;

use oncewire_driver::conformance::exchange;
use oncewire_pipe::os::{self, PipeStream};
use oncewire_pipe::{Accept, Connect, Subject};
use smol::future::{poll_once, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn both_ends_send_64_mib_at_once_and_then_end() {
    smol::block_on(async {
        let (connector, acceptor) = os::listener();
        let client = connector.connect().await.unwrap();
        let (server, subject) = acceptor.accept().await.unwrap();
        assert_eq!(subject, Subject::Anonymous);
        let server = smol::spawn(exchange(server, 64 << 20));
        exchange(client, 64 << 20).await;
        server.await;
    });
}

#[test]
fn the_end_of_the_peer_wakes_a_reader_and_breaks_the_pipe_of_a_writer() {
    smol::block_on(async {
        let (mut left, right) = os::pair().unwrap();
        {
            let mut buf = [0];
            let mut read = pin!(left.read(&mut buf));
            assert!(poll_once(read.as_mut()).await.is_none());
            drop(right);
            assert_eq!(read.await.unwrap(), 0);
        }
        assert_eq!(left.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn closing_ends_our_direction_only() {
    smol::block_on(async {
        let (mut left, mut right) = os::pair().unwrap();
        left.close().await.unwrap();
        assert_eq!(right.read(&mut [0]).await.unwrap(), 0);
        let parts = [IoSlice::new(b"la"), IoSlice::new(b"te")];
        // It may take the parts one by one.
        let written = right.write_vectored(&parts).await.unwrap();
        right.write_all(&b"late"[written..]).await.unwrap();
        let mut got = [0; 4];
        left.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"late");
        assert_eq!(left.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_full_pipe_holds_the_writer_until_the_reader_has_made_room() {
    smol::block_on(async {
        let (mut left, mut right) = os::pair().unwrap();
        let block = vec![7; 1 << 16];
        let mut written = 0;
        while let Some(n) = poll_once(left.write(&block)).await {
            written += n.unwrap();
        }
        let mut got = vec![0; written];
        let (more, ()) = zip(left.write(&block), async {
            right.read_exact(&mut got).await.unwrap();
        })
        .await;
        assert!(more.unwrap() > 0);
    });
}

#[test]
fn pipes_made_elsewhere_can_be_joined() {
    smol::block_on(async {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut echo = PipeStream::join(reader, writer).unwrap();
        echo.write_all(b"again").await.unwrap();
        let mut got = [0; 5];
        echo.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"again");
    });
}

#[test]
fn a_dial_is_refused_when_the_acceptor_is_gone() {
    smol::block_on(async {
        let (connector, acceptor) = os::listener();
        let mut waiting = connector.connect().await.unwrap();
        drop(acceptor);
        let error = connector.connect().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(waiting.read(&mut [0]).await.unwrap(), 0);
    });
}
