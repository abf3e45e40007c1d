//! How a connection ends.

use super::*;

#[test]
fn the_end_of_the_peer_wakes_a_reader_that_waits() {
    block_on(async {
        let (mut client, server) = connected().await;
        let mut buf = [0; 1];
        let mut read = pin!(client.read(&mut buf));
        assert!(poll_once(read.as_mut()).await.is_none());
        drop(server);
        assert_eq!(read.await.unwrap(), 0);
    });
}

#[test]
fn the_death_of_the_peers_process_wakes_a_reader_that_waits() {
    let dir = Dir::new();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    // A caller that says nothing until it is killed.
    let script =
        "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.recv(1)";
    let Ok(mut child) = Command::new("python3").args(["-c", script]).arg(dir.socket()).spawn()
    else {
        eprintln!("skipped: no python3");
        return;
    };
    block_on(async {
        let (mut stream, _) = acceptor.accept().await.unwrap();
        let mut buf = [0; 1];
        let mut read = pin!(stream.read(&mut buf));
        assert!(poll_once(read.as_mut()).await.is_none());
        child.kill().unwrap();
        assert_eq!(read.await.unwrap(), 0);
    });
    child.wait().unwrap();
}

#[test]
fn a_write_to_a_peer_that_is_gone_fails() {
    block_on(async {
        let (mut client, server) = connected().await;
        drop(server);
        assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        client.close().await.unwrap();
    });
}

#[test]
fn a_reset_is_an_error_of_the_reader() {
    block_on(async {
        let (mut client, server) = connected().await;
        client.write_all(b"never read").await.unwrap();
        // What is closed with unread bytes is reset.
        drop(server);
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn closing_ends_our_direction_only() {
    block_on(async {
        let (mut client, mut server) = connected().await;
        client.close().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        let parts = [std::io::IoSlice::new(b"la"), std::io::IoSlice::new(b"te")];
        assert_eq!(server.write_vectored(&parts).await.unwrap(), 4);
        let mut got = [0; 4];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"late");
    });
}
