//! The server, and the page that its counters are on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use oncewire_driver::{Client, ClientOptions, Method, Server};
use oncewire_observe::Counting;
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");

/// Starts a server, and returns its address and what answers the scrapers that come to `page`.
pub(crate) async fn serve(
    page: TcpListener,
) -> io::Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send)> {
    let counting = Arc::new(Counting::new());
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
    let address = acceptor.local_addr();
    let server = Server::builder("toy")
        .method(&ADD_ONE, |_context, n: i32| async move { n + 1 })
        .observe(counting.clone())
        .build()
        .map_err(io::Error::other)?;
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    let pages = async move {
        loop {
            let (stream, _) = page.accept().await?;
            // A scraper that goes away is not our concern.
            let _ = answer(stream, &counting).await;
        }
    };
    Ok((address, pages))
}

/// Makes ten calls.
pub(crate) async fn call(toy: &SocketAddr) -> io::Result<()> {
    let client = Client::new(TcpConnector::new(toy), ClientOptions::default());
    for n in 0..10 {
        client.call(&ADD_ONE, &n).await.ok().map_err(io::Error::other)?;
    }
    client.close().await;
    Ok(())
}

/// As much of HTTP as a scraper needs: whatever it asks for, it gets the counters.
async fn answer(mut stream: TcpStream, counting: &Counting) -> io::Result<()> {
    let mut request = [0; 4096];
    let _len = stream.read(&mut request).await?;
    let body = counting.prometheus();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.close().await
}
