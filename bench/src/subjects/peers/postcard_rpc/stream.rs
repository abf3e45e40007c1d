//! A byte stream for postcard-rpc: frames with their length, in four bytes, before them.
//!
//! As its own transports do, it encodes into a buffer that is used again and again, and writes each frame by itself.

use std::convert::Infallible;
use std::fmt::Arguments;
use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::BufMut;
use postcard_rpc::header::{VarHeader, VarKey, VarKeyKind, VarSeq};
use postcard_rpc::server::{WireRxErrorKind, WireTxErrorKind};
use postcard_rpc::standard_icd::LoggingTopic;
use postcard_rpc::{Topic, host_client, server};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::Mutex;

/// Bytes of a frame's length.
const LEN_LEN: usize = 4;

/// The most that a header takes: a byte that says how it is laid out, a key, a number of the call.
const HEADER_LEN_MAX: usize = 1 + 8 + 4;

/// The way out, of a server or of a client.
#[derive(Clone)]
pub struct Outgoing(Arc<Mutex<Writer>>);

struct Writer {
    stream: Box<dyn AsyncWrite + Unpin + Send>,
    frame: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(stream: impl AsyncWrite + Unpin + Send + 'static) -> Outgoing {
        let stream = Box::new(stream);
        Outgoing(Arc::new(Mutex::new(Writer { stream, frame: Vec::new() })))
    }

    /// Writes a frame, which `encode` appends.
    async fn put(
        &self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), WireTxErrorKind>,
    ) -> Result<(), WireTxErrorKind> {
        let writer = &mut *self.0.lock().await;
        writer.frame.clear();
        writer.frame.put_bytes(0, LEN_LEN);
        encode(&mut writer.frame)?;
        let len = writer.frame.len() - LEN_LEN;
        writer.frame[..LEN_LEN].copy_from_slice(&(len as u32).to_le_bytes());
        let written = writer.stream.write_all(&writer.frame).await;
        written.map_err(|_| WireTxErrorKind::ConnectionClosed)
    }
}

impl server::WireTx for Outgoing {
    type Error = WireTxErrorKind;

    async fn send<T: Serialize + ?Sized>(
        &self,
        header: VarHeader,
        message: &T,
    ) -> Result<(), WireTxErrorKind> {
        self.put(|frames| {
            let mut space = [0; HEADER_LEN_MAX];
            let (header, _) = header.write_to_slice(&mut space).ok_or(WireTxErrorKind::Other)?;
            frames.put_slice(header);
            postcard::to_io(message, frames).map_err(|_| WireTxErrorKind::Other)?;
            Ok(())
        })
        .await
    }

    async fn send_raw(&self, frame: &[u8]) -> Result<(), WireTxErrorKind> {
        self.put(|frames| {
            frames.put_slice(frame);
            Ok(())
        })
        .await
    }

    async fn send_log_str(&self, key_len: VarKeyKind, text: &str) -> Result<(), WireTxErrorKind> {
        let mut key = VarKey::Key8(LoggingTopic::TOPIC_KEY);
        key.shrink_to(key_len);
        server::WireTx::send(self, VarHeader { key, seq_no: VarSeq::Seq1(0) }, text).await
    }

    async fn send_log_fmt<'a>(
        &self,
        key_len: VarKeyKind,
        text: Arguments<'a>,
    ) -> Result<(), WireTxErrorKind> {
        self.send_log_str(key_len, &text.to_string()).await
    }
}

impl host_client::WireTx for Outgoing {
    type Error = WireTxErrorKind;

    async fn send(&mut self, frame: Vec<u8>) -> Result<(), WireTxErrorKind> {
        server::WireTx::send_raw(self, &frame).await
    }
}

/// The way in, of a server or of a client: as many frames in a read as there are.
pub(super) struct Frames<R>(BufReader<R>);

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(stream: R) -> Frames<R> {
        Frames(BufReader::new(stream))
    }

    async fn next_len(&mut self) -> io::Result<usize> {
        Ok(self.0.read_u32_le().await? as usize)
    }
}

impl<R: AsyncRead + Unpin> server::WireRx for Frames<R> {
    type Error = WireRxErrorKind;

    async fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> Result<&'a mut [u8], WireRxErrorKind> {
        let closed = |_| WireRxErrorKind::ConnectionClosed;
        let len = self.next_len().await.map_err(closed)?;
        // No case has frames larger than the server's buffer: the other end is not one of ours.
        let frame = buffer.get_mut(..len).ok_or(WireRxErrorKind::ConnectionClosed)?;
        self.0.read_exact(frame).await.map_err(closed)?;
        Ok(frame)
    }
}

impl<R: AsyncRead + Unpin + Send + 'static> host_client::WireRx for Frames<R> {
    type Error = io::Error;

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let len = self.next_len().await?;
        let mut frame = Vec::with_capacity(len).limit(len);
        while frame.has_remaining_mut() {
            if self.0.read_buf(&mut frame).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(frame.into_inner())
    }
}

/// Spawns on tokio, for a server and for a client.
#[derive(Clone)]
pub struct Spawner;

impl server::WireSpawn for Spawner {
    type Error = Infallible;
    type Info = ();

    fn info(&self) -> &() {
        &()
    }
}

impl host_client::WireSpawn for Spawner {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }
}

/// How a server's dispatcher spawns a handler.
pub(super) fn spawn(
    _: &Spawner,
    handler: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Infallible> {
    tokio::spawn(handler);
    Ok(())
}
