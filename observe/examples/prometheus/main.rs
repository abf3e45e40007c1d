//! A server whose counters Prometheus scrapes: `cargo run -p oncewire-observe --example prometheus`, then
//! `curl http://127.0.0.1:9185/metrics`. With `--once` it makes some calls, scrapes itself, prints that and ends.

use std::io;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

mod page;

fn main() -> io::Result<()> {
    let once = std::env::args().any(|argument| argument == "--once");
    smol::block_on(async {
        let listener =
            TcpListener::bind(if once { "127.0.0.1:0" } else { "127.0.0.1:9185" }).await?;
        let scraped = listener.local_addr()?;
        let (toy, pages) = page::serve(listener).await?;
        output::show!("toy at {toy}, its counters at http://{scraped}/metrics");
        if !once {
            return pages.await;
        }
        smol::spawn(pages).detach();
        page::call(&toy).await?;
        let mut stream = TcpStream::connect(scraped).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        output::show!("{text}");
        Ok(())
    })
}
